"""The networks whose nodes exist for us: others are neither heard nor let in."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from registry.membership.merge_rules import MergeRules
from registry.membership.serf_values import Member
from registry.membership.settings import Network


class AllowedNetworks:
    """Certain networks; None: all there are."""

    def __init__(self, networks: tuple[Network, ...] | None) -> None:
        self._networks = networks

    def include(self, host: str) -> bool:
        if self._networks is None:
            return True
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


class NetworkRules:
    """Merge rules that also want every address to be in certain networks."""

    def __init__(self, networks: AllowedNetworks, rules: MergeRules) -> None:
        self._networks = networks
        self._rules = rules

    def objection(self, members: Sequence[Member]) -> str | None:
        for member in members:
            if not self._networks.include(member.address):
                return f"Member '{member.name}' has address {member.address}, not allowed here"
        return self._rules.objection(members)
