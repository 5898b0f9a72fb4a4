"""The nodes that the lower layer knows, in the order in which they are probed.

The list is walked from front to back and shuffled at its end, so that each node is probed within
two rounds at the latest; new ones go to a random place (SWIM, section 4.3). A node that is dropped
leaves the list only at its end: dropping many costs no more than dropping one.

The nodes also stand in a ring, which looks the same to all who know the same nodes, so that they
can share work out without a word. The order is that of a checksum of the names: names of one rack
or one purpose are alike, and fail together.

Source: gossip sheet, sections 5.1, 5.5 and 5.7.
"""

from __future__ import annotations

import random
import zlib
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from registry.membership.addresses import Address
from registry.membership.seam import Node, NodeState, Versions
from registry.membership.suspicion import Suspicion


@dataclass(slots=True, eq=False)
class NodeEntry:
    """What we believe of one node.

    Invariant: `suspicion` is set exactly while `state` is SUSPECT.
    """

    name: str
    address: Address
    meta: bytes
    versions: Versions
    incarnation: int
    state: NodeState
    changed_ms: float  # when `state` became what it is
    suspicion: Suspicion | None = None
    is_dropped: bool = False
    gossiped_ms: float = 0.0  # when the gossip timer last chose it

    @property
    def is_gone(self) -> bool:
        return self.state in (NodeState.DEAD, NodeState.LEFT)

    def change(self, state: NodeState, now_ms: float) -> None:
        if state is not self.state:
            self.state, self.changed_ms = state, now_ms

    def view(self) -> Node:
        return Node(self.name, self.address, self.meta, self.incarnation, self.state, self.versions)


class NodeTable:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._entries: dict[str, NodeEntry] = {}
        self._by_address: dict[Address, NodeEntry] = {}
        self._order: list[NodeEntry] = []
        self._position = 0
        self._ring: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[NodeEntry]:
        return iter(self._entries.values())

    def get(self, name: str) -> NodeEntry | None:
        return self._entries.get(name)

    def at(self, address: Address) -> NodeEntry | None:
        """Who was last heard of there."""
        return self._by_address.get(address)

    def add(self, entry: NodeEntry) -> None:
        self._entries[entry.name] = entry
        self._by_address[entry.address] = entry
        insort(self._ring, _place(entry.name))
        self._order.append(entry)
        other = self._rng.randrange(len(self._order))
        self._order[-1], self._order[other] = self._order[other], self._order[-1]

    def move(self, entry: NodeEntry, address: Address) -> None:
        """The node has another address now."""
        self._forget_address(entry)
        entry.address = address
        self._by_address[address] = entry

    def drop(self, entry: NodeEntry) -> None:
        del self._entries[entry.name]
        self._forget_address(entry)
        del self._ring[bisect_left(self._ring, _place(entry.name))]
        entry.is_dropped = True

    def _forget_address(self, entry: NodeEntry) -> None:
        if self._by_address.get(entry.address) is entry:
            del self._by_address[entry.address]

    def next_to_probe(
        self, fits: Callable[[NodeEntry], bool], at_wrap: Callable[[], None]
    ) -> NodeEntry | None:
        """The next node that fits; `at_wrap` is called at the end of each round, to drop nodes."""
        for _ in range(len(self._order) + 1):
            if self._position >= len(self._order):
                at_wrap()
                self._order = list(self._entries.values())
                self._rng.shuffle(self._order)
                self._position = 0
                if not self._order:
                    return None
            entry = self._order[self._position]
            self._position += 1
            if not entry.is_dropped and fits(entry):
                return entry
        return None

    def after(self, name: str, fits: Callable[[NodeEntry], bool]) -> NodeEntry | None:
        """The first that fits on the way around the ring from `name`."""
        start = bisect_left(self._ring, _place(name)) + 1
        for place in range(start, start + len(self._ring) - 1):
            entry = self._entries[self._ring[place % len(self._ring)][1]]
            if fits(entry):
                return entry
        return None

    def is_shortly_before(
        self, name: str, target: str, count: int, fits: Callable[[NodeEntry], bool]
    ) -> bool:
        """Whether `name` is one of the last `count` that fit on the way to `target`."""
        start = bisect_left(self._ring, _place(target))
        for place in range(start - 1, start - len(self._ring), -1):
            other = self._ring[place][1]  # beyond the front Python goes on at the end
            if other == name:
                return True
            count -= fits(self._entries[other])
            if count == 0:
                return False
        return False

    def choose(self, count: int, fits: Callable[[NodeEntry], bool]) -> list[NodeEntry]:
        """Up to `count` random nodes that fit; in a bad pool fewer than there are."""
        chosen: list[NodeEntry] = []
        total = len(self._order)
        for _ in range(3 * total):
            entry = self._order[int(self._rng.random() * total)]
            if not entry.is_dropped and entry not in chosen and fits(entry):
                chosen.append(entry)
                if len(chosen) == count:
                    break
        return chosen


def _place(name: str) -> tuple[int, str]:
    """Where in the ring a node stands."""
    return zlib.crc32(name.encode()), name
