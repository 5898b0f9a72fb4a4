"""Network coordinates: the distance formula against a recorded number, and convergence."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path

import msgspec
import pytest

from registry.membership.coordinate import ERROR_MAX, HEIGHT_MIN, Coordinate, CoordinateClient

VECTORS = Path(__file__).parent / "testdata" / "gossip"


def client(seed: int = 1) -> CoordinateClient:
    return CoordinateClient(random.Random(seed))


def at(x: float, **changes: float) -> Coordinate:
    return Coordinate((x, *[0.0] * 7), **changes)


def test_the_recorded_distance() -> None:
    fact = json.loads((VECTORS / "fact_coordinate_distance.json").read_text())
    a, b = (
        Coordinate(tuple(side["Vec"]), side["Error"], side["Adjustment"], side["Height"])
        for side in (fact["a"], fact["b"])
    )
    assert f"{a.distance(b) * 1000:.3f} ms" == fact["reported"]


def test_an_adjustment_that_would_make_a_distance_negative_is_left_out() -> None:
    a, b = at(0.0, adjustment=-1.0), at(0.5)
    assert a.distance(b) == a.raw_distance(b) == pytest.approx(0.5 + 2 * HEIGHT_MIN)


@pytest.mark.parametrize(
    ("peer", "rtt_s"),
    [
        pytest.param(Coordinate((0.0,) * 7), 0.1, id="seven dimensions"),
        pytest.param(at(math.nan), 0.1, id="undefined"),
        pytest.param(at(0.0, height=math.inf), 0.1, id="infinite"),
        pytest.param(at(0.0), -0.1, id="negative time"),
        pytest.param(at(0.0), 10.1, id="too long"),
        pytest.param(at(0.0), math.nan, id="no time"),
    ],
)
def test_what_cannot_be_believed_changes_nothing(peer: Coordinate, rtt_s: float) -> None:
    own = client()
    assert not own.update("beta", peer, rtt_s)
    assert own.own == Coordinate()
    assert own.of("beta") is None


def test_one_measurement_lets_the_median_stand() -> None:
    steady, spiked = client(), client()
    for rtt in (0.01, 0.01, 0.01):
        steady.update("beta", at(0.005), rtt)
    for rtt in (0.01, 0.01, 5.0):
        spiked.update("beta", at(0.005), rtt)
    assert spiked.own == steady.own


def test_the_unsure_move_more_than_the_sure() -> None:
    unsure, sure = client(), client()
    unsure.update("beta", at(0.0, error=0.1), 0.2)
    sure.update("beta", at(0.0, error=ERROR_MAX), 0.2)
    assert math.hypot(*unsure.own.vec) > math.hypot(*sure.own.vec) > 0.0


def test_a_coordinate_that_became_nonsense_starts_afresh() -> None:
    own = client()
    assert own.update("beta", at(1e308, height=1e308), 1.0)
    assert own.own == Coordinate()
    assert own.resets == 1


def test_forgetting_a_node() -> None:
    own = client()
    own.update("beta", at(0.1), 0.1)
    assert own.of("beta") == at(0.1)
    own.forget("beta")
    assert own.of("beta") is None


def test_a_pool_finds_its_distances() -> None:
    """Nodes on a ring of 100 ms: after 100 rounds of measuring, estimates are near the truth."""
    rng = random.Random(7)
    count = 12
    places = [
        (math.cos(turn), math.sin(turn)) for turn in (2 * math.pi * n / count for n in range(count))
    ]
    clients = [client(n) for n in range(count)]

    def truth(a: int, b: int) -> float:
        return 0.05 * math.dist(places[a], places[b]) + 0.002

    for _ in range(100 * count):
        a, b = rng.sample(range(count), 2)
        clients[a].update(str(b), clients[b].own, truth(a, b) * rng.uniform(0.98, 1.02))
    errors = [
        abs(clients[a].own.distance(clients[b].own) - truth(a, b)) / truth(a, b)
        for a, b in itertools.combinations(range(count), 2)
    ]
    assert sorted(errors)[len(errors) // 2] < 0.1
    assert all(one.resets == 0 for one in clients)
    assert all(msgspec.structs.astuple(one.own)[1] < 0.3 for one in clients)
