"""Settings of the Serf layer: what it keeps for how long, and how much it takes.

Source: gossip sheet, section 14.
"""

from __future__ import annotations

import msgspec

SECOND_MS = 1000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS

#: No configuration may allow larger user events: they have to fit a packet together with others.
USER_EVENT_BYTES_CEILING = 9 * 1024


class SerfConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults are those of Consul's pools."""

    protocol: int = 4
    broadcast_timeout_ms: int = 5 * SECOND_MS
    leave_propagate_delay_ms: int = 3 * SECOND_MS
    reap_interval_ms: int = 15 * SECOND_MS
    reconnect_interval_ms: int = 30 * SECOND_MS
    #: How long failed and left members are remembered.
    reconnect_timeout_ms: int = 72 * HOUR_MS
    tombstone_timeout_ms: int = 24 * HOUR_MS
    recent_intent_timeout_ms: int = 5 * MINUTE_MS
    #: Lamport times for which events and queries are told from repeats.
    event_buffer_size: int = 512
    query_buffer_size: int = 512
    user_event_bytes_max: int = 512
    query_bytes_max: int = 1024
    response_bytes_max: int = 1024
    resolves_name_conflicts: bool = False
    #: A restart finds its pool again even after it had left.
    rejoins_after_leave: bool = False
    #: Key queries wait for the ring to be written before they are answered.
    persists_keyring: bool = False

    @classmethod
    def of_serf_agent(cls) -> SerfConfig:
        """The defaults of the Serf agent, where they differ."""
        return cls(
            protocol=5,
            leave_propagate_delay_ms=SECOND_MS,
            reconnect_timeout_ms=24 * HOUR_MS,
            resolves_name_conflicts=True,
        )
