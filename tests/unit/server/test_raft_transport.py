"""Raft over sockets: bounded queues, addresses learned from callers, peers that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from registry.raft.messages import (
    AnyMessage,
    AppendRequest,
    Configuration,
    Entry,
    EntryKind,
    HeartbeatRequest,
)
from registry.raft.messages import Server as RaftServer
from registry.raft.settings import RaftSettings
from registry.rpc.pool import PoolSettings
from registry.server import raft_transport
from registry.server.network import NetworkSettings, ServerNetwork
from registry.state.base import ReadOptions
from registry.state.kv import KvGet, KvSet
from registry.testing.ports import free_ports
from registry.testing.servers import LocalCluster, cluster_of, until


class Receiver:
    """In the driver's place."""

    def __init__(self) -> None:
        self.received: list[AnyMessage] = []
        self.lost: list[str] = []
        self.dead: list[str] = []

    def receive(self, message: AnyMessage) -> None:
        self.received.append(message)

    def unreachable(self, peer: str) -> None:
        self.lost.append(peer)

    def gone(self, peer: str) -> None:
        self.dead.append(peer)


class End:
    """One server's network, without a server."""

    def __init__(self, name: str, port: int, datacenter: str = "dc1") -> None:
        self.name, self.address = name, f"127.0.0.1:{port}"
        self.receiver = Receiver()
        self.network = ServerNetwork(
            NetworkSettings(
                datacenter=datacenter,
                node_name=name,
                server_id=name,
                bind_host="127.0.0.1",
                port=port,
                advertise_host="127.0.0.1",
                pool=PoolSettings(ping_interval_s=0.05, silence_max_s=0.5),
            )
        )
        self.network.transport.attach(self.receiver)

    def send(self, receiver: str, number: int, size: int = 0) -> None:
        entries = (Entry(1, 1, EntryKind.COMMAND, bytes(size)),) if size else ()
        message = AppendRequest(
            sender=self.name, receiver=receiver, term=1, prev_index=number, prev_term=0,
            entries=entries,
        )  # fmt: skip
        self.network.transport.send([message])

    def numbers(self) -> list[int]:
        return [each.prev_index for each in self.receiver.received if hasattr(each, "prev_index")]


@asynccontextmanager
async def running(*ends: End) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        for end in ends:
            end.network.bind()
        tasks = [group.create_task(end.network.run()) for end in ends]
        await asyncio.sleep(0.01)  # they have begun
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


def peers(*ends: End) -> Configuration:
    return Configuration(tuple(RaftServer(end.name, end.address) for end in ends))


@pytest.fixture
def ends() -> tuple[End, End]:
    first, second = free_ports(2)
    return End("a", first), End("b", second)


async def test_messages_arrive_in_order(ends: tuple[End, End]) -> None:
    a, b = ends
    async with running(a, b):
        a.network.transport.set_peers(peers(a, b))
        for number in range(200):
            a.send("b", number)
        await until(lambda: len(b.receiver.received) == 200)
        assert b.numbers() == list(range(200))
        assert b.receiver.received[0] == AppendRequest(
            sender="a", receiver="b", term=1, prev_index=0, prev_term=0
        )


async def test_a_server_answers_whoever_called_it(ends: tuple[End, End]) -> None:
    """A new server has no configuration yet, but the leader's address from its call."""
    a, b = ends
    async with running(a, b):
        a.network.transport.set_peers(peers(a, b))
        a.send("b", 1)
        await until(lambda: b.numbers() == [1])
        b.send("a", 2)
        await until(lambda: a.numbers() == [2])


async def test_messages_to_strangers_are_dropped(ends: tuple[End, End]) -> None:
    a, _ = ends
    async with running(a):
        a.send("nobody", 1)
        assert a.network.transport.statistics() == {"dropped": 0, "undecodable": 0}


async def test_the_driver_is_told_whom_it_cannot_reach(ends: tuple[End, End]) -> None:
    a, b = ends
    async with running(a):
        a.network.transport.set_peers(peers(a, b))
        a.send("b", 1)
        await until(lambda: a.receiver.lost != [])
        assert set(a.receiver.lost) == {"b"}
        assert set(a.receiver.dead) == {"b"}, "nobody listens there"
        async with running(b):
            a.network.revive(b.address)
            await until(lambda: _sent(a, b))
            assert 1 not in b.numbers(), "what waited for a lost peer is not sent late"
            told, told_dead = len(a.receiver.lost), len(a.receiver.dead)
        await until(lambda: len(a.receiver.lost) > told)
        await until(lambda: len(a.receiver.dead) > told_dead, "it closed its connections")


def _sent(a: End, b: End) -> bool:
    a.send("b", 7)
    return 7 in b.numbers()


async def test_a_peer_that_calls_ends_the_pause(ends: tuple[End, End]) -> None:
    a, b = ends
    async with running(a):
        a.network.transport.set_peers(peers(a, b))
        raft_pool = a.network._raft_pool  # the pause of minutes that nobody wants to wait for
        await until(lambda: raft_pool.retry_in(b.address) > 0.3)
        async with running(b):
            b.network.transport.set_peers(peers(a, b))
            async with asyncio.timeout(0.3):
                await until(lambda: _sent(a, b))


async def test_a_full_queue_drops_and_counts(
    ends: tuple[End, End], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raft_transport, "MESSAGES_MAX", 5)
    monkeypatch.setattr(raft_transport, "BYTES_MAX", 10_000)
    a, b = ends
    async with running(b):
        a.network.transport.set_peers(peers(a, b))  # not running: everything has to wait
        for number in range(8):
            a.send("b", number)
        assert a.network.transport.statistics()["dropped"] == 3
        async with running(a):
            await until(lambda: len(b.receiver.received) == 5)
            assert b.numbers() == [0, 1, 2, 3, 4]


async def test_bytes_are_bounded_too(
    ends: tuple[End, End], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raft_transport, "BYTES_MAX", 10_000)
    a, b = ends
    a.network.transport.set_peers(peers(a, b))
    for number in range(4):
        a.send("b", number, size=4000)
    assert a.network.transport.statistics()["dropped"] == 2


async def test_a_peer_that_moved_is_reached_where_it_is(ends: tuple[End, End]) -> None:
    a, b = ends
    elsewhere = End("b", free_ports(1)[0])
    async with running(a, b, elsewhere):
        a.network.transport.set_peers(peers(a, b))
        a.send("b", 1)
        await until(lambda: b.numbers() == [1])
        a.network.transport.set_peers(peers(a, elsewhere))
        a.send("b", 2)
        await until(lambda: elsewhere.numbers() == [2])
        a.network.transport.set_peers(peers(a))
        a.send("b", 3)
        assert b.numbers() == [1]
        assert elsewhere.numbers() == [2]


async def test_another_datacenter_is_not_talked_to(ends: tuple[End, End]) -> None:
    a, _ = ends
    foreign = End("b", free_ports(1)[0], "dc2")
    async with running(a, foreign):
        a.network.transport.set_peers(peers(a, foreign))
        await until(lambda: a.receiver.lost != [])
        assert a.receiver.dead == [], "it is there, and refuses to talk"
        foreign.network.transport.send([HeartbeatRequest(sender="b", receiver="a", term=1)])
        assert foreign.receiver.received == a.receiver.received == []


# With servers above


async def write_many(cluster: LocalCluster, count: int, size: int) -> None:
    leader = await cluster.leader()
    for number in range(count):
        await leader.server.write(KvSet(key=b"k/%d" % number, value=bytes(size)))


async def caught_up(cluster: LocalCluster) -> None:
    leader = await cluster.leader()
    await until(
        lambda: all(
            each.driver.applied_index == leader.driver.last_index for each in cluster.alive
        ),
        "everybody has everything",
    )


def checksums(cluster: LocalCluster) -> set[str]:
    machines = [member.server.machine for member in cluster.members]
    return {machine.checksum(machine.reader) for machine in machines}


async def test_a_server_that_comes_back_catches_up_from_the_log() -> None:
    async with cluster_of(3) as cluster:
        follower = await cluster.follower()
        await cluster.kill(follower)
        await write_many(cluster, 50, 10)
        cluster.restart(follower)
        await caught_up(cluster)
        assert len(checksums(cluster)) == 1
        stale = await follower.server.read(KvGet(key=b"k/49"), ReadOptions(mode="stale"))
        assert stale.value is not None


async def test_a_server_that_fell_behind_the_log_gets_a_snapshot() -> None:
    raft = RaftSettings(
        election_timeout_ms=300,
        compaction_threshold_entries=50,
        compaction_interval_ms=50,
        trailing_entries=10,
        snapshot_chunk_bytes=64 << 10,
    )
    async with cluster_of(3, raft=raft) as cluster:
        leader, follower = await cluster.leader(), await cluster.follower()
        await cluster.kill(follower)
        await write_many(cluster, 300, 2000)
        await until(lambda: int(leader.driver.statistics()["last_snapshot_index"]) > 200)
        cluster.restart(follower)
        assert follower.driver.last_index < 100
        await caught_up(cluster)
        assert len(checksums(cluster)) == 1
        assert int(follower.driver.statistics()["last_snapshot_index"]) > 200


async def test_every_server_in_turn_may_be_restarted() -> None:
    async with cluster_of(3) as cluster:
        for turn, member in enumerate(cluster.members):
            await cluster.leader()
            await cluster.kill(member)
            leader = await cluster.leader()
            await leader.server.write(KvSet(key=b"%d" % turn, value=b""))
            cluster.restart(member)
            await caught_up(cluster)
        assert len(checksums(cluster)) == 1
