"""What a server's Raft keeps on disk: append and cut, read back, compaction, and refusals."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from registry.errors import Corrupt, LocalProtocolError, StorageError
from registry.raft.disk import DiskLog, Identity, bootstrap
from registry.raft.messages import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Role,
    Server,
    SnapshotMeta,
)
from registry.storage.keys import RAFT, encode_u64
from registry.storage.memory import MemoryStore
from registry.storage.rocks import RocksStore
from registry.storage.store import Batch

ONE = Configuration((Server("a", "127.0.0.1:8300"),), index=1)
ME = Identity("a", "cluster-1")


def command(index: int, term: int, data: bytes = b"x") -> Entry:
    return Entry(index, term, EntryKind.COMMAND, data)


def configured(index: int, term: int, *ids: str) -> Entry:
    servers = tuple(Server(id_, f"{id_}:8300") for id_ in ids)
    return Entry(
        index, term, EntryKind.CONFIGURATION, msgspec.msgpack.encode(Configuration(servers))
    )


def filled(store: MemoryStore, *terms: int) -> DiskLog:
    """A log with one command per term given, from index 1 on."""
    log = DiskLog(store)
    log.save(
        HardState(max(terms, default=0)), [command(i, term) for i, term in enumerate(terms, 1)]
    )
    return log


def entry_key(index: int) -> bytes:
    return RAFT + b"l" + encode_u64(index)


def put(store: MemoryStore, key: bytes, value: bytes) -> None:
    batch = Batch()
    batch.put(key, value)
    store.write(batch)


def test_a_new_store_holds_nothing() -> None:
    log = DiskLog(MemoryStore())
    assert log.is_empty
    assert (log.first_index(), log.last_index()) == (1, 0)
    assert log.term(0) == 0
    assert log.term(1) is None
    assert log.snapshot_meta() is None
    assert log.hard_state == HardState()


def test_what_was_saved_is_read_back_after_reopening() -> None:
    store = MemoryStore()
    entries = [command(1, 1, b"one"), configured(2, 1, "a"), command(3, 4, b"")]
    DiskLog(store).save(HardState(4, "b"), entries)
    log = DiskLog(store)
    assert log.entries(1, 4, 1 << 20) == entries
    assert [log.term(i) for i in range(4)] == [0, 1, 1, 4]
    assert log.hard_state == HardState(4, "b")
    assert log.configuration == Configuration((Server("a", "a:8300"),), index=2)


def test_append_cuts_the_log_at_its_first_index() -> None:
    store = MemoryStore()
    log = filled(store, 1, 1, 1, 1)
    log.save(HardState(2), [command(3, 2, b"new")])
    for view in (log, DiskLog(store)):
        assert view.last_index() == 3
        assert view.entries(1, 4, 1 << 20)[-1] == command(3, 2, b"new")


def test_cutting_the_log_undoes_a_configuration() -> None:
    log = DiskLog(MemoryStore())
    log.save(HardState(1), [configured(1, 1, "a"), configured(2, 1, "a", "b")])
    assert [server.id for server in log.configuration.servers] == ["a", "b"]
    log.save(HardState(2), [command(2, 2)])
    assert [server.id for server in log.configuration.servers] == ["a"]


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([command(5, 1)], id="gap after the log"),
        pytest.param([command(3, 1), command(5, 1)], id="gap within"),
        pytest.param([command(0, 1)], id="before the log"),
    ],
)
def test_append_refuses_a_gap_and_changes_nothing(entries: list[Entry]) -> None:
    store = MemoryStore()
    log = filled(store, 1, 1)
    with pytest.raises(LocalProtocolError):
        log.save(HardState(9), entries)
    assert log.last_index() == 2
    assert DiskLog(store).hard_state == HardState(1)


def test_entries_are_limited_by_bytes_but_never_to_none() -> None:
    log = DiskLog(MemoryStore())
    log.save(HardState(1), [command(i, 1, b"d" * 1000) for i in range(1, 11)])
    assert [entry.index for entry in log.entries(3, 11, 2500)] == [3, 4]
    assert [entry.index for entry in log.entries(3, 11, 1)] == [3]
    assert log.entries(5, 5, 1000) == []
    with pytest.raises(LocalProtocolError):
        log.entries(9, 12, 1000)


def test_entries_older_than_the_window_come_from_the_store() -> None:
    log = DiskLog(MemoryStore(), window_bytes=2000)
    entries = [command(i, 1, b"%d" % i * 100) for i in range(1, 200)]
    for entry in entries:
        log.save(None if entry.index > 1 else HardState(1), [entry])
    assert log.entries(1, 200, 1 << 20) == entries
    assert log.entries(150, 160, 1 << 20) == entries[149:159]
    assert log.entries(197, 200, 1 << 20) == entries[196:]


def test_compaction_drops_entries_and_keeps_their_configuration() -> None:
    store = MemoryStore()
    log = DiskLog(store)
    log.save(
        HardState(3),
        [configured(1, 1, "a"), command(2, 2), configured(3, 2, "a", "b"), command(4, 3)],
    )
    base = log.compact(2)
    assert (base.index, base.term) == (2, 2)
    for view in (log, DiskLog(store)):
        assert (view.first_index(), view.last_index()) == (3, 4)
        assert [view.term(i) for i in range(1, 6)] == [None, 2, 2, 3, None]
        assert view.snapshot_meta() == base
        assert [server.id for server in base.configuration.servers] == ["a"]
        assert [server.id for server in view.configuration.servers] == ["a", "b"]
    log.compact(4)
    reopened = DiskLog(store)
    assert (reopened.first_index(), reopened.last_index()) == (5, 4)
    assert reopened.configuration.index == 3
    reopened.save(None, [command(5, 3)])
    assert DiskLog(store).last_index() == 5


def test_compaction_keeps_the_newest_entries_within_a_size() -> None:
    log = DiskLog(MemoryStore())
    log.save(HardState(1), [command(i, 1, b"d" * 880) for i in range(1, 101)])  # 1000 each
    assert log.index_keeping(30, 1 << 20) == 70
    assert log.index_keeping(30, 10_000) == 90
    assert log.index_keeping(500, 1 << 20) == 0


def test_installing_a_snapshot_replaces_the_log() -> None:
    store = MemoryStore()
    log = filled(store, 1, 1, 2, 2, 2, 2)
    meta = SnapshotMeta("3-4-ab", 4, 3, ONE, size=3)
    log.begin_install(meta)
    assert DiskLog(store).pending_install == meta
    log.finish_install(meta)
    for view in (log, DiskLog(store)):
        assert view.pending_install is None
        assert (view.first_index(), view.last_index()) == (5, 4)
        assert view.term(4) == 3
        assert view.configuration == ONE


def test_a_snapshot_beyond_the_log_replaces_it() -> None:
    store = MemoryStore()
    log = filled(store, 1, 1)
    log.finish_install(SnapshotMeta("5-90-ab", 90, 5, ONE), HardState(5))
    log.save(None, [command(91, 5)])
    reopened = DiskLog(store)
    assert (reopened.first_index(), reopened.last_index()) == (91, 91)


def test_identity_is_written_once() -> None:
    store = MemoryStore()
    DiskLog(store).establish(ME)
    DiskLog(store).establish(ME)
    with pytest.raises(StorageError, match="belongs to server a"):
        DiskLog(store).establish(Identity("b", "cluster-1"))


def test_bootstrap_writes_the_same_first_entry_whatever_the_order() -> None:
    servers = (Server("b", "b:1"), Server("a", "a:1"), Server("c", "c:1", Role.LEARNER))
    first, second = MemoryStore(), MemoryStore()
    bootstrap(first, Configuration(servers), Identity("a", "x"))
    bootstrap(second, Configuration(servers[::-1]), Identity("b", "x"))
    assert first.get(entry_key(1)) == second.get(entry_key(1))
    log = DiskLog(first)
    assert log.hard_state == HardState(1)
    assert [server.id for server in log.configuration.servers] == ["a", "b", "c"]
    assert log.configuration.index == 1


@pytest.mark.parametrize("state", ["term", "log", "snapshot"])
def test_bootstrap_refuses_existing_state(state: str) -> None:
    store = MemoryStore()
    log = DiskLog(store)
    if state == "snapshot":
        log.finish_install(SnapshotMeta("5-90-ab", 90, 5, ONE), HardState(5))
    else:
        log.save(HardState(1), [command(1, 1)] if state == "log" else [])
    with pytest.raises(LocalProtocolError):
        bootstrap(store, ONE, ME)


class TestCorruption:
    """Opening refuses whatever an intact store cannot hold (R-6, R-9)."""

    def test_missing_entry(self) -> None:
        store = MemoryStore()
        filled(store, 1, 1, 1)
        batch = Batch()
        batch.delete(entry_key(2))
        store.write(batch)
        with pytest.raises(Corrupt, match="entry 2 is missing"):
            DiskLog(store)

    @pytest.mark.parametrize("position", [0, 3, 4, 11, 12, 13])
    def test_flipped_bit_in_an_entry(self, position: int) -> None:
        store = MemoryStore()
        filled(store, 1, 1, 1)
        raw = bytearray(store.get(entry_key(2)) or b"")
        raw[position] ^= 1
        put(store, entry_key(2), bytes(raw))
        with pytest.raises(Corrupt, match="log entry 2"):
            DiskLog(store)

    def test_entry_in_another_place(self) -> None:
        store = MemoryStore()
        filled(store, 1, 1, 1)
        put(store, entry_key(2), store.get(entry_key(3)) or b"")
        with pytest.raises(Corrupt, match="log entry 2"):
            DiskLog(store)

    def test_truncated_entry(self) -> None:
        store = MemoryStore()
        filled(store, 1)
        put(store, entry_key(1), b"\x00\x00")
        with pytest.raises(Corrupt):
            DiskLog(store)

    @pytest.mark.parametrize("name", [b"h", b"i", b"b"])
    def test_flipped_bit_in_a_record(self, name: bytes) -> None:
        store = MemoryStore()
        log = filled(store, 1, 1)
        log.establish(ME)
        log.compact(1)
        raw = bytearray(store.get(RAFT + name) or b"")
        raw[-1] ^= 1
        put(store, RAFT + name, bytes(raw))
        with pytest.raises(Corrupt, match="checksum"):
            DiskLog(store)

    def test_term_going_back_within_the_log(self) -> None:
        store = MemoryStore()
        log = filled(store, 3)
        log.save(None, [command(2, 2)])
        with pytest.raises(Corrupt, match="goes back"):
            DiskLog(store)

    def test_log_ahead_of_the_term_on_disk(self) -> None:
        store = MemoryStore()
        DiskLog(store).save(HardState(1), [command(1, 2)])
        with pytest.raises(Corrupt, match="the term on disk is 1"):
            DiskLog(store)

    def test_window_read_back_that_differs(self) -> None:
        store = MemoryStore()
        log = DiskLog(store, window_bytes=100)
        log.save(HardState(1), [command(i, 1, b"d" * 500) for i in range(1, 10)])
        batch = Batch()
        batch.delete(entry_key(2))
        store.write(batch)
        with pytest.raises(Corrupt):
            log.entries(1, 4, 1 << 20)


def test_on_rocksdb(tmp_path: Path) -> None:
    """The same through the real engine: cut, compact, close and open again."""
    store = RocksStore.open(tmp_path / "raft")
    log = DiskLog(store)
    log.save(HardState(1), [command(i, 1, b"%d" % i) for i in range(1, 300)])
    log.save(HardState(2), [command(200, 2, b"other")])
    log.compact(150)
    store.sync()
    store.close()
    store = RocksStore.open(tmp_path / "raft")
    log = DiskLog(store)
    assert (log.first_index(), log.last_index()) == (151, 200)
    assert log.entries(151, 153, 1 << 20) == [command(151, 1, b"151"), command(152, 1, b"152")]
    assert log.term(200) == 2
    store.close()
