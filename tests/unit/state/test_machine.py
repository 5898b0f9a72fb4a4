"""The machine: batches, determinism, restart, dump and restore."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import Corrupt, Rejected
from registry.raft.messages import Entry, EntryKind
from registry.state import machine as machine_module
from registry.state.base import Command
from registry.state.catalog_commands import Deregister, Register
from registry.state.catalog_records import Check
from registry.state.kv import (
    KvCas,
    KvDelete,
    KvDeleteTree,
    KvGet,
    KvList,
    KvReap,
    KvSet,
)
from registry.state.locks import KvLock
from registry.state.machine import (
    COMMANDS,
    QUERIES,
    StateMachine,
    decode_command,
    decode_query,
    encode_command,
    encode_query,
)
from registry.state.sessions import SessionCreate, SessionDestroy
from registry.state.topics import ALL, Topic, kv_topic
from registry.state.txn import CheckOperation, KvOperation, Txn
from registry.storage.memory import MemoryStore
from registry.storage.rocks import RocksStore
from registry.storage.store import Batch, Staged
from registry.testing.state import START_MS, Replica

KEYS = st.sampled_from([b"a", b"a/b", b"a/b/c", b"b", b"\xff"])
SESSION = "00000000-0000-0000-0000-00000000000"


class CountingStore(MemoryStore):
    """Counts its writes."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def write(self, batch: Batch) -> None:
        self.writes += 1
        super().write(batch)


def command_entry(index: int, command: Command) -> Entry:
    return Entry(index, 1, EntryKind.COMMAND, encode_command(command))


def test_a_batch_is_one_write_with_the_applied_index_inside() -> None:
    store = CountingStore()
    replica = Replica(store)
    results = replica.apply_all([KvSet(key=b"a"), KvCas(key=b"a", index=7), KvDelete(key=b"b")])
    assert results == [True, False, True]
    assert store.writes == 1
    assert StateMachine(store).applied_index == 3


def test_commands_of_a_batch_see_each_other() -> None:
    replica = Replica()
    assert replica.apply_all([KvCas(key=b"a", index=0), KvCas(key=b"a", index=0)]) == [True, False]


def test_entries_without_a_command_only_move_the_index() -> None:
    machine = StateMachine(MemoryStore())
    published: list[frozenset[Topic]] = []
    machine.topics.listen(published.append)
    kinds = (EntryKind.NOOP, EntryKind.CONFIGURATION, EntryKind.BARRIER)
    assert machine.apply([Entry(at, 1, kind) for at, kind in enumerate(kinds, 1)]) == [None] * 3
    assert machine.applied_index == 3
    assert published == []


def test_consensus_and_state_mean_the_same_by_a_command() -> None:
    assert EntryKind(machine_module.COMMAND) is EntryKind.COMMAND


def test_topics_are_published_once_and_after_the_write() -> None:
    replica = Replica()
    seen: list[tuple[frozenset[Topic], int]] = []
    replica.machine.topics.listen(lambda topics: seen.append((topics, replica.index)))
    replica.apply_all([KvSet(key=b"a"), KvSet(key=b"b"), KvSet(key=b"a", value=b"2")])
    assert seen == [(frozenset({kv_topic(b"a"), kv_topic(b"b")}), 3)]


def test_entries_that_are_applied_already_change_nothing() -> None:
    replica = Replica()
    replica.apply_all([KvSet(key=b"a", value=b"1"), KvSet(key=b"a", value=b"2")])
    before = replica.checksum()
    again = [*replica.log, command_entry(3, KvSet(key=b"b"))]
    assert replica.machine.apply(again[:2]) == [None, None]
    assert replica.checksum() == before
    assert replica.machine.apply(again) == [None, None, True]


def test_entries_out_of_order_are_a_bug() -> None:
    machine = StateMachine(MemoryStore())
    entries = [command_entry(2, KvSet(key=b"a")), command_entry(1, KvSet(key=b"b"))]
    with pytest.raises(AssertionError, match="entry 1 after 2"):
        machine.apply(entries)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xc1", id="no message pack"),
        pytest.param(b"\x81\xa4type\xa7kv-sing", id="of a newer version"),
    ],
)
def test_an_unknown_command_stops_the_batch_before_anything_is_applied(data: bytes) -> None:
    replica = Replica()
    entries = [command_entry(1, KvSet(key=b"a")), Entry(2, 1, EntryKind.COMMAND, data)]
    with pytest.raises(Corrupt, match="not a command that this version knows"):
        replica.machine.apply(entries)
    assert replica.index == 0
    assert replica.ask(KvGet(key=b"a")) is None


def test_an_unknown_query_is_told_from_a_known_one() -> None:
    assert decode_query(encode_query(KvGet(key=b"a"))) == KvGet(key=b"a")
    with pytest.raises(Corrupt, match="not a query that this version knows"):
        decode_query(b"\x81\xa4type\xa7kv-sing")


@pytest.mark.parametrize(
    ("kinds", "some"),
    [
        pytest.param(COMMANDS, {"kv-set", "kv-lock", "session-create", "txn"}, id="commands"),
        pytest.param(QUERIES, {"kv-get", "session-list", "txn-read"}, id="queries"),
    ],
)
def test_each_kind_has_a_tag_of_its_own(kinds: tuple[type[Any], ...], some: set[str]) -> None:
    tags = [kind.__struct_config__.tag for kind in kinds]
    assert len(tags) == len(set(tags))
    assert some <= set(tags)


def test_a_command_survives_the_wire() -> None:
    command = KvSet(key=b"\xff\x00", value=b"v", flags=(1 << 64) - 1).stamped(START_MS)
    assert decode_command(encode_command(command)) == command
    assert command.now_ms == START_MS


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(KvSet(key=b"a", value=b"", flags=1 << 64), id="number"),
        pytest.param(KvLock(key=b"a", value=b"", session="\udcff"), id="text"),
    ],
)
def test_a_command_without_an_encoding_is_rejected(command: Any) -> None:
    with pytest.raises(Rejected, match="a value cannot be stored"):
        encode_command(command)


def test_a_refused_command_leaves_no_trace() -> None:
    """The second operation of the registration is refused after the first was carried out."""
    replica, untouched = Replica(), Replica()
    bad = Register(node="n", address="1.2.3.4", checks=(Check(check_id="c", service_id="none"),))
    (refused,) = replica.machine.apply([command_entry(1, bad)])
    assert "Missing service registration" in refused.reason
    untouched.machine.apply([Entry(1, 1, EntryKind.NOOP)])
    assert replica.checksum() == untouched.checksum()


def commands() -> st.SearchStrategy[Command]:
    """Commands of all the families that depend on one another, on few names."""
    session = st.integers(0, 3).map(lambda number: f"{SESSION}{number}")
    node = st.sampled_from(["n1", "n2"])
    status = st.sampled_from(["passing", "critical"])
    check = st.builds(Check, check_id=st.just("c"), name=st.just("c"), status=status)
    return st.one_of(
        st.builds(KvSet, key=KEYS, value=st.binary(max_size=2)),
        st.builds(KvCas, key=KEYS, value=st.binary(max_size=2), index=st.integers(0, 30)),
        st.builds(KvDelete, key=KEYS),
        st.builds(KvDeleteTree, prefix=KEYS),
        st.builds(KvReap),
        st.builds(KvLock, key=KEYS, session=session),
        st.builds(
            SessionCreate,
            id=session,
            node=node,
            lock_delay_ns=st.just(15_000_000_000),
            behavior=st.sampled_from(["release", "delete"]),
            node_checks=st.sampled_from([None, ("c",)]),
        ),
        st.builds(SessionDestroy, id=session),
        st.builds(Register, node=node, address=st.just("1.1.1.1"), checks=st.tuples(check)),
        st.builds(Deregister, node=node),
        st.builds(
            Txn,
            operations=st.tuples(
                st.builds(KvOperation, verb=st.just("set"), key=KEYS),
                st.builds(KvOperation, verb=st.sampled_from(["get", "delete-tree"]), key=KEYS),
                st.builds(
                    CheckOperation,
                    verb=st.just("delete"),
                    check=st.builds(Check, node=node, check_id=st.just("c")),
                ),
            ),
        ),
    )


def stamped_log(changes: list[tuple[Command, int]]) -> list[Entry]:
    """Entries with a clock that goes on by the given seconds each time."""
    now_ms, entries = START_MS, []
    for index, (command, seconds) in enumerate(changes, 1):
        now_ms += seconds * 1000
        stamped = msgspec.structs.replace(command, now_ms=now_ms)
        entries.append(command_entry(index, stamped))
    return entries


LOGS = st.lists(st.tuples(commands(), st.integers(0, 600)), max_size=30).map(stamped_log)


@settings(max_examples=60, deadline=None)
@given(LOGS, st.integers(1, 7), st.integers(0, 30))
def test_the_same_log_gives_the_same_bytes(log: list[Entry], group: int, cut: int) -> None:
    """However the log is cut into batches, and whenever the node is restarted in between, and from
    a dump of any point with the rest of the log after it."""
    whole = StateMachine(MemoryStore())
    expected = [result for entry in log for result in whole.apply([entry])]
    store = MemoryStore()
    results, dumps = [], {}
    for at in range(0, len(log), group):
        machine = StateMachine(store)
        results += machine.apply(log[at : at + group])
        dumps[machine.applied_index] = list(machine.dump(store.snapshot()))
    assert results == expected
    machine = StateMachine(store)
    assert machine.checksum(store) == whole.checksum(whole.reader)
    assert machine.applied_index == len(log)

    index, chunks = min(dumps.items(), key=lambda item: abs(item[0] - cut), default=(0, None))
    if chunks is not None:
        other = StateMachine(MemoryStore())
        other.restore(chunks)
        assert other.applied_index == index
        other.apply(log)
        assert other.checksum(other.reader) == whole.checksum(whole.reader)


def test_state_is_there_after_a_restart(tmp_path: Path) -> None:
    store = RocksStore.open(tmp_path)
    replica = Replica(store)
    replica.apply_all([KvSet(key=b"a", value=b"1"), KvSet(key=b"b"), KvDelete(key=b"b")])
    before = replica.checksum()
    store.sync()
    store.close()
    store = RocksStore.open(tmp_path)
    restarted = StateMachine(store)
    assert restarted.applied_index == 3
    assert restarted.checksum(store) == before
    restarted.apply([command_entry(4, KvSet(key=b"a", value=b"2"))])
    _, entry = KvGet(key=b"a").run(store)
    assert entry is not None
    assert (entry.create_index, entry.modify_index) == (1, 4)
    store.close()


def filled(keys: int = 50) -> Replica:
    replica = Replica()
    replica.apply_all([KvSet(key=b"key/%04d" % at, value=b"v" * at) for at in range(keys)])
    return replica


def dump_of(replica: Replica) -> bytes:
    snapshot = replica.machine._store.snapshot()
    try:
        return b"".join(replica.machine.dump(snapshot))
    finally:
        snapshot.close()


def cut_in(raw: bytes, size: int) -> Iterator[bytes]:
    return (raw[at : at + size] for at in range(0, len(raw), size))


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 30])
def test_a_dump_may_be_cut_anywhere(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "_FRAME_BYTES", 500)  # several frames
    source, target = filled(), Replica()
    target.apply_all([KvSet(key=b"key/old"), KvSet(key=b"zzz")])
    target.apply_all([Register(node="n", address="1.1.1.1"), SessionCreate(node="n")])
    target.machine.restore(cut_in(dump_of(source), size))
    assert target.checksum() == source.checksum()
    assert target.index == source.index
    assert target.ask(KvGet(key=b"zzz")) is None


def test_a_dump_is_of_one_moment() -> None:
    source, target = filled(3), Replica()
    before = source.checksum()
    snapshot = source.machine._store.snapshot()
    chunks = source.machine.dump(snapshot)
    first = next(chunks)
    source.apply(KvSet(key=b"later"))
    target.machine.restore(itertools.chain([first], chunks))
    snapshot.close()
    assert target.checksum() == before


def test_a_restore_wakes_everybody_and_counts() -> None:
    source, target = filled(1), Replica()
    published: list[frozenset[Topic]] = []
    target.machine.topics.listen(published.append)
    target.machine.restore([dump_of(source)])
    assert published == [frozenset({ALL})]
    assert target.machine.generation == 1
    assert target.index == 1
    assert StateMachine(target.machine._store).applied_index == 1


def damaged(raw: bytes, how: str) -> bytes:
    end = {"cut short": len(raw) - 10, "without its seal": len(raw) - 40, "empty": 0}
    if how in end:
        return raw[: end[how]]
    if how == "of another version":
        return b"registry-state-0\n" + raw[17:]
    if how == "with more after it":
        return raw + b"x"
    at = {"a flipped bit": len(raw) // 2, "a flipped bit in the seal": len(raw) - 1}[how]
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


@pytest.mark.parametrize(
    "how",
    [
        "empty",
        "cut short",
        "without its seal",
        "of another version",
        "with more after it",
        "a flipped bit",
        "a flipped bit in the seal",
    ],
)
def test_a_damaged_dump_is_refused_and_harms_nothing(how: str) -> None:
    target = filled(2)
    before = target.checksum()
    with pytest.raises(Corrupt):
        target.machine.prepare([damaged(dump_of(filled()), how)])
    assert target.index == 2
    assert target.checksum() == before


def test_a_dump_of_foreign_keys_is_refused() -> None:
    payload = msgspec.msgpack.encode([b"m/format", b"1"])
    with pytest.raises(Corrupt, match="not of the state"):
        machine_module._decode_pairs(b"\x00" * 8 + payload)


def test_nothing_of_a_prepared_state_shows_before_it_is_installed() -> None:
    source, target = filled(), filled(2)
    before = target.checksum()
    prepared = target.machine.prepare([dump_of(source)])
    assert (target.checksum(), target.machine.generation) == (before, 0)
    target.apply(KvSet(key=b"meanwhile"))
    target.machine.install(prepared)
    assert target.checksum() == source.checksum()
    assert target.index == source.index


def test_a_crash_half_way_through_an_installation_leaves_an_empty_state() -> None:
    class Crash(BaseException):
        """The process ends here: no clean-up runs after it."""

    class CrashingStore(MemoryStore):
        def replace(self, before: Batch, staged: Staged) -> None:
            self.write(before)
            raise Crash

    store = CrashingStore()
    replica = Replica(store)
    replica.apply(KvSet(key=b"a"))
    with pytest.raises(Crash):
        replica.machine.restore([dump_of(filled())])
    restarted = StateMachine(store)
    assert restarted.applied_index == 0
    assert list(KvList().run(store)[1]) == []
    assert restarted.checksum(store) == Replica().checksum()
