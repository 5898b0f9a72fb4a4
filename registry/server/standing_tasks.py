"""A task for each of several things, that may be others from one moment to the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class StandingTasks(Generic[T]):
    """Runs `serve` for each thing of the latest `replace`, as long as `run` runs.

    What is replaced by something else of its name is cancelled, and has ended before the other
    begins. `run` may be called again after it has ended, not twice at once.
    """

    def __init__(self, serve: Callable[[T], Coroutine[Any, Any, None]]) -> None:
        self._serve = serve
        self._wanted: dict[str, T] = {}
        self._changed = asyncio.Event()

    def replace(self, wanted: Mapping[str, T]) -> None:
        self._wanted = dict(wanted)
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled, or until one of them fails."""
        running: dict[str, tuple[T, asyncio.Task[None]]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                await self._end(running)
                for name, thing in self._wanted.items():
                    if name not in running:
                        running[name] = (thing, group.create_task(self._serve(thing)))
                await self._changed.wait()

    async def _end(self, running: dict[str, tuple[T, asyncio.Task[None]]]) -> None:
        """End what is not wanted any more."""
        wanted = self._wanted
        gone = [name for name, (thing, _) in running.items() if wanted.get(name) != thing]
        ending = [running.pop(name)[1] for name in gone]
        for task in ending:
            task.cancel()
        if ending:
            await asyncio.wait(ending)
