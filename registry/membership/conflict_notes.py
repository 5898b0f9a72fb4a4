"""Two addresses that claim one name: noted at the 1st, 2nd, 4th, 8th … time between the two.

Each says so with every alive message of its own, and that must not fill the log.
"""

from __future__ import annotations

from collections import Counter

from registry.membership.addresses import Address, format_address
from registry.membership.context import SerfContext
from registry.membership.seam import Node

#: Name conflicts that are told apart: who invents addresses must not fill the memory either.
_CONFLICTS_MAX = 256


class ConflictNotes:
    def __init__(self, context: SerfContext) -> None:
        self._context = context
        #: How often each two were in conflict; under None what came when the table was full.
        self._counts: Counter[tuple[str, Address, Address] | None] = Counter()

    def add(self, existing: Node, other: Node) -> None:
        rivals: tuple[str, Address, Address] | None
        rivals = (existing.name, existing.address, other.address)
        if rivals not in self._counts and len(self._counts) >= _CONFLICTS_MAX:
            rivals = None
        self._counts[rivals] += 1
        count = self._counts[rivals]
        if count & (count - 1) == 0:
            self._context.note(
                f"name conflict: name={existing.name} address={format_address(existing.address)}"
                f" other={format_address(other.address)} count={count}"
            )
