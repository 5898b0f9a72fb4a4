"""Pools of our own members on real sockets of this machine."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from registry.errors import (
    ConfigError,
    LocalProtocolError,
    NotFound,
    Rejected,
    TooLarge,
    Unavailable,
)
from registry.membership.agent_tags import AgentTags
from registry.membership.filters import NodeFilter
from registry.membership.merge_rules import LanRules
from registry.membership.profiles import CONSUL_DEV
from registry.membership.serf_values import (
    Event,
    MemberEvent,
    MemberEventKind,
    MemberStatus,
    QueryEvent,
    UserEvent,
)
from registry.membership.settings import PoolSettings
from registry.membership.shell import GossipPool
from registry.state.regexp import compile_pattern

KEY, OTHER_KEY = b"k" * 16, b"o" * 32
QUICK = msgspec.structs.replace(CONSUL_DEV.serf, leave_propagate_delay_ms=50)


class CountingMeter:
    def __init__(self) -> None:
        self.counts: dict[str, float] = {}

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + amount

    def gauge(self, name: str, value: float, **labels: str) -> None:
        self.counts[name] = value


@dataclass
class Running:
    pool: GossipPool
    task: asyncio.Task[None]
    heard: list[Event] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def where(self) -> str:
        host, port = self.pool.address
        return f"{host}:{port}"

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for events until the condition holds."""
        async with asyncio.timeout(15):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def until_sees(self, name: str, status: MemberStatus) -> None:
        def sees() -> bool:
            found = [member.status for member in self.pool.members() if member.name == name]
            return found == [status]

        await self.until(sees)

    def kinds(self, name: str) -> list[MemberEventKind]:
        return [
            event.kind
            for event in self.heard
            if isinstance(event, MemberEvent) and event.member.name == name
        ]


def settings(name: str, **changes: Any) -> PoolSettings:
    given: dict[str, Any] = {
        "name": name,
        "tags": {"role": "node"},
        "bind": ("127.0.0.1", 0),
        "compile_pattern": compile_pattern,
        "swim": CONSUL_DEV.swim,
        "serf": QUICK,
    }
    return PoolSettings(**given | changes)


@asynccontextmanager
async def member(name: str, **changes: Any) -> AsyncIterator[Running]:
    """A member that runs; at the end it stops without a word."""
    pool = GossipPool(settings(name, **changes))
    await pool.start()

    async with asyncio.TaskGroup() as group:
        stream = pool.listen()
        running = Running(pool, group.create_task(pool.run()))

        async def listen() -> None:
            async for event in stream:
                running.heard.append(event)
                running.changed.set()

        group.create_task(listen())
        try:
            yield running
        finally:
            running.task.cancel()


@asynccontextmanager
async def pair(**changes: Any) -> AsyncIterator[tuple[Running, Running]]:
    async with member("alpha", **changes) as alpha, member("beta", **changes) as beta:
        assert await beta.pool.join([alpha.where]) == 1
        await alpha.until_sees("beta", MemberStatus.ALIVE)
        await beta.until_sees("alpha", MemberStatus.ALIVE)
        yield alpha, beta


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what no event tells of."""
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - there is nothing to be woken by
            await asyncio.sleep(0.05)


def has_line(path: Path, line: str) -> bool:
    return path.exists() and line in path.read_text().splitlines()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_two_find_each_other_and_part() -> None:
    async with pair() as (alpha, beta):
        assert [one.name for one in alpha.pool.members()] == ["alpha", "beta"]
        assert beta.pool.local_member().tags == {"role": "node"}
        await beta.pool.leave()
        await alpha.until_sees("beta", MemberStatus.LEFT)
        assert alpha.kinds("beta") == [MemberEventKind.JOIN, MemberEventKind.LEAVE]
        await beta.task  # a leave ends `run`


async def test_leaving_alone_takes_no_longer_than_it_must() -> None:
    async with asyncio.timeout(3), member("alpha") as alpha:
        await alpha.pool.leave()
        await alpha.task


async def test_who_falls_silent_has_failed_and_can_be_forced_out() -> None:
    async with pair() as (alpha, beta):
        beta.task.cancel()
        await alpha.until_sees("beta", MemberStatus.FAILED)
        await alpha.pool.force_leave("beta")
        await alpha.until_sees("beta", MemberStatus.LEFT)
        await alpha.pool.force_leave("beta", prune=True)
        await alpha.until(lambda: len(alpha.pool.members()) == 1)
        with pytest.raises(NotFound, match="No node found with name 'beta'"):
            await alpha.pool.force_leave("beta")


async def test_a_join_that_reaches_nobody_says_why() -> None:
    port = closed_port()
    async with member("alpha") as alpha:
        with pytest.raises(Unavailable) as raised:
            await alpha.pool.join([f"127.0.0.1:{port}"])
        assert str(raised.value) == (
            f"Failed to join 127.0.0.1: dial tcp 127.0.0.1:{port}: connect: connection refused"
        )
        with pytest.raises(Unavailable, match=r"Failed to join.*; Failed to resolve"):
            await alpha.pool.join([f"127.0.0.1:{port}", "127.0.0.1:99999"])


async def test_a_join_that_reaches_somebody_counts() -> None:
    async with member("alpha") as alpha, member("beta") as beta:
        port = beta.pool.address[1]
        reached = await alpha.pool.join([f"127.0.0.1:{closed_port()}", f"localhost:{port}"])
        assert reached == 1
        assert await alpha.pool.join(["127.0.0.1"], default_port=port) == 1
        assert await alpha.pool.join([]) == 0


async def test_a_taken_port_is_one_clear_line() -> None:
    async with member("alpha") as alpha:
        other = GossipPool(settings("beta", bind=alpha.pool.address))
        with pytest.raises(ConfigError, match="the port is in use by another process"):
            await other.start()


async def test_before_the_start_there_is_nothing() -> None:
    with pytest.raises(LocalProtocolError):
        GossipPool(settings("alpha")).members()


async def test_events_and_tags_get_around() -> None:
    async with pair() as (alpha, beta):
        beta.pool.user_event("deploy", b"42")
        await alpha.until(lambda: UserEvent(1, "deploy", b"42") in alpha.heard)
        beta.pool.set_tags({"role": "node", "rack": "r1"})
        await alpha.until(lambda: MemberEventKind.UPDATE in alpha.kinds("beta"))
        assert alpha.pool.members()[1].tags == {"role": "node", "rack": "r1"}
        for size in (600, 500):  # by itself, and with its envelope
            with pytest.raises(TooLarge):
                beta.pool.user_event("deploy", b"x" * size)
        with pytest.raises(TooLarge):
            beta.pool.set_tags({"rack": "x" * 600})
        assert beta.pool.local_member().tags == {"role": "node", "rack": "r1"}


async def test_queries_and_answers() -> None:
    async with pair() as (alpha, beta):

        async def answer() -> None:
            await beta.until(lambda: any(isinstance(event, QueryEvent) for event in beta.heard))
            query = next(event for event in beta.heard if isinstance(event, QueryEvent))
            with pytest.raises(TooLarge, match="response exceeds limit"):
                beta.pool.respond(query, b"x" * 2000)
            beta.pool.respond(query, query.payload.upper())
            with pytest.raises(LocalProtocolError):
                beta.pool.respond(query, b"again")

        async with asyncio.TaskGroup() as group:
            group.create_task(answer())
            only = [NodeFilter(("beta",))]
            stream = alpha.pool.query("shout", b"hey", filters=only, wants_acks=True)
            heard = [(one.node, one.is_ack, one.payload) async for one in stream]
        assert sorted(heard) == [("beta", False, b"HEY"), ("beta", True, b"")]
        with pytest.raises(TooLarge):
            await anext(alpha.pool.query("shout", b"x" * 2000))


async def test_coordinates_are_measured() -> None:
    async with pair() as (alpha, beta):
        await eventually(lambda: alpha.pool.coordinate("beta") is not None)
        own, other = alpha.pool.coordinate(), alpha.pool.coordinate("beta")
        assert own is not None
        assert other is not None
        assert 0 < own.distance(other) < 1
        assert alpha.pool.coordinate("nobody") is None
        assert alpha.pool.statistics()["members"] == len(beta.pool.members()) == 2


async def test_an_encrypted_pool_changes_its_key(tmp_path: Path) -> None:
    rings = {name: tmp_path / name for name in ("alpha", "beta")}
    async with (
        member("alpha", keys=(KEY,), keyring_file=rings["alpha"]) as alpha,
        member("beta", keys=(KEY,), keyring_file=rings["beta"]) as beta,
    ):
        await beta.pool.join([alpha.where])
        await alpha.until_sees("beta", MemberStatus.ALIVE)
        for change in (alpha.pool.keys.install, beta.pool.keys.use):
            assert (await change(OTHER_KEY)).is_complete
        assert (await alpha.pool.keys.remove(KEY)).is_complete
        for path in rings.values():
            assert json.loads(path.read_text()) == [b64encode(OTHER_KEY).decode()]
        refused = await alpha.pool.keys.remove(OTHER_KEY)
        assert (refused.answers, refused.errors) == (2, 2)

        # A ring that cannot be written is a failure, though it is already in use.
        rings["beta"].with_name("beta.new").mkdir()
        failed = await alpha.pool.keys.install(KEY)
        assert list(failed.messages) == ["beta"]
        assert "could not be written" in failed.messages["beta"]

    # What is on disk comes before what is configured.
    async with member("alpha", keys=(KEY,), keyring_file=rings["alpha"]) as alpha:
        listed = await alpha.pool.keys.list()
        assert listed.primary_keys == {b64encode(OTHER_KEY).decode(): 1}


async def test_keys_of_a_pool_without_encryption() -> None:
    async with member("alpha") as alpha:
        assert not alpha.pool.is_encrypted
        listed = await alpha.pool.keys.list()
        assert listed.messages == {"alpha": "No keyring to modify (encryption not enabled)"}


async def test_a_wrong_key_is_told() -> None:
    async with member("alpha", keys=(KEY,)) as alpha, member("beta") as beta:
        with pytest.raises(Unavailable, match=r"Encryption is|Remote state is encrypted"):
            await beta.pool.join([alpha.where])
    with pytest.raises(ConfigError, match="16, 24 or 32"):
        await GossipPool(settings("alpha", keys=(b"short",))).start()


async def test_the_snapshot_leads_back(tmp_path: Path) -> None:
    snapshot = tmp_path / "serf" / "local.snapshot"
    async with member("alpha") as alpha:
        async with member("beta", snapshot_file=snapshot) as beta:
            await beta.pool.join([alpha.where])
            alpha.pool.user_event("old", b"")
            await beta.until(lambda: any(isinstance(event, UserEvent) for event in beta.heard))
            await eventually(lambda: has_line(snapshot, "event-clock: 1"))
        async with member("beta", snapshot_file=snapshot) as beta:
            await beta.until_sees("alpha", MemberStatus.ALIVE)
            alpha.pool.user_event("new", b"")
            await beta.until(lambda: any(isinstance(event, UserEvent) for event in beta.heard))
            names = [event.name for event in beta.heard if isinstance(event, UserEvent)]
            assert names == ["new"]  # the old one was heard in the life before
            await beta.pool.leave()
            await beta.task
        assert "leave" in snapshot.read_text().splitlines()
        async with member("beta", snapshot_file=snapshot) as beta:
            await beta.pool.leave()
            await beta.task
            assert [one.name for one in beta.pool.members()] == ["beta"]


async def test_the_wrong_datacenter_is_refused() -> None:
    async with AsyncExitStack() as stack:
        made = {}
        for name, datacenter in (("alpha", "dc1"), ("beta", "dc2")):
            tags = AgentTags(node_id=f"id-{name}", datacenter=datacenter, build="1.8.4").to_tags()
            rules = LanRules(name=name, node_id=f"id-{name}", datacenter=datacenter)
            made[name] = await stack.enter_async_context(member(name, tags=tags, rules=rules))
        with pytest.raises(Unavailable, match="Member 'alpha' part of wrong datacenter 'dc1'"):
            await made["beta"].pool.join([made["alpha"].where])
        assert [one.name for one in made["alpha"].pool.members()] == ["alpha"]


async def test_addresses_that_are_not_allowed_do_not_exist() -> None:
    elsewhere = (ipaddress.ip_network("127.0.0.2/32"), ipaddress.ip_network("127.0.0.1/32"))
    async with member("alpha", allowed_networks=elsewhere) as alpha:
        async with member("beta", bind=("127.0.0.2", 0), allowed_networks=elsewhere) as beta:
            assert await beta.pool.join([alpha.where]) == 1
        async with member("gamma", bind=("127.0.0.3", 0)) as gamma:
            with suppress(Unavailable):
                await gamma.pool.join([alpha.where])
            assert "gamma" not in [one.name for one in alpha.pool.members()]


async def test_who_loses_its_name_stops_without_leaving() -> None:
    resolving = msgspec.structs.replace(QUICK, resolves_name_conflicts=True)
    async with pair(serf=resolving) as (alpha, _):
        impostor = GossipPool(settings("beta", serf=resolving))
        await impostor.start()

        async def live() -> None:
            with pytest.raises(Rejected, match="the name beta belongs to another member"):
                await impostor.run()

        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(live())
            await impostor.join([alpha.where])
        assert [one.status for one in alpha.pool.members()] == [MemberStatus.ALIVE] * 2


async def test_what_happens_is_measured() -> None:
    meter = CountingMeter()
    async with pair(meter=meter) as (alpha, beta):
        alpha.pool.user_event("deploy")
        await beta.until(lambda: UserEvent(1, "deploy") in beta.heard)
    assert meter.counts["serf.member.join"] >= 2
    assert meter.counts["serf.events"] >= 1
    assert meter.counts["memberlist.udp.sent"] > 0


async def test_garbage_does_no_harm() -> None:
    async with pair() as (alpha, beta):
        host, port = alpha.pool.address
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for garbage in (
                b"",
                b"\xf4",
                b"\x08",
                b"\x08\x63",
                b"\x07\xff" + b"x" * 100,
                b"\x09\x81",
            ):
                sender.sendto(garbage, (host, port))
        for garbage in (b"\xf4", b"\x06\x81", b"\x0a\xff\xff\xff\xff"):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(garbage)
            writer.write_eof()
            async with asyncio.timeout(15):
                await reader.read()
            writer.close()
        beta.pool.user_event("still", b"here")
        await alpha.until(lambda: UserEvent(1, "still", b"here") in alpha.heard)
