"""Messages of the Serf layer that wait to ride along in packets, each a limited number of times.

What has gone out least goes first, among those the longest that fits, among those the newest, so
that news spread before repeats. Unlike facts about one node in the lower layer, Serf messages are
all different: none replaces another.

Source: gossip sheet, section 6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

#: More messages than this are cut down to it: those that went out most often go.
DEPTH_MAX = 4096


@dataclass(slots=True, eq=False)
class Outgoing:
    """One message; `is_finished` once it went out its full number of times, or was cut."""

    data: bytes
    number: int
    transmits: int = 0
    is_finished: bool = False

    @property
    def rank(self) -> tuple[int, int, int]:
        return (self.transmits, -len(self.data), -self.number)


class Outbox:
    def __init__(self, retransmit_mult: int) -> None:
        self._retransmit_mult = retransmit_mult
        self._waiting: list[Outgoing] = []
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, data: bytes) -> Outgoing:
        self._numbers += 1
        outgoing = Outgoing(data, self._numbers)
        self._waiting.append(outgoing)
        if len(self._waiting) > DEPTH_MAX:
            self._finish(max(self._waiting, key=lambda waiting: waiting.rank))
        return outgoing

    def take(self, limit: int, overhead: int, member_count: int) -> list[bytes]:
        """Messages for one packet: each costs its length and `overhead`, in all at most `limit`."""
        transmits_max = self._retransmit_mult * math.ceil(math.log10(member_count + 1))
        taken = []
        for outgoing in sorted(self._waiting, key=lambda waiting: waiting.rank):
            cost = len(outgoing.data) + overhead
            if cost > limit:
                continue
            limit -= cost
            taken.append(outgoing.data)
            outgoing.transmits += 1
            if outgoing.transmits >= transmits_max:
                self._finish(outgoing)
        return taken

    def _finish(self, outgoing: Outgoing) -> None:
        outgoing.is_finished = True
        self._waiting.remove(outgoing)
