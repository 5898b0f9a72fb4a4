"""A gossip pool that tests write themselves, and members for it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from registry.server.members import MemberStatus, PoolMember, lone_server

DATACENTER = "dc1"

NO_TAGS: Mapping[str, str] = MappingProxyType({})


def server_id(name: str) -> str:
    """The node id of a test's server: a UUID that is told by its name."""
    return f"{name.encode().hex():0>8.8}-0000-0000-0000-000000000000"


def server_member(
    name: str,
    status: MemberStatus = MemberStatus.ALIVE,
    *,
    address: str = "10.0.0.1",
    port: int = 8300,
    tags: Mapping[str, str] = NO_TAGS,
    **more: str,
) -> PoolMember:
    """A server as gossip shows it; `tags` and `more` come on top of the usual ones."""
    usual = lone_server(
        name=name,
        node_id=server_id(name),
        address=address,
        port=8301,
        rpc_port=port,
        datacenter=DATACENTER,
    )
    return PoolMember(name, address, 8301, status, {**usual.tags, **tags, **more})


def client_member(
    name: str,
    status: MemberStatus = MemberStatus.ALIVE,
    *,
    address: str = "10.0.0.9",
    tags: Mapping[str, str] = NO_TAGS,
    **more: str,
) -> PoolMember:
    """An agent without data."""
    usual = {"build": "1.8.4:", "dc": DATACENTER, "id": server_id(name), "role": "node"}
    return PoolMember(name, address, 8301, status, {**usual, **tags, **more})


class FakePool:
    """Implements `registry.server.members.MemberPool`."""

    def __init__(self, *members: PoolMember) -> None:
        self.by_name = {member.name: member for member in members}
        #: Whom it was asked to count as left.
        self.forced: list[str] = []

    def members(self) -> list[PoolMember]:
        return list(self.by_name.values())

    def put(self, member: PoolMember) -> PoolMember:
        self.by_name[member.name] = member
        return member

    async def force_leave(self, name: str) -> None:
        self.forced.append(name)
