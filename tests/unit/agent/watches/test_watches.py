"""Watches: what fires, with which data, and what happens when something fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from registry.agent.definitions import WatchDefinition
from registry.agent.events import UserEvent
from registry.agent.facade import AgentFacade
from registry.agent.local.state import LocalState
from registry.agent.watches import Watches, builtin_watch_handlers
from registry.errors import ConfigError, NoLeader
from registry.hooks import WatchHandler
from registry.http.watch_data import render_watch
from registry.state.base import ReadOptions
from registry.state.catalog_commands import Register
from registry.state.catalog_records import Check, Service
from registry.state.kv import KvDelete, KvSet
from registry.testing.consensus import InstantBackend
from registry.testing.local_agent import make_local, running, service
from registry.testing.manual_clock import ManualClock
from registry.testing.serving import make_facade


class Backend(InstantBackend):
    """Commits at once, unless it is down."""

    down = False

    async def read(self, query: Any, options: ReadOptions) -> Any:
        if self.down:
            raise NoLeader
        return await super().read(query, options)


class Recorder:
    """A handler that keeps what it was told, and takes its time while `gate` is closed."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, Any]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_once = self.most_at_once = 0
        self.failure: Exception | None = None

    def create(self, definition: WatchDefinition) -> Callable[[int, bytes], Awaitable[None]]:
        return self.handle

    async def handle(self, index: int, data: bytes) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.calls.append((index, json.loads(data)))
            await self.gate.wait()
            if self.failure is not None:
                raise self.failure
        finally:
            self.at_once -= 1

    @property
    def data(self) -> list[Any]:
        return [data for _, data in self.calls]

    # The looking up of handlers, in place of the plugins.
    def watch_handler(self, key: str) -> WatchHandler | None:
        kinds = {kind.key: kind for kind in builtin_watch_handlers()}
        if key == "args":
            return WatchHandler(key="args", create=self.create)
        return kinds.get(key)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def backend() -> Backend:
    """Beyond index 1, which an empty table shows: a log begins with an entry of the leader."""
    made = Backend()
    await put(made, "first", b"")
    return made


@pytest.fixture
def local(clock: ManualClock) -> LocalState:
    return make_local(clock)


@pytest.fixture
def facade(backend: Backend, local: LocalState) -> AgentFacade:
    return make_facade(backend=backend, local=local)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def watches(facade: AgentFacade, recorder: Recorder, clock: ManualClock) -> Watches:
    return Watches(facade, recorder, render=render_watch, clock=clock)


def watch(kind: str, **fields: Any) -> WatchDefinition:
    return WatchDefinition(type=kind, args=("handler",), **fields)


async def put(backend: Backend, key: str, value: bytes) -> None:
    await backend.write(KvSet(key=key.encode(), value=value))


async def test_a_key_fires_at_the_start_and_on_each_change(
    watches: Watches, backend: Backend, recorder: Recorder, clock: ManualClock
) -> None:
    watches.replace([watch("key", key="a")])
    async with running(watches):
        await clock.settle()
        assert recorder.data == [None]
        await put(backend, "a", b"one")
        await clock.settle()
        await put(backend, "other", b"x")
        await clock.settle()
        await put(backend, "a", b"two")
        await clock.settle()
        await backend.write(KvDelete(key=b"a"))
        await clock.settle()
    values = [None if each is None else each["Value"] for each in recorder.data]
    assert values == [None, "b25l", "dHdv", None]
    assert recorder.data[1] == {
        "Key": "a", "CreateIndex": 2, "ModifyIndex": 2, "LockIndex": 0, "Flags": 0,
        "Value": "b25l", "Session": "",
    }  # fmt: skip
    assert [index for index, _ in recorder.calls][1:3] == [2, 4]


async def test_an_unchanged_result_does_not_fire(
    watches: Watches, backend: Backend, recorder: Recorder, clock: ManualClock
) -> None:
    """The index of a prefix moves on with a key that comes and goes; the data does not change."""
    await put(backend, "p/a", b"1")
    watches.replace([watch("keyprefix", prefix="p/")])
    async with running(watches):
        await clock.settle()
        await put(backend, "p/b", b"2")
        await backend.write(KvDelete(key=b"p/b"))
        await clock.settle()
    assert [[each["Key"] for each in data] for data in recorder.data] == [["p/a"]]


async def test_changes_during_a_run_are_merged(
    watches: Watches, backend: Backend, recorder: Recorder, clock: ManualClock
) -> None:
    watches.replace([watch("key", key="a")])
    async with running(watches):
        await clock.settle()
        recorder.gate.clear()
        for value in (b"1", b"2", b"3"):
            await put(backend, "a", value)
            await clock.settle()
        recorder.gate.set()
        await clock.settle()
    assert [each and each["Value"] for each in recorder.data] == [None, "MQ==", "Mw=="]
    assert recorder.most_at_once == 1


async def test_failures_are_retried_later_and_later(
    watches: Watches, backend: Backend, recorder: Recorder, clock: ManualClock
) -> None:
    backend.down = True
    watches.replace([watch("nodes")])
    async with running(watches):
        # Tries at 0, 5, 5 + 20, 25 + 45 … seconds.
        await clock.advance(24)
        backend.down = False
        await clock.settle()
        assert recorder.calls == []
        await clock.advance(1)
        assert recorder.data == [[]]


async def test_the_pause_after_failures_has_a_limit(
    watches: Watches, backend: Backend, recorder: Recorder, clock: ManualClock
) -> None:
    backend.down = True
    watches.replace([watch("nodes")])
    async with running(watches):
        await clock.advance(3600)
        backend.down = False
        await clock.advance(180)
        assert recorder.data == [[]]


async def test_a_handler_that_fails_does_not_end_the_watch(
    watches: Watches, backend: Backend, recorder: Recorder, clock: ManualClock
) -> None:
    recorder.failure = RuntimeError("no")
    watches.replace([watch("key", key="a")])
    async with running(watches):
        await clock.settle()
        await put(backend, "a", b"1")
        await clock.settle()
    assert len(recorder.calls) == 2


async def test_a_reload_runs_every_handler_again(
    watches: Watches, backend: Backend, recorder: Recorder, clock: ManualClock
) -> None:
    definitions = [watch("key", key="a"), watch("key", key="b")]
    watches.replace(definitions)
    async with running(watches):
        await clock.settle()
        assert len(recorder.calls) == 2
        watches.replace(definitions)
        await clock.settle()
        assert len(recorder.calls) == 4
        watches.replace([])
        await put(backend, "a", b"1")
        await clock.settle()
        assert len(recorder.calls) == 4


async def test_a_bad_reload_leaves_the_watches_running(
    watches: Watches, backend: Backend, recorder: Recorder, clock: ManualClock
) -> None:
    watches.replace([watch("key", key="a")])
    async with running(watches):
        await clock.settle()
        with pytest.raises(ConfigError):
            watches.replace([watch("nodes"), watch("nope")])
        await put(backend, "a", b"1")
        await clock.settle()
        assert len(recorder.calls) == 2


@pytest.mark.parametrize(
    ("definition", "text"),
    [
        (watch("key", key="a", state="critical"), "Invalid parameters: [state]"),
        (
            watch("nodes", prefix="p", tags=("t",), passing_only=True),
            "Invalid parameters: [passingonly prefix tag]",
        ),
        (watch("event", stale=True), "Invalid parameters: [stale]"),
        (watch("nope"), "Unsupported watch type: nope"),
        (watch("key"), "Must specify a single key to watch"),
        (watch("checks", service="a", state="b"), "Cannot specify service and state"),
        (watch("nodes", datacenter="dc2"), "No path to datacenter dc2"),
        (WatchDefinition(type="nodes"), "a watch needs args, handler or http_handler_config"),
        (
            WatchDefinition(type="nodes", plugin_handler="pigeon"),
            'there is no watch handler "pigeon"',
        ),
    ],
)
def test_watches_that_make_no_sense(
    watches: Watches, definition: WatchDefinition, text: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        watches.replace([definition])
    assert caught.value.reason == text


def test_mesh_watches_are_ignored_with_a_warning(
    watches: Watches, caplog: pytest.LogCaptureFixture
) -> None:
    assert watches.prepare([watch("connect_roots")]) == []
    assert "connect_roots" in caplog.text


async def register(backend: Backend, status: str, tags: tuple[str, ...] = ("t",)) -> None:
    check = Check(check_id="c", name="c", status=status, service_id="web")
    await backend.write(
        Register(
            node="n2",
            address="10.0.0.2",
            service=Service(id="web", name="web", tags=tags),
            checks=(check,),
        )
    )


async def test_data_of_the_catalogs_types(
    watches: Watches, backend: Backend, recorder: Recorder, clock: ManualClock
) -> None:
    await register(backend, "passing")
    expected: dict[str, Callable[[Any], bool]] = {
        "services": lambda data: data == {"web": ["t"]},
        "nodes": lambda data: [each["Node"] for each in data] == ["n2"],
        "checks": lambda data: [each["CheckID"] for each in data] == ["c"],
    }
    for kind, is_right in expected.items():
        recorder.calls.clear()
        watches.replace([watch(kind)])
        async with running(watches):
            await clock.settle()
        assert len(recorder.data) == 1
        assert is_right(recorder.data[0])


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({}, ["web", "web"]),
        ({"tags": ("t",)}, ["web", "web"]),
        ({"tags": ("t", "none")}, []),
        ({"passing_only": True}, ["web"]),
    ],
)
async def test_a_service_with_its_checks(
    watches: Watches, backend: Backend, recorder: Recorder, clock: ManualClock,
    fields: dict[str, Any], shown: list[str],
) -> None:  # fmt: skip
    await register(backend, "passing")
    watches.replace([watch("service", service="web", **fields)])
    async with running(watches):
        await clock.settle()
        await register(backend, "critical")
        await clock.settle()
    found = [each["Service"]["Service"] for data in recorder.data for each in data]
    assert found == shown


@pytest.mark.parametrize(
    ("fields", "count"), [({"state": "critical"}, 0), ({"service": "web"}, 1), ({}, 1)]
)
async def test_checks_by_state_or_service(
    watches: Watches, backend: Backend, recorder: Recorder, clock: ManualClock,
    fields: dict[str, str], count: int,
) -> None:  # fmt: skip
    await register(backend, "passing")
    watches.replace([watch("checks", **fields)])
    async with running(watches):
        await clock.settle()
    assert [len(data) for data in recorder.data] == [count]


async def test_events_are_given_once(
    watches: Watches, facade: AgentFacade, recorder: Recorder, clock: ManualClock
) -> None:
    await facade.events.fire(UserEvent(id="", name="deploy", payload=b"1"))
    watches.replace([watch("event", name="deploy")])
    async with running(watches):
        await clock.settle()
        await facade.events.fire(UserEvent(id="", name="other"))
        await facade.events.fire(UserEvent(id="", name="deploy", payload=b"2"))
        await clock.settle()
        await facade.events.fire(UserEvent(id="", name="deploy", payload=b"3"))
        await clock.settle()
    assert [[each["Payload"] for each in data] for data in recorder.data] == [
        ["MQ=="],
        ["Mg=="],
        ["Mw=="],
    ]


async def test_a_service_of_this_agent(
    watches: Watches, local: LocalState, recorder: Recorder, clock: ManualClock
) -> None:
    watches.replace([watch("agent_service", service_id="web")])
    async with running(watches):
        await clock.settle()
        assert recorder.calls == []
        for port in (1, 1, 2):
            await local.add_service(service("web", port=port))
            await clock.settle()
    assert [each["Port"] for each in recorder.data] == [1, 2]
    assert all(each["ContentHash"] for each in recorder.data)
