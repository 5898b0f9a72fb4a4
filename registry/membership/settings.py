"""What a pool is made of: names, addresses, files, rules, and the timing of both layers."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from registry.membership.addresses import Address
from registry.membership.config import SwimConfig
from registry.membership.filters import PatternCompiler
from registry.membership.merge_rules import MergeRules, OpenRules
from registry.membership.serf_config import SerfConfig

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class Meter(Protocol):
    """Where measurements go; `registry.agent.metrics.Metrics` is one."""

    def count(self, name: str, amount: float = 1, **labels: str) -> None: ...
    def gauge(self, name: str, value: float, **labels: str) -> None: ...


class SilentMeter:
    """Measurements that nobody wants."""

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Not wanted."""

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Not wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """Everything about one pool. `label` tells LAN from WAN in the log."""

    name: str
    tags: Mapping[str, str]
    bind: Address
    compile_pattern: PatternCompiler
    #: What others are told to reach us at; the bound address if not given.
    advertise: Address | None = None
    swim: SwimConfig = field(default_factory=SwimConfig)
    serf: SerfConfig = field(default_factory=SerfConfig)
    rules: MergeRules = field(default_factory=OpenRules)
    #: Primary first; what the keyring file holds goes before it. None at all: no encryption.
    keys: tuple[bytes, ...] = ()
    keyring_file: Path | None = None
    snapshot_file: Path | None = None
    #: Only nodes with addresses in these networks exist for us; None: all do.
    allowed_networks: tuple[Network, ...] | None = None
    meter: Meter = field(default_factory=SilentMeter)
    label: str = "lan"
