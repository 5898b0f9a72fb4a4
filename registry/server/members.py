"""Members of the gossip pool as a server looks at them: which are servers, and of what kind.

Plain values: whoever puts an agent together turns the pool's members into `PoolMember`s. A member
tells what it is in its tags (`registry.membership.agent_tags`); a server whose tags cannot be read
counts as no server (gossip sheet, section 12.2).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from registry import COMPATIBLE_VERSION
from registry.membership import agent_tags
from registry.membership.agent_tags import AgentTags, ServerTags, read_server


class MemberStatus(enum.IntEnum):
    """What the pool believes of a member; the numbers are those of the API.

    REAPED is no state of a member but the news that the pool has forgotten it.
    """

    NONE = 0
    ALIVE = 1
    LEAVING = 2
    LEFT = 3
    FAILED = 4
    REAPED = 5

    @property
    def is_gone(self) -> bool:
        return self in (MemberStatus.LEFT, MemberStatus.REAPED)


class PoolMember(msgspec.Struct, frozen=True):
    """One member; `address` is an ip, `port` that of its gossip."""

    name: str
    address: str
    port: int
    status: MemberStatus = MemberStatus.ALIVE
    tags: Mapping[str, str] = {}
    protocol_min: int = 1
    protocol_max: int = 5
    protocol_current: int = 2


class ServerMember(ServerTags, frozen=True, kw_only=True):
    """A member that is a server, by its tags."""

    name: str
    address: str
    status: MemberStatus

    @property
    def rpc_address(self) -> str:
        return host_port(self.address, self.port)


class MemberPool(Protocol):
    """The gossip pool of this datacenter, as far as a leader's work needs it."""

    def members(self) -> Sequence[PoolMember]:
        """All that the pool has not forgotten, failed and left ones too; this server is one."""
        ...

    async def force_leave(self, name: str) -> None:
        """Make the pool (and the one between datacenters) count a failed member as left."""
        ...


class LonePool:
    """The pool of a server that gossips with nobody: itself."""

    def __init__(self, member: PoolMember) -> None:
        self._member = member

    def members(self) -> Sequence[PoolMember]:
        return (self._member,)

    async def force_leave(self, name: str) -> None:
        """Nobody here can fail."""


def server_of(member: PoolMember) -> ServerMember | None:
    """The server that `member` is; None if it is none, or its tags cannot be read."""
    told = read_server(member.tags)
    if told is None:
        return None
    return ServerMember(
        name=member.name,
        address=member.address,
        status=member.status,
        **msgspec.structs.asdict(told),
    )


def is_client(member: PoolMember) -> bool:
    return agent_tags.is_client(member.tags)


def servers_of(members: Iterable[PoolMember], datacenter: str) -> list[ServerMember]:
    """The servers of a datacenter, whatever their status; those of a segment of its own are not
    part of it."""
    found = (server_of(member) for member in members)
    return [s for s in found if s is not None and s.datacenter == datacenter and not s.segment]


def lone_server(
    *, name: str, node_id: str, address: str, port: int, rpc_port: int, datacenter: str
) -> PoolMember:
    """A live server as the pool would know it."""
    told = AgentTags(
        node_id=node_id,
        datacenter=datacenter,
        build=COMPATIBLE_VERSION,
        is_server=True,
        rpc_port=rpc_port,
    )
    return PoolMember(name=name, address=address, port=port, tags=told.to_tags())


def host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
