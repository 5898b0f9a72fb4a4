"""Majority arithmetic, by table and by property."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.raft.quorum import VoteResult, majority, reached_by_majority, vote_result


@pytest.mark.parametrize(
    ("voters", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)]
)
def test_majority(voters: int, needed: int) -> None:
    assert majority(voters) == needed


@pytest.mark.parametrize(
    ("values", "reached"),
    [
        pytest.param([], 0, id="nobody"),
        pytest.param([7], 7, id="one"),
        pytest.param([7, 5], 5, id="two: both are needed"),
        pytest.param([9, 5, 7], 7, id="three: the middle one"),
        pytest.param([9, 0, 0], 0, id="one of three is not enough"),
        pytest.param([4, 3, 2, 1], 2, id="four: three are needed"),
        pytest.param([5, 1, 5, 1, 5], 5, id="five: exactly three"),
    ],
)
def test_reached_by_majority(values: list[int], reached: int) -> None:
    assert reached_by_majority(values) == reached


@given(st.lists(st.integers(0, 20), min_size=1, max_size=9))
def test_a_majority_has_reached_it_and_nothing_greater(values: list[int]) -> None:
    reached = reached_by_majority(values)
    assert sum(value >= reached for value in values) >= majority(len(values))
    assert sum(value > reached for value in values) < majority(len(values))


@pytest.mark.parametrize(
    ("votes", "voters", "result"),
    [
        pytest.param({}, "abc", VoteResult.PENDING, id="nobody has answered"),
        pytest.param({"a": True}, "abc", VoteResult.PENDING, id="one of three"),
        pytest.param({"a": True, "b": True}, "abc", VoteResult.WON, id="two of three"),
        pytest.param({"a": True, "b": False}, "abc", VoteResult.PENDING, id="a tie so far"),
        pytest.param({"b": False, "c": False}, "abc", VoteResult.LOST, id="two refuse"),
        pytest.param({"a": True, "b": False}, "ab", VoteResult.LOST, id="two: one refuses"),
        pytest.param({"a": True, "x": True}, "abc", VoteResult.PENDING, id="strangers"),
        pytest.param({"a": True}, "a", VoteResult.WON, id="alone"),
        pytest.param({"a": True}, "", VoteResult.LOST, id="no voters at all"),
    ],
)
def test_vote_result(votes: dict[str, bool], voters: str, result: VoteResult) -> None:
    assert vote_result(votes, tuple(voters)) is result
