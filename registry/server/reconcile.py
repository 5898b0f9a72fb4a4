"""The catalog follows the members: what a leader writes about servers that are alive.

For now a leader knows one member, itself; the gossip pool's other members are written the same way
once there are any. Source: surface.md, section 11 (fixed identifiers).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from registry.state.catalog import Register
from registry.state.catalog_records import Check, Service, Weights

SERF_CHECK_ID = "serfHealth"
SERF_CHECK_NAME = "Serf Health Status"
ALIVE_OUTPUT = "Agent alive and reachable"

#: Name and id of the service that every server registers for itself.
SERVER_SERVICE = "consul"


@dataclass(frozen=True, slots=True)
class LocalServerFacts:
    """Who this server is, as the catalog shows it."""

    node_id: str
    node_name: str
    address: str  # ip without port
    datacenter: str
    server_port: int
    tagged_addresses: Mapping[str, str] = field(default_factory=dict)
    node_meta: Mapping[str, str] = field(default_factory=dict)


def registration_of_server(facts: LocalServerFacts) -> Register:
    """The node of a live server, with its gossip check and its own service."""
    return Register(
        node=facts.node_name,
        id=facts.node_id,
        address=facts.address,
        datacenter=facts.datacenter,
        tagged_addresses=dict(facts.tagged_addresses),
        node_meta=dict(facts.node_meta),
        service=Service(
            id=SERVER_SERVICE,
            name=SERVER_SERVICE,
            port=facts.server_port,
            tags=(),
            meta={"raft_version": "3", "serf_protocol_current": "2"},
            weights=Weights(1, 1),
        ),
        checks=(
            Check(
                check_id=SERF_CHECK_ID,
                name=SERF_CHECK_NAME,
                status="passing",
                output=ALIVE_OUTPUT,
            ),
        ),
    )
