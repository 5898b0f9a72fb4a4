"""The member table: what a word of the lower layer means in each state."""

from __future__ import annotations

import pytest

from registry.membership.member_table import MemberTable
from registry.membership.serf_values import Member, MemberEventKind, MemberStatus

BETA = Member("beta", "10.0.0.2", 7946)


def table() -> MemberTable:
    return MemberTable(recent_intent_timeout_ms=300_000)


def having(status: MemberStatus) -> MemberTable:
    """A table in which beta got to `status` in the usual way, with status time 5."""
    made = table()
    made.joined(BETA)
    made.join_intent("beta", 4, 0)
    if status in (MemberStatus.LEAVING, MemberStatus.LEFT):
        made.leave_intent("beta", 5, 0)
    else:
        made.join_intent("beta", 5, 0)
    if status in (MemberStatus.LEFT, MemberStatus.FAILED):
        made.gone("beta", 0)
    return made


@pytest.mark.parametrize(
    ("before", "kind", "after"),
    [
        (MemberStatus.ALIVE, MemberEventKind.FAILED, MemberStatus.FAILED),
        (MemberStatus.LEAVING, MemberEventKind.LEAVE, MemberStatus.LEFT),
        (MemberStatus.LEFT, None, MemberStatus.LEFT),
        (MemberStatus.FAILED, None, MemberStatus.FAILED),
    ],
)
def test_the_lower_layer_says_it_is_gone(
    before: MemberStatus, kind: MemberEventKind | None, after: MemberStatus
) -> None:
    made = having(before)
    event = made.gone("beta", 0)
    assert (event.kind if event else None) is kind
    assert [member.status for member in made] == [after]


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (MemberStatus.ALIVE, MemberStatus.LEAVING, None),
        (MemberStatus.LEAVING, MemberStatus.LEAVING, None),
        (MemberStatus.LEFT, MemberStatus.LEFT, None),
        (MemberStatus.FAILED, MemberStatus.LEFT, MemberEventKind.LEAVE),
    ],
)
def test_a_newer_leave_intent(
    before: MemberStatus, after: MemberStatus, kind: MemberEventKind | None
) -> None:
    made = having(before)
    verdict = made.leave_intent("beta", 6, 0)
    assert verdict.gossip_on
    assert (verdict.event.kind if verdict.event else None) is kind
    assert [member.status for member in made] == [after]
    assert made.status_times() == {"beta": 6}


def test_a_guessed_time_is_compared_and_not_kept() -> None:
    made = having(MemberStatus.ALIVE)
    assert not made.leave_intent("beta", 5, 0, is_guess=True).gossip_on
    assert made.leave_intent("beta", 6, 0, is_guess=True).gossip_on
    assert made.status_times() == {"beta": 5}
    made.join_intent("beta", 6, 0)
    assert [member.status for member in made] == [MemberStatus.ALIVE]

    made = table()
    made.leave_intent("beta", 6, 0, is_guess=True)
    assert made.joined(BETA).member.status is MemberStatus.LEAVING
    assert made.status_times() == {"beta": 5}


@pytest.mark.parametrize("status", [s for s in MemberStatus if s is not MemberStatus.NONE])
def test_an_intent_that_is_not_newer_is_ignored(status: MemberStatus) -> None:
    made = having(status)
    assert not made.leave_intent("beta", 5, 0, prune=True).gossip_on
    assert not made.join_intent("beta", 5, 0).gossip_on
    assert [member.status for member in made] == [status]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (MemberStatus.ALIVE, MemberStatus.ALIVE),
        (MemberStatus.LEAVING, MemberStatus.ALIVE),
        (MemberStatus.LEFT, MemberStatus.LEFT),
        (MemberStatus.FAILED, MemberStatus.FAILED),
    ],
)
def test_a_newer_join_intent(before: MemberStatus, after: MemberStatus) -> None:
    made = having(before)
    assert made.join_intent("beta", 6, 0).gossip_on
    assert [member.status for member in made] == [after]


@pytest.mark.parametrize("status", [s for s in MemberStatus if s is not MemberStatus.NONE])
def test_who_joins_is_alive_whatever_was_before(status: MemberStatus) -> None:
    made = having(status)
    event = made.joined(BETA)
    assert (event.kind, event.member.status) == (MemberEventKind.JOIN, MemberStatus.ALIVE)
    assert made.status_times() == {"beta": 5}


def test_an_intent_that_came_first_decides_how_a_member_begins() -> None:
    made = table()
    assert made.leave_intent("beta", 7, 0).gossip_on
    assert not made.leave_intent("beta", 7, 0).gossip_on
    assert made.joined(BETA).member.status is MemberStatus.LEAVING
    assert made.status_times() == {"beta": 7}

    made = table()
    assert made.join_intent("beta", 8, 0).gossip_on
    assert made.joined(BETA).member.status is MemberStatus.ALIVE
    assert made.status_times() == {"beta": 8}


def test_nobody_hears_of_a_member_that_is_not_known() -> None:
    made = table()
    assert made.gone("beta", 0) is None
    assert made.updated(BETA) is None
    assert made.erase("beta") is None
    assert made.get("beta") is None
    assert not made.is_stale("beta", 0)


def test_only_members_that_are_gone_are_forgotten_each_in_its_time() -> None:
    for status, after_ms in ((MemberStatus.FAILED, 100), (MemberStatus.LEFT, 200)):
        made = having(status)
        assert made.due(after_ms, failed_after_ms=100, left_after_ms=200) == []
        assert made.due(after_ms + 1, failed_after_ms=100, left_after_ms=200) == ["beta"]
    alive = having(MemberStatus.ALIVE)
    assert alive.due(1000, failed_after_ms=100, left_after_ms=200) == []
    assert alive.erase("beta") is None
