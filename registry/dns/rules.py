"""How this agent answers: its configuration in the form that the core looks things up in."""

from __future__ import annotations

from dataclasses import dataclass

from dns.name import Name

from registry.agent.config import AgentConfig, Soa
from registry.agent.durations import SECOND
from registry.dns.names import domain_name
from registry.dns.records import TTL_MAX

#: Whatever the configuration says, a plain UDP answer has no more records.
UDP_RECORDS_MAX = 8


@dataclass(frozen=True, slots=True)
class Rules:
    """Times to live are in seconds. `filtering`: plugins want to see what is found."""

    node_name: str
    datacenter: str
    domains: tuple[Name, ...]
    node_ttl: int
    exact_ttls: dict[str, int]
    prefix_ttls: tuple[tuple[str, int], ...]  # the longest first
    soa: Soa
    only_passing: bool
    a_record_limit: int  # 0: none
    udp_answer_limit: int
    truncate: bool
    compress: bool
    meta_txt: bool
    translate_wan: bool
    recursors: tuple[str, ...]
    recursor_timeout_s: float
    filtering: bool = False

    @classmethod
    def from_config(cls, config: AgentConfig, *, filtering: bool = False) -> Rules:
        """Raises `ValueError` for a domain that is none."""
        given = config.dns_config
        ttls = {name.lower(): _seconds(ttl) for name, ttl in given.service_ttl_ns.items()}
        prefixes = {name[:-1]: ttl for name, ttl in ttls.items() if name.endswith("*")}
        names = [name for name in (config.domain, config.alt_domain) if name]
        return cls(
            node_name=config.node_name,
            datacenter=config.datacenter.lower(),
            domains=tuple(map(domain_name, names)),
            node_ttl=_seconds(given.node_ttl_ns),
            exact_ttls={name: ttl for name, ttl in ttls.items() if not name.endswith("*")},
            prefix_ttls=tuple(sorted(prefixes.items(), key=lambda item: -len(item[0]))),
            soa=given.soa,
            only_passing=given.only_passing,
            a_record_limit=given.a_record_limit,
            udp_answer_limit=min(given.udp_answer_limit, UDP_RECORDS_MAX),
            truncate=given.enable_truncate,
            compress=not given.disable_compression,
            meta_txt=given.enable_additional_node_meta_txt,
            translate_wan=config.translate_wan_addrs,
            recursors=config.recursors,
            recursor_timeout_s=given.recursor_timeout_ns / SECOND,
            filtering=filtering,
        )

    def service_ttl(self, service: str) -> int:
        """By the exact name, else by the longest `prefix*`."""
        name = service.lower()
        if name in self.exact_ttls:
            return self.exact_ttls[name]
        return next((ttl for prefix, ttl in self.prefix_ttls if name.startswith(prefix)), 0)


def _seconds(nanoseconds: int) -> int:
    return min(max(0, nanoseconds // SECOND), TTL_MAX)
