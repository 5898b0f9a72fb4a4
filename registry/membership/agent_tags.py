"""The tags by which agents know each other in the pool: what kind, which datacenter, which ports.

Source: gossip sheet, section 12.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from registry.membership.serf_values import Member

SERVER_ROLE, CLIENT_ROLE = "consul", "node"

_BUILD = re.compile(r"\d+\.\d+\.\d+")

#: Builds from here on make their node ids unique per host.
UNIQUE_IDS_SINCE = (0, 8, 5)


class AgentTags(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent tells of itself; `to_tags` spells it as the pool does."""

    node_id: str
    datacenter: str
    build: str
    segment: str = ""
    protocol: int = 2
    acls: int = 0  # 0 off, 1 on, 2 legacy
    is_server: bool = False
    #: Of servers only.
    rpc_port: int = 0
    raft_protocol: int = 3
    wan_join_port: int = 0
    bootstrap: bool = False
    expect: int = 0
    use_tls: bool = False
    non_voter: bool = False

    def to_tags(self, *, wan: bool = False) -> dict[str, str]:
        """Sorted by name, so that the same agent always has the same bytes."""
        tags = {
            "acls": str(self.acls),
            "build": f"{self.build}:",
            "dc": self.datacenter,
            "id": self.node_id,
            "role": SERVER_ROLE if self.is_server else CLIENT_ROLE,
            "segment": self.segment,
            "vsn": str(self.protocol),
            "vsn_max": "3",
            "vsn_min": "2",
        }
        if self.is_server:
            tags |= self._server_tags(wan=wan)
        return dict(sorted(tags.items()))

    def _server_tags(self, *, wan: bool) -> dict[str, str]:
        tags = {
            "ft_fs": "1",
            "port": str(self.rpc_port),
            "raft_vsn": str(self.raft_protocol),
        }
        if not wan and self.wan_join_port > 0:
            tags["wan_join_port"] = str(self.wan_join_port)
        if self.bootstrap or self.expect == 1:  # one server that expects one is bootstrapping
            tags["bootstrap"] = "1"
        elif self.expect >= 2:
            tags["expect"] = str(self.expect)
        if self.use_tls:
            tags["use_tls"] = "1"
        if self.non_voter:
            tags["nonvoter"] = "1"
        return tags


class ServerInfo(msgspec.Struct, frozen=True):
    """A member that is a server, as its tags have it."""

    name: str
    node_id: str
    datacenter: str
    segment: str
    address: str
    port: int
    wan_join_port: int
    bootstrap: bool
    expect: int
    build: tuple[int, int, int]
    protocol: int
    raft_protocol: int
    acls: int
    use_tls: bool
    non_voter: bool


def server_of(member: Member) -> ServerInfo | None:
    """None if the member is no server, or says it is one in tags that cannot be read."""
    tags = member.tags
    if tags.get("role") != SERVER_ROLE:
        return None
    try:
        port, protocol = _required(tags, "port"), _required(tags, "vsn")
        _check_optional(tags)
        build = build_of(tags)
    except ValueError:
        return None
    return ServerInfo(
        name=member.name,
        node_id=tags.get("id", ""),
        datacenter=tags.get("dc", ""),
        segment=tags.get("segment", ""),
        address=member.address,
        port=port,
        wan_join_port=int(tags.get("wan_join_port", 0)),
        bootstrap="bootstrap" in tags,
        expect=int(tags.get("expect", 0)),
        build=build,
        protocol=protocol,
        raft_protocol=int(tags.get("raft_vsn", 0)),
        acls=int(tags["acls"]) if tags.get("acls", "").isdigit() else 3,
        use_tls="use_tls" in tags,
        non_voter="nonvoter" in tags,
    )


def is_client(member: Member) -> bool:
    return member.tags.get("role") == CLIENT_ROLE


def build_of(tags: Mapping[str, str]) -> tuple[int, int, int]:
    """The version in the `build` tag. Raises `ValueError` when there is none."""
    found = _BUILD.search(tags.get("build", ""))
    if found is None:
        raise ValueError("no version in the build tag")
    major, minor, patch = (int(part) for part in found.group().split("."))
    return major, minor, patch


def _required(tags: Mapping[str, str], name: str) -> int:
    return int(tags.get(name, ""))


def _check_optional(tags: Mapping[str, str]) -> None:
    for name, value in tags.items():
        if name in ("expect", "wan_join_port", "raft_vsn") or name.startswith("ft_"):
            int(value)
        elif name.startswith("sl_"):
            _, colon, port = value.rpartition(":")
            if not colon:
                raise ValueError(f"{name} is no address")
            int(port)
