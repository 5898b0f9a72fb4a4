"""Keys and values: entries, the traces that deletions leave, and the indexes clients wait on.

Keys are bytes in here: what a client put into the path need not be UTF-8, and prefixes cut
anywhere. An entry's `modify_index` is the log index of the write that last changed it; a write of
what is there already changes nothing.

A listing's index is the highest `modify_index` under its prefix. For it to move on when a key goes
away, a deletion leaves a *tombstone* with its own index, which is reaped after 15 minutes:

    kv            key                 -> KvEntry
    kv-tombstones key or tree prefix  -> Tombstone   what a listing of a prefix of it looks at
    kv-trees      tree prefix         -> Tombstone   what a listing below it looks at
    kv-delays     key                 -> u64         until when (ms) the key cannot be locked
    kv-expiry     u64 ms, kind, key   -> nothing     what to reap, in the order in which it is due
    kv-locks      session, key        -> nothing     the keys that a session holds

Deleting a tree leaves one tombstone at its prefix, as Consul does, not one per key. In Consul a
listing of a narrower prefix does not see it and may then answer an index lower than before, which
leaves a blocked client waiting for its time-out; `kv-trees` exists to find it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from registry.state.base import Command, Query, Transaction, max_index
from registry.state.topics import Topic, kv_prefix_topic, kv_topic
from registry.storage.keys import STATE, decode_u64, encode_parts, encode_u64
from registry.storage.store import Reader, prefix_stop

#: How long a deletion can be seen in a listing's index.
TOMBSTONE_TTL_MS: Final = 15 * 60 * 1000

#: Most rows that one `KvReap` removes: bounds the time that one command holds up the others.
REAP_MAX: Final = 1024

_INDEX = "kvs"

ENTRIES = STATE + encode_parts("kv")
_TOMBSTONES = STATE + encode_parts("kv-tombstones")
_TREES = STATE + encode_parts("kv-trees")
_DELAYS = STATE + encode_parts("kv-delays")
_EXPIRY = STATE + encode_parts("kv-expiry")
_EXPIRY_STOP = prefix_stop(_EXPIRY) or b""
_LOCKS = STATE + encode_parts("kv-locks")

_TOMBSTONE_DUE, _TREE_DUE, _DELAY_DUE = b"t", b"p", b"d"


class KvEntry(msgspec.Struct, frozen=True, array_like=True):
    """What is stored under a key. `modify_index` comes first so that it can be read alone."""

    modify_index: int
    create_index: int
    flags: int
    lock_index: int  # how often the lock on it was acquired
    session: str  # the holder of the lock, "" = nobody
    value: bytes


class _EntryIndex(msgspec.Struct, frozen=True, array_like=True):
    """The beginning of a `KvEntry`: a listing of keys need not copy the values."""

    modify_index: int


class Tombstone(msgspec.Struct, frozen=True, array_like=True):
    """A deletion at `index`, to be forgotten at `due_ms`."""

    index: int
    due_ms: int


KvPair = tuple[bytes, KvEntry]

_encode = msgspec.msgpack.Encoder().encode
_decode_entry = msgspec.msgpack.Decoder(KvEntry).decode
_decode_entry_index = msgspec.msgpack.Decoder(_EntryIndex).decode
_decode_tombstone = msgspec.msgpack.Decoder(Tombstone).decode


# Reading


def get_entry(reader: Reader, key: bytes) -> KvEntry | None:
    raw = reader.get(ENTRIES + key)
    return None if raw is None else _decode_entry(raw)


def list_entries(reader: Reader, prefix: bytes) -> Iterator[KvPair]:
    for key, raw in _scan(reader, ENTRIES, prefix):
        yield key, _decode_entry(raw)


def table_index(reader: Reader) -> int:
    """Index of the last change anywhere in the table, 0 when there never was one."""
    return max_index(reader, _INDEX)


def prefix_index(reader: Reader, prefix: bytes, highest_entry: int) -> int:
    """Index of a listing of `prefix`, whose entries have `highest_entry` as highest modify index.

    When neither entry nor tombstone is there the whole table's index stands in, so that it never
    is too low for a client that saw the entries before.
    """
    if not prefix:
        return table_index(reader)
    highest = highest_entry
    for _, raw in _scan(reader, _TOMBSTONES, prefix):
        highest = max(highest, _decode_tombstone(raw).index)
    if not highest:
        return table_index(reader)
    return max(highest, _covering_tree_index(reader, prefix))


def _covering_tree_index(reader: Reader, prefix: bytes) -> int:
    """Index of the last deletion of a tree that `prefix` lies in; 0 when none is remembered."""
    if next(reader.scan(_TREES, prefix_stop(_TREES), limit=1), None) is None:
        return 0
    rows = (reader.get(_TREES + prefix[:length]) for length in range(len(prefix) + 1))
    return max((_decode_tombstone(raw).index for raw in rows if raw is not None), default=0)


def _scan(reader: Reader, table: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    start, cut = table + prefix, len(table)
    for key, raw in reader.scan(start, prefix_stop(start)):
        yield key[cut:], raw


# Changing: functions for the commands of this and other families. Each touches topics and indexes.


def set_key(tx: Transaction, key: bytes, value: bytes, flags: int) -> KvEntry:
    """Write unconditionally. Keeps the lock's holder and sets the lock index to 0 (observed)."""
    existing = get_entry(tx, key)
    session = existing.session if existing is not None else ""
    return put_entry(tx, key, existing, value=value, flags=flags, lock_index=0, session=session)


def cas_key(tx: Transaction, key: bytes, value: bytes, flags: int, index: int) -> KvEntry | None:
    """Write if the entry's modify index is `index` (0: if there is no entry); None if not."""
    existing = get_entry(tx, key)
    if index != (existing.modify_index if existing is not None else 0):
        return None
    session = existing.session if existing is not None else ""
    return put_entry(tx, key, existing, value=value, flags=flags, lock_index=0, session=session)


def put_entry(
    tx: Transaction,
    key: bytes,
    existing: KvEntry | None,
    *,
    value: bytes,
    flags: int,
    lock_index: int,
    session: str,
) -> KvEntry:
    """Store these in place of `existing`, which is what is there now; the entry as it then is."""
    if (
        existing is not None
        and existing.value == value
        and existing.flags == flags
        and existing.lock_index == lock_index
        and existing.session == session
    ):
        return existing
    create_index = existing.create_index if existing is not None else tx.index
    entry = KvEntry(tx.index, create_index, flags, lock_index, session, value)
    tx.put(ENTRIES + key, _encode(entry))
    _move_lock(tx, key, existing.session if existing is not None else "", session)
    tx.raise_index(_INDEX)
    tx.touch(kv_topic(key))
    return entry


def delete_key(tx: Transaction, key: bytes) -> None:
    """Remove the entry, if there is one, and leave a tombstone."""
    existing = get_entry(tx, key)
    if existing is not None:
        _remove(tx, key, existing)
        _bury(tx, _TOMBSTONES, _TOMBSTONE_DUE, key)


def delete_key_cas(tx: Transaction, key: bytes, index: int) -> bool:
    """Remove the entry if its modify index is `index`; True also when there is none."""
    existing = get_entry(tx, key)
    if existing is None:
        return True
    if existing.modify_index != index:
        return False
    delete_key(tx, key)
    return True


def delete_tree(tx: Transaction, prefix: bytes) -> None:
    """Remove all entries whose key starts with `prefix`, and leave one tombstone for all."""
    found = False
    for key, entry in list_entries(tx, prefix):  # the scan does not see what we delete meanwhile
        _remove(tx, key, entry)
        found = True
    if found:
        if prefix:  # listing everything goes by the table's index
            _bury(tx, _TOMBSTONES, _TOMBSTONE_DUE, prefix)
        _bury(tx, _TREES, _TREE_DUE, prefix)


def _remove(tx: Transaction, key: bytes, existing: KvEntry) -> None:
    tx.delete(ENTRIES + key)
    _move_lock(tx, key, existing.session, "")
    tx.raise_index(_INDEX)
    tx.touch(kv_topic(key))


def _bury(tx: Transaction, table: bytes, kind: bytes, key: bytes) -> None:
    due_ms = tx.now_ms + TOMBSTONE_TTL_MS
    tx.put(table + key, _encode(Tombstone(tx.index, due_ms)))
    tx.put(_EXPIRY + encode_u64(due_ms) + kind + key, b"")


def _move_lock(tx: Transaction, key: bytes, old: str, new: str) -> None:
    if old == new:
        return
    if old:
        tx.delete(_lock_row(old, key))
    if new:
        tx.put(_lock_row(new, key), b"")


# Locks, as far as they are a matter of entries; `locks` and `sessions` have the rest.


def _lock_row(session: str, key: bytes) -> bytes:
    # A client may spell the same session id in capitals.
    return _LOCKS + encode_parts(session.lower()) + key


def held_keys(reader: Reader, session: str) -> list[bytes]:
    """The keys that the session holds the lock on, in order."""
    table = _lock_row(session, b"")
    return [key for key, _ in _scan(reader, table, b"")]


def free_key(tx: Transaction, key: bytes) -> None:
    """Take the holder off the entry; value, flags and lock index stay."""
    entry = get_entry(tx, key)
    if entry is not None:
        put_entry(
            tx,
            key,
            entry,
            value=entry.value,
            flags=entry.flags,
            lock_index=entry.lock_index,
            session="",
        )


def delay_lock(tx: Transaction, key: bytes, until_ms: int) -> None:
    """Let nobody acquire the key before `until_ms`."""
    tx.put(_DELAYS + key, encode_u64(until_ms))
    tx.put(_EXPIRY + encode_u64(until_ms) + _DELAY_DUE + key, b"")


def is_lock_delayed(reader: Reader, key: bytes, now_ms: int) -> bool:
    raw = reader.get(_DELAYS + key)
    return raw is not None and decode_u64(raw) > now_ms


# Commands


class KvSet(Command, tag="kv-set", frozen=True, kw_only=True):
    """Write a value; True."""

    key: bytes
    value: bytes = b""
    flags: int = 0

    def apply(self, tx: Transaction) -> bool:
        set_key(tx, self.key, self.value, self.flags)
        return True


class KvCas(Command, tag="kv-cas", frozen=True, kw_only=True):
    """Write if the modify index is `index` (0: if absent); whether it was written."""

    key: bytes
    value: bytes = b""
    flags: int = 0
    index: int

    def apply(self, tx: Transaction) -> bool:
        return cas_key(tx, self.key, self.value, self.flags, self.index) is not None


class KvDelete(Command, tag="kv-delete", frozen=True, kw_only=True):
    """Delete one key; True, also when it was not there."""

    key: bytes

    def apply(self, tx: Transaction) -> bool:
        delete_key(tx, self.key)
        return True


class KvDeleteCas(Command, tag="kv-delete-cas", frozen=True, kw_only=True):
    """Delete one key if its modify index is `index`; False when it is another."""

    key: bytes
    index: int

    def apply(self, tx: Transaction) -> bool:
        return delete_key_cas(tx, self.key, self.index)


class KvDeleteTree(Command, tag="kv-delete-tree", frozen=True, kw_only=True):
    """Delete all keys that start with `prefix`; True."""

    prefix: bytes = b""

    def apply(self, tx: Transaction) -> bool:
        delete_tree(tx, self.prefix)
        return True


class KvReap(Command, tag="kv-reap", frozen=True, kw_only=True):
    """Forget tombstones and lock delays whose time is over, at most `REAP_MAX`; how many.

    Indexes of listings may go back by it, which clients have to cope with. Nobody is woken.
    """

    def apply(self, tx: Transaction) -> int:
        stop = _EXPIRY + encode_u64(self.now_ms + 1)
        rows = [key for key, _ in tx.scan(_EXPIRY, stop, limit=REAP_MAX)]
        for row in rows:
            tx.delete(row)
            _reap(tx, row[len(_EXPIRY) + 8 :], self.now_ms)
        return len(rows)


def _reap(tx: Transaction, kind_and_key: bytes, now_ms: int) -> None:
    # The row may be an old one of a key that was deleted, or delayed, again since.
    kind, key = kind_and_key[:1], kind_and_key[1:]
    if kind == _DELAY_DUE:
        if not is_lock_delayed(tx, key, now_ms):
            tx.delete(_DELAYS + key)
        return
    table = _TREES if kind == _TREE_DUE else _TOMBSTONES
    raw = tx.get(table + key)
    if raw is not None and _decode_tombstone(raw).due_ms <= now_ms:
        tx.delete(table + key)


def next_reap_ms(reader: Reader) -> int | None:
    """When the next `KvReap` has something to do; None while nothing waits for it."""
    for row, _ in reader.scan(_EXPIRY, _EXPIRY_STOP, limit=1):
        return decode_u64(row[len(_EXPIRY) : len(_EXPIRY) + 8])
    return None


# Queries


class KvGet(Query, tag="kv-get", frozen=True, kw_only=True):
    """One entry or None, with its own modify index; the table's when there is none."""

    key: bytes

    def run(self, reader: Reader) -> tuple[int, KvEntry | None]:
        entry = get_entry(reader, self.key)
        return (entry.modify_index if entry is not None else table_index(reader)), entry

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        return (kv_topic(self.key),)


class KvList(Query, tag="kv-list", frozen=True, kw_only=True):
    """All entries whose key starts with `prefix`, in key order, with their keys."""

    prefix: bytes = b""

    def run(self, reader: Reader) -> tuple[int, list[KvPair]]:
        pairs = list(list_entries(reader, self.prefix))
        highest = max((entry.modify_index for _, entry in pairs), default=0)
        return prefix_index(reader, self.prefix, highest), pairs

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        return (kv_prefix_topic(self.prefix),)


class KvKeys(Query, tag="kv-keys", frozen=True, kw_only=True):
    """The keys that start with `prefix`, in order; with a separator each is cut after its first
    occurrence behind the prefix, and repeats are left out."""

    prefix: bytes = b""
    separator: bytes = b""

    def run(self, reader: Reader) -> tuple[int, list[bytes]]:
        keys: list[bytes] = []
        highest = 0
        for key, raw in _scan(reader, ENTRIES, self.prefix):
            highest = max(highest, _decode_entry_index(raw).modify_index)
            name = self._cut(key)
            if not keys or keys[-1] != name:
                keys.append(name)
        return prefix_index(reader, self.prefix, highest), keys

    def _cut(self, key: bytes) -> bytes:
        if not self.separator:
            return key
        at = key.find(self.separator, len(self.prefix))
        return key if at < 0 else key[: at + len(self.separator)]

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        return (kv_prefix_topic(self.prefix),)
