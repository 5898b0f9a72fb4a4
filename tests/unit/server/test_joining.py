"""The life of a cluster over loopback sockets: servers begin it, join it, fail and leave.

Gossip is written by the test; everything else is real.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from registry.raft.driver import RaftDriver
from registry.raft.messages import Role
from registry.raft.settings import RaftSettings
from registry.rpc.pool import PoolSettings
from registry.server import autopilot, calls
from registry.server.autopilot import DEFAULT_SETTINGS
from registry.server.members import MemberStatus, PoolMember
from registry.server.network import NetworkSettings, ServerNetwork
from registry.server.reconcile import LocalServerFacts
from registry.server.server import Server, ServerSettings
from registry.state.base import ReadOptions
from registry.state.catalog_queries import ListNodes
from registry.state.kv import KvGet, KvSet
from registry.state.machine import StateMachine
from registry.storage.memory import MemoryStore
from registry.testing.pool import DATACENTER, FakePool, server_id, server_member
from registry.testing.ports import free_ports
from registry.testing.servers import until

SETTINGS = msgspec.structs.replace(DEFAULT_SETTINGS, server_stabilization_time_ns=1)


class SharedPool(FakePool):
    """One pool that all servers are in, and that tells all of them the news."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[Server] = []

    def tell(self, member: PoolMember) -> None:
        if member.status is MemberStatus.REAPED:
            self.by_name.pop(member.name, None)
        else:
            self.put(member)
        for server in self.listeners:
            server.member_changed(member)

    async def force_leave(self, name: str) -> None:
        known = self.by_name[name]
        self.tell(msgspec.structs.replace(known, status=MemberStatus.LEFT))


class Machine:
    """One server, with a gossip that the test does for it."""

    def __init__(self, name: str, port: int, pool: SharedPool, *, expect: int) -> None:
        self.name, self.id, self.address = name, server_id(name), f"127.0.0.1:{port}"
        tags = {"expect": str(expect)} if expect else {}
        self.member = server_member(name, address="127.0.0.1", port=port, tags=tags)
        network = ServerNetwork(
            NetworkSettings(
                datacenter=DATACENTER,
                node_name=name,
                server_id=self.id,
                bind_host="127.0.0.1",
                port=port,
                advertise_host="127.0.0.1",
                pool=PoolSettings(ping_interval_s=0.1, silence_max_s=0.4),
            )
        )
        network.bind()
        store = MemoryStore()
        machine = StateMachine(store)
        self.driver = RaftDriver(
            server_id=self.id,
            store=store,
            machine=machine,
            transport=network.transport,
            settings=RaftSettings(election_timeout_ms=400),
            rng=random.Random(name),
        )
        facts = LocalServerFacts(
            node_id=self.id,
            node_name=name,
            address="127.0.0.1",
            datacenter=DATACENTER,
            server_port=port,
        )
        settings = ServerSettings(facts, autopilot=SETTINGS, bootstrap_expect=expect)
        self.server = Server(settings, machine, self.driver, network)
        self.server.attach(pool)
        pool.listeners.append(self.server)

    def roles(self) -> dict[str, Role]:
        return {server.id: server.role for server in self.driver.configuration.servers}


class Cluster:
    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.pool = SharedPool()
        self.machines: dict[str, Machine] = {}
        self._ports = iter(free_ports(5))
        self._group = tasks
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, *, expect: int = 0) -> Machine:
        machine = Machine(name, next(self._ports), self.pool, expect=expect)
        self.machines[name] = machine
        self.tasks[name] = self._group.create_task(machine.server.run())
        self.pool.tell(machine.member)
        return machine

    async def kill(self, name: str) -> None:
        self.pool.listeners.remove(self.machines[name].server)
        del self.machines[name]
        task = self.tasks.pop(name)
        task.cancel()
        await asyncio.wait([task])

    async def leader(self) -> Machine:
        def found() -> list[Machine]:
            known = {machine.driver.leader_id for machine in self.machines.values()}
            return [m for m in self.machines.values() if known == {m.id}]

        await until(lambda: bool(found()), "a leader that all agree on")
        return found()[0]


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    """Three servers that have begun a cluster."""
    monkeypatch.setattr(autopilot, "HEALTH_INTERVAL_S", 0.05)
    monkeypatch.setattr(autopilot, "ACT_INTERVAL_S", 0.1)
    async with running() as cluster:
        for name in "abc":
            cluster.start(name, expect=3)
        await cluster.leader()
        yield cluster


@asynccontextmanager
async def running() -> AsyncIterator[Cluster]:
    async with asyncio.TaskGroup() as group:
        cluster = Cluster(group)
        try:
            yield cluster
        finally:
            for task in cluster.tasks.values():
                task.cancel()


async def test_three_servers_begin_a_cluster_and_register(cluster: Cluster) -> None:
    leader = await cluster.leader()
    assert leader.roles() == {server_id(name): Role.VOTER for name in "abc"}

    def registered() -> list[str]:
        _, nodes = ListNodes().run(leader.server.machine.reader)
        return [node.node for node in nodes]

    await until(lambda: registered() == ["a", "b", "c"])
    _, shown = await leader.server.raft_configuration()
    assert [server["Node"] for server in shown] == ["a", "b", "c"]


async def test_a_new_server_is_let_in_catches_up_and_gets_a_vote(cluster: Cluster) -> None:
    leader = await cluster.leader()
    await leader.server.write(KvSet(key=b"k", value=b"v"))
    late = cluster.start("d")
    await until(lambda: leader.roles().get(late.id) is Role.VOTER, "the vote of d")
    result = await late.server.read(KvGet(key=b"k"), ReadOptions())
    assert result.value is not None
    assert result.value.value == b"v"


async def test_every_server_gives_the_leaders_report(cluster: Cluster) -> None:
    leader = await cluster.leader()

    await until(lambda: leader.server.duties.autopilot.report().healthy)
    for machine in cluster.machines.values():
        report = await machine.server.autopilot_health()
        assert report.failure_tolerance == 1
        assert [server.id for server in report.servers if server.leader] == [leader.id]
        assert [server.name for server in report.servers] == ["a", "b", "c"]


async def test_a_failed_server_is_put_out_and_one_that_left_too(cluster: Cluster) -> None:
    leader = await cluster.leader()
    for name in "de":
        machine = cluster.start(name)
        await until(lambda m=machine: leader.roles().get(m.id) is Role.VOTER)  # type: ignore[misc]
    # A crash: gossip sees it fail, autopilot has it leave, reconcile takes it out.
    await cluster.kill("d")
    cluster.pool.tell(server_member("d", MemberStatus.FAILED))
    await until(lambda: server_id("d") not in leader.roles())
    # A graceful leave.
    cluster.pool.tell(server_member("e", MemberStatus.LEFT))
    await until(lambda: leader.roles().keys() == {server_id(name) for name in "abc"})
    assert leader.driver.is_leader


async def test_a_dead_leader_is_replaced_and_put_out(cluster: Cluster) -> None:
    dead = await cluster.leader()
    await cluster.kill(dead.name)
    cluster.pool.tell(msgspec.structs.replace(dead.member, status=MemberStatus.FAILED))
    leader = await cluster.leader()
    await until(lambda: dead.id not in leader.roles())
    await leader.server.write(KvSet(key=b"k", value=b"v"))


async def test_servers_that_expect_nothing_wait() -> None:
    async with running() as cluster:
        a, b = cluster.start("a"), cluster.start("b")
        for asking, asked in ((a, b), (b, a)):
            connection = await network_of(asking).pool.connect(asked.address)
            answer = await calls.raft_peers(connection)
            assert (answer.server_id, answer.is_blank, answer.peers) == (asked.id, True, ())
            assert [server.id for server in answer.candidates] == [a.id, b.id]
        assert not await a.server.bootstrap.round()
        assert a.driver.is_blank


def network_of(machine: Machine) -> ServerNetwork:
    assert machine.server.network is not None
    return machine.server.network
