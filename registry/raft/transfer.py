"""Handing leadership over on purpose (thesis 3.10, R-47, R-48).

    begin ──> no proposals; bring the target up to our last entry ──> timeout-now ──> it campaigns
          └── after T, or on a change of configuration: give up, go on leading

The target's campaign carries a mark that makes servers vote although they hear from us. That is why
the lease ends with the first timeout-now, for the rest of the term: a delayed one may have its
effect long after we gave up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from registry.errors import Unavailable
from registry.raft.progress import Progress


class TransferInProgress(Unavailable):
    """The leader is handing over; refused before anything was done, so repeat it."""

    def __init__(self, target: str) -> None:
        self.target = target
        super().__init__(f"leadership is being transferred to {target or 'another server'}; retry")


@dataclass(slots=True)
class Transfer:
    """A hand-over under way."""

    target: str
    deadline: int  # tick at which it is given up
    sent_at: int = -1  # tick of the last timeout-now; -1 = none was sent

    @property
    def was_sent(self) -> bool:
        return self.sent_at >= 0


def best_target(voters: Mapping[str, Progress]) -> str | None:
    """The voter that would lead soonest: the greatest match, then the latest answer (R-47)."""
    best = max(voters.items(), key=lambda item: (item[1].match, item[1].heard_at), default=None)
    return best[0] if best else None
