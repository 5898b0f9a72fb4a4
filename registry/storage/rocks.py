"""The default engine: RocksDB through rocksdict, one column family, one write-ahead log.

**Writing.** `write` appends to the log without waiting for the disk; `sync` makes everything before
it durable. rocksdict's `write` keeps the interpreter lock, even through an fsync, while `flush_wal`
gives it up: so a thread can sync while the event loop goes on writing (design, decision 4).

**Recovery (R-9).** After a power failure the unsynced end of the log may be torn, and must be cut;
damage before it must be refused, because what was acknowledged is gone. None of RocksDB's recovery
modes tells the two apart: *point in time* stops at the first bad record and silently drops all
that follows, *tolerate corrupted tail* refuses a tail with a bad checksum and can skip a hole
between two logs, *absolute consistency* refuses every tear. The difference can be seen only by
knowing how far the log was synced, so we keep that number: `sync` notes in the file `SYNCED` the
sequence number that it made durable. The file is rewritten in place, 12 bytes, and not synced
itself, so after a power failure it may be some seconds old; an old number lets a tear pass that we
might have refused, and never refuses a good log. Opening goes

    structure of the logs (wal.py)
      │   odd: does what comes before reach SYNCED?    no: Corrupt, nothing was changed
      │                                                yes: cut it there
    absolute consistency
      │   bad checksum: does point in time, read-only, reach SYNCED?    no: Corrupt, as above
      │                                                                 yes: let it cut
    open

The file is also what a store is locked by (`flock`), before RocksDB takes its own lock: a log that
another process is writing must not be cut.

This is the only module that imports rocksdict, which raises bare `Exception` with RocksDB's text;
all of them become our errors here.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any
from weakref import WeakSet

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    DataBlockIndexType,
    DbClosedError,
    DBCompressionType,
    DBRecoveryMode,
    IngestExternalFileOptions,
    Options,
    Rdict,
    RdictIter,
    ReadOptions,
    SstFileWriter,
    WriteBatch,
)

from registry.errors import Corrupt, DiskFull, Locked, StorageError
from registry.storage.format import check_format
from registry.storage.keys import decode_u64, encode_u64
from registry.storage.store import Batch, Staged
from registry.storage.wal import Tear, cut, find_tear, log_files, sync_directory

logger = logging.getLogger("registry.storage")

MIB = 1024 * 1024

# Memory for blocks read from table files, their indexes and filters: fits the hot part of a
# registry; colder data come through the kernel's page cache at a few microseconds more.
_BLOCK_CACHE_BYTES = 64 * MIB
# A memtable, and so also a log file, before it is written out as a table. Three of them bound the
# memory for writes to 48 MiB and what a restart has to replay to the same.
_WRITE_BUFFER_BYTES, _WRITE_BUFFERS = 16 * MIB, 3
_WAL_BYTES_MAX = 64 * MIB
_OPEN_FILES_MAX = 256
# Every read that follows a range deletion in the memtable walks all of its range deletions; after
# this many the memtable is written out, where they are indexed.
_RANGE_DELETIONS_MAX = 64

# What a scan of a snapshot takes from the shared cursor at a time, whichever comes first: a run
# costs one seek (4 µs), and a pair that nobody asks for 0.4 µs.
_RUN_PAIRS_MAX, _RUN_BYTES_MAX = 128, MIB

# A table of staged pairs. RocksDB counts each as one of those that it wants to merge soon, and
# slows writes at twenty; a table's index, on the other hand, has to fit the block cache.
_STAGED_BYTES_MAX = 256 * MIB

_SYNCED_FILE = "SYNCED"
_STAGED_FILES = "STAGED-"

_FULL = ("No space left on device", "Disk quota exceeded", "File too large")
_LOCKED = ("lock hold by current process", "While lock file")
_DENIED = ("Permission denied", "Read-only file system", "Operation not permitted")
_DAMAGED = ("Corruption", "checksum mismatch", "No such file or directory")


def translate(error: Exception, directory: Path) -> StorageError:
    """Our error for one of rocksdict's or the operating system's, naming directory and remedy."""
    # Whatever else comes out (TypeError for a key that is no bytes) is a bug of the caller.
    if type(error) is not Exception and not isinstance(error, (OSError, DbClosedError)):
        raise error
    text = " ".join(str(error).split())
    where = f"data directory {directory}"
    if isinstance(error, DbClosedError):
        return StorageError(f"{where}: the store is closed")
    if any(part in text for part in _FULL):
        return DiskFull(
            f"{where}: no room left on the device: free some space, then start again ({text})"
        )
    if any(part in text for part in _LOCKED):
        return _locked(directory)
    if any(part in text for part in _DENIED):
        return StorageError(
            f"{where}: cannot be read and written by this user: change its owner or permissions, "
            f"or choose another directory ({text})"
        )
    if isinstance(error, (FileExistsError, NotADirectoryError)) or "Not a directory" in text:
        return StorageError(f"{where}: not a directory: choose another one ({text})")
    if "Too many open files" in text:
        return StorageError(f"{where}: too many open files: raise the limit (ulimit -n) ({text})")
    if any(part in text for part in _DAMAGED):
        return Corrupt(
            f"{where}: damaged: restore it from a backup, or empty it and rejoin as a new server "
            f"({text})"
        )
    return StorageError(f"{where}: {text}")


def _options(recovery: DBRecoveryMode) -> Options:
    table = BlockBasedOptions()
    table.set_block_cache(Cache(_BLOCK_CACHE_BYTES))
    # Indexes and filters live in the cache too, or their memory would grow with the data.
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_bloom_filter(10, False)
    table.set_data_block_index_type(DataBlockIndexType.binary_and_hash())
    table.set_format_version(5)

    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_wal_recovery_mode(recovery)
    options.set_block_based_table_factory(table)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(_WRITE_BUFFERS)
    options.set_max_total_wal_size(_WAL_BYTES_MAX)
    # A filter over the memtable's keys, 5 % of its memory: reads of what is older skip it, and take
    # 3.4 instead of 5.3 µs at random over 200,000 keys.
    options.set_memtable_whole_key_filtering(True)
    options.set_memtable_prefix_bloom_ratio(0.05)
    options.set_max_manifest_file_size(16 * MIB)
    options.set_max_open_files(_OPEN_FILES_MAX)
    options.set_max_background_jobs(2)
    # Files are deleted in the background instead of in the thread that drops an iterator.
    options.set_avoid_unnecessary_blocking_io(True)
    # Opening does not read a block of every table for statistics that nobody looks at.
    options.set_skip_stats_update_on_db_open(True)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(MIB)
    return options


class _Synced:
    """The file that says up to which sequence number the log is known to be durable.

    Eight bytes of number and four of CRC-32, in one sector. Whoever has a store open for writing
    has the file locked. It is empty until the first opening has succeeded, then synced once with
    its directory, so that only damage makes it unreadable later.
    """

    __slots__ = ("_file", "number")

    def __init__(self, directory: Path) -> None:
        path = directory / _SYNCED_FILE
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            if isinstance(error, BlockingIOError):
                raise _locked(directory) from error
            raise
        #: The number noted last; None when the file is new or damaged.
        self.number = self.parse(os.pread(self._file, 13, 0))

    def note(self, sequence: int) -> None:
        self.number = sequence
        raw = encode_u64(sequence)
        os.pwrite(self._file, raw + zlib.crc32(raw).to_bytes(4, "big"), 0)

    def begin(self, directory: Path) -> None:
        """Make the file readable, after a successful opening."""
        if self.number is None:
            self.note(0)
            os.fsync(self._file)
            sync_directory(directory)

    def close(self) -> None:
        os.close(self._file)

    @staticmethod
    def parse(raw: bytes) -> int | None:
        number, check = raw[:8], raw[8:]
        return decode_u64(number) if check == zlib.crc32(number).to_bytes(4, "big") else None

    @classmethod
    def read(cls, directory: Path) -> int | None:
        """The number as a reader sees it that has no lock."""
        try:
            return cls.parse((directory / _SYNCED_FILE).read_bytes())
        except FileNotFoundError:
            return None


def _locked(directory: Path) -> Locked:
    return Locked(
        f"data directory {directory}: in use by another process: stop that one, or choose "
        "another directory"
    )


def _prepare(directory: Path, *, read_only: bool) -> None:
    """Make the directory if need be; the plain refusals, before RocksDB has a part in it."""
    if read_only:
        if not (directory / "CURRENT").exists():
            raise StorageError(f"data directory {directory}: holds no store")
        return
    if not directory.is_dir():
        directory.mkdir(parents=True, mode=0o700)
        sync_directory(directory.parent)
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(13, "Permission denied")


class _Opening:
    """One attempt to open a directory, with the recovery that the head of this file describes."""

    __slots__ = ("access", "directory", "read_only", "synced")

    def __init__(self, directory: Path, synced: int | None, *, read_only: bool) -> None:
        self.directory = directory
        self.synced = synced
        self.read_only = read_only
        self.access = AccessType.read_only(False) if read_only else AccessType.read_write()

    def run(self) -> Rdict:
        """The open database. Raises rocksdict's errors, or ours."""
        tear = find_tear(log_files(self.directory), self._oldest_live_log)
        if tear is not None:
            self._cut(tear)
        try:
            database = self._opened(DBRecoveryMode.absolute_consistency(), self.access)
        except Exception as error:
            if not isinstance(translate(error, self.directory), Corrupt):
                raise
            reached = self._trial(Rdict.latest_sequence_number)
            if self.synced is None or reached < self.synced:
                raise
            self._tell_cut(reached)
            return self._opened(DBRecoveryMode.point_in_time(), self.access)
        # A log that is missing, or cut just between two batches, is whole for all we have seen.
        reached = database.latest_sequence_number()
        if self.synced is not None and reached < self.synced:
            database.close()
            raise self._corrupt(reached)
        return database

    def _cut(self, tear: Tear) -> None:
        if self.read_only:
            raise StorageError(
                f"data directory {self.directory}: the log ends within a record: try again, or "
                "start the agent on it once"
            )
        reached = tear.reached
        if reached is None:  # nothing in the logs: what counts is in the tables
            reached = self._trial(Rdict.latest_sequence_number)
        if self.synced is None or reached < self.synced:
            raise self._corrupt(reached)
        self._tell_cut(reached)
        cut(tear)

    def _oldest_live_log(self) -> int:
        return self._trial(
            lambda database: database.property_int_value("rocksdb.min-log-number-to-keep") or 0
        )

    def _trial(self, look: Callable[[Rdict], int]) -> int:
        """What `look` finds in the directory as *point in time* sees it; changes nothing."""
        database = self._opened(DBRecoveryMode.point_in_time(), AccessType.read_only(False))
        try:
            return look(database)
        finally:
            database.close()

    def _opened(self, recovery: DBRecoveryMode, access: AccessType) -> Rdict:
        return Rdict(str(self.directory), _options(recovery), access_type=access)

    def _corrupt(self, reached: int) -> Corrupt:
        known = "an unknown position" if self.synced is None else str(self.synced)
        return Corrupt(
            f"data directory {self.directory}: damaged: the log ends at {reached} but was synced "
            f"up to {known}: restore it from a backup, or empty it and rejoin as a new server"
        )

    def _tell_cut(self, reached: int) -> None:
        text = "cutting off a torn end of the log that was never synced dir=%s sequence=%d"
        logger.warning(text, self.directory, reached)


class RocksSnapshot:
    """A consistent view; closing it lets RocksDB forget the versions that only it still sees.

    Snapshots of rocksdict 0.3.29 answer `get` from the moment they were taken, but their iterators
    show the present. A cursor of the database, however, stays at the moment of its creation,
    wherever it is moved. So a snapshot here is a pair of both, taken together; scans share the one
    cursor and take their pairs from it in runs, which lets them interleave, also between threads.
    """

    __slots__ = ("__weakref__", "_cursor", "_directory", "_lock", "_values")

    def __init__(self, directory: Path, database: Rdict) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._values: Any = database.snapshot()
        self._cursor: RdictIter | None = database.iter()

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes = self._values[key]
        except Exception as error:
            # The wrapper has no `get` on snapshots; a missing key is this one text.
            if str(error) == "key not found":
                return None
            if self._values is None:
                raise self._closed() from None
            raise translate(error, self._directory) from error
        return value

    def scan(
        self,
        start: bytes,
        stop: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[bytes, bytes]]:
        pairs = self._backward(start, stop) if reverse else self._forward(start, stop)
        return pairs if limit is None else islice(pairs, max(limit, 0))

    def close(self) -> None:
        with self._lock:
            self._values = self._cursor = None

    def _forward(self, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        run = self._run(start, reverse=False)
        while run:
            for pair in run:
                if stop is not None and pair[0] >= stop:
                    return
                yield pair
            run = self._run(run[-1][0] + b"\x00", reverse=False)

    def _backward(self, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        run = self._run(stop, reverse=True)
        while run:
            for pair in run:
                if pair[0] < start:
                    return
                yield pair
            run = self._run(run[-1][0], reverse=True)

    def _run(self, key: bytes | None, *, reverse: bool) -> list[tuple[bytes, bytes]]:
        """The next pairs from `key` up, or below `key` down (None: from the end); [] at the end."""
        with self._lock:
            cursor = self._cursor
            if cursor is None:
                raise self._closed()
            run: list[tuple[bytes, bytes]] = []
            size = 0
            try:
                if key is None:
                    cursor.seek_to_last()
                elif reverse:
                    cursor.seek_for_prev(key)
                    if cursor.valid() and cursor.key() == key:
                        cursor.prev()
                else:
                    cursor.seek(key)
                step = cursor.prev if reverse else cursor.next
                while len(run) < _RUN_PAIRS_MAX and size < _RUN_BYTES_MAX and cursor.valid():
                    value = cursor.value()
                    run.append((cursor.key(), value))
                    size += len(value)
                    step()
                cursor.status()
            except Exception as error:
                raise translate(error, self._directory) from error
            return run

    def _closed(self) -> StorageError:
        return StorageError(f"data directory {self._directory}: the snapshot is closed")


class _StagedTables:
    """Pairs as table files beside RocksDB's own, which does not know of them yet."""

    __slots__ = ("paths",)

    def __init__(self) -> None:
        self.paths: list[Path] = []

    def discard(self) -> None:
        for path in self.paths:
            path.unlink(missing_ok=True)
        self.paths.clear()


class RocksStore:
    """A store in a directory, made by `RocksStore.open`. Contract: `registry.storage.Store`."""

    __slots__ = (
        "_database",
        "_failure",
        "_range_deletions",
        "_snapshots",
        "_staged_numbers",
        "_sync_lock",
        "_synced",
        "directory",
        "read_only",
    )

    def __init__(self, directory: Path, database: Rdict, synced: _Synced | None) -> None:
        self.directory = directory
        self._database: Any = database  # None once closed
        self.read_only = synced is None
        self._synced = synced
        self._sync_lock = threading.Lock()
        self._failure: StorageError | None = None
        self._range_deletions = 0
        self._snapshots: WeakSet[RocksSnapshot] = WeakSet()
        self._staged_numbers = count()

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> RocksStore:
        """Open the store in the directory `path`, made if need be.

        `read_only` needs no lock and changes nothing: it shows what a stopped, or at this moment a
        running, agent has written.

        Raises `Locked`, `Corrupt`, `DiskFull`, `NewerFormat`, or `StorageError` when the directory
        cannot be used at all.
        """
        synced: _Synced | None = None
        try:
            _prepare(path, read_only=read_only)
            if read_only:
                database = _Opening(path, _Synced.read(path), read_only=True).run()
            else:
                synced = _Synced(path)
                for leftover in path.glob(_STAGED_FILES + "*"):
                    leftover.unlink()
                database = _Opening(path, synced.number, read_only=False).run()
                synced.begin(path)
        except Exception as error:
            if synced is not None:
                synced.close()
            if isinstance(error, StorageError):
                raise
            raise translate(error, path) from error
        store = cls(path, database, synced)
        try:
            check_format(store, path, stamp=not read_only)
        except StorageError:
            store.close()
            raise
        return store

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._database.get(key)
        except Exception as error:
            raise self._translated(error) from error
        return value

    def scan(
        self,
        start: bytes,
        stop: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[bytes, bytes]]:
        """As `Reader.scan`. An iterator that is kept keeps the directory locked after `close`."""
        if limit is not None and limit <= 0:
            return
        try:
            cursor = self._cursor(start, stop, reverse=reverse)
            # The cursor's own methods in a plain loop: 0.4 µs a pair. rocksdict's `items` would
            # take 0.3 µs, but ends without a word at a damaged block.
            valid, key, value = cursor.valid, cursor.key, cursor.value
            step = cursor.prev if reverse else cursor.next
            left = -1 if limit is None else limit
            while valid():
                found = key()
                if reverse and found < start:
                    return
                yield found, value()
                left -= 1
                if not left:
                    return
                step()
            cursor.status()
        except Exception as error:
            raise self._translated(error) from error

    def _cursor(self, start: bytes, stop: bytes | None, *, reverse: bool) -> RdictIter:
        # With an upper bound a scan does not walk over what was deleted behind its range. There is
        # no lower bound: rocksdict 0.3.29 takes `set_iterate_lower_bound` for the upper one.
        bounds = ReadOptions()
        if stop is not None:
            bounds.set_iterate_upper_bound(stop)
        cursor: RdictIter = self._open().iter(bounds)
        if not reverse:
            cursor.seek(start)
        elif stop is None:
            cursor.seek_to_last()
        else:
            cursor.seek_for_prev(stop)  # the upper bound keeps `stop` itself out
        return cursor

    def write(self, batch: Batch) -> None:
        self._check_writable()
        writes = WriteBatch(raw_mode=True)
        put, delete = writes.put, writes.delete
        for kind, key, value in batch.operations:
            if kind == Batch.PUT:
                put(key, value)
            elif kind == Batch.DELETE:
                delete(key)
            elif key < value:
                writes.delete_range(key, value)
                self._range_deletions += 1
        try:
            self._open().write(writes)
            if self._range_deletions >= _RANGE_DELETIONS_MAX:
                self._range_deletions = 0
                self._database.flush(wait=False)
        except Exception as error:
            raise self._failed(error) from error

    def stage(self, pairs: Iterable[tuple[bytes, bytes]]) -> Staged:
        self._check_writable()
        staged = _StagedTables()
        try:
            self._write_tables(pairs, staged.paths)
            # `replace` has to write out the memtable, so let it find a nearly empty one.
            with self._sync_lock:
                self._open().flush(wait=True)
        except BaseException as error:
            staged.discard()
            if isinstance(error, StorageError) or not isinstance(error, Exception):
                raise
            raise self._translated(error) from error
        return staged

    def _write_tables(self, pairs: Iterable[tuple[bytes, bytes]], paths: list[Path]) -> None:
        """Write pairs into new files, whose paths are added to `paths`."""
        options = _options(DBRecoveryMode.absolute_consistency())
        writer: Any = None
        size = 0
        for key, value in pairs:
            if writer is None or size >= _STAGED_BYTES_MAX:
                if writer is not None:
                    writer.finish()
                path = self.directory / f"{_STAGED_FILES}{next(self._staged_numbers)}"
                paths.append(path)
                writer, size = SstFileWriter(options=options), 0
                writer.open(str(path))
            writer[key] = value
            size += len(key) + len(value)
        if writer is not None:
            writer.finish()  # synced, too

    def replace(self, before: Batch, staged: Staged) -> None:
        assert isinstance(staged, _StagedTables)
        self.write(before)
        if not staged.paths:
            return
        try:
            database = self._open()
            # An added table is durable at once, and takes a sequence number that no log has. With
            # the memtable written out first, all before it is as durable, and a new log begins
            # behind the number, so that there is no gap in the logs that are still needed.
            database.flush(wait=True)
            self._range_deletions = 0
            options = IngestExternalFileOptions()
            options.set_move_files(True)
            database.ingest_external_file([str(path) for path in staged.paths], options)
            staged.discard()
        except Exception as error:
            raise self._failed(error) from error

    def sync(self) -> None:
        # The lock lets `close` wait for a sync in another thread; there is no other contention.
        with self._sync_lock:
            if self._failure is not None:
                raise self._failure
            try:
                database = self._open()
                if self._synced is None:
                    return
                sequence = database.latest_sequence_number()
                database.flush_wal(True)
                self._synced.note(sequence)
            except Exception as error:
                raise self._failed(error) from error

    def snapshot(self) -> RocksSnapshot:
        try:
            snapshot = RocksSnapshot(self.directory, self._open())
        except Exception as error:
            raise self._translated(error) from error
        self._snapshots.add(snapshot)
        return snapshot

    def close(self) -> None:
        with self._sync_lock:
            if self._database is None:
                return
            database: Rdict = self._database
            # An open snapshot would keep the database, and its lock on the directory, alive.
            for snapshot in list(self._snapshots):
                snapshot.close()
            self._database = None
            if self._synced is not None:
                self._synced.close()
            try:
                database.close()
            except Exception as error:
                # A log that could not be written before cannot be flushed now either; whoever
                # wrote it was told then.
                level = logging.DEBUG if self._failure is not None else logging.WARNING
                logger.log(
                    level, "closing the store failed dir=%s reason=%s", self.directory, error
                )

    def _check_writable(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self.read_only:
            raise StorageError(f"data directory {self.directory}: opened for reading only")

    def _failed(self, error: Exception) -> StorageError:
        """Remember a failed write or sync: what follows it would be a log with a hole (R-8)."""
        self._failure = self._translated(error)
        return self._failure

    def _open(self) -> Any:
        if self._database is None:
            raise StorageError(f"data directory {self.directory}: the store is closed")
        return self._database

    def _translated(self, error: Exception) -> StorageError:
        if self._database is None:
            return StorageError(f"data directory {self.directory}: the store is closed")
        return error if isinstance(error, StorageError) else translate(error, self.directory)
