"""Keeps the history while an agent runs: opens its file, takes changes, forgets what is old."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from registry.hooks import Change, PluginContext

from .settings import HistorySettings
from .store import HistoryStore

FILE_NAME = "history.db"

PRUNE_INTERVAL_S = 3600.0


class Keeper:
    """The history of one agent. Lives on the plugin's event loop.

    The file is read and written on that loop, which is nobody else's; what is asked for is bounded.
    """

    def __init__(self) -> None:
        self.context: PluginContext | None = None
        self.store: HistoryStore | None = None
        self._problem: Exception | None = None
        self._opened = asyncio.Event()

    def open(self, context: PluginContext) -> None:
        """Raises `OSError` or `sqlite3.Error` when there can be no history."""
        self.context, self._problem = context, None
        if not context.is_server:
            return
        settings: HistorySettings = context.settings
        try:
            self.store = HistoryStore(
                context.data_dir / FILE_NAME,
                versions_max=settings.versions_max,
                age_ms_max=settings.age_ms_max,
            )
        except Exception as problem:
            self._problem = problem
            raise
        finally:
            self._opened.set()
        context.tasks.create_task(self._prune_now_and_then(self.store), name="prune history")

    def settings_changed(self, settings: HistorySettings) -> None:
        if self.store is not None:
            self.store.versions_max = settings.versions_max
            self.store.age_ms_max = settings.age_ms_max
            self.store.prune(_now_ms())

    def close(self) -> None:
        store, self.store = self.store, None
        self._opened.clear()
        if store is not None:
            store.close()

    async def deliver(self, changes: Sequence[Change]) -> None:
        """Take changes; they are told from the agent's start on, which is before ours."""
        await self._opened.wait()
        if self.store is None:
            raise RuntimeError(f"there is no history: {self._problem}")
        self.store.apply(changes)

    async def _prune_now_and_then(self, store: HistoryStore) -> None:
        while self.store is store:
            store.prune(_now_ms())
            await asyncio.sleep(PRUNE_INTERVAL_S)


#: Each agent has the plugin run on a loop of its own; several agents may share a process.
_keepers: WeakKeyDictionary[asyncio.AbstractEventLoop, Keeper] = WeakKeyDictionary()


def keeper() -> Keeper:
    """The keeper of the agent whose loop this runs on."""
    return _keepers.setdefault(asyncio.get_running_loop(), Keeper())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
