"""Whether a history of reads and writes of one register could have happened one at a time.

Every write writes another value, so each read tells which write it saw. A write and its reads form
a *cluster*; let `first_end` be the earliest end and `last_start` the latest start in it. In any
linear order a cluster occupies one unbroken stretch, and that stretch must

* span all of [first_end, last_start] when first_end < last_start: a *forward* zone, during which
  the register certainly held the value;
* touch [last_start, first_end] somewhere otherwise: a *backward* zone.

The history is linearizable if and only if no read ends before its write begins, no two forward
zones overlap, and no backward zone lies inside a forward one (Gibbons and Korach, "Testing shared
memories", 1997, for unique values). That takes a sort, where the general
search is exponential; `tests/unit/testing` compares the two.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

#: The end of an operation whose outcome is unknown: it may take effect at any later time.
NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class Operation:
    """A read that saw `value`, or a write of it; None is the value before any write.

    Times are of invocation and return at the client, `end` is `NEVER` when the outcome is unknown.
    Reads of unknown outcome say nothing and are left out.
    """

    is_write: bool
    value: str | None
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Zone:
    low: int
    high: int
    forward: bool
    value: str | None


def explain_violation(history: Sequence[Operation]) -> str | None:
    """Why the history of one key is not linearizable; None when it is."""
    writes = {op.value: op for op in history if op.is_write}
    reads: dict[str | None, list[Operation]] = {}
    for op in history:
        if op.is_write:
            continue
        if op.value is not None and op.value not in writes:
            return f"a read saw {op.value!r}, which nobody wrote"
        reads.setdefault(op.value, []).append(op)
    zones = []
    # A write that nobody saw and whose outcome is unknown may simply never have happened.
    written = [w for w in writes.values() if w.end != NEVER or w.value in reads]
    for write in [Operation(True, None, -2, -1), *written]:
        cluster = [write, *reads.get(write.value, [])]
        first_end, last_start = min(op.end for op in cluster), max(op.start for op in cluster)
        if any(op.end < write.start for op in cluster):
            return f"a read of {write.value!r} ended before its write began"
        forward = first_end < last_start
        low, high = (first_end, last_start) if forward else (last_start, first_end)
        zones.append(_Zone(low, high, forward, write.value))
    return _conflict(zones)


def _conflict(zones: list[_Zone]) -> str | None:
    forward = sorted((z for z in zones if z.forward), key=lambda zone: zone.low)
    for one, other in itertools.pairwise(forward):
        if other.low < one.high:
            return (
                f"{one.value!r} was there from {one.low} to {one.high}, "
                f"and {other.value!r} from {other.low} to {other.high}"
            )
    for backward in (z for z in zones if not z.forward):
        for zone in forward:
            if zone.low < backward.low and backward.high < zone.high:
                return (
                    f"{backward.value!r} was written and gone between {backward.low} and "
                    f"{backward.high}, while {zone.value!r} was there from {zone.low} to "
                    f"{zone.high}"
                )
    return None
