"""Plugins while the agent runs: started, told of new settings, stopped."""

from __future__ import annotations

import asyncio
import inspect
import logging
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import RegistryError
from registry.plugins.collection import Plugins
from registry.plugins.record import PluginRecord

if TYPE_CHECKING:
    from httpx import AsyncClient

logger = logging.getLogger("registry.plugins")

START_LIMIT_S = 10.0
CHANGED_LIMIT_S = 10.0
STOP_LIMIT_S = 5.0

#: The hooks of a plugin's life; a plugin that has one of them is given a context.
START, STOP, CHANGED = "registry_start", "registry_stop", "registry_settings_changed"


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """What plugins are told of the agent they are in."""

    node_name: str
    node_id: str
    datacenter: str
    is_server: bool
    config: Mapping[str, Any]
    #: Gives a client of the agent's own HTTP API.
    make_client: Callable[[], AsyncClient]
    #: Where plugins' directories are made; None: nothing outlasts the agent.
    data_dir: Path | None


class Tasks:
    """A plugin's tasks; one that fails is reported and ends alone."""

    def __init__(self, record: PluginRecord) -> None:
        self._record = record
        self._tasks: set[asyncio.Task[Any]] = set()

    def create_task(self, coroutine: Coroutine[Any, Any, Any], *, name: str = "") -> Any:
        loop = asyncio.get_running_loop()
        task = loop.create_task(coroutine, name=name or f"plugin-{self._record.name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            self._record.failed(f"task {task.get_name()}", problem)

    async def cancel(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_LIMIT_S)


class Context:
    """The `registry.hooks.PluginContext` of one plugin."""

    def __init__(self, record: PluginRecord, plugins: Plugins, facts: AgentFacts) -> None:
        self.plugin = record.name
        self.node_name, self.node_id = facts.node_name, facts.node_id
        self.datacenter, self.is_server = facts.datacenter, facts.is_server
        self.config = facts.config
        self.tasks = Tasks(record)
        self.logger = logging.getLogger(f"registry.plugin.{record.name}")
        self._plugins, self._facts = plugins, facts
        self._client: AsyncClient | None = None
        self._passing_dir: Path | None = None

    @property
    def settings(self) -> Any:
        return self._plugins.settings_of(self.plugin)

    @property
    def client(self) -> AsyncClient:
        if self._client is None:
            self._client = self._facts.make_client()
        return self._client

    @property
    def data_dir(self) -> Path:
        if self._facts.data_dir is None:
            if self._passing_dir is None:
                self._passing_dir = Path(tempfile.mkdtemp(prefix=f"registry-{self.plugin}-"))
            return self._passing_dir
        directory = self._facts.data_dir / "plugins" / self.plugin
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    async def close(self) -> None:
        await self.tasks.cancel()
        if self._client is not None:
            await self._client.aclose()
        if self._passing_dir is not None:
            shutil.rmtree(self._passing_dir, ignore_errors=True)


class Lifecycle:
    """Starts and stops the plugins of one agent, each on its own: none waits for another."""

    def __init__(self, plugins: Plugins, facts: AgentFacts) -> None:
        self._plugins = plugins
        self._facts = facts
        self._started: dict[str, tuple[PluginRecord, Context]] = {}

    async def start(self) -> None:
        """Start every plugin that is configured. Raises nothing; failures are on record."""
        await self._each(
            [record for record in self._living() if record.name not in self._started], self._start
        )

    async def settings_changed(self, names: set[str]) -> None:
        """Tell the plugins of these names; start those that waited for their settings."""
        told = [record for name, (record, _) in self._started.items() if name in names]
        await self.start()
        await self._each(told, self._tell)

    async def stop(self) -> None:
        """Stop the plugins that were started, and their tasks."""
        await self._each([record for record, _ in self._started.values()], self._stop)
        self._started.clear()

    def _living(self) -> list[PluginRecord]:
        found = {
            record.name: record
            for hook in (START, STOP, CHANGED)
            for record in self._plugins.records(hook)
        }
        return [record for record in found.values() if self._plugins.is_configured(record)]

    async def _each(
        self,
        records: list[PluginRecord],
        act: Callable[[PluginRecord], Coroutine[Any, Any, None]],
    ) -> None:
        async with asyncio.TaskGroup() as group:
            for record in records:
                group.create_task(act(record))

    async def _start(self, record: PluginRecord) -> None:
        context = Context(record, self._plugins, self._facts)
        if await self._call(record, START, context, START_LIMIT_S):
            self._started[record.name] = (record, context)
        else:
            await self._close(record, context)

    async def _tell(self, record: PluginRecord) -> None:
        await self._call(record, CHANGED, self._started[record.name][1], CHANGED_LIMIT_S)

    async def _stop(self, record: PluginRecord) -> None:
        context = self._started[record.name][1]
        await self._call(record, STOP, context, STOP_LIMIT_S)
        await self._close(record, context)

    async def _close(self, record: PluginRecord, context: Context) -> None:
        try:
            await record.call("close", context.close, limit_s=STOP_LIMIT_S)
        except RegistryError:
            logger.warning("plugin left work behind plugin=%s", record.name)

    async def _call(
        self, record: PluginRecord, hook: str, context: Context, limit_s: float
    ) -> bool:
        """Whether it went well; a plugin without the hook has nothing against it."""
        if hook not in record.hooks:
            return True
        function = self._plugins.hook_of(record, hook)

        async def call() -> None:
            result = function(context=context)
            if inspect.isawaitable(result):
                await result

        try:
            await record.call(hook, call, limit_s=limit_s)
        except RegistryError:
            return False
        return True
