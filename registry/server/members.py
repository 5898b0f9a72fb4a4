"""Members of the gossip pool as a server looks at them: which are servers, and of what kind.

Plain values: whoever puts an agent together turns the pool's members into `PoolMember`s. A member
tells what it is in its tags, which anybody may write; a server whose tags cannot be read counts as
no server (gossip sheet, section 12.2).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from registry import COMPATIBLE_VERSION

SERVER_ROLE, CLIENT_ROLE = "consul", "node"

_BUILD = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+")

_PORT_MAX = 65535


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


class ServerMember(msgspec.Struct, frozen=True, kw_only=True):
    """A member that is a server, by its tags."""

    name: str
    id: str
    address: str
    port: int  # of its RPC listener
    status: MemberStatus
    datacenter: str
    segment: str
    build: str  # "1.8.4"
    expect: int  # 0: does not take part in a bootstrap
    bootstrap: bool
    raft_version: int
    wan_join_port: int
    non_voter: bool

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
    tags = member.tags
    if tags.get("role") != SERVER_ROLE:
        return None
    build = _BUILD.search(tags.get("build", ""))
    try:
        port = _count(tags.get("port", ""))
        _count(tags.get("vsn", ""))
        numbers = {
            name: _count(tags.get(name, "0")) for name in ("expect", "wan_join_port", "raft_vsn")
        }
        _check_prefixed(tags)
    except ValueError:
        return None
    if build is None or not 0 < port <= _PORT_MAX:
        return None
    return ServerMember(
        name=member.name,
        id=tags.get("id", ""),
        address=member.address,
        port=port,
        status=member.status,
        datacenter=tags.get("dc", ""),
        segment=tags.get("segment", ""),
        build=build.group(),
        expect=numbers["expect"],
        bootstrap="bootstrap" in tags,
        raft_version=numbers["raft_vsn"],
        wan_join_port=numbers["wan_join_port"],
        non_voter="nonvoter" in tags,
    )


def is_client(member: PoolMember) -> bool:
    return member.tags.get("role") == CLIENT_ROLE


def servers_of(members: Iterable[PoolMember], datacenter: str) -> list[ServerMember]:
    """The servers of a datacenter, whatever their status; those of a segment of its own are not
    part of it."""
    found = (server_of(member) for member in members)
    return [s for s in found if s is not None and s.datacenter == datacenter and not s.segment]


def lone_server(
    *, name: str, node_id: str, address: str, port: int, rpc_port: int, datacenter: str
) -> PoolMember:
    """A live server as the pool would know it."""
    tags = {
        "build": f"{COMPATIBLE_VERSION}:",
        "dc": datacenter,
        "id": node_id,
        "port": str(rpc_port),
        "raft_vsn": "3",
        "role": SERVER_ROLE,
        "segment": "",
        "vsn": "2",
    }
    return PoolMember(name=name, address=address, port=port, tags=tags)


def host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _count(text: str) -> int:
    """A number in decimal, as tags spell it. Raises `ValueError`; `int` alone takes far more."""
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise ValueError(f"no number: {text!r}")
    return int(text)


def _check_prefixed(tags: Mapping[str, str]) -> None:
    """Feature flags are numbers, segment listeners addresses. Raises `ValueError`."""
    for name, value in tags.items():
        if name.startswith("ft_"):
            _count(value)
        elif name.startswith("sl_"):
            _, colon, port = value.rpartition(":")
            if not colon:
                raise ValueError(f"no address: {value!r}")
            _count(port)
