"""News of nodes that wait to ride along in packets, each a limited number of times.

At most one per node: what is new about a node replaces what was, so the queue never outgrows the
list of nodes. What went out least goes first, among those the longest that fits, among those the
newest. The queue is kept in that order, and a place in it is found by bisection: filling a packet
costs the same whether ten or ten thousand news wait.

How often is a logarithm of the pool, which is enough where many pass the news on. In a small pool
chance has too few throws: four nodes that hand it out twice each miss one node in every ninth
message (the first two to hear it both leave out the third, 1/3 * 1/3). So there a message
goes to nobody twice before it went to everybody once, and does not end before either.

Source: SWIM, section 4.1; gossip sheet, section 6, which knows no exception for small pools.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import TypeAlias

from registry.membership.addresses import Address
from registry.membership.seam import ANYBODY, Recipient


@dataclass(slots=True, eq=False)
class Outgoing:
    """One message; `is_finished` once it went out its full number of times, or was dropped."""

    data: bytes
    number: int
    transmits: int = 0
    is_finished: bool = False
    #: Who was handed it, in a small pool.
    told: set[Address] = field(default_factory=set)

    @property
    def rank(self) -> Rank:
        return (self.transmits, -len(self.data), -self.number)

    def is_for(self, recipient: Recipient) -> bool:
        """Whether this node is next: not if it was told and another was not."""
        return recipient.address not in self.told or self.told >= recipient.hearers

    def handed_to(self, recipient: Recipient, transmits_max: int) -> None:
        self.transmits += 1
        if recipient.hearers:
            self.told.add(recipient.address)
        self.is_finished = self.transmits >= transmits_max and self.told >= recipient.hearers


@dataclass(slots=True, eq=False, kw_only=True)
class Broadcast(Outgoing):
    """What is new about the node `name`."""

    name: str


Rank: TypeAlias = tuple[int, int, int]


def transmit_limit(mult: int, node_count: int) -> int:
    """How often each message goes out: enough to reach everybody with high probability."""
    return mult * math.ceil(math.log10(node_count + 1))


class TransmitQueue:
    """A message longer than `bytes_max` would wait for ever, so it is not taken in."""

    def __init__(self, retransmit_mult: int, bytes_max: int) -> None:
        self._retransmit_mult = retransmit_mult
        self._bytes_max = bytes_max
        self._by_name: dict[str, Broadcast] = {}
        self._by_rank: dict[Rank, Broadcast] = {}
        self._ranks: list[Rank] = []
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._ranks)

    def add(self, name: str, data: bytes) -> Broadcast:
        """Queue what is new about the node `name`."""
        self.forget(name)
        self._numbers += 1
        broadcast = Broadcast(data, self._numbers, name=name)
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

    def take(
        self, limit: int, overhead: int, node_count: int, recipient: Recipient = ANYBODY
    ) -> list[bytes]:
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
            if not self._by_rank[rank].is_for(recipient):
                position += 1
                continue
            limit -= overhead - rank[1]
            taken.append(self._by_rank.pop(rank))
            del self._ranks[position]
        transmits_max = transmit_limit(self._retransmit_mult, node_count)
        for broadcast in taken:
            broadcast.handed_to(recipient, transmits_max)
            if broadcast.is_finished:
                del self._by_name[broadcast.name]
            else:
                self._insert(broadcast)
        return [broadcast.data for broadcast in taken]

    def _insert(self, broadcast: Broadcast) -> None:
        insort(self._ranks, broadcast.rank)
        self._by_rank[broadcast.rank] = broadcast

    def _remove(self, broadcast: Broadcast) -> None:
        del self._by_rank[broadcast.rank]
        del self._ranks[bisect_left(self._ranks, broadcast.rank)]
