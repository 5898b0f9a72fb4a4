"""The core's view of the log: the tail over the stored part, conflicts, positions, snapshots."""

from __future__ import annotations

import random

import pytest

from registry.errors import LocalProtocolError
from registry.raft.invariants import BrokenPromise
from registry.raft.log import ENTRY_OVERHEAD_BYTES, RaftLog
from registry.raft.memory_log import MemoryLog
from registry.raft.messages import Entry, SnapshotMeta
from registry.testing.raft_cores import configuration_of, log_of

UNLIMITED = 1 << 40


def log_with(stored: list[int], tail: list[int], applied: int = 0) -> RaftLog:
    """A log with entries of these terms on disk and in memory."""
    log = RaftLog(MemoryLog(log_of(*stored)), applied)
    if tail:
        log.append(log_of(*tail, first=len(stored) + 1))
    return log


def meta(index: int, term: int) -> SnapshotMeta:
    return SnapshotMeta(f"{term}-{index}", index, term, configuration_of("a", index=1))


def terms(log: RaftLog) -> list[int | None]:
    return [log.term(index) for index in range(log.first_index, log.last_index + 1)]


def save(log: RaftLog, store: MemoryLog) -> None:
    """What a driver does with the unsaved part, up to the end of the sync."""
    entries, snapshot = log.take_unsaved()
    if snapshot is not None:
        store.install(snapshot)
    store.append(entries)
    log.mark_durable(log.last_index)


def test_terms_come_from_the_store_and_the_tail() -> None:
    log = log_with([1, 1], [2, 3])
    assert [log.term(index) for index in range(6)] == [0, 1, 1, 2, 3, None]
    assert (log.last_index, log.last_term) == (4, 3)


def test_an_empty_log_ends_at_zero() -> None:
    log = RaftLog(MemoryLog(), 0)
    assert (log.first_index, log.last_index, log.last_term) == (1, 0, 0)


def test_a_log_behind_a_snapshot_ends_with_the_snapshot() -> None:
    log = RaftLog(MemoryLog(base=meta(7, 3)), 7)
    assert (log.first_index, log.last_index, log.last_term) == (8, 7, 3)
    assert log.commit_index == 7


@pytest.mark.parametrize("applied", [6, 9])
def test_an_applied_state_that_does_not_belong_to_the_log_is_refused(applied: int) -> None:
    with pytest.raises(BrokenPromise, match="does not belong"):
        RaftLog(MemoryLog(log_of(3, first=8), base=meta(7, 3)), applied)


def test_entries_may_come_in_parts() -> None:
    log = log_with([1, 1], [2, 2])
    assert [e.index for e in log.entries(1, 5, UNLIMITED)] == [1, 2]  # the stored part first
    assert [e.index for e in log.entries(3, 5, UNLIMITED)] == [3, 4]


def test_entries_are_cut_by_size_but_never_to_nothing() -> None:
    log = RaftLog(MemoryLog(), 0)
    log.append([Entry(i, 1, log_of(1)[0].kind, b"x" * 100) for i in (1, 2, 3)])
    one = 100 + ENTRY_OVERHEAD_BYTES
    assert [len(log.entries(1, 4, size)) for size in (1, one, 2 * one, 3 * one)] == [1, 1, 2, 3]


@pytest.mark.parametrize(
    ("last_index", "last_term", "is_newer"),
    [
        pytest.param(5, 2, True, id="same last entry"),
        pytest.param(6, 2, True, id="longer"),
        pytest.param(4, 2, False, id="shorter"),
        pytest.param(1, 3, True, id="shorter, but of a later term"),
        pytest.param(9, 1, False, id="longer, but of an earlier term"),
    ],
)
def test_up_to_date(last_index: int, last_term: int, is_newer: bool) -> None:
    assert log_with([1, 1, 2], [2, 2]).is_up_to_date(last_index, last_term) is is_newer


@pytest.mark.parametrize(
    ("term", "index", "found"),
    [
        pytest.param(9, 8, 8, id="all are old enough"),
        pytest.param(9, 99, 8, id="no further than the log goes"),
        pytest.param(4, 8, 5, id="skips a whole term"),
        pytest.param(3, 8, 3, id="between two terms"),
        pytest.param(2, 2, 2, id="from the middle of a term"),
        pytest.param(1, 8, 0, id="none is old enough"),
    ],
)
def test_last_index_with_term_up_to(term: int, index: int, found: int) -> None:
    assert log_with([2, 2, 2], [4, 4, 7, 7, 7]).last_index_with_term_up_to(term, index) == found


def test_the_search_by_term_stops_at_the_snapshot() -> None:
    log = RaftLog(MemoryLog(log_of(5, 5, first=8), base=meta(7, 3)), 7)
    assert log.last_index_with_term_up_to(1, 9) == 7
    assert log.last_index_with_term_up_to(9, 3) == 3


@pytest.mark.parametrize(
    ("offered", "first", "position"),
    [
        pytest.param([], 1, 0, id="nothing"),
        pytest.param([1, 1, 2], 1, 3, id="all present"),
        pytest.param([2], 3, 1, id="one of them present"),
        pytest.param([3, 3], 6, 0, id="just behind the end"),
        pytest.param([2, 2, 2, 5], 3, 3, id="three present, one new"),
        pytest.param([1, 3, 3], 2, 1, id="conflict at the second"),
        pytest.param([4], 1, 0, id="conflict at the first entry"),
    ],
)
def test_first_conflict(offered: list[int], first: int, position: int) -> None:
    log = log_with([1, 1, 2], [2, 2])
    assert log.first_conflict(log_of(*offered, first=first)) == position


def test_what_a_snapshot_covers_is_no_conflict() -> None:
    log = RaftLog(MemoryLog(log_of(3, first=8), base=meta(7, 3)), 7)
    assert log.first_conflict(log_of(1, 3, 3, first=6)) == 3


@pytest.mark.parametrize("index", [2, 3, 4, 5], ids=lambda index: f"from {index}")
def test_truncation_reaches_into_the_store(index: int) -> None:
    store = MemoryLog(log_of(1, 1, 2))
    log = RaftLog(store, 1)
    log.append(log_of(2, 2, first=4))
    log.truncate(index)
    assert terms(log) == [1, 1, 2, 2, 2][: index - 1]
    assert log.last_term == [0, 1, 1, 2, 2][index - 1]
    assert log.durable_index == min(3, index - 1)
    log.append(log_of(5, first=index))
    save(log, store)
    assert terms(log) == [*[1, 1, 2, 2, 2][: index - 1], 5]
    assert store.last_index() == log.durable_index == index


def test_a_committed_entry_is_never_overwritten() -> None:
    log = log_with([1, 1], [])
    log.commit_to(2)
    with pytest.raises(BrokenPromise, match="index=2 commit=2"):
        log.truncate(2)


def test_commit_only_rises_and_never_beyond_the_end() -> None:
    log = log_with([1, 1, 1], [])
    assert log.commit_to(2)
    assert not log.commit_to(1)
    assert log.commit_index == 2
    with pytest.raises(BrokenPromise, match="wiped"):
        log.commit_to(4)


def test_entries_are_handed_to_the_disk_once() -> None:
    log = log_with([1], [1, 1])
    assert log.has_unsaved
    assert [e.index for e in log.take_unsaved()[0]] == [2, 3]
    assert not log.has_unsaved
    log.append(log_of(2, first=4))
    assert [e.index for e in log.take_unsaved()[0]] == [4]


def test_entries_are_handed_out_to_be_applied_once_and_in_order() -> None:
    log = log_with([1, 1], [2, 2])
    log.commit_to(4)
    assert [e.index for e in log.take_committed(4, UNLIMITED)] == [1, 2]
    assert [e.index for e in log.take_committed(3, UNLIMITED)] == [3]
    assert log.take_committed(3, UNLIMITED) == ()
    log.mark_applied(3)
    assert log.applied_index == 3


def test_what_was_not_handed_out_can_not_be_applied() -> None:
    with pytest.raises(LocalProtocolError, match="only 0"):
        log_with([1, 1], []).mark_applied(1)


def test_the_tail_is_forgotten_once_durable_and_handed_out() -> None:
    store = MemoryLog()
    log = RaftLog(store, 0)
    log.append(log_of(1, 1, 1))
    save(log, store)
    log.commit_to(2)
    store_reads = [e.index for e in log.take_committed(2, UNLIMITED)]
    assert store_reads == [1, 2]
    store.append(log_of(9, 9, first=1))  # what is read now comes from the store
    assert log.term(1) == 9
    assert log.term(3) == 1


def test_a_late_report_of_durability_changes_nothing() -> None:
    log = log_with([1, 1], [2])
    log.mark_durable(1)
    assert log.durable_index == 2


def test_a_snapshot_replaces_the_log() -> None:
    store = MemoryLog(log_of(1, 1, 1))
    log = RaftLog(store, 1)
    log.append(log_of(1, 1, first=4))
    log.restore(meta(9, 4))
    assert (log.first_index, log.last_index, log.last_term) == (10, 9, 4)
    assert (log.commit_index, log.durable_index, log.applied_index) == (9, 1, 1)
    assert (log.term(9), log.term(8), log.term(3)) == (4, None, None)
    assert log.snapshot_meta == meta(9, 4)
    log.append(log_of(5, first=10))
    assert log.term(10) == 5
    log.append(log_of(5, first=11))
    assert log.term(9) == 4
    save(log, store)
    assert (log.durable_index, log.applied_index, store.first_index()) == (11, 9, 10)
    assert log.term(9) == 4
    assert not log.has_unsaved


def test_random_histories_agree_with_a_plain_list() -> None:
    """Appends, truncations, saves and applies in any order: the view is always the list's."""
    rng = random.Random(7)
    for _ in range(50):
        store, model, term = MemoryLog(), list[int](), 1
        log = RaftLog(store, 0)
        for _ in range(60):
            match rng.randrange(5):
                case 0 | 1:
                    count = rng.randrange(1, 4)
                    log.append(log_of(*[term] * count, first=len(model) + 1))
                    model += [term] * count
                case 2 if len(model) > log.commit_index:
                    index = rng.randrange(log.commit_index + 1, len(model) + 1)
                    log.truncate(index)
                    del model[index - 1 :]
                    term += 1
                case 3:
                    save(log, store)
                case 4:
                    log.commit_to(rng.randrange(log.commit_index, log.durable_index + 1))
                    taken = log.take_committed(log.durable_index, rng.choice((1, UNLIMITED)))
                    assert [e.term for e in taken] == model[
                        log.handed_out - len(taken) : log.handed_out
                    ]
            assert terms(log) == model
            assert log.last_term == (model[-1] if model else 0)
