"""The gossip pools of one agent: the LAN pool of its datacenter and, for servers, the WAN pool.

This is where gossip meets the rest of the agent: members go to the server's reconcile or to a
client's list of servers, events to whoever waits for them, and the HTTP API's questions about
members are answered from the pools. Source: gossip sheet, section 12.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import msgspec

from registry.agent.facade import Member
from registry.agent.gossip_events import NEW_LEADER
from registry.errors import NotFound, RegistryError, Unavailable
from registry.membership.agent_tags import read_server
from registry.membership.coordinate import Coordinate as GossipCoordinate
from registry.membership.serf_values import Member as GossipMember
from registry.membership.serf_values import MemberEvent, MemberEventKind, UserEvent
from registry.membership.serf_values import MemberStatus as GossipStatus
from registry.membership.settings import PoolSettings
from registry.membership.shell import GossipPool
from registry.server.gossip_keys import KeyOperation, KeysCall, PoolKeys
from registry.server.members import MemberStatus, PoolMember, host_port
from registry.state.coordinates import Coordinate

logger = logging.getLogger("registry.agent")

#: How often servers of the LAN pool that are missing in the WAN pool are looked for.
FLOOD_INTERVAL_S = 60.0


class Pools:
    """Implements `registry.agent.facade.Membership`. `start`, then `run` in a task.

    Args:
        on_member: told of every change in the LAN pool, in order; must not wait.
        on_event: told of every other event of the LAN pool: name and payload.
    """

    def __init__(
        self,
        lan: PoolSettings,
        wan: PoolSettings | None,
        *,
        datacenter: str,
        on_member: Callable[[PoolMember], None],
        on_event: Callable[[str, bytes], None],
    ) -> None:
        self._datacenter = datacenter
        self._lan_port = lan.bind[1]
        self._wan_port = wan.bind[1] if wan is not None else 0
        self._on_member = on_member
        self._on_event = on_event
        self.lan = GossipPool(lan)
        self.wan = GossipPool(wan) if wan is not None else None
        #: A client agent's way to pools that it is not in itself.
        self.ask_server_for_keys: Callable[[KeysCall], Awaitable[list[PoolKeys]]] | None = None

    async def start(self) -> None:
        """Bind the ports. Raises `ConfigError` with one line when one is taken."""
        await self.lan.start()
        if self.wan is not None:
            await self.wan.start()

    async def run(self) -> None:
        """Serve both pools until they are left, or cancelled."""
        async with asyncio.TaskGroup() as group:
            others = [group.create_task(self._follow())]
            if self.wan is not None:
                group.create_task(self.wan.run())
                others.append(group.create_task(self._flood(self.wan)))
            await self.lan.run()
            for task in others:
                task.cancel()

    async def leave(self) -> None:
        """Leave gracefully: the WAN pool first, so that other datacenters ask others."""
        for pool in (self.wan, self.lan):
            if pool is not None and _has_others(pool):
                await pool.leave()

    def tell_new_leader(self, node: str) -> None:
        """Let every agent of the datacenter know that `node` leads now."""
        self.lan.user_event(NEW_LEADER, node.encode())

    def close(self) -> None:
        """Let go of the ports at once, as in a crash; after `leave` there is nothing to do."""
        self.lan.close()
        if self.wan is not None:
            self.wan.close()

    # What happens in the pools

    async def _follow(self) -> None:
        with self.lan.listen() as events:
            for member in self.lan.members():
                self._on_member(pool_member(member))
            async for event in events:
                if isinstance(event, MemberEvent):
                    self._member_changed(event)
                elif isinstance(event, UserEvent):
                    self._on_event(event.name, event.payload)

    def _member_changed(self, event: MemberEvent) -> None:
        member = event.member
        changed = pool_member(member)
        if event.kind is MemberEventKind.REAP:
            changed = msgspec.structs.replace(changed, status=MemberStatus.REAPED)
        self._on_member(changed)

    async def _flood(self, wan: GossipPool) -> None:
        """Bring servers of the LAN pool into the WAN pool, at their news and now and then."""
        with self.lan.listen() as events:
            while True:
                await self._join_missing(wan)
                with suppress(TimeoutError):
                    async with asyncio.timeout(FLOOD_INTERVAL_S):
                        async for event in events:
                            if isinstance(event, MemberEvent):
                                break

    async def _join_missing(self, wan: GossipPool) -> None:
        there = {member.name for member in wan.members()}
        for member in self.lan.members():
            server = read_server(member.tags)
            is_missing = f"{member.name}.{self._datacenter}" not in there
            if server is None or not server.wan_join_port or not is_missing:
                continue
            if member.status is not GossipStatus.ALIVE:
                continue
            try:
                await wan.join([host_port(member.address, server.wan_join_port)])
            except RegistryError as problem:
                logger.debug("could not bring a server into the WAN pool: error=%s", problem)

    # Membership

    def local_member(self) -> Member:
        return _shown(self.lan.local_member())

    def coordinate(self) -> Coordinate:
        """Where this node is in the LAN; the origin until another was measured."""
        return _stored(self.lan.coordinate())

    def members(self, *, wan: bool = False) -> list[Member]:
        pool = self.wan if wan else self.lan
        return [] if pool is None else [_shown(member) for member in pool.members()]

    def statistics(self, *, wan: bool = False) -> dict[str, str]:
        """How a pool does; empty when this agent is not in it."""
        pool = self.wan if wan else self.lan
        if pool is None:
            return {}
        numbers = {name: str(number) for name, number in pool.statistics().items()}
        return {**numbers, "encrypted": str(pool.is_encrypted).lower()}

    async def join(self, address: str, *, wan: bool = False) -> int:
        """Contact one address; the number of nodes reached. Raises `Unavailable`."""
        pool = self.wan if wan else self.lan
        if pool is None:
            raise Unavailable("only servers are in the WAN pool")
        return await pool.join([address], default_port=self._wan_port if wan else self._lan_port)

    async def force_leave(self, node: str, *, prune: bool = False) -> None:
        """In both pools. Raises `NotFound` when no member has that name."""
        try:
            await self.lan.force_leave(node, prune=prune)
        except NotFound as problem:
            raise NotFound(f"agent: {problem}") from problem
        if self.wan is not None:
            name = f"{node}.{self._datacenter}"
            if name in (member.name for member in self.wan.members()):
                await self.wan.force_leave(name, prune=prune)

    async def keys(
        self, operation: KeyOperation, key: bytes = b"", *, relay_factor: int = 0
    ) -> list[PoolKeys]:
        """Do it in all pools of the datacenter, the WAN pool first; none without encryption."""
        call = KeysCall(operation, key, relay_factor)
        return await (self.ask_server_for_keys or self.change_keys)(call)

    async def change_keys(self, call: KeysCall) -> list[PoolKeys]:
        """The same in the pools that this agent is in."""
        return [
            await _change_keys(pool, call, wan=wan)
            for wan, pool in ((True, self.wan), (False, self.lan))
            if pool is not None and pool.is_encrypted
        ]


class ServersView:
    """The LAN pool as a server's work looks at it: `registry.server.members.MemberPool`."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    def members(self) -> Sequence[PoolMember]:
        return [pool_member(member) for member in self._pools.lan.members()]

    async def force_leave(self, name: str) -> None:
        await self._pools.force_leave(name)


def _stored(found: GossipCoordinate | None) -> Coordinate:
    """A coordinate as it is kept in the catalog."""
    if found is None:
        return Coordinate()
    return Coordinate(
        vec=found.vec, error=found.error, adjustment=found.adjustment, height=found.height
    )


class WanView:
    """The pool between datacenters, if there is one: `registry.server.datacenters.WanPool`."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    def members(self) -> Sequence[PoolMember]:
        wan = self._pools.wan
        return [] if wan is None else [pool_member(member) for member in wan.members()]

    def coordinate(self, name: str) -> Coordinate | None:
        found = None if self._pools.wan is None else self._pools.wan.coordinate(name)
        return None if found is None else _stored(found)


async def _change_keys(pool: GossipPool, call: KeysCall, *, wan: bool) -> PoolKeys:
    key, relay_factor = call.key, call.relay_factor
    match call.operation:
        case KeyOperation.LIST:
            result = await pool.keys.list(relay_factor=relay_factor)
        case KeyOperation.INSTALL:
            result = await pool.keys.install(key, relay_factor=relay_factor)
        case KeyOperation.USE:
            result = await pool.keys.use(key, relay_factor=relay_factor)
        case KeyOperation.REMOVE:
            result = await pool.keys.remove(key, relay_factor=relay_factor)
    return PoolKeys(
        wan=wan,
        nodes=result.nodes,
        answers=result.answers,
        errors=result.errors,
        messages=result.messages,
        keys=result.keys,
        primary_keys=result.primary_keys,
    )


def _has_others(pool: GossipPool) -> bool:
    return any(
        member.status is GossipStatus.ALIVE and member.name != pool.local_member().name
        for member in pool.members()
    )


def pool_member(member: GossipMember) -> PoolMember:
    """A member as servers look at it."""
    return PoolMember(
        name=member.name,
        address=member.address,
        port=member.port,
        status=MemberStatus(int(member.status)),
        tags=member.tags,
        protocol_min=member.protocol_min,
        protocol_max=member.protocol_max,
        protocol_current=member.protocol_current,
    )


def _shown(member: GossipMember) -> Member:
    """A member as the API shows it."""
    return Member(
        name=member.name,
        address=member.address,
        port=member.port,
        tags=member.tags,
        status=int(member.status),
        protocol_min=member.protocol_min,
        protocol_max=member.protocol_max,
        protocol_current=member.protocol_current,
        delegate_min=member.delegate_min,
        delegate_max=member.delegate_max,
        delegate_current=member.delegate_current,
    )
