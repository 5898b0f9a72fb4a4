"""Queries: a question gossiped to everybody, answered straight to who asked.

`QueryBuffer` tells new queries from repeats, as for user events but by id. `OpenQuery` is the
asker's side: who has acknowledged and who has answered, each once, until the deadline.

Source: gossip sheet, section 8.5.
"""

from __future__ import annotations

import enum
import math

from registry.membership.clocks import LamportClock
from registry.membership.events import is_behind

#: Every internal query begins with it; the application never sees those.
INTERNAL_PREFIX = "_serf_"

#: Ids of one Lamport time that are told apart; a flood beyond it is cut.
IDS_PER_SLOT_MAX = 256

#: The deadline of a query that says none: this many gossip intervals, times the pool's size in
#: digits.
TIMEOUT_MULT = 16


class QueryFlag(enum.IntFlag):
    """In a query ACK asks for an acknowledgement; in a response it says that this is one."""

    ACK = 1
    NO_BROADCAST = 2


class QueryBuffer:
    """Ids of the queries of the last `size` Lamport times."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._slots: dict[int, tuple[int, set[int]]] = {}
        self.clock = LamportClock()
        self.least_time = 0

    def admit(self, l_time: int, query_id: int) -> bool:
        """Witness the time, and note the query; False if it is a repeat or too old."""
        self.clock.witness(l_time)
        if l_time < self.least_time or is_behind(l_time, self.clock.time, self._size):
            return False
        at, ids = self._slots.get(l_time % self._size, (None, set()))
        if at != l_time:
            self._slots[l_time % self._size] = (l_time, {query_id})
            return True
        if query_id in ids or len(ids) >= IDS_PER_SLOT_MAX:
            return False
        ids.add(query_id)
        return True


class OpenQuery:
    """A query of ours that still takes acknowledgements and answers."""

    def __init__(self, l_time: int, query_id: int, deadline_ms: int) -> None:
        self.l_time = l_time
        self.query_id = query_id
        self.deadline_ms = deadline_ms
        self._acknowledged: set[str] = set()
        self._answered: set[str] = set()

    def is_first(self, node: str, *, is_ack: bool) -> bool:
        """Whether this is the node's first acknowledgement (or answer); relays bring copies."""
        seen = self._acknowledged if is_ack else self._answered
        if node in seen:
            return False
        seen.add(node)
        return True


def default_timeout_ms(gossip_interval_ms: int, member_count: int) -> int:
    """Long enough for gossip to reach a pool of `member_count`, and for the answers."""
    return gossip_interval_ms * TIMEOUT_MULT * math.ceil(math.log10(member_count + 1))
