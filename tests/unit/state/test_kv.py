"""Keys and values: what writes do to entries, and what indexes listings have."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from registry.state.base import Query
from registry.state.kv import (
    REAP_MAX,
    TOMBSTONE_TTL_MS,
    KvCas,
    KvDelete,
    KvDeleteCas,
    KvDeleteTree,
    KvEntry,
    KvGet,
    KvKeys,
    KvList,
    KvReap,
    KvSet,
    next_reap_ms,
)
from registry.state.topics import Topic, kv_topic
from registry.testing.state import Replica

U64_MAX = (1 << 64) - 1


@pytest.fixture
def replica() -> Replica:
    return Replica()


def put(replica: Replica, *keys: bytes, value: bytes = b"v") -> None:
    for key in keys:
        assert replica.apply(KvSet(key=key, value=value)) is True


def keys_of(replica: Replica, prefix: bytes = b"") -> list[bytes]:
    found: list[bytes] = replica.ask(KvKeys(prefix=prefix))
    return found


# Entries


def test_a_first_write_makes_an_entry(replica: Replica) -> None:
    replica.apply(KvSet(key=b"a", value=b"v", flags=U64_MAX))
    assert replica.ask(KvGet(key=b"a")) == KvEntry(1, 1, U64_MAX, 0, "", b"v")


def test_a_later_write_keeps_the_create_index(replica: Replica) -> None:
    put(replica, b"a")
    put(replica, b"b")
    put(replica, b"a", value=b"w")
    assert replica.ask(KvGet(key=b"a")) == KvEntry(3, 1, 0, 0, "", b"w")


def test_writing_what_is_there_changes_nothing_and_wakes_nobody(replica: Replica) -> None:
    put(replica, b"a")
    woken: list[frozenset[Topic]] = []
    replica.machine.topics.listen(woken.append)
    put(replica, b"a")
    assert replica.ask(KvGet(key=b"a")).modify_index == 1
    assert replica.index_of(KvList()) == 1
    assert woken == []


def test_a_change_of_flags_alone_is_a_change(replica: Replica) -> None:
    put(replica, b"a")
    replica.apply(KvSet(key=b"a", value=b"v", flags=1))
    assert replica.ask(KvGet(key=b"a")).modify_index == 2


def test_a_key_written_again_after_its_deletion_is_new(replica: Replica) -> None:
    put(replica, b"a")
    replica.apply(KvDelete(key=b"a"))
    put(replica, b"a")
    assert replica.ask(KvGet(key=b"a")) == KvEntry(3, 3, 0, 0, "", b"v")


@pytest.mark.parametrize(
    ("index", "written"),
    [
        pytest.param(0, False, id="0 on a key that is there"),
        pytest.param(1, True, id="its index"),
        pytest.param(2, False, id="another index"),
    ],
)
def test_cas_on_a_key_that_is_there(replica: Replica, index: int, written: bool) -> None:
    put(replica, b"a")
    assert replica.apply(KvCas(key=b"a", value=b"w", index=index)) is written
    assert replica.ask(KvGet(key=b"a")).value == (b"w" if written else b"v")


@pytest.mark.parametrize(("index", "written"), [(0, True), (5, False)])
def test_cas_on_a_missing_key(replica: Replica, index: int, written: bool) -> None:
    assert replica.apply(KvCas(key=b"a", index=index)) is written
    assert (replica.ask(KvGet(key=b"a")) is not None) is written


@pytest.mark.parametrize(
    ("key", "index", "answer"),
    [
        pytest.param(b"a", 1, True, id="its index"),
        pytest.param(b"a", 0, False, id="0"),
        pytest.param(b"a", 2, False, id="another index"),
        pytest.param(b"none", 2, True, id="a missing key"),
    ],
)
def test_delete_by_cas(replica: Replica, key: bytes, index: int, answer: bool) -> None:
    put(replica, b"a")
    assert replica.apply(KvDeleteCas(key=key, index=index)) is answer
    assert (replica.ask(KvGet(key=b"a")) is None) is (answer and key == b"a")


def test_deleting_a_missing_key_changes_nothing(replica: Replica) -> None:
    put(replica, b"a")
    before = replica.index_of(KvList())
    assert replica.apply(KvDelete(key=b"none")) is True
    assert replica.apply(KvDeleteTree(prefix=b"none")) is True
    assert replica.index_of(KvList()) == before
    assert next_reap_ms(replica.machine.reader) is None


def test_a_tree_is_what_starts_with_the_prefix(replica: Replica) -> None:
    put(replica, b"t/a", b"t/b/c", b"tx", b"u", b"t")
    replica.apply(KvDeleteTree(prefix=b"t/"))
    assert keys_of(replica) == [b"t", b"tx", b"u"]
    replica.apply(KvDeleteTree(prefix=b"t"))
    assert keys_of(replica) == [b"u"]
    replica.apply(KvDeleteTree())
    assert keys_of(replica) == []


def test_deleting_a_tree_wakes_who_waits_for_its_keys(replica: Replica) -> None:
    put(replica, b"t/a", b"t/b", b"u")
    woken: list[frozenset[Topic]] = []
    replica.machine.topics.listen(woken.append)
    replica.apply(KvDeleteTree(prefix=b"t/"))
    assert woken == [frozenset({kv_topic(b"t/a"), kv_topic(b"t/b")})]


# Listings


@pytest.mark.parametrize(
    ("prefix", "separator", "names"),
    [
        pytest.param(b"k/", b"", [b"k/a", b"k/b/c", b"k/b/d/e", b"k/f"], id="all"),
        pytest.param(b"k/", b"/", [b"k/a", b"k/b/", b"k/f"], id="one level"),
        pytest.param(b"k", b"/", [b"k/"], id="cut behind the prefix"),
        pytest.param(b"k/b/", b"/", [b"k/b/c", b"k/b/d/"], id="further down"),
        pytest.param(b"k/", b"d", [b"k/a", b"k/b/c", b"k/b/d", b"k/f"], id="any character"),
        pytest.param(b"k/b/c", b"/c", [b"k/b/c"], id="not within the prefix"),
        pytest.param(b"", b"b/", [b"k/a", b"k/b/", b"k/f"], id="several characters"),
        pytest.param(b"none", b"/", [], id="nothing there"),
    ],
)
def test_keys_are_cut_at_the_separator(
    replica: Replica, prefix: bytes, separator: bytes, names: list[bytes]
) -> None:
    put(replica, b"k/f", b"k/b/d/e", b"k/a", b"k/b/c")
    assert replica.ask(KvKeys(prefix=prefix, separator=separator)) == names


def test_a_listing_is_in_key_order_with_values(replica: Replica) -> None:
    put(replica, b"r/b", b"r/a", b"rest", b"r\xff")
    listed = replica.ask(KvList(prefix=b"r"))
    assert [key for key, _ in listed] == [b"r/a", b"r/b", b"rest", b"r\xff"]
    assert [entry.modify_index for _, entry in listed] == [2, 1, 3, 4]


LISTINGS = [KvList(prefix=b"t/"), KvKeys(prefix=b"t/")]


@pytest.mark.parametrize("query", LISTINGS)
class TestIndexOfAListing:
    """The highest modify index under the prefix, deletions included."""

    def test_is_that_of_its_latest_entry(self, replica: Replica, query: Query) -> None:
        put(replica, b"t/a", b"t/b", b"u")
        assert replica.index_of(query) == 2

    def test_moves_on_when_an_entry_goes(self, replica: Replica, query: Query) -> None:
        put(replica, b"t/a", b"t/b")
        replica.apply(KvDelete(key=b"t/b"))
        put(replica, b"u")
        assert replica.index_of(query) == 3

    def test_moves_on_when_all_of_it_goes(self, replica: Replica, query: Query) -> None:
        put(replica, b"t/a")
        replica.apply(KvDeleteTree(prefix=b"t/"))
        put(replica, b"u")
        assert replica.index_of(query) == 2

    def test_moves_on_when_a_tree_around_it_goes(self, replica: Replica, query: Query) -> None:
        """An old deletion under the prefix must not hide that of the tree."""
        put(replica, b"t/a", b"t/b")
        replica.apply(KvDelete(key=b"t/a"))
        replica.apply(KvDeleteTree(prefix=b"t"))
        assert replica.index_of(query) == 4
        put(replica, b"t/c")
        replica.apply(KvDeleteTree())
        put(replica, b"u")
        assert replica.index_of(query) == 6

    def test_is_the_tables_when_nothing_is_known(self, replica: Replica, query: Query) -> None:
        assert replica.index_of(query) == 0
        put(replica, b"u", b"w")
        assert replica.index_of(query) == 2

    def test_goes_back_once_deletions_are_forgotten(self, replica: Replica, query: Query) -> None:
        put(replica, b"t/a", b"t/b")
        replica.apply(KvDelete(key=b"t/b"))
        replica.now_ms += TOMBSTONE_TTL_MS
        replica.apply(KvReap())
        assert replica.index_of(query) == 1


def test_the_index_of_everything_is_the_tables(replica: Replica) -> None:
    put(replica, b"a", b"b")
    replica.apply(KvDelete(key=b"b"))
    assert replica.index_of(KvList()) == 3
    assert replica.index_of(KvKeys()) == 3


def test_the_index_of_a_missing_key_is_the_tables(replica: Replica) -> None:
    assert replica.index_of(KvGet(key=b"none")) == 0
    put(replica, b"a")
    assert replica.index_of(KvGet(key=b"none")) == 1
    replica.apply(KvDelete(key=b"a"))
    assert replica.index_of(KvGet(key=b"a")) == 2


# Reaping


def test_a_tombstone_is_reaped_when_its_time_is_over(replica: Replica) -> None:
    put(replica, b"a")
    replica.apply(KvDelete(key=b"a"))
    due = replica.now_ms + TOMBSTONE_TTL_MS
    assert next_reap_ms(replica.machine.reader) == due
    replica.now_ms = due - 1
    assert replica.apply(KvReap()) == 0
    replica.now_ms = due
    assert replica.apply(KvReap()) == 1
    assert next_reap_ms(replica.machine.reader) is None


def test_the_deletion_that_counts_is_the_last_one(replica: Replica) -> None:
    """The first deletion's reaping leaves the tombstone of the second."""
    put(replica, b"t/a")
    replica.apply(KvDelete(key=b"t/a"))
    replica.now_ms += 1000
    put(replica, b"t/a")
    replica.apply(KvDelete(key=b"t/a"))
    put(replica, b"u")
    replica.now_ms += TOMBSTONE_TTL_MS - 1000
    assert replica.apply(KvReap()) == 1
    assert replica.index_of(KvList(prefix=b"t/")) == 4
    replica.now_ms += 1000
    assert replica.apply(KvReap()) == 1
    assert next_reap_ms(replica.machine.reader) is None


def test_reaping_is_done_in_parts(replica: Replica) -> None:
    names = [b"%05d" % number for number in range(REAP_MAX + 10)]
    replica.apply_all([KvSet(key=name) for name in names])
    replica.apply_all([KvDelete(key=name) for name in names])
    replica.now_ms += TOMBSTONE_TTL_MS
    assert [replica.apply(KvReap()) for _ in range(3)] == [REAP_MAX, 10, 0]


def test_a_reaped_state_holds_nothing_of_what_was_deleted(replica: Replica) -> None:
    put(replica, b"t/a", b"t/b", b"c")
    replica.apply(KvDeleteTree(prefix=b"t/"))
    replica.apply(KvDelete(key=b"c"))
    replica.now_ms += TOMBSTONE_TTL_MS
    replica.apply(KvReap())
    left = [key for key, _ in replica.machine.reader.scan(b"skv") if b"\x00\x00" in key]
    assert left == []


# Against a dictionary

KEYS = st.sampled_from([b"a", b"a/", b"a/b", b"a/b/c", b"b", b"b\x00", b"\xff", b"\xff\xff"])
PREFIXES = st.sampled_from([b"", b"a", b"a/", b"a/b", b"b", b"\xff", b"z"])
VALUES = st.binary(max_size=2)


class KvModel(RuleBasedStateMachine):
    """The KV commands against a dictionary: key -> (value, flags, create index, modify index)."""

    def __init__(self) -> None:
        super().__init__()
        self.replica = Replica()
        self.model: dict[bytes, tuple[bytes, int, int, int]] = {}
        self.changed_at = 0  # index of the last change of anything

    def _write(self, key: bytes, value: bytes, flags: int) -> None:
        index = self.replica.index
        old = self.model.get(key)
        if old is None or old[:2] != (value, flags):
            self.model[key] = (value, flags, old[2] if old else index, index)
            self.changed_at = index

    def _forget(self, keys: list[bytes]) -> None:
        for key in keys:
            del self.model[key]
            self.changed_at = self.replica.index

    @rule(key=KEYS, value=VALUES, flags=st.sampled_from([0, 7, U64_MAX]))
    def set(self, key: bytes, value: bytes, flags: int) -> None:
        assert self.replica.apply(KvSet(key=key, value=value, flags=flags)) is True
        self._write(key, value, flags)

    @rule(key=KEYS, value=VALUES, off=st.sampled_from([0, 0, 1]))
    def cas(self, key: bytes, value: bytes, off: int) -> None:
        current = self.model[key][3] if key in self.model else 0
        answer = self.replica.apply(KvCas(key=key, value=value, index=current + off))
        assert answer is (off == 0)
        if off == 0:
            self._write(key, value, 0)

    @rule(key=KEYS)
    def delete(self, key: bytes) -> None:
        assert self.replica.apply(KvDelete(key=key)) is True
        self._forget([key] if key in self.model else [])

    @rule(key=KEYS, off=st.sampled_from([0, 1]))
    def delete_cas(self, key: bytes, off: int) -> None:
        current = self.model[key][3] if key in self.model else 0
        answer = self.replica.apply(KvDeleteCas(key=key, index=current + off))
        assert answer is (key not in self.model or off == 0)
        self._forget([key] if key in self.model and off == 0 else [])

    @rule(prefix=PREFIXES)
    def delete_tree(self, prefix: bytes) -> None:
        assert self.replica.apply(KvDeleteTree(prefix=prefix)) is True
        self._forget([key for key in self.model if key.startswith(prefix)])

    @rule(seconds=st.integers(0, 1200))
    def time_passes(self, seconds: int) -> None:
        self.replica.now_ms += seconds * 1000
        self.replica.apply(KvReap())

    @rule(prefix=PREFIXES)
    def listings_agree(self, prefix: bytes) -> None:
        expected = sorted(key for key in self.model if key.startswith(prefix))
        assert self.replica.ask(KvKeys(prefix=prefix)) == expected
        assert [key for key, _ in self.replica.ask(KvList(prefix=prefix))] == expected
        newest = max((self.model[key][3] for key in expected), default=0)
        index = self.replica.index_of(KvList(prefix=prefix))
        assert newest <= index <= self.changed_at
        assert index == self.replica.index_of(KvKeys(prefix=prefix))

    @invariant()
    def entries_agree(self) -> None:
        for key, (value, flags, created, modified) in self.model.items():
            expected = KvEntry(modified, created, flags, 0, "", value)
            assert KvGet(key=key).run(self.replica.machine.reader) == (modified, expected)
        assert self.replica.index_of(KvList()) == self.changed_at


KvModel.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestKvModel = KvModel.TestCase


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.builds(KvSet, key=KEYS, value=VALUES),
            st.builds(KvDelete, key=KEYS),
            st.builds(KvDeleteTree, prefix=PREFIXES),
        ),
        max_size=25,
    ),
    PREFIXES,
)
def test_a_listing_never_changes_without_its_index_rising(
    changes: list[KvSet | KvDelete | KvDeleteTree], prefix: bytes
) -> None:
    """What a blocked client lives by: whoever saw an index and is not told of a higher one has
    seen it all. (Until tombstones are reaped.)"""
    replica = Replica()
    for change in changes:
        before = KvList(prefix=prefix).run(replica.machine.reader)
        replica.apply(change)
        after = KvList(prefix=prefix).run(replica.machine.reader)
        assert after[0] >= before[0] or not after[0]
        if after[1] != before[1]:
            assert after[0] > before[0]
