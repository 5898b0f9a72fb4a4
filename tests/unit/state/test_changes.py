"""The journal: what each command changed, in order, until everybody has had it."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import msgspec
import pytest

from registry.state import changes as module
from registry.state.base import Origin
from registry.state.catalog_commands import Deregister, Register
from registry.state.catalog_records import Check
from registry.state.changes import LAST, ChangeJournal, Cursor, Row
from registry.state.kv import ENTRIES, KvCas, KvDelete, KvDeleteTree, KvSet
from registry.state.machine import StateMachine, dump_payloads
from registry.state.restore import FinishRestore, StageRestore
from registry.state.sinks import AdvanceSink, sink_cursor
from registry.state.txn import KvOperation, Txn
from registry.storage.memory import MemoryStore
from registry.storage.rocks import RocksStore
from registry.testing.state import START_MS, Replica

BEGIN = Cursor(0, LAST)


def following(replica: Replica) -> ChangeJournal:
    return replica.machine.keep_changes()


def keys(journal: ChangeJournal, after: Cursor = BEGIN) -> list[tuple[int, int, bytes, bool]]:
    """Index, sequence, KV key (or row key), and whether it is there afterwards."""
    return [
        (cursor.index, cursor.sequence, row.key.removeprefix(ENTRIES), row.value is not None)
        for cursor, row in journal.read(after, 1000)
    ]


def test_each_command_of_a_batch_has_its_own_place() -> None:
    replica = Replica()
    journal = following(replica)
    replica.apply_all([KvSet(key=b"a", value=b"1"), KvSet(key=b"b"), KvSet(key=b"a", value=b"2")])
    assert keys(journal) == [(1, 0, b"a", True), (2, 0, b"b", True), (3, 0, b"a", True)]
    values = [row.value for _, row in journal.read(BEGIN, 10)]
    assert values[0] != values[2]


def test_what_changes_nothing_leaves_no_row() -> None:
    replica = Replica()
    journal = following(replica)
    replica.apply_all([KvSet(key=b"a"), KvSet(key=b"a"), KvCas(key=b"a", index=9)])
    replica.apply_all([KvDelete(key=b"gone")])
    assert keys(journal) == [(1, 0, b"a", True)]
    assert journal.span.until == 4


def test_a_refused_command_leaves_no_row() -> None:
    replica = Replica()
    journal = following(replica)
    operations = (
        KvOperation(verb="set", key=b"a", value=b"1"),
        KvOperation(verb="check-not-exists", key=b"a"),
    )
    replica.apply_all([Txn(operations=operations)])
    assert keys(journal) == []


def test_a_deleted_tree_is_every_key_of_it() -> None:
    replica = Replica()
    replica.apply_all([KvSet(key=b"t/a"), KvSet(key=b"t/b"), KvSet(key=b"u")])
    journal = following(replica)
    replica.apply_all([KvDeleteTree(prefix=b"t/")])
    assert keys(journal, Cursor(3, LAST)) == [(4, 0, b"t/a", False), (4, 1, b"t/b", False)]
    (_, row), _ = journal.read(Cursor(3, LAST), 10)
    assert row.before is not None


def test_the_catalog_is_followed_by_its_own_tables_only() -> None:
    replica = Replica()
    journal = following(replica)
    check = Check(check_id="serfHealth", name="x", status="passing")
    replica.apply_all([Register(node="n1", address="127.0.0.1", checks=(check,))])
    replica.apply_all([Deregister(node="n1")])
    rows = [(cursor.index, row.value is not None) for cursor, row in journal.read(BEGIN, 10)]
    assert rows == [(1, True), (1, True), (2, False), (2, False)]


def test_who_asked_is_noted() -> None:
    replica = Replica()
    journal = following(replica)
    origin = Origin("192.0.2.1", "because")
    replica.apply_all([KvSet(key=b"a", origin=origin)])
    ((_, row),) = journal.read(BEGIN, 10)
    assert (row.origin, row.time_ms) == (origin, START_MS)


def test_a_restart_goes_on(tmp_path: Path) -> None:
    store = RocksStore.open(tmp_path)
    replica = Replica(store)
    following(replica)
    replica.apply_all([KvSet(key=b"a")])
    store.sync()
    store.close()
    store = RocksStore.open(tmp_path)
    journal = StateMachine(store).keep_changes()
    assert journal.covers(BEGIN)
    assert [index for index, *_ in keys(journal)] == [1]
    store.close()


def test_a_time_without_followers_is_a_gap() -> None:
    store = MemoryStore()
    replica = Replica(store)
    following(replica)
    replica.apply_all([KvSet(key=b"a")])
    replica.machine.journal = None
    replica.apply_all([KvSet(key=b"b")])
    journal = StateMachine(store).keep_changes()
    assert not journal.covers(Cursor(1, LAST))
    assert journal.covers(Cursor(2, LAST))
    assert keys(journal) == []


def test_a_node_without_followers_writes_no_journal() -> None:
    store = MemoryStore()
    Replica(store).apply_all([KvSet(key=b"a")])
    assert [key for key, _ in store.scan(b"a", b"b")] == []


def test_an_operators_restore_begins_anew() -> None:
    source = Replica()
    source.apply_all([KvSet(key=b"old"), AdvanceSink(name="s", cursor=Cursor(900, LAST))])
    with_snapshot = source.machine.snapshot()
    pieces = list(dump_payloads(source.machine.dump(with_snapshot)))
    digest = hashlib.sha256(b"".join(pieces)).hexdigest()
    replica = Replica()
    journal = following(replica)
    replica.apply_all([KvSet(key=b"a")])
    stages = [StageRestore(number=n, pairs=piece) for n, piece in enumerate(pieces)]
    replica.apply_all([*stages, FinishRestore(count=len(pieces), sha256=digest)])
    index = replica.machine.applied_index
    assert keys(journal) == []
    assert not journal.covers(Cursor(1, LAST))
    assert not journal.covers(sink_cursor(replica.machine.reader, "s"))
    assert journal.covers(Cursor(index, LAST))
    # The cursor of another cluster is ahead of everything here; it does not stay so.
    replica.apply_all([AdvanceSink(name="s", cursor=Cursor(index, LAST))])
    assert sink_cursor(replica.machine.reader, "s") == Cursor(index, LAST)


def test_an_installed_snapshot_begins_anew() -> None:
    source = Replica()
    source.apply_all([KvSet(key=b"a"), KvSet(key=b"b")])
    snapshot = source.machine.snapshot()
    replica = Replica()
    journal = following(replica)
    replica.apply_all([KvSet(key=b"x")])
    replica.machine.restore(source.machine.dump(snapshot))
    assert journal.span == module.Span(2, 2, 0)
    assert keys(journal) == []


def test_what_everybody_has_had_is_forgotten() -> None:
    replica = Replica()
    journal = following(replica)
    replica.apply_all([KvSet(key=b"a"), KvSet(key=b"b"), KvSet(key=b"c")])
    journal.trim(Cursor(2, LAST))
    assert [index for index, *_ in keys(journal)] == [3]
    assert journal.span == module.Span(2, 3, 1)
    assert not journal.covers(Cursor(1, LAST))
    assert journal.covers(Cursor(2, LAST))


def test_a_place_within_a_command_can_be_gone_on_from() -> None:
    replica = Replica()
    replica.apply_all([KvSet(key=b"t/a"), KvSet(key=b"t/b"), KvSet(key=b"t/c")])
    journal = following(replica)
    replica.apply_all([KvDeleteTree(prefix=b"t/")])
    place, _ = journal.read(Cursor(3, LAST), 1)[0]
    journal.trim(place)
    assert journal.covers(place)
    assert [key for *_, key, _ in keys(journal, place)] == [b"t/b", b"t/c"]


def test_too_many_rows_make_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_MAX", 10)
    monkeypatch.setattr(module, "_DROPPED", 3)
    replica = Replica()
    journal = following(replica)
    for number in range(12):
        replica.apply_all([KvSet(key=b"%d" % number)])
    assert journal.span.count <= 10
    assert not journal.covers(BEGIN)
    assert keys(journal)[0][0] == journal.span.after + 1


async def test_who_waits_is_woken() -> None:
    replica = Replica()
    journal = following(replica)
    with journal.waiting() as grown:
        assert not grown.is_set()
        replica.apply_all([KvSet(key=b"a")])
        async with asyncio.timeout(1):
            await grown.wait()


def test_cursors_of_a_server_are_kept(tmp_path: Path) -> None:
    store = RocksStore.open(tmp_path)
    journal = StateMachine(store).keep_changes()
    assert journal.cursor("webhook") is None
    journal.set_cursor("webhook", Cursor(3, 4))
    store.sync()
    store.close()
    store = RocksStore.open(tmp_path)
    assert StateMachine(store).keep_changes().cursor("webhook") == Cursor(3, 4)
    store.close()


def test_a_replicated_cursor_never_goes_back() -> None:
    replica = Replica()
    replica.apply_all([KvSet(key=b"%d" % number) for number in range(5)])
    moves = [AdvanceSink(name="s", cursor=Cursor(index, LAST)) for index in (3, 2, 4)]
    assert replica.apply_all(moves) == [True, False, True]
    assert sink_cursor(replica.machine.reader, "s") == Cursor(4, LAST)


def test_the_journal_is_no_part_of_the_state() -> None:
    followed, plain = Replica(), Replica()
    following(followed)
    for replica in (followed, plain):
        replica.apply_all([KvSet(key=b"a"), KvDelete(key=b"a")])
    checksums = {each.machine.checksum(each.machine.reader) for each in (followed, plain)}
    assert len(checksums) == 1


def test_rows_are_small() -> None:
    assert len(msgspec.msgpack.encode(Row(START_MS, b"key", b"value"))) < 32
