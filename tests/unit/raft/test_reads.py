"""Rounds, the reads that wait for them, and the lease they give (R-35 to R-37)."""

from __future__ import annotations

from typing import Any

import pytest

from registry.raft.config import RaftConfig
from registry.raft.reads import Rounds


def test_a_read_waits_for_a_round_that_began_after_it() -> None:
    rounds = Rounds(lease_ticks=17)
    assert rounds.begin(0, 5) == 1
    rounds.waiting.append(70)
    assert rounds.confirm(1) == []  # an answer to the earlier round
    assert rounds.begin(2, 6) == 2
    assert rounds.confirm(2) == [(70, 6)]
    assert len(rounds) == 0


def test_a_later_round_confirms_earlier_ones() -> None:
    rounds = Rounds(lease_ticks=17)
    for round_, context in ((1, 70), (2, 71)):
        rounds.waiting.append(context)
        rounds.begin(round_, 10 + round_)
    assert rounds.confirm(2) == [(70, 11), (71, 12)]


def test_reads_do_not_join_a_round_without_an_index() -> None:
    rounds = Rounds(lease_ticks=17)
    rounds.waiting.append(70)
    rounds.begin(0, None)
    assert rounds.confirm(1) == []
    assert rounds.waiting == [70]


def test_the_lease_counts_from_the_beginning_of_the_round() -> None:
    rounds = Rounds(lease_ticks=17)
    rounds.begin(100, None)
    rounds.begin(102, None)
    rounds.confirm(1)
    assert rounds.lease_until == 117
    rounds.confirm(2)
    assert rounds.lease_until == 119


def test_a_round_from_before_a_jump_of_the_clock_gives_no_lease() -> None:
    rounds = Rounds(lease_ticks=17)
    rounds.begin(100, None)
    rounds.confirm(1)
    rounds.begin(102, None)
    rounds.void_lease()
    assert rounds.lease_until == 0
    rounds.confirm(2)
    assert rounds.lease_until == 0
    rounds.begin(104, None)
    rounds.confirm(3)
    assert rounds.lease_until == 121


def test_everything_that_waits_can_be_failed() -> None:
    rounds = Rounds(lease_ticks=17)
    rounds.waiting.append(70)
    rounds.begin(0, 5)
    rounds.waiting.append(71)
    assert len(rounds) == 2
    assert rounds.take_all() == [70, 71]
    assert (len(rounds), rounds.confirm(1)) == (0, [])


@pytest.mark.parametrize(
    ("election_ticks", "drift_percent", "lease_ticks"),
    [(20, 10, 17), (20, 0, 19), (100, 10, 89), (15, 10, 12), (3, 50, 0)],
)
def test_the_lease_is_shorter_than_the_timeout(
    election_ticks: int, drift_percent: int, lease_ticks: int
) -> None:
    config = RaftConfig(id="a", election_ticks=election_ticks, clock_drift_percent=drift_percent)
    assert config.lease_ticks == lease_ticks
    sticky = RaftConfig(
        id="a",
        election_ticks=5 * election_ticks,
        sticky_ticks=election_ticks,
        clock_drift_percent=drift_percent,
    )
    assert sticky.lease_ticks == lease_ticks


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"disabled_guards": frozenset({"R-0"})}, "no such guard: R-0"),
        ({"heartbeat_ticks": 20}, "shorter than the election timeout"),
        ({"heartbeat_ticks": 0}, "shorter than the election timeout"),
        ({"heartbeat_ticks": 5, "sticky_ticks": 5}, "shorter than the election timeout and stick"),
        ({"sticky_ticks": 21}, "not be longer than the election timeout"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        RaftConfig(id="a", **settings)
