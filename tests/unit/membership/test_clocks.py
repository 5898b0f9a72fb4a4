"""Lamport clocks."""

from __future__ import annotations

import pytest

from registry.membership.clocks import TIME_MAX, LamportClock


def test_a_clock_begins_at_one_and_every_time_is_taken_once() -> None:
    clock = LamportClock()
    assert [clock.time, clock.take(), clock.take(), clock.time] == [1, 1, 2, 3]


@pytest.mark.parametrize(
    ("witnessed", "after"),
    [
        pytest.param(0, 1, id="older: nothing"),
        pytest.param(1, 2, id="equal: one more"),
        pytest.param(41, 42, id="newer: past it"),
        pytest.param(TIME_MAX, 1, id="nobody got that far honestly"),
        pytest.param(2**64 - 1, 1, id="would leave no later time"),
    ],
)
def test_a_clock_is_past_what_it_witnessed(witnessed: int, after: int) -> None:
    clock = LamportClock()
    clock.witness(witnessed)
    assert clock.time == after
