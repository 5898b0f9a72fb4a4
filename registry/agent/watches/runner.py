"""Running watches: wait for an answer, and when it differs from the last one tell the handler.

A handler is awaited before the source is asked again, so one run at a time and changes in between
merged follow by themselves: the next question is about everything since the last answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from registry.agent.clock import Clock, LoopClock, pause
from registry.agent.definitions import WatchDefinition
from registry.agent.facade import AgentFacade
from registry.agent.watches.handlers import UsesHttpClients, handler_key
from registry.agent.watches.plan import Source, make_source
from registry.errors import ConfigError, RegistryError
from registry.hooks import WatchHandler

logger = logging.getLogger("registry.agent")

#: Pause after the n-th failure in a row: n * n times the first, up to the longest.
RETRY_S, RETRY_S_MAX = 5.0, 180.0

#: Types of watch that need the service mesh.
MESH_TYPES = ("connect_roots", "connect_leaf")

Handle = Callable[[int, bytes], Awaitable[None]]
#: (type of watch, value as its source gives it) -> the API's JSON.
Render = Callable[[str, Any], bytes]


class HandlerKinds(Protocol):
    """Where handlers are looked up by key: `registry.plugins.Plugins`."""

    def watch_handler(self, key: str) -> WatchHandler | None: ...


@dataclass(frozen=True, slots=True)
class Watch:
    """A watch that passed every test."""

    definition: WatchDefinition
    source: Source
    handle: Handle


class Watches:
    """All watches of an agent.

    Args:
        facade: what is watched.
        handlers: where handler kinds are looked up (`Plugins`).
        render: the HTTP layer's way of showing a value, handed in from above.

    Use: `replace(definitions)` at any time, also before; `await run()` in a task.
    """

    def __init__(
        self,
        facade: AgentFacade,
        handlers: HandlerKinds,
        *,
        render: Render,
        clock: Clock | None = None,
    ) -> None:
        self._facade = facade
        self._handlers = handlers
        self._render = render
        self._clock = clock or LoopClock()
        self._watches: list[Watch] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._group: asyncio.TaskGroup | None = None

    def replace(self, definitions: Iterable[WatchDefinition]) -> None:
        """Run these in place of those before; every one fires again with what there is.

        Raises `ConfigError` when one makes no sense; then those before run on.
        """
        watches = self.prepare(definitions)
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        self._watches = watches
        if self._group is not None:
            self._start(self._group)

    def prepare(self, definitions: Iterable[WatchDefinition]) -> list[Watch]:
        """Make these without running them. Raises `ConfigError`."""
        made: list[Watch] = []
        for definition in definitions:
            if definition.type in MESH_TYPES:
                logger.warning(
                    "watch needs the service mesh, which is not there; ignored: type=%s",
                    definition.type,
                )
                continue
            source = make_source(definition, self._facade)
            made.append(Watch(definition, source, self._handler_of(definition)))
        return made

    def _handler_of(self, definition: WatchDefinition) -> Handle:
        key = handler_key(definition)
        if not key:
            raise ConfigError("a watch needs args, handler or http_handler_config", field="watches")
        kind = self._handlers.watch_handler(key)
        if kind is None:
            raise ConfigError(f'there is no watch handler "{key}"', field="watches")
        handle: Any  # a function, or an object that can be called and more
        try:
            handle = kind.create(definition)
        except ValueError as problem:
            raise ConfigError(str(problem), field="watches") from problem
        if isinstance(handle, UsesHttpClients):
            handle.use_clients(self._facade.local.http_clients)
        called: Handle = handle
        return called

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._start(group)
                await asyncio.Event().wait()
        finally:
            self._group = None
            self._tasks = []

    def _start(self, group: asyncio.TaskGroup) -> None:
        self._tasks = [group.create_task(self._follow(watch)) for watch in self._watches]

    async def _follow(self, watch: Watch) -> None:
        index, failures, last = 0, 0, None
        while True:
            try:
                found, value = await watch.source.next(index)
                data = self._render(watch.definition.type, value)
            except RegistryError as problem:
                failures += 1
                await self._back_off(watch, failures, problem)
                index = 0
                continue
            failures = 0
            # An index that went backwards belongs to a restored state: begin anew.
            index = found if found >= index or watch.definition.type == "event" else 0
            if data != last:
                last = data
                await self._tell(watch, found, data)

    async def _back_off(self, watch: Watch, failures: int, problem: RegistryError) -> None:
        seconds = min(RETRY_S * failures * failures, RETRY_S_MAX)
        logger.error(
            "Watch errored: type=%s error=%s retry=%ds", watch.definition.type, problem, seconds
        )
        await pause(self._clock, seconds)

    async def _tell(self, watch: Watch, index: int, data: bytes) -> None:
        try:
            await watch.handle(index, data)
        except Exception:
            # A handler may be a plugin's; its failure must not end the watch.
            logger.exception("watch handler failed: type=%s", watch.definition.type)
