"""A cluster of servers in one process, over real loopback sockets: for tests of what they share.

Each server has a store in memory, a Raft driver with a short election timeout and a network of its
own. Killing one cancels its tasks and closes its sockets, as a crash does; started again, it finds
its store as it left it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from registry.raft.disk import Identity, bootstrap
from registry.raft.driver import RaftDriver
from registry.raft.messages import Configuration
from registry.raft.messages import Server as RaftServer
from registry.raft.settings import RaftSettings
from registry.rpc.pool import PoolSettings
from registry.server.network import NetworkSettings, ServerNetwork
from registry.server.reconcile import LocalServerFacts
from registry.server.server import Server, ServerSettings
from registry.state.machine import StateMachine
from registry.storage.memory import MemoryStore
from registry.testing.ports import free_ports

DATACENTER = "dc1"


async def until(condition: Callable[[], bool], what: str = "", *, seconds: float = 20.0) -> None:
    """Wait for what happens in other tasks; AssertionError names what did not."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - of parts that tell nobody
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:g} s: {what or condition}") from None


class LocalServer:
    """One server of a `LocalCluster`."""

    def __init__(
        self,
        number: int,
        servers: Sequence[RaftServer],
        hold_timeout_s: float,
        raft: RaftSettings,
    ) -> None:
        self.number = number
        self.store = MemoryStore()
        me = servers[number]
        bootstrap(self.store, Configuration(tuple(servers)), Identity(me.id, ""))
        self._hold_timeout_s, self._raft = hold_timeout_s, raft
        self.task: asyncio.Task[None] | None = None
        self.prepare(me)

    def prepare(self, me: RaftServer) -> None:
        """Make all parts anew on the store, and take the port."""
        number, store = self.number, self.store
        host, _, port = me.address.rpartition(":")
        self.id, self.name, self.address = me.id, f"s{number + 1}", me.address
        machine = StateMachine(store)
        self.network = ServerNetwork(
            NetworkSettings(
                datacenter=DATACENTER,
                node_name=self.name,
                server_id=me.id,
                bind_host=host,
                port=int(port),
                advertise_host=host,
                pool=PoolSettings(ping_interval_s=0.1, silence_max_s=0.4),
            )
        )
        self.driver = RaftDriver(
            server_id=me.id,
            store=store,
            machine=machine,
            transport=self.network.transport,
            settings=self._raft,
            rng=random.Random(number),
        )
        self.network.bind()
        facts = LocalServerFacts(
            node_id=me.id,
            node_name=self.name,
            address=host,
            datacenter=DATACENTER,
            server_port=int(port),
        )
        settings = ServerSettings(facts, hold_timeout_s=self._hold_timeout_s)
        self.server = Server(settings, machine, self.driver, self.network)

    @property
    def is_alive(self) -> bool:
        return self.task is not None and not self.task.done()


class LocalCluster:
    """Servers s1, s2, … that know each other from the start."""

    def __init__(self, count: int, *, hold_timeout_s: float, raft: RaftSettings) -> None:
        self._servers = servers = tuple(
            RaftServer(f"0000000{number}-1111-2222-3333-444444444444", f"127.0.0.1:{port}")
            for number, port in enumerate(free_ports(count), 1)
        )
        self.members = [
            LocalServer(number, servers, hold_timeout_s, raft) for number in range(count)
        ]
        self.tasks: asyncio.TaskGroup | None = None

    @property
    def alive(self) -> list[LocalServer]:
        return [member for member in self.members if member.is_alive]

    @property
    def addresses(self) -> list[str]:
        return [member.address for member in self.members]

    async def leader(self) -> LocalServer:
        """The server that leads, once all that are alive agree on it."""
        await until(lambda: self._agreed() is not None, "a leader that all agree on")
        found = self._agreed()
        assert found is not None
        return found

    async def follower(self) -> LocalServer:
        leader = await self.leader()
        return next(member for member in self.alive if member is not leader)

    def _agreed(self) -> LocalServer | None:
        leaders = [member for member in self.alive if member.driver.is_leader]
        known = {member.driver.leader_id for member in self.alive}
        return leaders[0] if len(leaders) == 1 and known == {leaders[0].id} else None

    async def kill(self, member: LocalServer) -> None:
        """Everything of one server ends at once."""
        assert member.task is not None
        member.task.cancel()
        await asyncio.wait([member.task])

    def start(self, member: LocalServer) -> None:
        assert self.tasks is not None
        member.task = self.tasks.create_task(member.server.run(), name=member.name)

    def restart(self, member: LocalServer) -> None:
        """Start one that was killed, on what it had stored."""
        member.prepare(self._servers[member.number])
        self.start(member)


@asynccontextmanager
async def cluster_of(
    count: int, *, hold_timeout_s: float = 7.0, raft: RaftSettings | None = None
) -> AsyncIterator[LocalCluster]:
    """A running cluster, until the block ends."""
    raft = raft or RaftSettings(election_timeout_ms=300)
    cluster = LocalCluster(count, hold_timeout_s=hold_timeout_s, raft=raft)
    async with asyncio.TaskGroup() as group:
        cluster.tasks = group
        for member in cluster.members:
            cluster.start(member)
        try:
            yield cluster
        finally:
            for member in cluster.alive:
                assert member.task is not None
                member.task.cancel()
