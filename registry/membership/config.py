"""Timings and limits of the lower layer, in the profiles that pools use.

Source: gossip sheet, section 14.
"""

from __future__ import annotations

import msgspec

from registry.membership.seam import Versions

SECOND_MS = 1000


class SwimConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults are those of the LAN profile."""

    probe_interval_ms: int = SECOND_MS
    #: How long a direct answer is waited for before others are asked to try.
    probe_timeout_ms: int = 500
    indirect_checks: int = 3
    suspicion_mult: int = 4
    suspicion_max_timeout_mult: int = 6
    awareness_max: int = 8
    gossip_interval_ms: int = 200
    gossip_nodes: int = 3
    #: For so long a dead node still hears the news, its own death first, and may contradict.
    gossip_to_the_dead_ms: int = 30 * SECOND_MS
    retransmit_mult: int = 4
    push_pull_interval_ms: int = 30 * SECOND_MS
    stream_timeout_ms: int = 10 * SECOND_MS
    packet_bytes_max: int = 1400
    compresses: bool = True
    #: Ask by TCP too when a probe by UDP is not answered.
    stream_ping: bool = True
    #: Dead for longer than this, a name may be claimed from another address; 0 is never.
    dead_node_reclaim_ms: int = 0
    verifies_incoming: bool = True
    encrypts_outgoing: bool = True
    versions: Versions = Versions()

    @classmethod
    def lan(cls) -> SwimConfig:
        return cls()

    @classmethod
    def wan(cls) -> SwimConfig:
        return cls(
            probe_interval_ms=5 * SECOND_MS,
            probe_timeout_ms=3 * SECOND_MS,
            suspicion_mult=6,
            gossip_interval_ms=500,
            gossip_nodes=4,
            gossip_to_the_dead_ms=60 * SECOND_MS,
            push_pull_interval_ms=60 * SECOND_MS,
            stream_timeout_ms=30 * SECOND_MS,
        )

    @classmethod
    def local(cls) -> SwimConfig:
        """Nodes of one machine."""
        return cls(
            probe_timeout_ms=200,
            indirect_checks=1,
            suspicion_mult=3,
            gossip_interval_ms=100,
            gossip_to_the_dead_ms=15 * SECOND_MS,
            retransmit_mult=2,
            push_pull_interval_ms=15 * SECOND_MS,
            stream_timeout_ms=SECOND_MS,
        )

    @classmethod
    def consul_lan(cls) -> SwimConfig:
        return cls(dead_node_reclaim_ms=30 * SECOND_MS)

    @classmethod
    def consul_wan(cls) -> SwimConfig:
        return msgspec.structs.replace(
            cls.wan(), gossip_nodes=3, dead_node_reclaim_ms=30 * SECOND_MS
        )

    @classmethod
    def consul_dev(cls) -> SwimConfig:
        return cls(
            probe_interval_ms=100,
            probe_timeout_ms=100,
            suspicion_mult=3,
            gossip_interval_ms=100,
            dead_node_reclaim_ms=30 * SECOND_MS,
        )
