"""What an agent's configuration says about its gossip pools (gossip sheet, sections 12 and 14)."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Sequence
from pathlib import Path

import msgspec

from registry import COMPATIBLE_VERSION
from registry.agent.config import AgentConfig, Gossip
from registry.agent.durations import MILLISECOND
from registry.membership.agent_tags import AgentTags
from registry.membership.config import SwimConfig
from registry.membership.merge_rules import LanRules, WanRules
from registry.membership.serf_config import SerfConfig
from registry.membership.settings import Meter, Network, PoolSettings
from registry.state.regexp import compile_pattern


def lan_settings(
    config: AgentConfig, node_id: str, data_dir: Path | None, meter: Meter
) -> PoolSettings:
    """The pool of all agents of the datacenter."""
    return PoolSettings(
        name=config.node_name,
        tags=agent_tags(config, node_id).to_tags(),
        bind=(config.serf_lan or config.bind_addr, config.ports.serf_lan),
        advertise=(config.advertise_addr, config.ports.serf_lan),
        compile_pattern=compile_pattern,
        swim=_swim(config, config.gossip_lan, SwimConfig.consul_lan()),
        serf=_serf(config, config.reconnect_timeout_ns),
        rules=LanRules(name=config.node_name, node_id=node_id, datacenter=config.datacenter),
        keys=_keys(config),
        keyring_file=_file(config, data_dir, "local.keyring"),
        snapshot_file=data_dir / "serf" / "local.snapshot" if data_dir else None,
        allowed_networks=_networks(config.serf_lan_allowed_cidrs),
        meter=meter,
        label="lan",
    )


def wan_settings(
    config: AgentConfig, node_id: str, data_dir: Path | None, meter: Meter
) -> PoolSettings:
    """The pool of the servers of all datacenters."""
    return PoolSettings(
        name=f"{config.node_name}.{config.datacenter}",
        tags=agent_tags(config, node_id).to_tags(wan=True),
        bind=(config.serf_wan or config.bind_addr, config.ports.serf_wan),
        advertise=(config.advertise_addr_wan or config.advertise_addr, config.ports.serf_wan),
        compile_pattern=compile_pattern,
        swim=_swim(config, config.gossip_wan, SwimConfig.consul_wan()),
        serf=_serf(config, config.reconnect_timeout_wan_ns),
        rules=WanRules(),
        keys=_keys(config),
        keyring_file=_file(config, data_dir, "remote.keyring"),
        snapshot_file=data_dir / "serf" / "remote.snapshot" if data_dir else None,
        allowed_networks=_networks(config.serf_wan_allowed_cidrs),
        meter=meter,
        label="wan",
    )


def agent_tags(config: AgentConfig, node_id: str) -> AgentTags:
    """What this agent tells of itself."""
    return AgentTags(
        node_id=node_id,
        datacenter=config.datacenter,
        build=COMPATIBLE_VERSION,
        protocol=config.protocol,
        acls=int(config.acl.enabled),
        is_server=config.server,
        rpc_port=config.ports.server,
        raft_protocol=config.raft_protocol,
        wan_join_port=max(0, config.ports.serf_wan),
        bootstrap=config.bootstrap or config.dev_mode,
        expect=config.bootstrap_expect,
    )


def _swim(config: AgentConfig, gossip: Gossip, base: SwimConfig) -> SwimConfig:
    return msgspec.structs.replace(
        base,
        probe_interval_ms=gossip.probe_interval_ns // MILLISECOND,
        probe_timeout_ms=gossip.probe_timeout_ns // MILLISECOND,
        gossip_interval_ms=gossip.gossip_interval_ns // MILLISECOND,
        gossip_nodes=gossip.gossip_nodes,
        suspicion_mult=gossip.suspicion_mult,
        retransmit_mult=gossip.retransmit_mult,
        verifies_incoming=config.encrypt_verify_incoming,
        encrypts_outgoing=config.encrypt_verify_outgoing,
    )


def _serf(config: AgentConfig, reconnect_timeout_ns: int) -> SerfConfig:
    return SerfConfig(
        reconnect_timeout_ms=reconnect_timeout_ns // MILLISECOND,
        rejoins_after_leave=config.rejoin_after_leave,
    )


def _keys(config: AgentConfig) -> tuple[bytes, ...]:
    return (base64.b64decode(config.encrypt),) if config.encrypt else ()


def _file(config: AgentConfig, data_dir: Path | None, name: str) -> Path | None:
    return data_dir / "serf" / name if data_dir and not config.disable_keyring_file else None


def _networks(texts: Sequence[str]) -> tuple[Network, ...] | None:
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts) or None
