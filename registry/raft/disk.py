"""What a server's Raft keeps on disk: identity, vote, log, and where the log begins.

Everything lives under `registry.storage.keys.RAFT` in the same store as the replicated state:

    r i         identity    who this is, of which cluster; written once, before the first vote
    r h         hard state  term and vote
    r b         base        index, term and configuration that the log begins *after*
    r l <u64>   log entry   big-endian index, so key order is index order
    r p         pending     a snapshot whose installation has begun and not ended
    r r         recovery    the order that an operator's recovery last carried out here, if any

Every value is framed as `crc32 | payload`. Log and state share one store and so one write-ahead
log, which gives two guarantees for nothing (design, decisions 3 and 4):

* the state at `applied_index` never outlives the entries that made it, because its batch comes
  after theirs and a store never shows a batch without all before it;
* dropping old entries needs no snapshot file first. The rule "snapshot durable before the log is
  cut" (R-51) holds because the state *is* the snapshot, and the cut is written behind it. A
  snapshot file is made only when a peer needs one (`registry.raft.snapshots`).

A torn tail is the store's business: an unsynced batch is there whole or not at all. So whatever
does not fit together here is corruption, and the server refuses to start (R-6, R-9).
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from registry.errors import Corrupt, LocalProtocolError, StorageError
from registry.raft.membership import decode_configuration, encode_configuration
from registry.raft.messages import Configuration, Entry, EntryKind, HardState, SnapshotMeta
from registry.storage.keys import RAFT, decode_u64, encode_u64
from registry.storage.store import Batch, Reader, Store, prefix_stop

_IDENTITY, _HARD_STATE, _BASE, _PENDING = RAFT + b"i", RAFT + b"h", RAFT + b"b", RAFT + b"p"
_RECOVERY = RAFT + b"r"
_LOG = RAFT + b"l"
_LOG_STOP = prefix_stop(_LOG)

_T = TypeVar("_T")

_HEADER = struct.Struct(">QB")  # term, kind
_CRC_BYTES = 4

#: Recent entries kept decoded, so that a leader does not read back what it has just written. A
#: follower further behind than this is served from the store.
WINDOW_BYTES_DEFAULT = 8 << 20

#: What an entry costs in the window beside its data.
_ENTRY_OVERHEAD_BYTES = 120


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """Who this server is. A wiped disk loses it, and must not get it back (R-10)."""

    server_id: str
    cluster_id: str = ""


_EMPTY_BASE = SnapshotMeta(id="", index=0, term=0, configuration=Configuration())


class DiskLog:
    """The log of one server as written, whether synced yet or not; implements `LogReader`.

    Invariant: entries `first_index() .. last_index()` are all there, terms never fall, and
    `first_index() == snapshot_meta().index + 1` (0 when nothing was ever dropped).
    One writer, the event loop's thread. `save`, `compact` and `install` are each one atomic batch,
    durable after the store's next `sync`, which is the driver's business.
    """

    def __init__(self, store: Store, *, window_bytes: int = WINDOW_BYTES_DEFAULT) -> None:
        """Read and verify what `store` holds. Raises `Corrupt` when it does not fit together."""
        self._store = store
        self._window_bytes_max = window_bytes
        self.identity = _read(store, _IDENTITY, Identity)
        self.hard_state = _read(store, _HARD_STATE, HardState) or HardState()
        self.pending_install = _read(store, _PENDING, SnapshotMeta)
        #: Names the last recovery that `recover` carried out; "" for none.
        self.recovery = _read(store, _RECOVERY, str) or ""
        self._base = _read(store, _BASE, SnapshotMeta) or _EMPTY_BASE
        # Term and size of every entry held: about 12 bytes each, so that neither a term nor the
        # point to cut at ever has to be read back.
        self._terms = array("Q")
        self._sizes = array("I")
        self._bytes = 0
        self._configurations: list[Configuration] = []  # those in the log, ascending
        self._window: list[Entry] = []
        self._window_bytes = 0
        self._recover()

    def _recover(self) -> None:
        previous = self._base.term
        for key, value in self._store.scan(_LOG, _LOG_STOP):
            entry = _decode_entry(key, value)
            if entry.index != self.last_index() + 1:
                raise Corrupt(
                    f"the Raft log has a gap: entry {self.last_index() + 1} is missing, "
                    f"{entry.index} follows; restore this server from its peers or a backup"
                )
            if entry.term < previous:
                raise Corrupt(f"the Raft log goes back to term {entry.term} at {entry.index}")
            previous = entry.term
            self._remember(entry)
        if self._terms and self.hard_state.term < self._terms[-1]:
            raise Corrupt(
                f"the Raft log holds entries of term {self._terms[-1]}, but the term on disk is "
                f"{self.hard_state.term}"
            )

    # -- reading (the core's LogReader) ------------------------------------------------------

    def first_index(self) -> int:
        return self._base.index + 1

    def last_index(self) -> int:
        return self._base.index + len(self._terms)

    def term(self, index: int) -> int | None:
        """The term of the entry at `index`, or of the base; None outside of what is held."""
        if index == self._base.index:
            return self._base.term
        if self._base.index < index <= self.last_index():
            return self._terms[index - self._base.index - 1]
        return None

    def entries(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        """Entries with `low <= index < high`, cut off at `max_bytes` of data, but at least one.

        Raises `LocalProtocolError` when part of the range was never there or is compacted away,
        and `Corrupt` when the store gives back something else than was written.
        """
        if low >= high:
            return []
        if low < self.first_index() or high > self.last_index() + 1:
            raise LocalProtocolError(
                f"asked for entries {low}..{high - 1}, the log holds "
                f"{self.first_index()}..{self.last_index()}"
            )
        high = self._cut_by_bytes(low, high, max_bytes)
        window_first = self.last_index() + 1 - len(self._window)
        if low >= window_first:
            return self._window[low - window_first : high - window_first]
        return self._read_back(low, high)

    def snapshot_meta(self) -> SnapshotMeta | None:
        """What the log begins after; None as long as it begins at 1."""
        return self._base if self._base.index else None

    @property
    def configuration(self) -> Configuration:
        """The latest configuration in the log, committed or not (R-40), else the base's."""
        return self._configurations[-1] if self._configurations else self._base.configuration

    def configuration_at(self, index: int) -> Configuration:
        """The configuration in force after the entry at `index`."""
        for configuration in reversed(self._configurations):
            if configuration.index <= index:
                return configuration
        return self._base.configuration

    @property
    def is_empty(self) -> bool:
        """Whether no Raft state was ever written here: no term, no log, no snapshot (R-55)."""
        return not (self._terms or self._base.index or self.hard_state.term or self.pending_install)

    @property
    def bytes_held(self) -> int:
        return self._bytes

    def bytes_after(self, index: int) -> int:
        """Bytes of entries with an index greater than `index`."""
        return sum(self._sizes[max(0, index - self._base.index) :])

    def index_keeping(self, entries: int, size_bytes: int) -> int:
        """The highest index that can be dropped while the newest `entries` or `size_bytes` of
        them stay, whichever is less. Walks from the end: compaction is rare."""
        kept_bytes, kept = 0, 0
        for size in reversed(self._sizes):
            kept_bytes += size
            if kept == entries or kept_bytes > size_bytes:
                break
            kept += 1
        return self.last_index() - kept

    # -- writing -----------------------------------------------------------------------------

    def establish(self, identity: Identity) -> None:
        """Write who this is, once (R-10). Raises `StorageError` if the store is another's."""
        if self.identity is None:
            batch = Batch()
            batch.put(_IDENTITY, _frame(msgspec.msgpack.encode(identity)))
            self._store.write(batch)
            self.identity = identity
        elif self.identity != identity:
            raise StorageError(
                f"the data directory belongs to server {self.identity.server_id} of cluster "
                f'"{self.identity.cluster_id}", not to {identity.server_id} of '
                f'"{identity.cluster_id}"; give this server a directory of its own'
            )

    def reidentify(self, identity: Identity) -> None:
        """Become a server of another cluster, as long as this one was part of none (R-10)."""
        self._check_empty()
        batch = Batch()
        batch.put(_IDENTITY, _frame(msgspec.msgpack.encode(identity)))
        self._store.write(batch)
        self.identity = identity

    def begin(self, configuration: Configuration) -> None:
        """Write the first configuration at index 1, term 1: a cluster is born (R-55).

        The servers are sorted, so that the entry is the same on all of them (R-58). Raises
        `LocalProtocolError` when there is Raft state already.
        """
        self._check_empty()
        first = Configuration(tuple(sorted(configuration.servers, key=lambda s: s.id)), index=1)
        entry = Entry(1, 1, EntryKind.CONFIGURATION, encode_configuration(first))
        self.save(HardState(term=1), [entry])

    def recover(
        self, meta: SnapshotMeta, hard_state: HardState, identity: Identity, recovery: str
    ) -> None:
        """Begin anew behind the applied state, as an operator has ordered (R-59): one batch.

        `recovery` names the order, so that it is not carried out twice.
        """
        batch = Batch()
        for key, value in (
            (_IDENTITY, identity),
            (_HARD_STATE, hard_state),
            (_BASE, meta),
            (_RECOVERY, recovery),
        ):
            batch.put(key, _frame(msgspec.msgpack.encode(value)))
        if self._terms:
            batch.delete_range(_key(self.first_index()), _key(self.last_index() + 1))
        self._store.write(batch)
        self._truncate(self.first_index())
        self.identity, self.hard_state, self.recovery = identity, hard_state, recovery
        self._configurations.clear()
        self._base = meta

    def _check_empty(self) -> None:
        if not self.is_empty:
            raise LocalProtocolError("cannot bootstrap: this server already holds Raft state")

    def save(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        """Write term and vote and append `entries`, cutting the log at the first of them (R-8).

        Raises `LocalProtocolError` when they would leave a gap or reach below the base.
        """
        batch = Batch()
        if hard_state is not None:
            batch.put(_HARD_STATE, _frame(msgspec.msgpack.encode(hard_state)))
        if entries:
            self._check_appendable(entries)
            # One by one: conflicts are short, and an engine may make reads pay for each range
            # deletion that it has not merged yet.
            for index in range(entries[0].index, self.last_index() + 1):
                batch.delete(_key(index))
            for entry in entries:
                batch.put(_key(entry.index), _encode_entry(entry))
        self._store.write(batch)
        # Only now: a store that refused the batch leaves this view as it was.
        self.hard_state = hard_state or self.hard_state
        if entries:
            self._truncate(entries[0].index)
            for entry in entries:
                self._remember(entry)

    def compact(self, index: int) -> SnapshotMeta:
        """Drop entries up to `index`, all of which must be applied; returns the new base."""
        term = self.term(index)
        if term is None or index <= self._base.index:
            raise LocalProtocolError(f"cannot compact to {index}: the log does not hold it")
        base = SnapshotMeta(
            id=f"{term}-{index}",
            index=index,
            term=term,
            configuration=self.configuration_at(index),
        )
        batch = Batch()
        batch.put(_BASE, _frame(msgspec.msgpack.encode(base)))
        batch.delete_range(_key(self.first_index()), _key(index + 1))
        self._store.write(batch)
        self._drop_until(base)
        return base

    def begin_install(self, meta: SnapshotMeta) -> None:
        """Note that the state is about to be replaced: until `finish_install` a restart must
        complete it, because the old state is no longer whole (R-52)."""
        batch = Batch()
        batch.put(_PENDING, _frame(msgspec.msgpack.encode(meta)))
        self._store.write(batch)
        self.pending_install = meta

    def finish_install(self, meta: SnapshotMeta, hard_state: HardState | None = None) -> None:
        """Make `meta` the base, after the state was replaced; the log goes, whole (R-52).

        A snapshot that the log reaches beyond, with the same entry at its end, is never installed:
        the core only moves its commit index then.
        """
        batch = Batch()
        if hard_state is not None:
            batch.put(_HARD_STATE, _frame(msgspec.msgpack.encode(hard_state)))
        batch.put(_BASE, _frame(msgspec.msgpack.encode(meta)))
        batch.delete(_PENDING)
        if self._terms:
            batch.delete_range(_key(self.first_index()), _key(self.last_index() + 1))
        self._store.write(batch)
        self.hard_state = hard_state or self.hard_state
        self.pending_install = None
        self._truncate(self.first_index())
        self._base = meta

    # -- in memory ---------------------------------------------------------------------------

    def _check_appendable(self, entries: Sequence[Entry]) -> None:
        first = entries[0].index
        if not self.first_index() <= first <= self.last_index() + 1:
            raise LocalProtocolError(
                f"cannot append at {first}: the log holds {self.first_index()}..{self.last_index()}"
            )
        for offset, entry in enumerate(entries):
            if entry.index != first + offset:
                raise LocalProtocolError(f"entries to append have a gap at {first + offset}")

    def _remember(self, entry: Entry) -> None:
        size = len(entry.data) + _ENTRY_OVERHEAD_BYTES
        self._terms.append(entry.term)
        self._sizes.append(size)
        self._bytes += size
        if entry.kind is EntryKind.CONFIGURATION:
            self._configurations.append(decode_configuration(entry))
        self._window.append(entry)
        self._window_bytes += size
        # Trimmed at twice the limit, back to the limit: the copying stays a constant per entry.
        if self._window_bytes > 2 * self._window_bytes_max:
            self._trim_window()

    def _trim_window(self) -> None:
        drop = 0
        while self._window_bytes > self._window_bytes_max and drop < len(self._window) - 1:
            self._window_bytes -= len(self._window[drop].data) + _ENTRY_OVERHEAD_BYTES
            drop += 1
        del self._window[:drop]

    def _truncate(self, index: int) -> None:
        """Forget entries from `index` on."""
        dropped = self.last_index() - index + 1
        if dropped <= 0:
            return
        keep = len(self._terms) - dropped
        self._bytes -= sum(self._sizes[keep:])
        del self._terms[keep:], self._sizes[keep:]
        del self._window[max(0, len(self._window) - dropped) :]
        self._window_bytes = _window_size(self._window)
        while self._configurations and self._configurations[-1].index >= index:
            self._configurations.pop()

    def _drop_until(self, base: SnapshotMeta) -> None:
        dropped = base.index - self._base.index
        self._bytes -= sum(self._sizes[:dropped])
        del self._terms[:dropped], self._sizes[:dropped]
        surplus = len(self._window) - len(self._terms)
        if surplus > 0:
            del self._window[:surplus]
            self._window_bytes = _window_size(self._window)
        self._configurations = [c for c in self._configurations if c.index > base.index]
        self._base = base

    def _cut_by_bytes(self, low: int, high: int, max_bytes: int) -> int:
        total, first = 0, low - self._base.index - 1
        for position in range(first, first + high - low):
            total += self._sizes[position]
            if total > max_bytes and position > first:
                return low + position - first
        return high

    def _read_back(self, low: int, high: int) -> list[Entry]:
        found = [_decode_entry(*pair) for pair in self._store.scan(_key(low), _key(high))]
        if [entry.index for entry in found] != list(range(low, high)):
            raise Corrupt(f"the Raft log lost entries between {low} and {high - 1}")
        return found


def holds_raft_state(store: Store) -> bool:
    """Whether this store was part of a cluster before."""
    return not DiskLog(store).is_empty


def bootstrap(store: Store, configuration: Configuration, identity: Identity) -> None:
    """Give birth to a cluster on a store that no driver runs on yet, and sync; see `begin`."""
    log = DiskLog(store)
    if not log.is_empty:
        raise LocalProtocolError("cannot bootstrap: this server already holds Raft state")
    log.establish(identity)
    log.begin(configuration)
    store.sync()


# -- encoding --------------------------------------------------------------------------------


def _key(index: int) -> bytes:
    return _LOG + encode_u64(index)


def _encode_entry(entry: Entry) -> bytes:
    header = _HEADER.pack(entry.term, entry.kind)
    # The index is in the key; it is summed too, so that a misplaced record is noticed.
    checksum = zlib.crc32(entry.data, zlib.crc32(header, entry.index & 0xFFFFFFFF))
    return checksum.to_bytes(_CRC_BYTES, "big") + header + entry.data


def _decode_entry(key: bytes, value: bytes) -> Entry:
    index = decode_u64(key[len(_LOG) :])
    header, data = value[_CRC_BYTES : _CRC_BYTES + _HEADER.size], value[_CRC_BYTES + _HEADER.size :]
    checksum = zlib.crc32(data, zlib.crc32(header, index & 0xFFFFFFFF))
    if len(header) < _HEADER.size or int.from_bytes(value[:_CRC_BYTES], "big") != checksum:
        raise Corrupt(
            f"log entry {index} is not what was written (checksum); "
            "wipe this server and let it rejoin as a new one, or restore a backup"
        )
    term, kind = _HEADER.unpack(header)
    return Entry(index, term, EntryKind(kind), data)


def _frame(payload: bytes) -> bytes:
    return zlib.crc32(payload).to_bytes(_CRC_BYTES, "big") + payload


def _read(reader: Reader, key: bytes, kind: type[_T]) -> _T | None:
    raw = reader.get(key)
    if raw is None:
        return None
    payload = raw[_CRC_BYTES:]
    if zlib.crc32(payload) != int.from_bytes(raw[:_CRC_BYTES], "big"):
        raise Corrupt(f"the stored Raft {kind.__name__} is not what was written (checksum)")
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except msgspec.DecodeError as error:
        raise Corrupt(f"the stored Raft {kind.__name__} is unreadable") from error


def _window_size(entries: Iterable[Entry]) -> int:
    return sum(len(entry.data) + _ENTRY_OVERHEAD_BYTES for entry in entries)
