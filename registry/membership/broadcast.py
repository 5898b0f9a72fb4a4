"""News of nodes that wait to ride along in packets, each a limited number of times.

At most one per node: what is new about a node replaces what was, so the queue never outgrows the
list of nodes. What went out least goes first, among those the longest that fits, among those the
newest. The queue is kept in that order, and a place in it is found by bisection: filling a packet
costs the same whether ten or ten thousand news wait.

Source: SWIM, section 4.1; gossip sheet, section 6.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(slots=True, eq=False)
class Broadcast:
    """`is_finished` once it went out its full number of times, or was replaced."""

    name: str
    data: bytes
    number: int
    transmits: int = 0
    is_finished: bool = False

    @property
    def rank(self) -> _Rank:
        return (self.transmits, -len(self.data), -self.number)


_Rank: TypeAlias = tuple[int, int, int]


def transmit_limit(mult: int, node_count: int) -> int:
    """How often each message goes out: enough to reach everybody with high probability."""
    return mult * math.ceil(math.log10(node_count + 1))


class TransmitQueue:
    """A message longer than `bytes_max` would wait for ever, so it is not taken in."""

    def __init__(self, retransmit_mult: int, bytes_max: int) -> None:
        self._retransmit_mult = retransmit_mult
        self._bytes_max = bytes_max
        self._by_name: dict[str, Broadcast] = {}
        self._by_rank: dict[_Rank, Broadcast] = {}
        self._ranks: list[_Rank] = []
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._ranks)

    def add(self, name: str, data: bytes) -> Broadcast:
        """Queue what is new about the node `name`."""
        self.forget(name)
        self._numbers += 1
        broadcast = Broadcast(name, data, self._numbers)
        if len(data) > self._bytes_max:
            broadcast.is_finished = True
        else:
            self._by_name[name] = broadcast
            self._insert(broadcast)
        return broadcast

    def forget(self, name: str) -> None:
        """Drop what waits about the node."""
        broadcast = self._by_name.pop(name, None)
        if broadcast is not None:
            self._remove(broadcast)
            broadcast.is_finished = True

    def take(self, limit: int, overhead: int, node_count: int) -> list[bytes]:
        """Messages for one packet: each costs its length and `overhead`, in all at most `limit`."""
        taken: list[Broadcast] = []
        position = 0
        while position < len(self._ranks):
            rank = self._ranks[position]
            room = limit - overhead
            if -rank[1] > room:
                # On to the longest that fits, of the same number of transmissions or the next.
                position = bisect_left(self._ranks, (rank[0], -room, -self._numbers - 1), position)
                continue
            limit -= overhead - rank[1]
            taken.append(self._by_rank.pop(rank))
            del self._ranks[position]
        transmits_max = transmit_limit(self._retransmit_mult, node_count)
        for broadcast in taken:
            self._count(broadcast, transmits_max)
        return [broadcast.data for broadcast in taken]

    def _count(self, broadcast: Broadcast, transmits_max: int) -> None:
        broadcast.transmits += 1
        if broadcast.transmits < transmits_max:
            self._insert(broadcast)
        else:
            broadcast.is_finished = True
            del self._by_name[broadcast.name]

    def _insert(self, broadcast: Broadcast) -> None:
        insort(self._ranks, broadcast.rank)
        self._by_rank[broadcast.rank] = broadcast

    def _remove(self, broadcast: Broadcast) -> None:
        del self._by_rank[broadcast.rank]
        del self._ranks[bisect_left(self._ranks, broadcast.rank)]
