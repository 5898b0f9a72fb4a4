"""The list of nodes: everybody gets their turn, and choices are fair and bounded."""

from __future__ import annotations

import random
from collections import Counter

from registry.membership.members import NodeEntry, NodeTable
from registry.membership.seam import NodeState, Versions


def entry(number: int, state: NodeState = NodeState.ALIVE) -> NodeEntry:
    return NodeEntry(f"n{number}", (f"10.0.0.{number}", 1), b"", Versions(), 1, state, 0)


def table(count: int) -> NodeTable:
    made = NodeTable(random.Random(1))
    for number in range(count):
        made.add(entry(number))
    return made


def anybody(_: NodeEntry) -> bool:
    return True


def nothing() -> None:
    """Nobody is dropped at the end of a round."""


def test_each_round_probes_everybody_once_in_another_order() -> None:
    nodes = table(20)
    rounds = []
    for _ in range(3):
        probed = [nodes.next_to_probe(anybody, nothing) for _ in range(20)]
        rounds.append([node.name for node in probed if node])
    assert all(sorted(names) == sorted(rounds[0]) for names in rounds)
    assert rounds[0] != rounds[1] != rounds[2]


def test_nobody_to_probe() -> None:
    assert NodeTable(random.Random(1)).next_to_probe(anybody, nothing) is None
    assert table(5).next_to_probe(lambda node: False, nothing) is None


def test_who_was_dropped_is_neither_probed_nor_chosen() -> None:
    nodes = table(10)
    dropped = nodes.get("n3")
    assert dropped is not None
    nodes.drop(dropped)
    assert len(nodes) == 9
    assert nodes.get("n3") is None
    assert nodes.at(("10.0.0.3", 1)) is None
    probed = {node.name for _ in range(30) if (node := nodes.next_to_probe(anybody, nothing))}
    assert probed == {f"n{number}" for number in range(10)} - {"n3"}
    assert all(node.name != "n3" for _ in range(20) for node in nodes.choose(9, anybody))


def test_the_wrap_may_drop() -> None:
    nodes = table(3)

    def drop_one() -> None:
        first = next(iter(nodes))
        nodes.drop(first)

    for _ in range(4):
        nodes.next_to_probe(anybody, drop_one)
    assert len(nodes) == 2


def test_choices_are_different_nodes_and_roughly_fair() -> None:
    nodes = table(10)
    counts: Counter[str] = Counter()
    for _ in range(2000):
        chosen = nodes.choose(3, anybody)
        assert len({node.name for node in chosen}) == len(chosen) == 3
        counts.update(node.name for node in chosen)
    assert len(counts) == 10
    assert min(counts.values()) > 450
    assert max(counts.values()) < 750


def test_fewer_than_wanted_when_few_fit() -> None:
    nodes = table(10)
    assert {node.name for node in nodes.choose(5, lambda node: node.name == "n7")} <= {"n7"}
    assert nodes.choose(5, lambda node: False) == []


def test_an_address_is_whoever_came_there_last() -> None:
    nodes = table(2)
    first, second = nodes.get("n0"), nodes.get("n1")
    assert first is not None
    assert second is not None
    nodes.move(second, first.address)
    assert nodes.at(first.address) is second
    nodes.drop(first)
    assert nodes.at(first.address) is second


def test_the_ring_leads_around_to_everybody_whatever_the_order_they_came_in() -> None:
    nodes, others = table(20), NodeTable(random.Random(2))
    for number in reversed(range(20)):
        others.add(entry(number))
    way = walk(nodes)
    assert sorted(way) == sorted(f"n{number}" for number in range(20))
    assert walk(others) == way
    end = nodes.after(way[-1], anybody)
    assert end is nodes.get("n0")


def walk(nodes: NodeTable) -> list[str]:
    """The ring from n0 on."""
    way = ["n0"]
    for _ in range(len(nodes) - 1):
        node = nodes.after(way[-1], anybody)
        assert node is not None
        way.append(node.name)
    return way


def test_the_ring_passes_over_those_that_do_not_fit_and_those_that_were_dropped() -> None:
    nodes = table(6)
    first, second, third, fourth, fifth, sixth = walk(nodes)
    nodes.drop(nodes.get(second) or entry(-1))

    def fits(node: NodeEntry) -> bool:
        return node.name != third

    successor = nodes.after(first, fits)
    assert successor is not None
    assert successor.name == fourth
    assert nodes.is_shortly_before(first, fourth, 1, fits)
    assert not nodes.is_shortly_before(sixth, fourth, 1, fits)
    assert nodes.is_shortly_before(sixth, fourth, 2, fits)
    assert not nodes.is_shortly_before(fifth, fourth, 2, fits)
    assert nodes.after(first, lambda node: False) is None
    assert not nodes.is_shortly_before(fourth, fourth, 9, fits)
    assert table(1).after("n0", anybody) is None


def test_as_many_as_asked_for_stand_shortly_before_each() -> None:
    nodes = table(30)
    for target in nodes:
        before = [
            node for node in nodes if nodes.is_shortly_before(node.name, target.name, 8, anybody)
        ]
        assert len(before) == 8
        assert target not in before
