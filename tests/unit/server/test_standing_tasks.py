"""A task for each of several things, as they come, change and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from registry.server.standing_tasks import StandingTasks
from registry.testing.servers import until


class Serving:
    """Notes what is served."""

    def __init__(self) -> None:
        self.served: set[str] = set()
        self.begun: list[str] = []
        self.failing = asyncio.Event()

    async def serve(self, thing: str) -> None:
        assert thing not in self.served
        self.served.add(thing)
        self.begun.append(thing)
        try:
            await self.failing.wait()
            raise LookupError(thing)
        finally:
            self.served.discard(thing)


@asynccontextmanager
async def running(tasks: StandingTasks[str]) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(tasks.run())
        yield
        task.cancel()


async def test_things_come_change_and_go() -> None:
    serving = Serving()
    tasks = StandingTasks(serving.serve)
    tasks.replace({"a": "a1"})
    async with running(tasks):
        await until(lambda: serving.served == {"a1"})
        tasks.replace({"a": "a1", "b": "b1"})
        await until(lambda: serving.served == {"a1", "b1"})
        tasks.replace({"a": "a2", "b": "b1"})
        await until(lambda: serving.served == {"a2", "b1"})
        tasks.replace({})
        await until(lambda: not serving.served)
    assert serving.begun == ["a1", "b1", "a2"]


async def test_it_can_run_again() -> None:
    serving = Serving()
    tasks = StandingTasks(serving.serve)
    tasks.replace({"a": "a1"})
    for _ in range(2):
        async with running(tasks):
            await until(lambda: serving.served == {"a1"})
        assert not serving.served
    assert serving.begun == ["a1", "a1"]


async def test_one_that_fails_ends_all() -> None:
    serving = Serving()
    tasks = StandingTasks(serving.serve)
    tasks.replace({"a": "a1", "b": "b1"})
    serving.failing.set()
    with pytest.raises(ExceptionGroup):
        await tasks.run()
