"""How long a suspect has to contradict: long while one node accuses it, short once several do.

    max     ─┐
             └──┐            each accuser that is new moves the deadline forward,
                └────┐       steeply first, until with k of them it is at min,
    min              └─┐
    certain            └──   and in a large pool with a few more at certain

One accuser may simply have lost its own network; k independent ones have not. The more nodes there
are, the longer news take, so min and max grow with the logarithm of their number.

Certain is our addition. min grows so that an accusation can reach the suspect and its answer come
back, but it grows in probe intervals, while news travel in the much shorter gossip intervals: with
200 nodes they are through in a second, and 9.2 s are granted. Beyond k, further accusers show that
it is no matter of a bad path or of one bad observer. Each of them has told the suspect of the
accusation in its own probe (`Prober.challenge`), so one that can still answer has heard it half a
dozen times. What then is left to wait for is a process that stands still for a moment, and that
takes as long in a large pool as in a small one. So certain is 1.75 times what any pool of up to ten
nodes grants, which is what one of 56 grants (7 s, LAN), and never less than four times what news
need to reach everybody. More is not to be had: a node that stands still for 9 s cannot be told from
one that has failed, and that is to be known to 200 within 10 s.

Source: Lifeguard, section IV.B; gossip sheet, section 5.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import msgspec

from registry.membership.config import SwimConfig

#: How many accusers beyond k take the timeout from min to certain.
_CERTAINTY = 3


def spread_ms(gossip_interval_ms: int, gossip_nodes: int, node_count: int) -> int:
    """After how long news have reached nearly everybody by gossip alone."""
    rounds = math.ceil(math.log(max(2, node_count)) / math.log(gossip_nodes + 1))
    return rounds * gossip_interval_ms


class SuspicionLimits(msgspec.Struct, frozen=True):
    """`confirmations` is k: how many further accusers bring the timeout from max to min."""

    confirmations: int
    min_ms: int
    max_ms: int
    #: With `_CERTAINTY` accusers beyond k; in small pools it is `min_ms`.
    certain_ms: int

    @classmethod
    def of(cls, config: SwimConfig, node_count: int) -> SuspicionLimits:
        mult = config.suspicion_mult
        # Too few others to confirm anything: do not wait for them.
        wanted = mult - 2
        confirmations = 0 if node_count - 2 < wanted else wanted
        scale = math.floor(1000 * max(1.0, math.log10(max(1, node_count))))
        min_ms = mult * scale * config.probe_interval_ms // 1000
        there_and_back_ms = 2 * spread_ms(
            config.gossip_interval_ms, config.gossip_nodes, node_count
        )
        certain_ms = max(7 * mult * config.probe_interval_ms // 4, 2 * there_and_back_ms)
        return cls(
            confirmations,
            min_ms,
            config.suspicion_max_timeout_mult * min_ms,
            min(min_ms, certain_ms),
        )

    @property
    def accusers_max(self) -> int:
        """So many further accusers count; what more of them say changes nothing."""
        is_shortened = self.confirmations > 0 and self.certain_ms < self.min_ms
        return self.confirmations + (_CERTAINTY if is_shortened else 0)

    def timeout_ms(self, confirmed: int) -> int:
        """From the first accusation to death, with so many further accusers."""
        if self.confirmations == 0:
            return self.min_ms
        if confirmed > self.confirmations:
            steps = min(confirmed - self.confirmations, _CERTAINTY)
            return self.min_ms - (self.min_ms - self.certain_ms) * steps // _CERTAINTY
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
        is_full = len(self._confirmed_by) >= self.limits.accusers_max
        if is_full or accuser == self.first_accuser or accuser in self._confirmed_by:
            return False
        self._confirmed_by.add(accuser)
        return True

    @property
    def deadline_ms(self) -> float:
        return self.started_ms + self.limits.timeout_ms(len(self._confirmed_by))
