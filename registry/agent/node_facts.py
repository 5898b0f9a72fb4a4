"""What the catalog is told of this node: its addresses by tag, and its metadata."""

from __future__ import annotations

from registry.agent.anti_entropy import NodeFacts
from registry.agent.config import AgentConfig


def tagged_addresses(config: AgentConfig) -> dict[str, str]:
    """This node's addresses by tag: what was configured, over lan, wan and their IP versions."""
    lan, wan = config.advertise_addr, config.advertise_addr_wan or config.advertise_addr
    found = {"lan": lan, "wan": wan}
    for tag, address in (("lan", lan), ("wan", wan)):
        found[f"{tag}_ipv6" if ":" in address else f"{tag}_ipv4"] = address
    versions = {
        "lan_ipv4": config.advertise_addr_ipv4,
        "lan_ipv6": config.advertise_addr_ipv6,
        "wan_ipv4": config.advertise_addr_wan_ipv4,
        "wan_ipv6": config.advertise_addr_wan_ipv6,
    }
    found |= {tag: address for tag, address in versions.items() if address}
    return dict(sorted((found | config.tagged_addresses).items()))


def node_meta(config: AgentConfig) -> dict[str, str]:
    """This node's metadata, with the segment that every node has."""
    return {"consul-network-segment": "", **config.node_meta}


def node_facts(config: AgentConfig, node_id: str) -> NodeFacts:
    return NodeFacts(
        name=config.node_name,
        id=node_id,
        address=config.advertise_addr,
        datacenter=config.datacenter,
        tagged_addresses=tagged_addresses(config),
        meta=node_meta(config),
    )
