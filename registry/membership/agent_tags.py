"""The tags by which agents know each other in the pool: what kind, which datacenter, which ports.

Source: gossip sheet, section 12.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

SERVER_ROLE, CLIENT_ROLE = "consul", "node"

_BUILD = re.compile(r"[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}")

_PORT_MAX = 65535

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


class ServerTags(msgspec.Struct, frozen=True, kw_only=True):
    """What a member that is a server tells of itself."""

    id: str
    port: int  # of its RPC listener
    datacenter: str
    segment: str
    build: str  # "1.8.4"
    expect: int  # 0: does not take part in a bootstrap
    bootstrap: bool
    raft_version: int
    wan_join_port: int
    non_voter: bool


def read_server(tags: Mapping[str, str]) -> ServerTags | None:
    """None if these are no server's, or say so and cannot be read: anybody may write tags."""
    if tags.get("role") != SERVER_ROLE:
        return None
    try:
        port = _count(tags.get("port", ""))
        _count(tags.get("vsn", ""))
        optional = ("expect", "wan_join_port", "raft_vsn")
        numbers = {name: _count(tags.get(name, "0")) for name in optional}
        _check_prefixed(tags)
        build = build_of(tags)
    except ValueError:
        return None
    if not 0 < port <= _PORT_MAX:
        return None
    return ServerTags(
        id=tags.get("id", ""),
        port=port,
        datacenter=tags.get("dc", ""),
        segment=tags.get("segment", ""),
        build=".".join(map(str, build)),
        expect=numbers["expect"],
        bootstrap="bootstrap" in tags,
        raft_version=numbers["raft_vsn"],
        wan_join_port=numbers["wan_join_port"],
        non_voter="nonvoter" in tags,
    )


def is_client(tags: Mapping[str, str]) -> bool:
    return tags.get("role") == CLIENT_ROLE


def build_of(tags: Mapping[str, str]) -> tuple[int, int, int]:
    """The version in the `build` tag. Raises `ValueError` when there is none."""
    found = _BUILD.search(tags.get("build", ""))
    if found is None:
        raise ValueError("no version in the build tag")
    major, minor, patch = (int(part) for part in found.group().split("."))
    return major, minor, patch


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
