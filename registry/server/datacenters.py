"""Other datacenters: which there are, and having their servers answer what is asked of them here.

Servers of all datacenters meet in the WAN pool, so a server knows the others' servers and hands
calls on to them; nobody else does. An agent without data has a server of its own datacenter hand
on what it asks:

    client agent ──relay──> server here ──the call itself──> server there ──> its leader

Each datacenter has its own consensus: what is written there is there alone. What the other side
answers, refusals and errors included, comes back as it is.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from statistics import median
from typing import Any, Protocol

import msgspec

from registry.errors import ConnectionLost, NoPath, OutcomeUnknown, Unavailable, Unreachable
from registry.rpc.pool import Pool
from registry.rpc.stream import Hello
from registry.server import calls
from registry.server.autopilot import AutopilotReport
from registry.server.calls import DatacenterServers, RelayCall
from registry.server.members import MemberStatus, PoolMember, ServerMember, server_of
from registry.server.server_list import ServerList
from registry.state.base import Command, Query, ReadOptions, ReadResult
from registry.state.coordinates import Coordinate, NodeCoordinate, distance
from registry.state.dump import StateDump

logger = logging.getLogger("registry.server")

#: How long the whole state of another datacenter may be under way between two pieces.
_DUMP_WAIT_MS = 600_000

#: How much longer than a call may take there we wait for its answer: the way there and back.
_WAY_S = 1.0


class WanPool(Protocol):
    """The pool of the servers of all datacenters. Members are named `node.datacenter`."""

    def members(self) -> Sequence[PoolMember]:
        """All that the pool has not forgotten."""
        ...

    def coordinate(self, name: str) -> Coordinate | None:
        """Where a member is; None while that is not known."""
        ...


class NoWanPool:
    """The pool of a server that knows no other datacenter."""

    def members(self) -> Sequence[PoolMember]:
        return ()

    def coordinate(self, name: str) -> Coordinate | None:
        return None


class Datacenters:
    """A server's way to the others. `run` owns the connections."""

    def __init__(
        self,
        own: str,
        node: str,
        *,
        hold_timeout_s: float,
        rng: random.Random | None = None,
        count: Callable[[str], None] = lambda name: None,
    ) -> None:
        """`hold_timeout_s` is how long servers hold requests while they have no leader; `count` is
        told the name of each metric that goes up by one."""
        self._count = count
        self._own = own
        self._node = f"{node}.{own}"
        self._hold_timeout_s = hold_timeout_s
        self._random = rng or random.Random()
        self._pool: WanPool = NoWanPool()
        self._paths: dict[str, _Path] = {}
        self._tasks: asyncio.TaskGroup | None = None

    def attach(self, pool: WanPool) -> None:
        """Know those that `pool` knows from now on."""
        self._pool = pool

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for path in self._paths.values():
                    self._tasks.create_task(path.connections.run())
                await asyncio.get_running_loop().create_future()
        finally:
            self._tasks = None

    def path(self, name: str) -> RemoteBackend | None:
        """The backend of another datacenter; None when no server of it is known."""
        return RemoteBackend(name, self.relay) if self._servers_of(name) else None

    @property
    def count(self) -> int:
        """How many datacenters are known, ours included."""
        return len({self._own, *(server.datacenter for server in self._servers())})

    async def known(self) -> list[DatacenterServers]:
        """All datacenters, the nearest first, ours among them; none without a WAN pool."""
        found: dict[str, list[ServerMember]] = {}
        for server in self._servers():
            found.setdefault(server.datacenter, []).append(server)
        shown = [
            DatacenterServers(name, tuple(self._placed(server) for server in servers))
            for name, servers in sorted(found.items())
        ]
        here = self._pool.coordinate(self._node)
        return nearest_first(shown, self._own, here or Coordinate())

    async def fire(self, datacenter: str, name: str, payload: bytes) -> None:
        """Tell a user event to all agents of another datacenter."""
        await fire_elsewhere(self.relay, datacenter, name, payload)

    async def relay(self, call: RelayCall) -> bytes:
        """The answer of a server of another datacenter.

        Raises `NoPath`, `Unavailable` when none of its servers can be reached, `OutcomeUnknown`
        when the answer was lost, and what the answer says.
        """
        servers = self._servers_of(call.datacenter)
        if not servers or call.method == calls.RELAY:
            raise NoPath
        self._count("rpc.cross-dc")
        path = self._path(call.datacenter)
        path.servers.update([server.rpc_address for server in servers])
        limit_s = call.waits_ms / 1000 + self._hold_timeout_s + _WAY_S
        reasons = []
        for _ in servers:
            address = path.servers.current
            assert address is not None, "there are as many as were put in"
            try:
                async with asyncio.timeout(limit_s):
                    return await path.connections.call(address, call.method, call.body)
            except Unreachable as problem:
                reasons.append(str(problem))
            except (ConnectionLost, TimeoutError) as problem:
                reasons.append(str(problem) or f"no answer from {address} in {limit_s:g} s")
                if not call.repeatable:
                    raise OutcomeUnknown(f"outcome unknown: {reasons[-1]}") from problem
            logger.debug("no answer of another datacenter: server=%s error=%s", address, reasons)
            path.servers.failed(address)
        raise Unavailable("; ".join(reasons))

    def _servers(self) -> list[ServerMember]:
        found = (server_of(member) for member in self._pool.members())
        return [server for server in found if server is not None and not server.status.is_gone]

    def _servers_of(self, datacenter: str) -> list[ServerMember]:
        """Those that are alive, if any is: gossip may be wrong about the others."""
        found = [server for server in self._servers() if server.datacenter == datacenter]
        alive = [server for server in found if server.status is MemberStatus.ALIVE]
        return [] if datacenter == self._own else alive or found

    def _placed(self, server: ServerMember) -> NodeCoordinate:
        node = server.name.removesuffix(f".{server.datacenter}")
        return NodeCoordinate(node=node, coord=self._pool.coordinate(server.name) or Coordinate())

    def _path(self, datacenter: str) -> _Path:
        if datacenter not in self._paths:
            # The greeting names the datacenter that is meant, so that an address which another one
            # has taken over is noticed. It names no server: we are none of theirs.
            path = _Path(Pool(Hello(datacenter, self._node)), ServerList(self._random))
            self._paths[datacenter] = path
            if self._tasks is not None:
                self._tasks.create_task(path.connections.run(), name=f"rpc-pool-{datacenter}")
        return self._paths[datacenter]


class _Path(msgspec.Struct, frozen=True):
    connections: Pool
    servers: ServerList


def nearest_first(
    found: Iterable[DatacenterServers], own: str, here: Coordinate
) -> list[DatacenterServers]:
    """By the median time to their servers; our own is the nearest, whatever was measured."""

    def away_s(each: DatacenterServers) -> float:
        if each.name == own:
            return -1.0
        return median(distance(here, server.coord) for server in each.servers)

    return sorted(found, key=lambda each: (away_s(each), each.name))


# Asking another datacenter what is usually asked of the own one


Relay = Callable[[RelayCall], Awaitable[bytes]]


class _Relayed:
    """`registry.server.calls.Asked`, by way of a relay."""

    def __init__(
        self, datacenter: str, relay: Relay, *, repeatable: bool = True, waits_ms: int = 0
    ) -> None:
        self._datacenter, self._relay = datacenter, relay
        self._repeatable, self._waits_ms = repeatable, waits_ms

    async def call(self, method: str, body: bytes) -> bytes:
        return await self._relay(
            RelayCall(self._datacenter, method, body, self._repeatable, self._waits_ms)
        )


async def fire_elsewhere(relay: Relay, datacenter: str, name: str, payload: bytes) -> None:
    """Have a user event told to all agents of another datacenter."""
    await calls.fire(_Relayed(datacenter, relay, repeatable=False), name, payload)


class RemoteBackend:
    """Another datacenter as a `registry.agent.facade.Backend`; every method may raise `NoPath`."""

    def __init__(self, datacenter: str, relay: Relay) -> None:
        self._datacenter, self._relay = datacenter, relay

    def _to(self, *, repeatable: bool = True, waits_ms: int = 0) -> _Relayed:
        return _Relayed(self._datacenter, self._relay, repeatable=repeatable, waits_ms=waits_ms)

    async def write(self, command: Command) -> Any:
        return await calls.write(self._to(repeatable=False), command, hop=0)

    async def read(self, query: Query, options: ReadOptions) -> ReadResult:
        waits_ms = options.wait_ms if options.min_index else 0
        return await calls.read(self._to(waits_ms=waits_ms), query, options, hop=0)

    async def leader_address(self) -> str:
        return (await calls.facts(self._to())).leader_address

    async def peer_addresses(self) -> list[str]:
        return (await calls.facts(self._to())).peer_addresses

    async def raft_configuration(self) -> tuple[int, list[dict[str, Any]]]:
        facts = await calls.facts(self._to())
        return facts.configuration_index, facts.configuration

    async def remove_server(self, server_id: str) -> None:
        await calls.remove_server(self._to(repeatable=False), server_id, hop=0)

    async def autopilot_health(self) -> AutopilotReport:
        return await calls.autopilot_health(self._to(), hop=0)

    async def open_dump(self) -> StateDump:
        return await calls.open_dump(self._to(waits_ms=_DUMP_WAIT_MS), hop=0)

    def statistics(self) -> dict[str, dict[str, str]]:
        return {}
