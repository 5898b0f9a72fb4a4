"""A server's way to another datacenter: three servers there, and a WAN pool that tests write."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from registry.errors import NoPath, OutcomeUnknown, Unavailable
from registry.rpc.server import Caller
from registry.server import calls
from registry.server.datacenters import Datacenters, nearest_first
from registry.server.members import MemberStatus, PoolMember
from registry.state.base import ReadOptions
from registry.state.coordinates import Coordinate, NodeCoordinate
from registry.state.kv import KvGet, KvSet
from registry.testing.local_agent import running
from registry.testing.pool import server_member
from registry.testing.servers import DATACENTER, LocalCluster, cluster_of

HERE = "dc0"


class Wan:
    """Implements `registry.server.datacenters.WanPool`."""

    def __init__(self, *members: PoolMember, places: Mapping[str, float] | None = None) -> None:
        self._members, self._places = members, places or {}

    def members(self) -> tuple[PoolMember, ...]:
        return self._members

    def coordinate(self, name: str) -> Coordinate | None:
        place = self._places.get(name)
        return None if place is None else Coordinate(vec=(place, *([0.0] * 7)))


def wan_member(
    name: str, datacenter: str, status: MemberStatus = MemberStatus.ALIVE, port: int = 8300
) -> PoolMember:
    return server_member(
        f"{name}.{datacenter}", status, address="127.0.0.1", port=port, dc=datacenter
    )


def all_of(cluster: LocalCluster) -> list[PoolMember]:
    return [
        wan_member(each.name, DATACENTER, port=int(each.address.rpartition(":")[2]))
        for each in cluster.members
    ]


@asynccontextmanager
async def ways(*members: PoolMember) -> AsyncIterator[Datacenters]:
    made = Datacenters(HERE, "s0", hold_timeout_s=1.0)
    made.attach(Wan(*members))
    async with running(made):
        yield made


async def test_another_datacenter_is_written_and_read() -> None:
    async with cluster_of(3) as cluster, ways(*all_of(cluster)) as datacenters:
        there = datacenters.path(DATACENTER)
        assert there is not None
        assert await there.write(KvSet(key=b"a", value=b"1")) is True
        found = await there.read(KvGet(key=b"a"), ReadOptions(mode="consistent"))
        assert found.value.value == b"1"
        leader = await cluster.leader()
        assert await there.leader_address() == leader.address
        assert sorted(await there.peer_addresses()) == sorted(cluster.addresses)
        dump = await there.open_dump()
        assert b"".join(dump.chunks)
        dump.close()


async def test_the_next_server_is_asked_when_one_cannot_be_reached() -> None:
    async with cluster_of(3) as cluster, ways(*all_of(cluster)) as datacenters:
        await cluster.leader()
        there = datacenters.path(DATACENTER)
        assert there is not None
        await cluster.kill(await cluster.follower())
        for number in range(6):
            assert await there.write(KvSet(key=b"%d" % number, value=b"")) is True


async def test_a_write_whose_answer_is_lost_is_not_repeated() -> None:
    async with cluster_of(1) as cluster, ways(*all_of(cluster)) as datacenters:
        leader = await cluster.leader()
        asked = 0

        async def vanish(caller: Caller, body: bytes) -> bytes:
            nonlocal asked
            asked += 1
            leader.network.rpc.close_all()
            return b""

        leader.network.rpc.handlers.update({calls.WRITE: vanish, calls.READ: vanish})
        there = datacenters.path(DATACENTER)
        assert there is not None
        with pytest.raises(OutcomeUnknown):
            await there.write(KvSet(key=b"a", value=b""))
        assert asked == 1
        with pytest.raises(Unavailable, match=r"lost the connection|cannot reach"):
            await there.read(KvGet(key=b"a"), ReadOptions())


async def test_where_there_is_no_way() -> None:
    left = wan_member("s1", "dc2", MemberStatus.LEFT)
    async with ways(wan_member("s0", HERE), left) as datacenters:
        for name in (HERE, "dc2", "dc3"):
            assert datacenters.path(name) is None
            with pytest.raises(NoPath):
                await datacenters.relay(calls.RelayCall(name, calls.FACTS, b"", True))
        assert datacenters.count == 1


async def test_calls_are_not_relayed_twice() -> None:
    async with ways(wan_member("s1", "dc2")) as datacenters:
        with pytest.raises(NoPath):
            await datacenters.relay(calls.RelayCall("dc2", calls.RELAY, b"", True))


async def test_all_servers_are_shown_with_their_places() -> None:
    datacenters = Datacenters(HERE, "s0", hold_timeout_s=1.0)
    assert await datacenters.known() == []
    members = (
        wan_member("s0", HERE),
        wan_member("s1", "dc1", MemberStatus.FAILED),
        wan_member("s2", "dc2"),
        wan_member("s3", "dc3", MemberStatus.LEFT),
    )
    datacenters.attach(Wan(*members, places={"s0.dc0": 0.0, "s1.dc1": 0.5, "s2.dc2": 0.25}))
    known = await datacenters.known()
    assert [(each.name, [server.node for server in each.servers]) for each in known] == [
        (HERE, ["s0"]),
        ("dc2", ["s2"]),
        ("dc1", ["s1"]),
    ]
    assert known[1].servers[0].coord.vec[0] == 0.25
    assert datacenters.count == 3


def test_the_nearest_datacenter_is_told_by_the_median_server() -> None:
    def area(name: str, *places: float) -> calls.DatacenterServers:
        coordinates = (Coordinate(vec=(place, *([0.0] * 7))) for place in places)
        return calls.DatacenterServers(
            name, tuple(NodeCoordinate(node="n", coord=each) for each in coordinates)
        )

    found = [area("far", 0.1, 0.9, 0.9), area("near", 0.3, 0.3, 2.0), area("own", 5.0)]
    assert [each.name for each in nearest_first(found, "own", Coordinate())] == [
        "own",
        "near",
        "far",
    ]
