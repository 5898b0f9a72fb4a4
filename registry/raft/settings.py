"""Timing and limits of the shell; those of the core are in `registry.raft.config`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftSettings:
    """Timing and limits (section 17 of the requirements)."""

    election_timeout_ms: int = 5000
    #: Leader stickiness is as long as the election timeout, but no longer than this: the multiplier
    #: is patience with silence, and a leader whose process has ended needs none.
    stickiness_ms_max: int = 1000
    proposals_max: int = 4096
    proposal_bytes_max: int = 32 << 20
    #: Messages from peers waiting to be handled; more are dropped, Raft asks again.
    messages_max: int = 8192
    compaction_threshold_entries: int = 16_384
    compaction_threshold_bytes: int = 64 << 20
    compaction_interval_ms: int = 30_000
    #: Kept behind a compaction for peers that lag: so many entries, but not more than so much.
    trailing_entries: int = 10_240
    trailing_bytes: int = 32 << 20
    snapshot_chunk_bytes: int = 256 << 10
    snapshot_bytes_per_second: int = 64 << 20
    #: How long a transfer may hold back compaction (R-54).
    snapshot_transfer_ms_max: int = 600_000

    @classmethod
    def scaled(cls, raft_multiplier: int = 5) -> RaftSettings:
        """The timing of `performance.raft_multiplier`, 1 (fast machines) to 10."""
        return cls(election_timeout_ms=1000 * raft_multiplier)

    @property
    def tick_ms(self) -> float:
        return min(50.0, self.election_timeout_ms / 20)

    @property
    def election_ticks(self) -> int:
        return round(self.election_timeout_ms / self.tick_ms)

    @property
    def sticky_ticks(self) -> int:
        return min(self.election_ticks, round(self.stickiness_ms_max / self.tick_ms))

    @property
    def heartbeat_ticks(self) -> int:
        """T / 10, and often enough for one to be lost before the lease ends."""
        return max(1, min(self.election_ticks // 10, self.sticky_ticks // 4))
