"""Network coordinates of nodes, and sorting by the round-trip time that they predict.

A coordinate is a point in a space of eight dimensions plus a height (the time over the node's own
access link), all in seconds; the distance of two is the round-trip time to expect (Dabek et al.,
"Vivaldi", SIGCOMM 2004, with the height and adjustment terms). They are computed by the gossip
layer and only stored and compared here. A comparison happens in reads, never in `apply`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from registry.state.base import Command, Query, Transaction, max_index
from registry.state.catalog_records import fold, get_node
from registry.state.tables import Table
from registry.state.topics import Topic, table_topic
from registry.storage.store import Reader

DIMENSIONS = 8
_INDEX = "coordinates"
_T = TypeVar("_T")


class Coordinate(msgspec.Struct, frozen=True, kw_only=True):
    """A point; the default is where every node starts: the origin, and sure of nothing."""

    vec: tuple[float, ...] = (0.0,) * DIMENSIONS
    error: float = 1.5
    adjustment: float = 0.0
    height: float = 1.0e-5


class NodeCoordinate(msgspec.Struct, frozen=True, kw_only=True):
    """Where a node is, in one network segment ("" is the only one here, kept for the API)."""

    node: str
    segment: str = ""
    coord: Coordinate


COORDINATES: Table[NodeCoordinate] = Table("coordinates", NodeCoordinate)


def coordinate_topic(node: str) -> Topic:
    return ("coordinate", fold(node))


class UpdateCoordinates(Command, tag="coordinate-update", frozen=True, kw_only=True):
    """Store coordinates; those of nodes that the catalog does not know are dropped."""

    updates: tuple[NodeCoordinate, ...]

    def apply(self, tx: Transaction) -> bool:
        for update in self.updates:
            if get_node(tx, update.node) is not None:
                COORDINATES.put(tx, update, fold(update.node), update.segment)
                tx.touch(coordinate_topic(update.node), table_topic("coordinates"))
        tx.raise_index(_INDEX)
        return True


def delete_coordinates(tx: Transaction, node: str) -> None:
    """Forget where a node was, when the node itself goes."""
    for known in list(COORDINATES.scan(tx, fold(node))):
        COORDINATES.delete(tx, fold(node), known.segment)
        tx.raise_index(_INDEX)
        tx.touch(coordinate_topic(node), table_topic("coordinates"))


class ListCoordinates(Query, tag="coordinate-nodes", frozen=True, kw_only=True):
    """All coordinates: `list[NodeCoordinate]`, in the order of the nodes' names."""

    def run(self, reader: Reader) -> tuple[int, list[NodeCoordinate]]:
        return max_index(reader, _INDEX), list(COORDINATES.scan(reader))

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        return (table_topic("coordinates"),)


class GetCoordinates(Query, tag="coordinate-node", frozen=True, kw_only=True):
    """The coordinates of one node, one per segment: `list[NodeCoordinate]`, empty when unknown."""

    node: str

    def run(self, reader: Reader) -> tuple[int, list[NodeCoordinate]]:
        return max_index(reader, _INDEX), list(COORDINATES.scan(reader, fold(self.node)))

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        return (coordinate_topic(self.node),)


def distance(a: Coordinate, b: Coordinate) -> float:
    """The round-trip time to expect, in seconds.

    The adjustments, which average out what the model gets wrong, may make a short way negative;
    the plain distance holds then.
    """
    plain = math.dist(a.vec, b.vec) + a.height + b.height
    adjusted = plain + a.adjustment + b.adjustment
    return adjusted if adjusted > 0.0 else plain


def sort_by_distance(
    reader: Reader, near: str, items: list[Any], node_of: Callable[[Any], str]
) -> None:
    """Sort in place by distance from the node `near`; what has no coordinate comes last.

    The order is kept among equals, and altogether when `near` is "" or has no coordinate itself.
    """
    source = _segments(reader, near) if near else {}
    if not source:
        return
    known: dict[str, float] = {}

    def key(item: _T) -> float:
        node = node_of(item)
        if node not in known:
            known[node] = _between(source, _segments(reader, node))
        return known[node]

    items.sort(key=key)


def _segments(reader: Reader, node: str) -> dict[str, Coordinate]:
    return {each.segment: each.coord for each in COORDINATES.scan(reader, fold(node))}


def _between(a: dict[str, Coordinate], b: dict[str, Coordinate]) -> float:
    """Distance within the segment that both are in; a node in one segment only decides which."""
    segment = ""
    for side in (a, b):
        if len(side) == 1:
            segment = next(iter(side))
    if segment not in a or segment not in b:
        return math.inf
    if len(a[segment].vec) != len(b[segment].vec):
        return math.inf
    return distance(a[segment], b[segment])
