"""What an agent says on standard output when it starts (surface, section 3)."""

from __future__ import annotations

from registry import COMPATIBLE_VERSION
from registry.agent.config import AgentConfig


def start_banner(config: AgentConfig, node_id: str) -> str:
    """The block of facts, names right-aligned."""
    ports = config.ports
    lines = {
        "Version": f"'{COMPATIBLE_VERSION}'",
        "Node ID": f"'{node_id}'",
        "Node name": f"'{config.node_name}'",
        "Datacenter": f"'{config.datacenter}' (Segment: '{'<all>' if config.server else ''}')",
        "Server": f"{_yes(config.server)} (Bootstrap: {_yes(config.bootstrap)})",
        "Client Addr": f"[{config.client_addr}] (HTTP: {ports.http}, HTTPS: {ports.https}, "
        f"gRPC: {ports.grpc}, DNS: {ports.dns})",
        "Cluster Addr": f"{config.advertise_addr} (LAN: {ports.serf_lan}, WAN: {ports.serf_wan})",
        "Encrypt": f"Gossip: {_yes(bool(config.encrypt))}, TLS-Outgoing: "
        f"{_yes(config.verify_outgoing)}, TLS-Incoming: {_yes(config.verify_incoming)}",
    }
    width = max(map(len, lines)) + 2
    facts = "\n".join(f"{name.rjust(width)}: {value}" for name, value in lines.items())
    return (
        f"==> Starting Consul agent...\n{facts}\n\n==> Log data will now stream in as it occurs:\n"
    )


def _yes(value: bool) -> str:
    return str(value).lower()
