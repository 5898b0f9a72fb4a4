"""The replicated state machine: committed entries go in, results and touched topics come out.

All replicated data of a node is one range of its ordered store; `StateMachine` is the only writer
of that range. A committed batch becomes one storage write that holds the changes *and* the index
up to which the log is now applied, so that a crash at any moment leaves a state that some prefix
of the log explains, and that says which. Start reading at `StateMachine.apply`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any, Final, Protocol, Union
from zlib import crc32

import msgspec

from registry.errors import Corrupt, Rejected
from registry.state import (
    addresses,
    catalog_commands,
    catalog_queries,
    config_entries,
    coordinates,
    health,
    kv,
    locks,
    operator,
    prepared,
    restore,
    sessions,
    sinks,
    txn,
)
from registry.state.base import Command, Query, Refused, Transaction
from registry.state.changes import ChangeJournal
from registry.state.topics import ALL, TopicHub
from registry.storage.keys import STATE, decode_u64, encode_parts, encode_u64
from registry.storage.store import Batch, Reader, Snapshot, Staged, Store, prefix_stop

#: Every module with commands or queries: most families have one.
FAMILIES: Final = (
    kv,
    sessions,
    locks,
    txn,
    catalog_commands,
    catalog_queries,
    addresses,
    health,
    prepared,
    coordinates,
    config_entries,
    operator,
    restore,
    sinks,
)

_APPLIED = STATE + encode_parts("applied")
_STATE_STOP = prefix_stop(STATE) or b""

#: A dump is this, then frames: length and CRC-32 of the payload, payload. A payload is a
#: MessagePack list of keys and values by turns; the last frame's is instead the SHA-256 of all
#: before it.
_DUMP_MAGIC = b"registry-state-1\n"
_FRAME = struct.Struct(">II")
_FRAME_BYTES = 256 * 1024  # about one chunk of a snapshot transfer
_FRAME_BYTES_MAX = 64 * 1024 * 1024  # above any frame we write; guards against a mad length


def _kinds(base: type[Any], modules: Sequence[ModuleType]) -> tuple[type[Any], ...]:
    """The tagged subclasses of `base` that the modules define, in a fixed order."""
    return tuple(
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, base) and kind.__module__ == module.__name__
    )


#: All commands and all queries; what may be in a log entry, and what may be asked.
COMMANDS: Final = _kinds(Command, FAMILIES)
QUERIES: Final = _kinds(Query, FAMILIES)

_encoder = msgspec.msgpack.Encoder()
_command_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Union[COMMANDS])  # noqa: UP007 - built from a tuple
_query_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Union[QUERIES])  # noqa: UP007 - built from a tuple
_pairs_decoder = msgspec.msgpack.Decoder(list[bytes])


def encode_command(command: Command) -> bytes:
    """Raises `Rejected`, as `encode_query` does, for what has no encoding."""
    return _encode(command)


def _encode(value: Command | Query) -> bytes:
    try:
        return _encoder.encode(value)
    except (UnicodeEncodeError, OverflowError) as problem:
        # Half a surrogate pair, an integer over 64 bits: a face let it pass.
        raise Rejected(f"a value cannot be stored: {problem}") from problem


def decode_command(raw: bytes) -> Command:
    """Raises `Corrupt` for what is no command of this version; it must not be skipped."""
    try:
        command: Command = _command_decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corrupt(f"not a command that this version knows: {error}") from error
    return command


def encode_query(query: Query) -> bytes:
    return _encode(query)


def decode_query(raw: bytes) -> Query:
    """Raises `Corrupt` for what is no query of this version."""
    try:
        query: Query = _query_decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corrupt(f"not a query that this version knows: {error}") from error
    return query


class LogEntry(Protocol):
    """A committed entry of the log, as far as the state looks at it (consensus has the rest)."""

    @property
    def index(self) -> int: ...
    @property
    def kind(self) -> int:
        """`COMMAND` or anything else, which is no business of the state."""
        ...

    @property
    def data(self) -> bytes: ...


#: The kind of entry that holds a command.
COMMAND: Final = 0


class StateMachine:
    """Applies committed entries to the store. Belongs to the thread that writes the store; only
    `dump` and `prepare` are for other threads.

    A crash in the middle of `install` may leave an empty state, with an `applied_index` of 0: the
    snapshot has to be installed again.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.topics = TopicHub()
        #: How often the whole state was replaced; indexes of before mean nothing after.
        self.generation = 0
        self._applied_index = _applied_index(store)
        #: What commands change, for those who follow it; None: nobody does.
        self.journal: ChangeJournal | None = None

    def keep_changes(self) -> ChangeJournal:
        """Keep the changes of commands from now on."""
        if self.journal is None:
            self.journal = ChangeJournal(self._store, self._applied_index)
        return self.journal

    def let_go_of_changes(self) -> None:
        """Keep none from now on. Those that are there stay, of no use once others are missing."""
        self.journal = None

    @property
    def applied_index(self) -> int:
        """Index of the last entry whose effect is in the store."""
        return self._applied_index

    @property
    def reader(self) -> Reader:
        """The current state, for queries."""
        return self._store

    def apply(self, entries: Sequence[LogEntry]) -> list[Any]:
        """Apply a committed batch, in index order; the results of its commands, None for the rest.

        One storage write for all of it; topics are published once, after the write. Entries that
        are applied already (the log is read again after a restart) change nothing and give None.
        Durable when the store's next `sync` returns.

        Raises `Corrupt` for a command that this version does not know and `StorageError` when the
        store fails; nothing of the batch is then applied, and the node must stop.
        """
        tx = Transaction(self._store)
        last = self._applied_index
        results: list[Any] = []
        for entry in entries:
            if entry.index <= self._applied_index:
                results.append(None)
                continue
            assert entry.index > last, f"entry {entry.index} after {last}"
            last = entry.index
            results.append(self._apply_command(tx, entry) if entry.kind == COMMAND else None)
        if last > self._applied_index:
            self._write(tx, last)
        return results

    def _apply_command(self, tx: Transaction, entry: LogEntry) -> Any:
        command = decode_command(entry.data)
        tx.begin(entry.index, command.now_ms)
        result = command.apply(tx)
        if isinstance(result, Refused):
            tx.undo()
        elif self.journal is not None:
            self.journal.note(entry.index, tx, command.origin)
        return result

    def _write(self, tx: Transaction, applied_index: int) -> None:
        batch = tx.batch()
        batch.put(_APPLIED, encode_u64(applied_index))
        if self.journal is not None:
            self.journal.add_to(batch, tx, applied_index)
        self._store.write(batch)
        self._applied_index = applied_index
        if self.journal is not None:
            self.journal.written()
        if ALL in tx.touched:
            self.generation += 1
        if tx.touched:
            self.topics.publish(frozenset(tx.touched))

    def snapshot(self) -> Snapshot:
        """The state of now, to be dumped while entries are applied; the caller closes it."""
        return self._store.snapshot()

    def dump(self, snapshot: Snapshot) -> Iterator[bytes]:
        """The whole state as of `snapshot`, in key order, in chunks of about 256 KiB.

        Touches nothing but the snapshot, so it may run in another thread while entries are applied.
        The same state always gives the same bytes.
        """
        digest = hashlib.sha256(_DUMP_MAGIC)
        yield _DUMP_MAGIC
        for payload in _payloads(snapshot):
            frame = _FRAME.pack(len(payload), crc32(payload)) + payload
            digest.update(frame)
            yield frame
        seal = digest.digest()
        yield _FRAME.pack(len(seal), crc32(seal)) + seal

    def prepare(self, chunks: Iterable[bytes]) -> Staged:
        """Make ready to replace the state by a dump, whose chunks may be cut anywhere. Blocks, in
        any thread, while entries are applied; nothing of it can be read before `install`.

        Raises `Corrupt` when the dump is damaged or incomplete, and `StorageError` when there is no
        room; the state is unharmed.
        """
        return self._store.stage(_dumped_pairs(chunks))

    def install(self, prepared: Staged) -> None:
        """Replace the whole state, applied index and all, at once; wakes every waiter.

        About a crash half way see the class. (An operator's restore is replicated, and so a matter
        of commands: `registry.state.restore`.)
        """
        everything = Batch()
        everything.delete_range(STATE, _STATE_STOP)
        self._store.replace(everything, prepared)
        self._applied_index = _applied_index(self._store)
        self.generation += 1
        if self.journal is not None:
            self.journal.replaced(self._applied_index)
        self.topics.publish(frozenset({ALL}))

    def restore(self, chunks: Iterable[bytes]) -> None:
        """`prepare` and `install` in one: for a server that does nothing else yet."""
        self.install(self.prepare(chunks))

    def checksum(self, reader: Reader) -> str:
        """SHA-256 of the state as `reader` sees it, equal on replicas that applied the same log."""
        digest = hashlib.sha256()
        for key, value in reader.scan(STATE, _STATE_STOP):
            digest.update(_FRAME.pack(len(key), len(value)))
            digest.update(key)
            digest.update(value)
        return digest.hexdigest()


def _applied_index(reader: Reader) -> int:
    raw = reader.get(_APPLIED)
    return decode_u64(raw) if raw is not None else 0


def _payloads(snapshot: Snapshot) -> Iterator[bytes]:
    pairs: list[bytes] = []
    size = 0
    for key, value in snapshot.scan(STATE, _STATE_STOP):
        pairs += (key, value)
        size += len(key) + len(value)
        if size >= _FRAME_BYTES:
            yield _encoder.encode(pairs)
            pairs, size = [], 0
    if pairs:
        yield _encoder.encode(pairs)


def dump_payloads(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """A dump's keys and values, in the pieces that `restore.StageRestore` takes; verified.

    Raises `Corrupt` when the dump is damaged or incomplete, at the latest at its end.
    """
    for pairs in _read_dump(chunks):
        yield _encoder.encode(pairs)


def _dumped_pairs(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    for pairs in _read_dump(chunks):
        yield from zip(pairs[::2], pairs[1::2], strict=True)


def _read_dump(chunks: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The lists of keys and values in a dump, each checked; raises `Corrupt`."""
    digest = hashlib.sha256(_DUMP_MAGIC)
    previous: bytes | None = None
    for frame in _frames(chunks):
        if previous is not None:
            digest.update(previous)
            yield _decode_pairs(previous)
        previous = frame
    if previous is None or previous[_FRAME.size :] != digest.digest():
        raise Corrupt("the state dump is incomplete or damaged")


def _decode_pairs(frame: bytes) -> list[bytes]:
    try:
        pairs = _pairs_decoder.decode(frame[_FRAME.size :])
    except msgspec.MsgspecError as error:
        raise Corrupt(f"the state dump holds an unreadable frame: {error}") from error
    if len(pairs) % 2 or not all(key.startswith(STATE) for key in pairs[::2]):
        raise Corrupt("the state dump holds keys that are not of the state")
    return pairs


def _frames(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Whole frames, header and all, out of chunks that are cut anywhere."""
    rest = bytearray()
    expected_magic = True
    for chunk in chunks:
        rest += chunk
        if expected_magic:
            if len(rest) < len(_DUMP_MAGIC):
                continue
            if rest[: len(_DUMP_MAGIC)] != _DUMP_MAGIC:
                raise Corrupt("this is no state dump, or one of another version")
            del rest[: len(_DUMP_MAGIC)]
            expected_magic = False
        while (frame := _next_frame(rest)) is not None:
            yield frame
            del rest[: len(frame)]
    if rest or expected_magic:
        raise Corrupt("the state dump ends in the middle of a frame")


def _next_frame(rest: bytearray) -> bytes | None:
    if len(rest) < _FRAME.size:
        return None
    length, checksum = _FRAME.unpack_from(rest)
    if length > _FRAME_BYTES_MAX:
        raise Corrupt(f"the state dump claims a frame of {length} bytes")
    end = _FRAME.size + length
    if len(rest) < end:
        return None
    if crc32(rest[_FRAME.size : end]) != checksum:
        raise Corrupt("a frame of the state dump does not have its checksum")
    return bytes(rest[:end])
