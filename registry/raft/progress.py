"""What a leader knows of each peer's log, and how much it may have under way to it.

    PROBE      where the logs meet is not known: one append at a time, from `next`
    REPLICATE  it is known: appends are pipelined, `next` runs ahead of the answers
    SNAPSHOT   the peer needs entries that are compacted away: nothing is sent until it has one

        PROBE ──success──> REPLICATE ──refusal, loss──> PROBE (from match + 1)
        PROBE or REPLICATE ──entry is compacted away──> SNAPSHOT ──installed, failed──> PROBE

Source: Ongaro thesis, sections 3.5 and 10.2.1.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field

import msgspec


class ProgressState(enum.Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


@dataclass(slots=True)
class Inflight:
    """Appends sent and not yet answered: a sliding window in messages and bytes (R-27)."""

    messages_max: int
    bytes_max: int
    bytes_sent: int = 0
    _sent: deque[tuple[int, int]] = field(default_factory=deque)  # (last index, bytes), ascending

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def is_full(self) -> bool:
        # At least one message always fits, however large it is.
        return len(self._sent) >= self.messages_max or self.bytes_sent >= self.bytes_max

    @property
    def room_bytes(self) -> int:
        return self.bytes_max - self.bytes_sent

    def add(self, last_index: int, size_bytes: int) -> None:
        self._sent.append((last_index, size_bytes))
        self.bytes_sent += size_bytes

    def free_up_to(self, index: int) -> None:
        """Answered up to `index`: so are all messages that end there or before."""
        sent = self._sent
        while sent and sent[0][0] <= index:
            self.bytes_sent -= sent.popleft()[1]

    def free_one(self) -> None:
        """Give up the oldest message for lost."""
        self.bytes_sent -= self._sent.popleft()[1]

    def clear(self) -> None:
        self._sent.clear()
        self.bytes_sent = 0


class ProgressView(msgspec.Struct, frozen=True):
    """A frozen copy of one peer's progress, for reports and drivers."""

    state: ProgressState
    match: int
    next: int
    last_index: int
    inflight: int
    ticks_since_heard: int
    is_voter: bool
    is_departing: bool


@dataclass(slots=True)
class Progress:
    """What the leader knows of one peer's log.

    Invariant: 0 <= match < next.
    """

    next: int  # index of the next entry to send
    inflight: Inflight
    heard_at: int  # tick of its last answer in this leadership; at first, of our election
    match: int = 0  # highest index known to be durable there and equal to ours; 0 = unknown
    state: ProgressState = ProgressState.PROBE
    is_probe_sent: bool = False  # in PROBE: wait for an answer or a heartbeat's
    acked_round: int = 0  # highest heartbeat round that it answered
    commit_sent: int = 0  # highest commit index that it was told
    last_index: int = 0  # its own last index when it last said so; a hint
    since_round: int = 0  # answers to earlier rounds are of another life of this server
    departs_at: int = 0  # a removed server: forget it at this tick; 0 = it is a member

    @property
    def is_paused(self) -> bool:
        """Whether nothing may be sent now."""
        if self.state is ProgressState.REPLICATE:
            return self.inflight.is_full
        return self.state is ProgressState.SNAPSHOT or self.is_probe_sent

    def become_probe(self) -> None:
        """Go back to what is certain (R-27)."""
        self.state = ProgressState.PROBE
        self.next = self.match + 1
        self.is_probe_sent = False
        self.inflight.clear()

    def connection_lost(self) -> None:
        """What is under way is probably lost; a snapshot's fate is reported by itself."""
        if self.state is ProgressState.REPLICATE:
            self.become_probe()

    def become_snapshot(self) -> None:
        self.state = ProgressState.SNAPSHOT
        self.is_probe_sent = False
        self.inflight.clear()

    def sent(self, last_index: int, size_bytes: int) -> None:
        """An append with entries up to `last_index` left."""
        if self.state is ProgressState.REPLICATE:
            self.next = last_index + 1
            self.inflight.add(last_index, size_bytes)
        else:
            self.is_probe_sent = True

    def succeeded(self, match_index: int) -> bool:
        """The peer holds everything up to `match_index` durably; whether that was news.

        Late and repeated answers never lower anything (R-24).
        """
        is_news = match_index > self.match
        if is_news:
            self.match = match_index
            self.next = max(self.next, match_index + 1)
        if self.state is ProgressState.REPLICATE:
            self.inflight.free_up_to(match_index)
        elif self.state is ProgressState.PROBE and match_index + 1 >= self.next:
            # It answers what was probed (or more): the logs meet there.
            self.state = ProgressState.REPLICATE
            self.next = self.match + 1
            self.is_probe_sent = False
        return is_news

    def refused(self, rejected_prev: int, retry_from: int) -> bool:
        """The peer refused an append after `rejected_prev`; go on from `retry_from` if this is
        the answer that we wait for. False for stale and repeated refusals (R-26, R-28)."""
        if self.state is ProgressState.REPLICATE:
            if rejected_prev <= self.match or rejected_prev >= self.next:
                return False
            self.become_probe()
            return True
        if self.state is ProgressState.SNAPSHOT or rejected_prev != self.next - 1:
            return False
        self.next = max(self.match + 1, min(retry_from, rejected_prev))
        self.is_probe_sent = False
        return True

    def heartbeat_answered(self) -> None:
        """The peer is alive: what was sent before may be lost, so try again a little (R-27)."""
        self.is_probe_sent = False
        if self.state is ProgressState.REPLICATE and self.inflight.is_full:
            self.inflight.free_one()

    def snapshot_finished(self, index: int) -> None:
        """The peer has a snapshot up to `index` (0: the transfer failed)."""
        if self.state is not ProgressState.SNAPSHOT:
            return
        self.become_probe()
        self.next = max(self.next, index + 1)
        # After a failure wait for a sign of life before the next attempt.
        self.is_probe_sent = index == 0

    def view(self, now: int, *, is_voter: bool) -> ProgressView:
        return ProgressView(
            state=self.state,
            match=self.match,
            next=self.next,
            last_index=self.last_index,
            inflight=len(self.inflight),
            ticks_since_heard=now - self.heard_at,
            is_voter=is_voter,
            is_departing=self.departs_at > 0,
        )
