"""What plugins hand over runs in their own threads, and what goes wrong there stays there."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest

from registry.errors import PluginError
from registry.hooks import (
    Change,
    ChangeSink,
    CheckResult,
    CheckType,
    PlaceLost,
    WatchHandler,
    hookimpl,
)
from registry.plugins import Plugins

Definition = Any


class Kinds:
    """A plugin with one check type and one watch handler."""

    def __init__(self, create: Callable[[Definition], Any]) -> None:
        self._create = create

    @hookimpl
    def registry_check_types(self) -> list[CheckType]:
        return [CheckType(key="mine", type_name="mine", create=self._create)]

    @hookimpl
    def registry_watch_handlers(self) -> list[WatchHandler]:
        return [WatchHandler(key="mine", create=self._create)]


@pytest.fixture
def plugins() -> Iterator[Plugins]:
    plugins = Plugins()
    yield plugins
    plugins.close()


def make(plugins: Plugins, create: Callable[[Definition], Any]) -> Any:
    plugins.add("mine", Kinds(create))
    kind = plugins.check_type("mine")
    assert kind is not None
    return kind.create(None)


class Where:
    """Tells in which thread it runs."""

    async def run(self) -> CheckResult:
        return CheckResult("passing", threading.current_thread().name)


async def test_a_check_runs_on_its_plugins_loop(plugins: Plugins) -> None:
    assert await make(plugins, lambda definition: Where()).run() == CheckResult(
        "passing", "plugin-mine"
    )


async def test_a_check_that_blocks_leaves_the_agents_loop_alone(plugins: Plugins) -> None:
    go_on = threading.Event()

    class Blocks:
        async def run(self) -> CheckResult:
            go_on.wait()
            return CheckResult("passing")

    async with asyncio.TaskGroup() as group:
        running = group.create_task(make(plugins, lambda definition: Blocks()).run())
        await asyncio.sleep(0)
        assert not running.done()
        go_on.set()
    assert running.result().status == "passing"


async def test_a_run_that_was_given_up_is_told_as_the_plugins(plugins: Plugins) -> None:
    runner = make(plugins, lambda definition: Where())
    text = "plugin mine failed in registry_check_types: took longer than 1.5 s"
    assert runner.timed_out(1_500_000_000) == CheckResult("critical", text)
    assert plugins.report()[0]["ErrorCount"] == 1


async def test_what_is_slow_to_make_is_made_on_in_the_plugin(plugins: Plugins) -> None:
    go_on = threading.Event()

    def create(definition: Definition) -> Where:
        go_on.wait()
        return Where()

    begin = time.monotonic()
    runner = make(plugins, create)
    assert time.monotonic() - begin < 1
    go_on.set()
    assert (await runner.run()).status == "passing"


async def test_what_is_refused_too_late_fails_in_its_first_run(plugins: Plugins) -> None:
    go_on = threading.Event()

    def create(definition: Definition) -> Where:
        go_on.wait()
        raise ValueError("a port is needed")

    runner = make(plugins, create)
    go_on.set()
    with pytest.raises(ValueError, match="a port is needed"):
        await runner.run()


async def test_a_check_that_reports_by_itself(plugins: Plugins) -> None:
    @dataclasses.dataclass(frozen=True)
    class Lent:
        node_name: str = "node1"
        backend: object = "servers"

    class Follows:
        def bind(self, context: Lent) -> None:
            self.context = context

        async def run(self) -> CheckResult:
            raise NotImplementedError

        async def follow(self, report: Callable[[Any], None]) -> None:
            assert self.context.backend is None
            report(CheckResult("passing", self.context.node_name))
            report("nonsense")

    runner = make(plugins, lambda definition: Follows())
    runner.bind(Lent())
    reported: list[tuple[CheckResult, str]] = []

    def report(result: CheckResult) -> None:
        reported.append((result, threading.current_thread().name))

    with pytest.raises(PluginError, match="gave str, expected CheckResult"):
        await runner.follow(report)
    await asyncio.sleep(0)
    assert reported == [(CheckResult("passing", "node1"), "MainThread")]


async def test_registry_change_sinks(plugins: Plugins) -> None:
    delivered: list[tuple[Sequence[Change], str]] = []

    async def deliver(changes: Sequence[Change]) -> None:
        delivered.append((changes, threading.current_thread().name))
        if len(delivered) == 2:
            raise OSError("no connection")
        if len(delivered) == 3:
            raise PlaceLost

    class Sinks:
        @hookimpl
        def registry_change_sinks(self) -> list[ChangeSink]:
            return [ChangeSink(name="mine", deliver=deliver, where="server")]

    plugins.add("mine", Sinks())
    (sink,) = plugins.change_sinks()
    changes = [Change(index=1, sequence=0, time_ms=0, kind="kv", key="a")]
    await sink.deliver(changes)
    assert delivered == [(changes, "plugin-mine")]
    with pytest.raises(PluginError, match="plugin mine failed in registry_change_sinks: OSError"):
        await sink.deliver(changes)
    with pytest.raises(PlaceLost):
        await sink.deliver(changes)
    assert plugins.report()[-1]["ErrorCount"] == 1


async def test_a_handler_runs_on_its_plugins_loop(plugins: Plugins) -> None:
    calls: list[tuple[int, bytes, str]] = []

    async def handle(index: int, data: bytes) -> None:
        calls.append((index, data, threading.current_thread().name))

    def create(definition: Definition) -> Callable[[int, bytes], Awaitable[None]]:
        return handle

    plugins.add("mine", Kinds(create))
    kind = plugins.watch_handler("mine")
    assert kind is not None
    await kind.create(None)(7, b"[]")
    assert calls == [(7, b"[]", "plugin-mine")]
