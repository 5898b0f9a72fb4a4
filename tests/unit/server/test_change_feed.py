"""Change sinks: every change, in order, at least once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from registry.errors import NotLeader, PluginError
from registry.hooks import Change, ChangeSink, Origin, PlaceLost
from registry.http.change_data import show_record
from registry.server import change_feed
from registry.server.change_feed import ChangeFeed
from registry.state import base
from registry.state.base import Command
from registry.state.catalog_commands import Deregister, Register
from registry.state.catalog_records import Check, Service
from registry.state.changes import LAST, Cursor
from registry.state.kv import KvDelete, KvSet
from registry.state.sinks import sink_cursor
from registry.testing.servers import until
from registry.testing.state import START_MS, Replica


class Recording:
    """A sink that remembers, and fails as often as it is told to."""

    def __init__(self, **details: Any) -> None:
        self.changes: list[Change] = []
        self.failures = 0
        self.calls = 0
        self.sink = ChangeSink(name="recording", deliver=self.deliver, **details)

    async def deliver(self, changes: Sequence[Change]) -> None:
        self.calls += 1
        if self.failures:
            self.failures -= 1
            raise PluginError("recording", "registry_change_sinks", "no connection")
        self.changes += changes

    @property
    def keys(self) -> list[str]:
        return [change.key for change in self.changes if change.kind != "reset"]

    def after_reset(self) -> list[Change]:
        resets = [at for at, change in enumerate(self.changes) if change.kind == "reset"]
        return self.changes[resets[-1] + 1 :]


class Proposer:
    """A leader of one: what it proposes is applied at once."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.is_leader = True
        self.proposed: list[Command] = []

    async def propose(self, command: Command) -> Any:
        if not self.is_leader:
            raise NotLeader("")
        self.proposed.append(command)
        return self._replica.apply(command)


class Fed:
    """A replica with a feed for some sinks."""

    def __init__(self, *sinks: ChangeSink, replica: Replica | None = None) -> None:
        self.replica = replica or Replica()
        self.proposer = Proposer(self.replica)
        self.feed = ChangeFeed(self.replica.machine, self.proposer, sinks, show_record)


@asynccontextmanager
async def running(*works: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work()) for work in works]
        yield
        for task in tasks:
            task.cancel()


async def test_a_new_sink_is_shown_what_there_is_and_then_what_comes() -> None:
    recording = Recording()
    replica = Replica()
    replica.apply_all([KvSet(key=b"b"), KvSet(key=b"a")])
    fed = Fed(recording.sink, replica=replica)
    async with running(fed.feed.lead):
        await until(lambda: len(recording.keys) == 2)
        fed.replica.apply(KvDelete(key=b"a"))
        await until(lambda: len(recording.keys) == 3)
    kinds = [(change.kind, change.key, change.value is None) for change in recording.changes]
    assert kinds == [
        ("reset", "", True),
        ("kv", "a", False),
        ("kv", "b", False),
        ("kv", "a", True),
    ]
    places = [(change.index, change.sequence) for change in recording.changes]
    assert places == sorted(set(places))


async def test_a_change_says_all_of_itself() -> None:
    recording = Recording()
    fed = Fed(recording.sink)
    async with running(fed.feed.lead):
        await until(lambda: len(recording.changes) == 1)
        origin = base.Origin("192.0.2.1", "because")
        fed.replica.apply(KvSet(key=b"a", value=b"1", flags=7, origin=origin))
        await until(lambda: len(recording.changes) == 2)
    change = recording.changes[1]
    index = change.index
    assert change == Change(
        index=index,
        sequence=0,
        time_ms=START_MS,
        kind="kv",
        key="a",
        value={
            "Value": b"1",
            "Flags": 7,
            "Session": "",
            "LockIndex": 0,
            "CreateIndex": index,
            "ModifyIndex": index,
        },
        origin=Origin("192.0.2.1", "because"),
    )


async def test_the_catalog_and_the_members() -> None:
    recording = Recording()
    fed = Fed(recording.sink)
    alive = Check(check_id="serfHealth", name="Serf Health Status", status="passing")
    service = Service(id="web1", name="web", port=80)
    async with running(fed.feed.lead):
        await until(lambda: len(recording.changes) == 1)
        node: dict[str, Any] = {"node": "N1", "address": "192.0.2.1"}
        fed.replica.apply(Register(**node, service=service, checks=(alive,)))
        failed = Check(check_id="serfHealth", name="Serf Health Status", status="critical")
        fed.replica.apply(Register(**node, checks=(failed,)))
        fed.replica.apply(Deregister(node="N1"))
        await until(lambda: recording.keys.count("N1") >= 5)
    told = [
        (change.kind, change.key, change.value if change.kind == "member" else change.value is None)
        for change in recording.after_reset()
    ]
    assert told[:4] == [
        ("node", "N1", False),
        ("service", "N1/web1", False),
        ("check", "N1/serfHealth", False),
        ("member", "N1", {"Status": "alive"}),
    ]
    assert told[4:6] == [
        ("check", "N1/serfHealth", False),
        ("member", "N1", {"Status": "failed"}),
    ]
    assert sorted(told[6:], key=str) == sorted(
        [
            ("service", "N1/web1", True),
            ("check", "N1/serfHealth", True),
            ("member", "N1", None),
            ("node", "N1", True),
        ],
        key=str,
    )
    web = next(change for change in recording.changes if change.kind == "service")
    assert (web.value["Node"], web.value["Service"], web.value["Port"]) == ("N1", "web", 80)


async def test_only_the_kinds_wanted() -> None:
    recording = Recording(kinds=frozenset({"node"}))
    fed = Fed(recording.sink)
    async with running(fed.feed.lead):
        fed.replica.apply(KvSet(key=b"a"))
        fed.replica.apply(Register(node="n1", address="192.0.2.1"))
        await until(lambda: recording.keys == ["n1"])


async def test_a_failed_delivery_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_feed, "RETRY_S", 0.001)
    recording = Recording(batch_max=10)
    fed = Fed(recording.sink)
    recording.failures = 5
    async with running(fed.feed.lead):
        for number in range(25):
            fed.replica.apply(KvSet(key=b"%02d" % number))
        await until(lambda: len(set(recording.keys)) == 25)
    assert recording.keys == sorted(recording.keys)
    assert recording.failures == 0


async def test_a_slow_sink_holds_up_no_other() -> None:
    released = asyncio.Event()

    async def wait(changes: Sequence[Change]) -> None:
        await released.wait()

    recording = Recording()
    fed = Fed(ChangeSink(name="slow", deliver=wait), recording.sink)
    async with running(fed.feed.lead):
        fed.replica.apply(KvSet(key=b"a"))
        await until(lambda: "a" in recording.keys)
        released.set()


async def test_the_next_leader_goes_on_where_the_last_one_was() -> None:
    first, second = Recording(), Recording()
    replica = Replica()
    fed = Fed(first.sink, replica=replica)
    async with running(fed.feed.lead):
        replica.apply(KvSet(key=b"a"))
        await until(lambda: first.keys == ["a"])
        await until(lambda: _had(replica) >= 1)
    replica.apply(KvSet(key=b"b"))
    next_leader = Fed(second.sink, replica=replica)
    async with running(next_leader.feed.lead):
        await until(lambda: "b" in second.keys)
    assert all(change.kind != "reset" for change in second.changes)
    assert set(second.keys) == {"b"}


async def test_what_a_deposed_leader_did_not_save_comes_again() -> None:
    first, second = Recording(), Recording()
    replica = Replica()
    fed = Fed(first.sink, replica=replica)
    async with running(fed.feed.lead):
        await until(lambda: _had(replica) >= 0)
        fed.proposer.is_leader = False
        replica.apply(KvSet(key=b"a"))
        await until(lambda: first.keys == ["a"])
    next_leader = Fed(second.sink, replica=replica)
    async with running(next_leader.feed.lead):
        await until(lambda: second.keys == ["a"])


async def test_a_leader_that_lacks_changes_shows_everything() -> None:
    """It was given the state as a snapshot, so the rows before are nowhere."""
    recording = Recording()
    replica = Replica()
    fed = Fed(recording.sink, replica=replica)
    async with running(fed.feed.lead):
        replica.apply(KvSet(key=b"a"))
        await until(lambda: "a" in recording.keys)
        replica.apply(KvSet(key=b"b"))
        dump = list(replica.machine.dump(replica.machine.snapshot()))
    late = Replica()
    again = Recording()
    other = Fed(again.sink, replica=late)
    async with running(other.feed.lead):
        await until(lambda: len(again.changes) >= 1)
        late.machine.restore(dump)
        await until(lambda: {"a", "b"} <= set(again.keys))
    assert again.changes[-3].kind == "reset"


async def test_every_server_serves_its_own_sinks() -> None:
    recording = Recording(where="server")
    replica = Replica()
    fed = Fed(recording.sink, replica=replica)
    async with running(fed.feed.run):
        replica.apply(KvSet(key=b"a"))
        await until(lambda: recording.keys == ["a"])
        await until(lambda: replica.machine.keep_changes().span.count == 0)
    again = Recording(where="server")
    fed = Fed(again.sink, replica=replica)
    async with running(fed.feed.run):
        replica.apply(KvSet(key=b"b"))
        await until(lambda: again.keys == ["b"])
    assert fed.proposer.proposed == []


async def test_a_follower_forgets_what_the_leader_delivered() -> None:
    recording = Recording()
    leader, follower = Replica(), Replica()
    fed, following = Fed(recording.sink, replica=leader), Fed(recording.sink, replica=follower)
    async with running(fed.feed.lead, following.feed.run):
        leader.apply_all([KvSet(key=b"%d" % number) for number in range(10)])
        await until(lambda: _had(leader) >= 10)
        follower.machine.apply(leader.log)
        await until(lambda: follower.machine.keep_changes().span.count == 0)


async def test_ending_in_the_middle_of_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole state is shown again to a sink that did not get to its end."""
    replica = Replica()
    replica.apply_all([KvSet(key=b"%d" % number) for number in range(10)])
    recording = Recording(batch_max=4)
    fed = Fed(recording.sink, replica=replica)

    async def stop_after_two(changes: Sequence[Change]) -> None:
        await recording.deliver(changes)
        if recording.calls == 2:
            leading.cancel()
            await asyncio.Event().wait()

    sink = ChangeSink(name="recording", deliver=stop_after_two, batch_max=4)
    async with asyncio.TaskGroup() as group:
        leading = group.create_task(Fed(sink, replica=replica).feed.lead())
    assert sink_cursor(replica.machine.reader, "recording") is None
    async with running(fed.feed.lead):
        await until(lambda: len(recording.after_reset()) == 10)


async def test_the_end_of_the_state_is_told_to_those_who_ask() -> None:
    replica = Replica()
    replica.apply_all([KvSet(key=b"a"), KvSet(key=b"b")])
    recording = Recording(kinds=frozenset({"kv", "complete"}), batch_max=3)
    fed = Fed(recording.sink, replica=replica)
    async with running(fed.feed.lead):
        await until(lambda: len(recording.changes) == 4)
        replica.apply(KvSet(key=b"c"))
        await until(lambda: "c" in recording.keys)
    kinds = [change.kind for change in recording.changes]
    assert kinds == ["reset", "kv", "kv", "complete", "kv"]
    places = [(change.index, change.sequence) for change in recording.changes]
    assert places == sorted(set(places))


async def test_a_sink_that_lost_its_place_is_told_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(change_feed, "RETRY_S", 0.001)
    recording = Recording(where="server")
    replica = Replica()
    is_lost = False
    failures = 0  # of being told everything

    async def deliver(changes: Sequence[Change]) -> None:
        nonlocal is_lost, failures
        if is_lost and changes[0].kind == "reset":
            failures += 1
            is_lost = failures < 3
        if is_lost:
            raise PlaceLost
        await recording.deliver(changes)

    fed = Fed(ChangeSink(name="recording", deliver=deliver, where="server"), replica=replica)
    async with running(fed.feed.run):
        replica.apply_all([KvSet(key=b"a"), KvSet(key=b"b")])
        await until(lambda: {"a", "b"} <= set(recording.keys))
        is_lost = True
        replica.apply(KvDelete(key=b"a"))
        await until(lambda: [change.key for change in recording.after_reset()] == ["b"])
        replica.apply(KvSet(key=b"c"))
        await until(lambda: recording.keys[-1] == "c")
    assert [change.key for change in recording.after_reset()] == ["b", "c"]
    assert failures == 3


def _had(replica: Replica) -> int:
    cursor = sink_cursor(replica.machine.reader, "recording")
    return -1 if cursor is None else cursor.index


def test_places_are_ordered() -> None:
    assert Cursor(1, LAST) < Cursor(2, 0) < Cursor(2, 1)


# Sinks that come and go


async def test_a_sink_that_comes_later_is_served_at_once() -> None:
    """As when a reload configures its plugin: on the leader, and on every server."""
    replica = Replica()
    fed = Fed(replica=replica)
    leaders, servers = Recording(), Recording(where="server")
    servers.sink = ChangeSink(name="servers", deliver=servers.deliver, where="server")
    async with running(fed.feed.lead, fed.feed.run):
        replica.apply(KvSet(key=b"before"))
        assert replica.machine.journal is None  # nobody follows, so nothing is kept
        fed.feed.replace([leaders.sink])
        await until(lambda: leaders.keys == ["before"])
        fed.feed.replace([leaders.sink, servers.sink])
        replica.apply(KvSet(key=b"after"))
        await until(lambda: leaders.keys == ["before", "after"])
        await until(lambda: set(servers.keys) == {"before", "after"})


async def test_a_sink_that_stays_goes_on_where_it_is() -> None:
    replica = Replica()
    stays, goes = Recording(), Recording()
    goes.sink = ChangeSink(name="goes", deliver=goes.deliver)
    fed = Fed(stays.sink, goes.sink, replica=replica)
    async with running(fed.feed.lead):
        replica.apply(KvSet(key=b"a"))
        await until(lambda: (stays.keys, goes.keys) == (["a"], ["a"]))
        fed.feed.replace([stays.sink])
        replica.apply(KvSet(key=b"b"))
        await until(lambda: stays.keys == ["a", "b"])
        journal = replica.machine.keep_changes()
        await until(lambda: journal.span.count == 0)  # who is gone holds nothing up
        told = list(goes.keys)  # it may have been at "b" when it was replaced
        replica.apply(KvSet(key=b"c"))
        await until(lambda: stays.keys == ["a", "b", "c"])
    assert goes.keys == told
    assert [change.kind for change in stays.changes].count("reset") == 1


async def test_a_sink_that_comes_back_is_shown_what_it_missed() -> None:
    replica = Replica()
    recording = Recording()
    fed = Fed(recording.sink, replica=replica)
    async with running(fed.feed.lead):
        replica.apply(KvSet(key=b"a"))
        await until(lambda: recording.keys == ["a"])
        fed.feed.replace([])
        assert replica.machine.journal is None
        replica.apply(KvSet(key=b"b"))
        fed.feed.replace([recording.sink])
        await until(lambda: {change.key for change in recording.after_reset()} == {"a", "b"})


async def test_a_sink_is_replaced_once_it_has_ended() -> None:
    replica = Replica()
    events: list[str] = []
    ended = asyncio.Event()

    def sink(name: str) -> ChangeSink:
        async def deliver(changes: Sequence[Change]) -> None:
            events.append(f"{name} begins")
            try:
                await ended.wait()
            finally:
                events.append(f"{name} ends")

        return ChangeSink(name="one", deliver=deliver)

    fed = Fed(sink("old"), replica=replica)
    async with running(fed.feed.lead):
        await until(lambda: events == ["old begins"])
        fed.feed.replace([sink("new")])
        await until(lambda: len(events) == 3)
        assert events == ["old begins", "old ends", "new begins"]
        ended.set()
