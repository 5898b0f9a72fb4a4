"""The store by itself: told changes in any way that a server tells them, and asked for the past."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# The package stands beside its tests and need not be installed to be tested.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from registry_history.store import HistoryStore, NotKept, Version

from registry.hooks import Change, Origin, PlaceLost

DAY_MS = 24 * 3600 * 1000


def put(index: int, key: str, value: bytes, sequence: int = 0, **more: Any) -> Change:
    """A write; `written` is the index of the write itself where the state is told again."""
    entry = {
        "Value": value,
        "Flags": more.get("flags", 0),
        "Session": "",
        "LockIndex": 0,
        "CreateIndex": 1,
        "ModifyIndex": more.get("written", index),
    }
    return change(index, "kv", key, entry, sequence, origin=more.get("origin"))


def delete(index: int, key: str, sequence: int = 0) -> Change:
    return change(index, "kv", key, None, sequence)


def change(
    index: int, kind: str, key: str = "", value: Any = None, sequence: int = 0, **more: Any
) -> Change:
    # An index stands for a minute.
    time_ms = index * 60_000
    return Change(
        index=index, sequence=sequence, time_ms=time_ms, kind=kind, key=key, value=value, **more
    )


def told(index: int, *entries: tuple[str, bytes, int]) -> list[Change]:
    """The whole state at an index: keys, values and the indexes of their writes."""
    changes = [change(index, "reset")]
    for place, (key, value, written) in enumerate(entries, 1):
        changes.append(put(index, key, value, place * 2, written=written))
    return [*changes, change(index, "complete", sequence=len(entries) * 2 + 2)]


def open_store(path: Path, versions_max: int = 100, age_ms_max: int | None = None) -> HistoryStore:
    return HistoryStore(path / "history.db", versions_max=versions_max, age_ms_max=age_ms_max)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[HistoryStore]:
    """One that was told an empty state at index 1."""
    opened = open_store(tmp_path)
    opened.apply(told(1))
    yield opened
    opened.close()


def listed(store: HistoryStore, key: bytes) -> list[tuple[int, bytes | None]]:
    return [(each.index, each.value) for each in store.versions(key, limit=1000).versions]


def value_at(store: HistoryStore, key: bytes, index: int) -> bytes | None:
    version = store.at(key, index)
    return None if version is None else version.value


def test_versions_say_when_who_and_why(store: HistoryStore) -> None:
    origin = Origin("192.0.2.1", "because")
    store.apply([put(5, "a", b"1", flags=2**64 - 1, origin=origin), delete(6, "a")])
    deleted, written = store.versions(b"a", limit=10).versions
    assert written == Version(
        key=b"a",
        index=5,
        modify_index=5,
        time_ms=300_000,
        value=b"1",
        flags=2**64 - 1,
        client="192.0.2.1",
        reason="because",
    )
    assert (deleted.index, deleted.is_deletion, deleted.time_ms) == (6, True, 360_000)


def test_what_comes_again_changes_nothing(store: HistoryStore) -> None:
    changes = [
        put(5, "a", b"1", 0),
        put(5, "b", b"1", 2),
        put(6, "a", b"2"),
        delete(7, "b"),
        put(8, "b", b"3"),
    ]
    for start in range(len(changes)):
        store.apply(changes[: start + 1])
        store.apply(changes[start:])
    assert listed(store, b"a") == [(6, b"2"), (5, b"1")]
    assert listed(store, b"b") == [(8, b"3"), (7, None), (5, b"1")]


def test_it_is_there_after_opening_again(store: HistoryStore, tmp_path: Path) -> None:
    store.apply([put(5, "a", b"1")])
    store.close()
    again = open_store(tmp_path)
    again.apply([put(5, "a", b"1"), put(6, "a", b"2")])
    assert listed(again, b"a") == [(6, b"2"), (5, b"1")]
    again.close()


def test_a_new_file_wants_to_be_told_everything(tmp_path: Path) -> None:
    new = open_store(tmp_path)
    with pytest.raises(PlaceLost):
        new.apply([put(5, "a", b"1")])
    assert listed(new, b"a") == []
    new.close()


def test_being_told_is_begun_anew_after_a_restart(tmp_path: Path) -> None:
    changes = told(9, ("a", b"1", 3), ("b", b"1", 4))
    first = open_store(tmp_path)
    first.apply(changes[:2])
    with pytest.raises(NotKept, match="is being told the state"):
        first.at(b"a", 3)
    first.close()
    again = open_store(tmp_path)
    with pytest.raises(PlaceLost):
        again.apply([put(10, "c", b"1")])
    again.apply(changes)
    assert listed(again, b"a") == [(3, b"1")]
    assert again.place.begun == 9
    again.close()


def test_a_batch_that_fails_leaves_nothing(store: HistoryStore) -> None:
    with pytest.raises(TypeError):
        store.apply([put(5, "a", b"1"), change(6, "kv", "b", value=7)])
    assert listed(store, b"a") == []
    store.apply([put(5, "a", b"1")])
    assert listed(store, b"a") == [(5, b"1")]


class TestReset:
    def test_what_was_there_before_the_history(self, tmp_path: Path) -> None:
        store = open_store(tmp_path)
        store.apply(told(9, ("a", b"1", 3)))
        (version,) = store.versions(b"a", limit=10).versions
        assert (version.index, version.time_ms) == (3, None)
        assert value_at(store, b"a", 3) == b"1"
        with pytest.raises(NotKept, match="index 2 is before the history, whose first index is 9"):
            store.at(b"a", 2)
        with pytest.raises(NotKept, match="index 8 is before the history"):
            store.tree_at(b"", 8)  # something else may have been deleted by then
        store.close()

    def test_changed_and_gone_in_between(self, store: HistoryStore) -> None:
        store.apply([put(5, key, b"1", place) for place, key in enumerate("abc")])
        store.apply(told(20, ("a", b"1", 5), ("b", b"2", 15), ("d", b"1", 16)))
        assert listed(store, b"a") == [(5, b"1")]
        assert listed(store, b"b") == [(15, b"2"), (5, b"1")]
        assert listed(store, b"c") == [(20, None), (5, b"1")]
        assert listed(store, b"d") == [(16, b"1")]
        for key in (b"b", b"c", b"d"):
            assert store.versions(key, limit=1).versions[0].time_ms is None
        store.apply([put(21, "c", b"3")])
        assert listed(store, b"c")[0] == (21, b"3")

    def test_the_gap_is_not_guessed(self, store: HistoryStore) -> None:
        store.apply([put(5, "a", b"1", 0), put(5, "b", b"1", 2)])
        store.apply(told(20, ("a", b"2", 15)))
        text = "what happened between the indexes 5 and 20 was not told"
        assert value_at(store, b"a", 5) == b"1"
        with pytest.raises(NotKept, match=text):
            store.at(b"a", 14)
        assert value_at(store, b"a", 15) == b"2"
        with pytest.raises(NotKept, match=text):
            store.at(b"b", 15)
        with pytest.raises(NotKept, match=text):
            store.tree_at(b"", 15)
        assert set(store.tree_at(b"", 5)) == {b"a", b"b"}
        assert set(store.tree_at(b"", 20)) == {b"a"}

    def test_a_restored_snapshot_puts_old_writes_back(self, store: HistoryStore) -> None:
        store.apply([put(5, "a", b"1"), put(6, "a", b"2")])
        store.apply(told(7, ("a", b"1", 5)))
        assert listed(store, b"a") == [(7, b"1"), (6, b"2"), (5, b"1")]
        store.apply(told(9, ("a", b"1", 5)))
        assert listed(store, b"a") == [(7, b"1"), (6, b"2"), (5, b"1")]

    def test_a_server_that_lost_a_little(self, store: HistoryStore) -> None:
        store.apply([put(5, "a", b"1"), put(6, "a", b"2"), delete(7, "a")])
        store.apply(told(5, ("a", b"1", 5)))
        assert listed(store, b"a") == [(5, b"1")]
        store.apply([put(6, "a", b"2")])
        assert listed(store, b"a") == [(6, b"2"), (5, b"1")]
        assert value_at(store, b"a", 5) == b"1"

    def test_an_empty_state(self, store: HistoryStore) -> None:
        store.apply([put(5, "a", b"1")])
        store.apply(told(8))
        assert listed(store, b"a") == [(8, None), (5, b"1")]


class TestForgetting:
    def test_by_count(self, tmp_path: Path) -> None:
        store = open_store(tmp_path, versions_max=3)
        store.apply(told(1))
        store.apply([put(index, "a", b"%d" % index) for index in range(2, 8)])
        store.apply([put(8, "b", b"1")])
        assert listed(store, b"a") == [(7, b"7"), (6, b"6"), (5, b"5")]
        text = "the versions of a before index 5 were forgotten"
        with pytest.raises(NotKept, match=text):
            store.at(b"a", 4)
        with pytest.raises(NotKept, match=text):
            store.tree_at(b"", 4)
        assert store.at(b"b", 4) is None
        assert value_at(store, b"a", 5) == b"5"
        store.close()

    def test_fewer_after_a_reload(self, store: HistoryStore) -> None:
        store.apply([put(index, "a", b"%d" % index) for index in range(2, 8)])
        store.versions_max = 1
        store.prune(0)
        assert listed(store, b"a") == [(7, b"7")]

    def test_by_age(self, tmp_path: Path) -> None:
        """What was in force within the time is kept, and what is in force always."""
        store = open_store(tmp_path, age_ms_max=DAY_MS)
        store.apply(told(1))
        store.apply([put(2, "a", b"1"), put(3, "a", b"2"), put(5, "a", b"3"), put(6, "b", b"1")])
        store.prune(DAY_MS + 4 * 60_000)
        assert listed(store, b"a") == [(5, b"3"), (3, b"2")]
        with pytest.raises(NotKept, match="index 2 is before the history, whose first index is 3"):
            store.tree_at(b"", 2)
        store.prune(1000 * DAY_MS)
        assert listed(store, b"a") == [(5, b"3")]
        assert listed(store, b"b") == [(6, b"1")]
        store.close()

    def test_a_deleted_key_is_forgotten_whole(self, tmp_path: Path) -> None:
        store = open_store(tmp_path, age_ms_max=DAY_MS)
        store.apply([*told(1), put(2, "a", b"1"), delete(3, "a"), put(4, "b", b"1")])
        store.prune(DAY_MS + 4 * 60_000)
        assert listed(store, b"a") == []
        assert store.at(b"a", 4) is None
        with pytest.raises(NotKept, match="is before the history"):
            store.at(b"a", 2)
        store.close()


class TestReading:
    def test_pages_and_ranges(self, store: HistoryStore) -> None:
        store.apply([put(index, "a", b"x" * 10) for index in range(2, 12)])
        page = store.versions(b"a", from_index=3, to_index=9, limit=4)
        assert [each.index for each in page.versions] == [9, 8, 7, 6]
        page = store.versions(b"a", from_index=3, to_index=page.next_index, limit=4)
        assert [each.index for each in page.versions] == [5, 4, 3]
        assert page.next_index is None

    def test_a_page_is_bounded_in_bytes(self, store: HistoryStore) -> None:
        store.apply([put(index, "a", b"x" * 10) for index in range(2, 8)])
        page = store.versions(b"a", limit=100, bytes_max=25)
        assert [each.index for each in page.versions] == [7, 6]
        assert page.next_index == 5
        page = store.versions(b"a", limit=100, bytes_max=5)
        assert len(page.versions) == 1

    def test_beyond_the_history(self, store: HistoryStore) -> None:
        with pytest.raises(NotKept, match="index 2 is beyond the history, whose last index is 1"):
            store.at(b"a", 2)

    def test_tree(self, store: HistoryStore) -> None:
        store.apply([put(2, "app/a", b"1"), put(3, "app/b", b"1"), put(4, "apq", b"1")])
        store.apply([put(5, "app/a", b"2"), delete(6, "app/b"), put(7, "app/\udcff", b"3")])
        trees = {
            index: {key: each.value for key, each in store.tree_at(b"app/", index).items()}
            for index in (1, 3, 5, 7)
        }
        assert trees == {
            1: {},
            3: {b"app/a": b"1", b"app/b": b"1"},
            5: {b"app/a": b"2", b"app/b": b"1"},
            7: {b"app/a": b"2", b"app/\xff": b"3"},
        }
        assert len(store.tree_at(b"", 7)) == 3

    def test_difference(self, store: HistoryStore) -> None:
        store.apply([put(2, "a", b"1"), put(3, "b", b"1"), put(4, "c", b"1"), put(5, "d", b"1")])
        store.apply([put(6, "a", b"2"), delete(7, "b"), put(8, "c", b"2"), put(9, "c", b"1")])
        store.apply([put(10, "e", b"1"), put(11, "d", b"1", flags=1)])

        def differences(low: int, high: int, **more: Any) -> list[tuple[bytes, Any, Any]]:
            page = store.tree_difference(b"", low, high, **{"limit": 100, **more})
            return [
                (each.key, each.before and each.before.index, each.after and each.after.index)
                for each in page.differences
            ]

        expected = [(b"a", 2, 6), (b"b", 3, None), (b"d", 5, 11), (b"e", None, 10)]
        assert differences(5, 11) == expected
        assert differences(11, 5) == [(key, after, before) for key, before, after in expected]
        page = store.tree_difference(b"", 5, 11, limit=2)
        assert [each.key for each in page.differences] == [b"a", b"b"]
        assert page.next_key == b"d"
        assert differences(5, 11, start_key=b"d") == expected[2:]
        assert store.difference(b"c", 5, 11).differences == []
        assert len(store.difference(b"a", 5, 11).differences) == 1


def test_a_file_of_another_format_is_left_alone(tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "history.db") as database:
        database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(RuntimeError, match="of format 99, this plugin's is 1"):
        open_store(tmp_path)
