"""The snapshot file: replay of recorded files, and what is written when."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from registry.membership.snapshot import (
    COMPACT_BYTES_MIN,
    FLUSH_INTERVAL_MS,
    SnapshotLog,
    SnapshotState,
    SnapshotWrite,
    replay,
)

VECTORS = Path(__file__).parent / "testdata" / "gossip"


@pytest.mark.parametrize("name", ["fact_snapshot_killed", "fact_snapshot_left"])
def test_recorded_files_replay(name: str) -> None:
    fact = json.loads((VECTORS / f"{name}.json").read_text())
    state, strange = replay(fact["text"].splitlines())
    assert state.alive == fact["replayed"]["alive"]
    clocks = {
        "clock": state.clock,
        "event-clock": state.event_clock,
        "query-clock": state.query_clock,
    }
    assert clocks == fact["replayed"]["clocks"]
    assert strange == []


def test_a_name_may_hold_spaces() -> None:
    state, _ = replay(["alive: my old node 10.0.0.1:8301"])
    assert state.alive == {"my old node": "10.0.0.1:8301"}


def test_a_leave_is_forgotten_when_rejoining_after_it() -> None:
    lines = ["alive: beta 10.0.0.1:8301", "clock: 9", "leave"]
    assert replay(lines)[0] == SnapshotState()
    state, _ = replay(lines, rejoin_after_leave=True)
    assert state.alive == {"beta": "10.0.0.1:8301"}
    assert state.clock == 9


@pytest.mark.parametrize(
    ("line", "strange"),
    [
        pytest.param("# a comment", False, id="comment"),
        pytest.param("coordinate: {}", False, id="older version"),
        pytest.param("", False, id="empty"),
        pytest.param("not-alive: nobody", False, id="unknown name"),
        pytest.param("clock: many", True, id="no number"),
        pytest.param("clock: -1", True, id="negative"),
        pytest.param("alive: 10.0.0.1:8301", True, id="no name"),
        pytest.param("rumour: beta", True, id="unknown kind"),
        pytest.param("alive", True, id="cut off"),
    ],
)
def test_lines_that_say_nothing(line: str, strange: bool) -> None:
    state, found = replay([f"{line}\n"])
    assert state == SnapshotState()
    assert found == ([line] if strange else [])


def log(size_bytes: int = 0, **options: bool) -> SnapshotLog:
    return SnapshotLog(SnapshotState(), size_bytes, **{"rejoin_after_leave": False, **options})


def test_lines_are_gathered_before_they_are_written() -> None:
    snapshot = log()
    snapshot.alive("beta", "10.0.0.2:8301", 1000)
    snapshot.clock(3, 1100)
    assert snapshot.next_deadline_ms == 1000 + FLUSH_INTERVAL_MS
    assert snapshot.take_write(1499) is None
    written = snapshot.take_write(1500)
    assert written == SnapshotWrite("alive: beta 10.0.0.2:8301\nclock: 3\n")
    assert snapshot.next_deadline_ms is None


def test_only_changes_are_noted() -> None:
    snapshot = log()
    snapshot.not_alive("nobody", 0)
    for time in (3, 3, 2):
        snapshot.clock(time, 0)
        snapshot.event_clock(time, 0)
        snapshot.query_clock(time, 0)
    written = snapshot.take_write(500)
    assert written is not None
    assert written.text == "clock: 3\nevent-clock: 3\nquery-clock: 3\n"


def test_a_leave_is_written_at_once_and_nothing_but_the_clock_follows() -> None:
    snapshot = log()
    snapshot.alive("beta", "10.0.0.2:8301", 0)
    snapshot.leave(10)
    snapshot.leave(10)
    assert snapshot.take_write(10) == SnapshotWrite("alive: beta 10.0.0.2:8301\nleave\n", sync=True)
    snapshot.alive("gamma", "10.0.0.3:8301", 20)
    snapshot.not_alive("beta", 20)
    snapshot.event_clock(7, 20)
    snapshot.query_clock(7, 20)
    assert snapshot.next_deadline_ms is None
    snapshot.clock(7, 20)
    assert snapshot.take_write(520) == SnapshotWrite("clock: 7\n")


@pytest.mark.parametrize("rejoin", [False, True])
def test_what_is_written_replays_to_what_happened(rejoin: bool) -> None:
    snapshot = log(rejoin_after_leave=rejoin)
    snapshot.alive("beta", "10.0.0.2:8301", 0)
    snapshot.alive("gamma", "10.0.0.3:8301", 0)
    snapshot.not_alive("beta", 0)
    snapshot.leave(0)
    written = snapshot.take_write(0)
    assert written is not None
    state, _ = replay(written.text.splitlines(), rejoin_after_leave=rejoin)
    assert state.alive == ({"gamma": "10.0.0.3:8301"} if rejoin else {})


def test_a_long_file_is_written_anew() -> None:
    snapshot = log(size_bytes=COMPACT_BYTES_MIN)
    snapshot.alive("beta", "10.0.0.2:8301", 0)
    snapshot.clock(5, 0)
    written = snapshot.take_write(500)
    text = "alive: beta 10.0.0.2:8301\nclock: 5\nevent-clock: 0\nquery-clock: 0\n"
    assert written == SnapshotWrite(text, replace=True, sync=True)
    snapshot.clock(6, 600)
    assert snapshot.take_write(1100) == SnapshotWrite("clock: 6\n")


def test_a_name_cannot_forge_a_line() -> None:
    snapshot = log()
    snapshot.alive("beta\nleave", "10.0.0.2:8301", 0)
    assert snapshot.next_deadline_ms is None
