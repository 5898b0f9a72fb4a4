"""Queries: what is new, who has answered, how long to wait."""

from __future__ import annotations

import pytest

from registry.membership.queries import (
    IDS_PER_SLOT_MAX,
    OpenQuery,
    QueryBuffer,
    default_timeout_ms,
)


def test_a_query_is_new_once_and_known_by_its_id() -> None:
    buffer = QueryBuffer(512)
    assert buffer.admit(3, 77)
    assert not buffer.admit(3, 77)
    assert buffer.admit(3, 78)
    assert buffer.clock.time == 4


def test_old_queries_are_dropped() -> None:
    buffer = QueryBuffer(8)
    buffer.admit(20, 1)
    assert [buffer.admit(time, 1) for time in (12, 13)] == [False, True]
    buffer.least_time = 18
    assert [buffer.admit(time, 2) for time in (17, 18)] == [False, True]


def test_a_later_time_takes_over_the_slot() -> None:
    buffer = QueryBuffer(8)
    buffer.admit(1, 77)
    assert buffer.admit(9, 77)


def test_a_flood_under_one_time_is_cut() -> None:
    buffer = QueryBuffer(512)
    assert sum(buffer.admit(1, query_id) for query_id in range(2000)) == IDS_PER_SLOT_MAX


def test_each_node_acknowledges_once_and_answers_once() -> None:
    query = OpenQuery(1, 77, deadline_ms=1000)
    heard = [query.is_first("beta", is_ack=ack) for ack in (True, True, False, False)]
    assert heard == [True, False, True, False]


@pytest.mark.parametrize(
    ("interval_ms", "members", "timeout_ms"),
    [
        pytest.param(100, 4, 1600, id="recorded: local profile, 4 nodes"),
        pytest.param(200, 9, 3200, id="LAN, 9 nodes"),
        pytest.param(200, 10, 6400, id="LAN, 10 nodes"),
    ],
)
def test_the_default_timeout(interval_ms: int, members: int, timeout_ms: int) -> None:
    assert default_timeout_ms(interval_ms, members) == timeout_ms
