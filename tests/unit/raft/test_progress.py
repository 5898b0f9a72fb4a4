"""What a leader knows of a peer: states, windows, and which answers count."""

from __future__ import annotations

import pytest

from registry.raft.progress import Inflight, Progress, ProgressState

PROBE, REPLICATE, SNAPSHOT = ProgressState.PROBE, ProgressState.REPLICATE, ProgressState.SNAPSHOT


def progress(state: ProgressState, match: int, next_: int, *, messages_max: int = 3) -> Progress:
    return Progress(
        next=next_, inflight=Inflight(messages_max, 1000), heard_at=0, match=match, state=state
    )


def position(p: Progress) -> tuple[ProgressState, int, int]:
    return p.state, p.match, p.next


@pytest.mark.parametrize(
    ("before", "match_index", "after", "is_news"),
    [
        pytest.param((PROBE, 0, 5), 4, (REPLICATE, 4, 5), True, id="empty probe fits"),
        pytest.param((PROBE, 0, 5), 9, (REPLICATE, 9, 10), True, id="probe with entries fits"),
        pytest.param((PROBE, 2, 9), 4, (PROBE, 4, 9), True, id="late answer to an earlier append"),
        pytest.param((PROBE, 4, 5), 4, (REPLICATE, 4, 5), False, id="nothing new, but it fits"),
        pytest.param((REPLICATE, 4, 9), 6, (REPLICATE, 6, 9), True, id="pipelined"),
        pytest.param((REPLICATE, 6, 9), 4, (REPLICATE, 6, 9), False, id="repeated answer"),
        pytest.param((SNAPSHOT, 2, 3), 8, (SNAPSHOT, 8, 9), True, id="snapshot: stays"),
    ],
)
def test_success(
    before: tuple[ProgressState, int, int],
    match_index: int,
    after: tuple[ProgressState, int, int],
    is_news: bool,
) -> None:
    p = progress(*before)
    assert p.succeeded(match_index) is is_news
    assert position(p) == after


@pytest.mark.parametrize(
    ("before", "rejected_prev", "retry_from", "after", "counts"),
    [
        pytest.param((PROBE, 2, 9), 8, 5, (PROBE, 2, 5), True, id="probe: follow the hint"),
        pytest.param((PROBE, 2, 9), 8, 1, (PROBE, 2, 3), True, id="never below match + 1"),
        pytest.param((PROBE, 2, 9), 8, 20, (PROBE, 2, 8), True, id="never above what was tried"),
        pytest.param((PROBE, 2, 9), 6, 4, (PROBE, 2, 9), False, id="not the one being probed"),
        pytest.param((REPLICATE, 4, 9), 6, 2, (PROBE, 4, 5), True, id="pipelined: back to match"),
        pytest.param((REPLICATE, 4, 9), 4, 2, (REPLICATE, 4, 9), False, id="at match: stale"),
        pytest.param((REPLICATE, 4, 9), 9, 2, (REPLICATE, 4, 9), False, id="never sent since"),
        pytest.param((SNAPSHOT, 2, 3), 2, 1, (SNAPSHOT, 2, 3), False, id="while a snapshot goes"),
    ],
)
def test_refusal(
    before: tuple[ProgressState, int, int],
    rejected_prev: int,
    retry_from: int,
    after: tuple[ProgressState, int, int],
    counts: bool,
) -> None:
    p = progress(*before)
    assert p.refused(rejected_prev, retry_from) is counts
    assert position(p) == after


def test_a_probe_waits_for_its_answer_or_a_heartbeat() -> None:
    p = progress(PROBE, 0, 5)
    assert not p.is_paused
    p.sent(7, 10)
    assert p.is_paused
    assert p.next == 5  # not known to be there
    p.heartbeat_answered()
    assert not p.is_paused


def test_replication_runs_ahead_until_the_window_is_full() -> None:
    p = progress(REPLICATE, 4, 5, messages_max=2)
    p.sent(6, 10)
    p.sent(8, 10)
    assert p.next == 9
    assert p.is_paused
    p.heartbeat_answered()  # the oldest is given up for lost
    assert not p.is_paused
    assert len(p.inflight) == 1


def test_a_heartbeat_answer_frees_nothing_while_there_is_room() -> None:
    p = progress(REPLICATE, 4, 5)
    p.sent(6, 10)
    p.heartbeat_answered()
    assert len(p.inflight) == 1


def test_a_window_counts_bytes_and_lets_one_message_in_however_large() -> None:
    window = Inflight(100, 1000)
    assert not window.is_full
    window.add(5, 5000)
    assert window.is_full
    assert window.room_bytes < 0
    window.free_up_to(4)
    assert window.is_full
    window.free_up_to(5)
    assert (len(window), window.bytes_sent) == (0, 0)


def test_an_answer_frees_all_messages_up_to_it() -> None:
    window = Inflight(100, 1000)
    for index in (3, 6, 9):
        window.add(index, 10)
    window.free_up_to(7)
    assert (len(window), window.bytes_sent) == (1, 10)


def test_a_lost_connection_sends_replication_back_to_probing() -> None:
    p = progress(REPLICATE, 4, 5)
    p.sent(9, 10)
    p.connection_lost()
    assert position(p) == (PROBE, 4, 5)
    assert len(p.inflight) == 0


@pytest.mark.parametrize("state", [PROBE, SNAPSHOT])
def test_a_lost_connection_changes_nothing_else(state: ProgressState) -> None:
    p = progress(state, 4, 7)
    p.connection_lost()
    assert position(p) == (state, 4, 7)


def test_a_finished_snapshot_is_probed_from() -> None:
    p = progress(PROBE, 0, 1)
    p.become_snapshot()
    assert p.is_paused
    p.snapshot_finished(20)
    assert position(p) == (PROBE, 0, 21)
    assert not p.is_paused


def test_a_failed_snapshot_waits_for_a_sign_of_life() -> None:
    p = progress(PROBE, 3, 4)
    p.become_snapshot()
    p.snapshot_finished(0)
    assert position(p) == (PROBE, 3, 4)
    assert p.is_paused
    p.heartbeat_answered()
    assert not p.is_paused


def test_a_report_of_no_running_snapshot_is_ignored() -> None:
    p = progress(REPLICATE, 4, 9)
    p.snapshot_finished(20)
    assert position(p) == (REPLICATE, 4, 9)


def test_the_view_is_a_copy() -> None:
    p = progress(REPLICATE, 4, 9)
    view = p.view(now=7, is_voter=True)
    p.match = 5
    assert (view.match, view.ticks_since_heard, view.is_voter, view.is_departing) == (
        4,
        7,
        True,
        False,
    )
