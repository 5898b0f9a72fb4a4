"""How long a suspect has to contradict: long while one node accuses it, short once several do.

    max ─┐
         └──┐            each accuser that is new moves the deadline forward,
            └────┐       steeply first, until with k of them it is at min
    min          └────

One accuser may simply have lost its own network; k independent ones have not. The more nodes there
are, the longer news take, so both bounds grow with the logarithm of their number.

Source: Lifeguard, section IV.B; gossip sheet, section 5.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import msgspec


class SuspicionLimits(msgspec.Struct, frozen=True):
    """`confirmations` is k: how many further accusers bring the timeout from max to min."""

    confirmations: int
    min_ms: int
    max_ms: int

    @classmethod
    def of(
        cls, *, mult: int, max_timeout_mult: int, probe_interval_ms: int, node_count: int
    ) -> SuspicionLimits:
        # Too few others to confirm anything: do not wait for them.
        wanted = mult - 2
        confirmations = 0 if node_count - 2 < wanted else wanted
        scale = math.floor(1000 * max(1.0, math.log10(max(1, node_count))))
        min_ms = mult * scale * probe_interval_ms // 1000
        return cls(confirmations, min_ms, max_timeout_mult * min_ms)

    def timeout_ms(self, confirmed: int) -> int:
        """From the first accusation to death, with so many further accusers."""
        if self.confirmations == 0:
            return self.min_ms
        share = math.log(confirmed + 1) / math.log(self.confirmations + 1)
        return max(self.min_ms, math.floor(self.max_ms - (self.max_ms - self.min_ms) * share))


@dataclass(slots=True, eq=False)
class Suspicion:
    """One node under suspicion since `started_ms`."""

    first_accuser: str
    started_ms: float
    limits: SuspicionLimits
    _confirmed_by: set[str] = field(default_factory=set)

    def confirm(self, accuser: str) -> bool:
        """True if this accuser is new and still counts."""
        is_full = len(self._confirmed_by) >= self.limits.confirmations
        if is_full or accuser == self.first_accuser or accuser in self._confirmed_by:
            return False
        self._confirmed_by.add(accuser)
        return True

    @property
    def deadline_ms(self) -> float:
        return self.started_ms + self.limits.timeout_ms(len(self._confirmed_by))
