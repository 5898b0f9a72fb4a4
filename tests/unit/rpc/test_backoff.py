"""The pause doubles from 10 ms to 40 s, with jitter, and success forgets it all."""

from __future__ import annotations

import random

import pytest

from registry.rpc.backoff import Backoff


class Longest(random.Random):
    """Chance that always grants the longest pause."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_pauses_double_up_to_the_most() -> None:
    backoff = Backoff(Longest())
    pauses = [backoff.failed(0.0) for _ in range(14)]
    assert pauses[:4] == [0.010, 0.020, 0.040, 0.080]
    assert pauses[11] == pytest.approx(20.48)
    assert pauses[12:] == [40.0, 40.0]


def test_the_most_can_be_chosen() -> None:
    backoff = Backoff(Longest(), 2.0)
    assert [backoff.failed(0.0) for _ in range(10)][-2:] == [2.0, 2.0]


def test_a_very_long_absence_does_not_overflow() -> None:
    backoff = Backoff(Longest())
    for _ in range(5000):
        pause = backoff.failed(0.0)
    assert pause == 40.0


def test_jitter_takes_off_up_to_half() -> None:
    pauses = {Backoff(random.Random(seed)).failed(0.0) for seed in range(200)}
    assert len(pauses) > 100
    assert min(pauses) >= 0.005
    assert max(pauses) <= 0.010


def test_remaining_counts_down_on_the_clock_it_is_given() -> None:
    backoff = Backoff(Longest())
    assert backoff.remaining(100.0) == 0.0
    backoff.failed(100.0)
    assert backoff.remaining(100.004) == pytest.approx(0.006)
    assert backoff.remaining(101.0) == 0.0


def test_success_starts_anew() -> None:
    backoff = Backoff(Longest())
    for _ in range(10):
        backoff.failed(0.0)
    backoff.reset()
    assert backoff.remaining(0.0) == 0.0
    assert backoff.failed(0.0) == 0.010
