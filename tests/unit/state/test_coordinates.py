"""Coordinates: kept for nodes of the catalog, compared to sort by."""

from __future__ import annotations

import pytest

from registry.state.catalog_commands import Deregister, Register
from registry.state.catalog_queries import ListNodes
from registry.state.coordinates import (
    Coordinate,
    GetCoordinates,
    ListCoordinates,
    NodeCoordinate,
    UpdateCoordinates,
    distance,
    sort_by_distance,
)
from registry.state.topics import Topic
from registry.testing.state import Replica


def at(x: float, *, height: float = 0.0, adjustment: float = 0.0) -> Coordinate:
    vec = (x, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    return Coordinate(vec=vec, error=0.5, height=height, adjustment=adjustment)


def update(**places: Coordinate) -> UpdateCoordinates:
    updates = tuple(NodeCoordinate(node=name, coord=coord) for name, coord in places.items())
    return UpdateCoordinates(updates=updates)


@pytest.fixture
def replica() -> Replica:
    replica = Replica()
    for name in ("a", "b", "c", "d"):
        replica.apply(Register(node=name, address="10.0.0.1"))
    return replica


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param(at(0.0), at(0.0), 0.0, id="same-place"),
        pytest.param(at(0.0), at(0.003), 0.003, id="plain"),
        pytest.param(at(0.0, height=0.001), at(0.003, height=0.002), 0.006, id="heights"),
        pytest.param(at(0.0, adjustment=0.001), at(0.003), 0.004, id="adjusted"),
        pytest.param(at(0.0, adjustment=-0.005), at(0.003), 0.003, id="never-negative"),
    ],
)
def test_distance(a: Coordinate, b: Coordinate, expected: float) -> None:
    assert distance(a, b) == pytest.approx(expected)
    assert distance(b, a) == distance(a, b)


@pytest.mark.parametrize(
    ("near", "order"),
    [
        pytest.param("a", "acbd", id="nearest-first-unknown-last"),
        pytest.param("B", "bcad", id="any-letter-case"),
        pytest.param("", "abcd", id="nothing-to-sort-by"),
        pytest.param("d", "abcd", id="no-coordinate-of-its-own"),
        pytest.param("none", "abcd", id="no-such-node"),
    ],
)
def test_near(replica: Replica, near: str, order: str) -> None:
    replica.apply(update(a=at(0.0), b=at(0.009), c=at(0.002)))
    assert "".join(node.node for node in replica.ask(ListNodes(near=near))) == order


def test_only_one_segment_is_compared(replica: Replica) -> None:
    other = NodeCoordinate(node="b", segment="s", coord=at(0.0))
    replica.apply(update(a=at(0.0), c=at(0.5)))
    replica.apply(UpdateCoordinates(updates=(other,)))
    nodes = ["b", "c", "a"]
    sort_by_distance(replica.machine.reader, "a", nodes, lambda name: name)
    assert nodes == ["a", "c", "b"]


def test_coordinates_go_with_their_node(replica: Replica) -> None:
    replica.apply(update(a=at(0.1), stranger=at(0.2)))
    assert [each.node for each in replica.ask(ListCoordinates())] == ["a"]
    assert replica.ask(GetCoordinates(node="A"))[0].coord == at(0.1)
    topics = set(GetCoordinates(node="a").topics(replica.machine.reader))
    seen: set[Topic] = set()
    replica.machine.topics.listen(seen.update)
    replica.apply(Deregister(node="a"))
    assert replica.ask(GetCoordinates(node="a")) == []
    assert topics & seen
    assert replica.index_of(ListCoordinates()) == replica.index
