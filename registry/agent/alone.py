"""Membership of an agent that is by itself: a pool of one.

It answers what a gossip pool is asked, truthfully for one member, until several agents find each
other through gossip. Joining one's own address reaches one node, as it does in a pool; any other
address cannot be reached through gossip and says so.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from registry import COMPATIBLE_VERSION
from registry.agent.config import AgentConfig
from registry.agent.facade import Member
from registry.errors import NotFound, Unavailable

#: How long a join waits for a connection.
CONNECT_TIMEOUT_S = 10.0


def gossip_tags(config: AgentConfig, node_id: str) -> dict[str, str]:
    """Tags of this agent's member in the LAN pool, as clients and `members -detailed` read them."""
    tags = {
        "acls": "1" if config.acl.enabled else "0",
        "build": f"{COMPATIBLE_VERSION}:",
        "dc": config.datacenter,
        "id": node_id,
        "role": "consul" if config.server else "node",
        "segment": "",
        "vsn": str(config.protocol),
        "vsn_max": "3",
        "vsn_min": "2",
    }
    if config.server:
        tags |= {
            "port": str(config.ports.server),
            "raft_vsn": str(config.raft_protocol),
            "wan_join_port": str(config.ports.serf_wan),
        }
        if config.bootstrap:
            tags["bootstrap"] = "1"
        if config.bootstrap_expect:
            tags["expect"] = str(config.bootstrap_expect)
    return dict(sorted(tags.items()))


class LonelyMembership:
    """Implements `registry.agent.facade.Membership` for one member: this agent."""

    def __init__(self, config: AgentConfig, node_id: str) -> None:
        self._config = config
        self._tags = gossip_tags(config, node_id)

    def local_member(self) -> Member:
        return self._member(self._config.node_name, self._config.ports.serf_lan)

    def members(self, *, wan: bool = False) -> list[Member]:
        if not wan:
            return [self.local_member()]
        if not self._config.server:
            return []
        name = f"{self._config.node_name}.{self._config.datacenter}"
        return [self._member(name, self._config.ports.serf_wan)]

    def _member(self, name: str, port: int) -> Member:
        return Member(
            name=name,
            address=self._config.advertise_addr,
            port=port,
            tags=self._tags,
            protocol_current=self._config.protocol,
        )

    async def join(self, address: str, *, wan: bool = False) -> int:
        """1 for our own gossip address; else `Unavailable` with the reason."""
        default = self._config.ports.serf_wan if wan else self._config.ports.serf_lan
        host, port = _split(address, default)
        if port == default and host in (self._config.advertise_addr, self._config.bind_addr):
            return 1
        reason = await _dial(host, port)
        raise Unavailable(f"Failed to join {host}: {reason}")

    async def force_leave(self, node: str, *, prune: bool = False) -> None:
        if node not in (member.name for member in self.members()):
            raise NotFound(f"agent: No node found with name '{node}'")


def _split(address: str, default_port: int) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and (":" not in host or host.startswith("[")):
        return host.strip("[]"), int(port)
    return address.strip("[]"), default_port


async def _dial(host: str, port: int) -> str:
    """Why nobody there can be joined."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return f"dial tcp {host}:{port}: i/o timeout"
    except ConnectionRefusedError:
        return f"dial tcp {host}:{port}: connect: connection refused"
    except (OSError, OverflowError) as problem:
        return f"dial tcp {host}:{port}: {problem}"
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return f"{host}:{port} answers, but agents of this version do not form pools yet"
