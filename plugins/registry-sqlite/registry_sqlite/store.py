"""The engine: one table of keys and values in write-ahead mode.

    DIRECTORY/store.db       pairs(key BLOB PRIMARY KEY, value BLOB)
    DIRECTORY/store.db-wal   what was written since the last checkpoint
    DIRECTORY/lock           held by the process that has the directory open

A batch is one transaction, which is in the write-ahead log when `write` returns and is not yet
synced: SQLite's `synchronous=NORMAL` syncs at checkpoints only. `sync` makes the log durable from
another thread, by `fsync` of the log's file, and does the checkpoints, which SQLite must not begin
in the middle of somebody's `write`. SQLite compares blobs byte by byte, so its order is ours.

A snapshot is a read transaction on a connection of its own. What is staged goes to a database
beside it, from which `replace` copies within the transaction of the deletions: unlike what the
protocol demands, even a crash leaves all of it or nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from registry.errors import Corrupt, DiskFull, Locked, StorageError
from registry.storage import Batch, Staged, check_format

#: The log is moved into the database once it has grown over this, bytes.
CHECKPOINT_BYTES = 16 << 20

#: Rows that a scan fetches at a time.
_FETCH_ROWS = 256

#: Pairs that are staged in one statement.
_STAGE_ROWS = 1000

_CREATE = "CREATE TABLE IF NOT EXISTS pairs(key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID"
_PUT = "INSERT INTO pairs VALUES(?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value"
_DELETE = "DELETE FROM pairs WHERE key = ?"
_DELETE_RANGE = "DELETE FROM pairs WHERE key >= ? AND key < ?"


class _View:
    """Reading over one connection, until it is closed."""

    def __init__(self, connection: sqlite3.Connection, directory: Path) -> None:
        self._connection: sqlite3.Connection | None = connection
        self._directory = directory

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StorageError(f"the store in {self._directory} or its snapshot is closed")
        return self._connection

    def get(self, key: bytes) -> bytes | None:
        try:
            row = self._open().execute("SELECT value FROM pairs WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._failed(error) from error
        return None if row is None else bytes(row[0])

    def scan(
        self,
        start: bytes,
        stop: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[bytes, bytes]]:
        query = "SELECT key, value FROM pairs WHERE key >= ?"
        arguments: list[Any] = [start]
        if stop is not None:
            query += " AND key < ?"
            arguments.append(stop)
        query += " ORDER BY key DESC" if reverse else " ORDER BY key"
        if limit is not None:
            query += " LIMIT ?"
            arguments.append(limit)
        try:
            cursor = self._open().execute(query, arguments)
        except sqlite3.Error as error:
            raise self._failed(error) from error
        return self._rows(cursor)

    def _rows(self, cursor: sqlite3.Cursor) -> Iterator[tuple[bytes, bytes]]:
        cursor.arraysize = _FETCH_ROWS
        try:
            while rows := cursor.fetchmany():
                yield from rows
        except sqlite3.Error as error:
            raise self._failed(error) from error
        finally:
            with suppress(sqlite3.ProgrammingError):  # the connection was closed meanwhile
                cursor.close()

    def _failed(self, error: sqlite3.Error) -> StorageError:
        return failure(self._directory, error)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class _Snapshot(_View):
    """A read transaction. `closed` takes it off the store's list."""

    def __init__(self, connection: sqlite3.Connection, store: SqliteStore) -> None:
        super().__init__(connection, store.directory)
        self._store = store
        # The transaction begins with its first read.
        connection.execute("BEGIN")
        connection.execute("SELECT 1 FROM pairs LIMIT 1").fetchone()

    def close(self) -> None:
        super().close()
        self._store.forget(self)


class _StagedPairs:
    """A database of pairs put aside."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)


class SqliteStore(_View):
    """The store; made by `open`."""

    def __init__(self, directory: Path, lock: IO[bytes]) -> None:
        self.directory = directory
        self._path = directory / "store.db"
        self._lock = lock
        self._snapshots: set[_Snapshot] = set()
        self._staged = 0
        self._syncing = threading.Lock()
        super().__init__(_connect(self._path), directory)
        self._checkpoints = _connect(self._path)
        self._log: int | None = None

    @classmethod
    def open(cls, directory: Path) -> SqliteStore:
        """The store in `directory`, which is made if need be. Raises `StorageError`."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock = _locked(directory)
        except OSError as error:
            raise StorageError(
                f"data directory {directory}: {error.strerror}; choose one that this user may "
                "write with -data-dir"
            ) from error
        try:
            store = cls(directory, lock)
        except sqlite3.Error as error:
            lock.close()
            raise failure(directory, error) from error
        try:
            store._begin()
            check_format(store, directory)
        except BaseException:
            store.close()
            raise
        return store

    def _begin(self) -> None:
        for path in self.directory.glob("staged-*.db*"):
            path.unlink()
        try:
            self._open().execute(_CREATE)
        except sqlite3.Error as error:
            raise self._failed(error) from error
        self._log = os.open(f"{self._path}-wal", os.O_RDONLY)
        _sync_directory(self.directory)

    def write(self, batch: Batch) -> None:
        try:
            connection = self._open()
            with _transaction(connection):
                _apply(connection, batch)
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def sync(self) -> None:
        self._open()
        with self._syncing:
            log = self._log
            if log is None:
                raise StorageError(f"the store in {self.directory} is closed")
            try:
                os.fsync(log)
                if os.fstat(log).st_size > CHECKPOINT_BYTES:
                    # As far as snapshots let it; what is left comes with a later one.
                    self._checkpoints.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            except OSError as error:
                kind = DiskFull if error.errno == errno.ENOSPC else StorageError
                text = f"data directory {self.directory}: cannot sync: {error.strerror}"
                raise kind(text) from error
            except sqlite3.Error as error:
                raise self._failed(error) from error

    def stage(self, pairs: Iterable[tuple[bytes, bytes]]) -> Staged:
        self._open()
        self._staged += 1
        path = self.directory / f"staged-{self._staged}.db"
        staged = _StagedPairs(path)
        try:
            connection = sqlite3.connect(path, isolation_level=None)
            try:
                connection.execute("PRAGMA journal_mode=OFF")
                connection.execute("PRAGMA synchronous=OFF")
                connection.execute(_CREATE)
                with _transaction(connection):
                    for rows in _in_order(pairs):
                        connection.executemany("INSERT INTO pairs VALUES(?, ?)", rows)
            finally:
                connection.close()
        except sqlite3.Error as error:
            staged.discard()
            raise self._failed(error) from error
        except BaseException:
            staged.discard()
            raise
        return staged

    def replace(self, before: Batch, staged: Staged) -> None:
        assert isinstance(staged, _StagedPairs)
        connection = self._open()
        try:
            connection.execute("ATTACH ? AS staged", (str(staged.path),))
            try:
                with _transaction(connection):
                    _apply(connection, before)
                    connection.execute(
                        "INSERT INTO main.pairs SELECT key, value FROM staged.pairs WHERE true "
                        "ON CONFLICT(key) DO UPDATE SET value = excluded.value"
                    )
            finally:
                connection.execute("DETACH staged")
        except sqlite3.Error as error:
            raise self._failed(error) from error
        staged.discard()

    def snapshot(self) -> _Snapshot:
        self._open()
        try:
            snapshot = _Snapshot(_connect(self._path), self)
        except sqlite3.Error as error:
            raise self._failed(error) from error
        self._snapshots.add(snapshot)
        return snapshot

    def forget(self, snapshot: _Snapshot) -> None:
        self._snapshots.discard(snapshot)

    def close(self) -> None:
        if self._connection is None:
            return
        for snapshot in list(self._snapshots):
            snapshot.close()
        super().close()
        with self._syncing:
            self._checkpoints.close()
            if self._log is not None:
                os.close(self._log)
                self._log = None
        self._lock.close()


def _connect(path: Path) -> sqlite3.Connection:
    """One connection: transactions by hand, usable by one thread after another."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("PRAGMA cache_size=-16384")
    return connection


def _apply(connection: sqlite3.Connection, batch: Batch) -> None:
    for kind, key, value in batch.operations:
        if kind == Batch.PUT:
            connection.execute(_PUT, (key, value))
        elif kind == Batch.DELETE:
            connection.execute(_DELETE, (key,))
        else:
            connection.execute(_DELETE_RANGE, (key, value))


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite may have rolled back by itself
            connection.execute("ROLLBACK")
        raise


def _in_order(pairs: Iterable[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    """The pairs in lists of some; raises `StorageError` when their keys do not ascend."""
    previous: bytes | None = None
    rows: list[tuple[bytes, bytes]] = []
    for pair in pairs:
        if previous is not None and pair[0] <= previous:
            raise StorageError("the keys to be staged are not in order")
        previous = pair[0]
        rows.append(pair)
        if len(rows) >= _STAGE_ROWS:
            yield rows
            rows = []
    yield rows


def failure(directory: Path, error: sqlite3.Error) -> StorageError:
    """What the user is told of an error of SQLite's."""
    where = f"data directory {directory}"
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_FULL:
        return DiskFull(f"{where}: no room left on the device; make room and start again")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Corrupt(
            f"{where}: the database is damaged ({error}): restore the directory from a backup, "
            "or empty it and rejoin as a new server"
        )
    return StorageError(f"{where}: {error}")


def _locked(directory: Path) -> IO[bytes]:
    """The lock file, locked until it is closed."""
    lock = (directory / "lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise Locked(
            f"data directory {directory}: in use by another process; stop that one, or choose "
            "another directory with -data-dir"
        ) from error
    return lock


def _sync_directory(directory: Path) -> None:
    """Make the names of new files durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
