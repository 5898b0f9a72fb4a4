"""Reads without writing to the log: ReadIndex rounds (R-35) and the leader's lease (R-36).

A *round* is a set of heartbeats sent together. Requests carry the number of the latest round and
answers repeat it, so an answer proves that its sender followed this leader at or after the moment
that round began, and answers to earlier ones prove nothing about a read that came later.

    read arrives      round 7 begins              a quorum has answered 7 (or a later one)
    ─────┴─────────────────┴──────────────────────────────┴───────────────
         waits             takes commit as its index      confirmed: answer once applied

The lease makes a round good for a while: until its *start* + T - margin no other server can win an
election, because the quorum that answered refuses votes for T after hearing from us (R-16).

Source: Ongaro thesis, section 6.4 and 6.4.1.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

#: Unconfirmed rounds that are remembered for the lease. Without a quorum a leader steps down after
#: ten; this bounds the memory where check-quorum is switched off.
_ROUNDS_MAX = 64


@dataclass(slots=True)
class _WaitingRound:
    """Reads that wait for `number` to be confirmed; answered at `index`."""

    number: int
    index: int
    contexts: list[int]


class Rounds:
    """Numbers the rounds, and knows which are confirmed, for whom, and how long that holds."""

    __slots__ = ("_begun", "_lease_ticks", "_void_up_to", "_waiting_rounds", "confirmed",
                 "confirmed_at", "current", "lease_until", "waiting")  # fmt: skip

    def __init__(self, lease_ticks: int) -> None:
        self._lease_ticks = lease_ticks
        self.current = 0  # number of the latest round
        self.confirmed = 0  # the latest that a quorum has answered
        self.confirmed_at: int | None = None  # the tick at which that one began
        self.lease_until = 0  # the first tick at which the lease does not hold any more
        self.waiting: list[int] = []  # reads that came after the latest round began
        self._begun: deque[tuple[int, int]] = deque(maxlen=_ROUNDS_MAX)  # (number, tick)
        self._waiting_rounds: deque[_WaitingRound] = deque()
        self._void_up_to = 0  # rounds up to this one must not extend the lease

    def __len__(self) -> int:
        """Reads that are not answered."""
        return len(self.waiting) + sum(len(r.contexts) for r in self._waiting_rounds)

    def begin(self, now: int, read_index: int | None) -> int:
        """Begin a round and return its number. Waiting reads join it, to be answered at
        `read_index`; None: they can not yet (R-34)."""
        self.current += 1
        self._begun.append((self.current, now))
        if self.waiting and read_index is not None:
            self._waiting_rounds.append(_WaitingRound(self.current, read_index, self.waiting))
            self.waiting = []
        return self.current

    def confirm(self, number: int) -> list[tuple[int, int]]:
        """A quorum has answered round `number`: extend the lease, and return what can be
        answered now as (context, index)."""
        self.confirmed = number
        while self._begun and self._begun[0][0] <= number:
            begun, tick = self._begun.popleft()
            self.confirmed_at = tick
            if begun > self._void_up_to:
                self.lease_until = tick + self._lease_ticks
        answered = []
        while self._waiting_rounds and self._waiting_rounds[0].number <= number:
            done = self._waiting_rounds.popleft()
            answered += [(context, done.index) for context in done.contexts]
        return answered

    def void_lease(self) -> None:
        """Time can not be trusted up to now: the lease ends, and rounds begun before give none."""
        self.lease_until = 0
        self._void_up_to = self.current

    def take_all(self) -> list[int]:
        """Every read that waits, to be failed."""
        contexts = [c for r in self._waiting_rounds for c in r.contexts] + self.waiting
        self._waiting_rounds.clear()
        self.waiting = []
        return contexts
