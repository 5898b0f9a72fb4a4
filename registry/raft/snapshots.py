"""Snapshots as files: made when a peer is too far behind for the log, received when we are (R-51).

Each is a directory `<id>/` with `meta.json` and `state.bin`, built under a temporary name, synced
and renamed, so that what is there is whole:

    <data-dir>/raft/snapshots/2-8191-5f2c01/meta.json   what it stands for, size and checksum
                                           /state.bin   the state, as `Machine.dump` gave it
                              incoming-…                one that a leader is still sending
                              building-…                one that is being made

A server whose store is in memory keeps them in memory: its state would not survive either.
All methods block and belong in a thread, except where the docstring says otherwise.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from registry.errors import Corrupt, DiskFull, RemoteProtocolError, StorageError
from registry.raft.messages import SnapshotMeta

#: How many finished snapshots are kept (section 17).
KEPT = 2

_ID = re.compile(r"[0-9]+-[0-9]+-[0-9a-f]+")
_READ_BYTES = 1 << 20
_BUILDING, _INCOMING = "building-", "incoming-"
#: Room that must be left on the disk beside an incoming snapshot.
_RESERVE_BYTES = 64 << 20


class Incoming(Protocol):
    """A snapshot that is being received, or built: bytes go in, in order."""

    offset: int

    def write(self, data: bytes) -> None: ...

    def finish(self) -> SnapshotMeta:
        """Make it durable and visible. Raises `Corrupt` if it is not what its meta says."""
        ...

    def abort(self) -> None: ...


class SnapshotStore(Protocol):
    def latest(self) -> SnapshotMeta | None:
        """The newest whole snapshot. Does not block."""
        ...

    def find(self, snapshot_id: str) -> SnapshotMeta | None:
        """Does not block."""
        ...

    def read(self, snapshot_id: str, offset: int, size: int) -> bytes:
        """Raises `StorageError` when the snapshot is gone."""
        ...

    def chunks(self, snapshot_id: str) -> Iterator[bytes]: ...

    def receive(self, meta: SnapshotMeta) -> Incoming:
        """Begin to receive `meta`. Raises `DiskFull` when there is no room for it, and
        `RemoteProtocolError` when its id is none of ours (it names a directory)."""
        ...

    def build(self, meta: SnapshotMeta) -> Incoming:
        """Begin a snapshot of our own; size and checksum are filled in by `finish`."""
        ...

    def prune(self, keep: frozenset[str]) -> None:
        """Drop all but the newest `KEPT` and those named."""
        ...


def new_snapshot_id(term: int, index: int) -> str:
    return f"{term}-{index}-{secrets.token_hex(4)}"


def write_snapshot(
    snapshots: SnapshotStore, meta: SnapshotMeta, chunks: Iterable[bytes]
) -> SnapshotMeta:
    """Store a snapshot piece by piece; returns its meta with size and checksum."""
    building = snapshots.build(meta)
    try:
        for chunk in chunks:
            building.write(chunk)
        return building.finish()
    except BaseException:
        building.abort()
        raise


class FileSnapshots:
    """Snapshots as directories under `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._metas: dict[str, SnapshotMeta] = {}
        try:
            root.mkdir(parents=True, exist_ok=True)
            for entry in sorted(root.iterdir()):
                if entry.name.startswith((_BUILDING, _INCOMING)):
                    # Half a snapshot: whoever was sending or making it starts again.
                    shutil.rmtree(entry)
                elif (meta := _read_meta(entry)) is not None:
                    self._metas[meta.id] = meta
        except OSError as error:
            raise StorageError(f"cannot use the snapshot directory {root}: {error}") from error

    def latest(self) -> SnapshotMeta | None:
        return max(self._metas.values(), key=lambda meta: (meta.index, meta.term), default=None)

    def find(self, snapshot_id: str) -> SnapshotMeta | None:
        return self._metas.get(snapshot_id)

    def read(self, snapshot_id: str, offset: int, size: int) -> bytes:
        with self._open(snapshot_id) as file:
            file.seek(offset)
            return file.read(size)

    def chunks(self, snapshot_id: str) -> Iterator[bytes]:
        with self._open(snapshot_id) as file:
            while chunk := file.read(_READ_BYTES):
                yield chunk

    def receive(self, meta: SnapshotMeta) -> Incoming:
        if not _ID.fullmatch(meta.id):
            raise RemoteProtocolError(f"{meta.id!r} cannot be the id of a snapshot")
        free = shutil.disk_usage(self._root).free
        # Twice: it is also put into the store, before the state that is there now can go.
        if free < 2 * meta.size + _RESERVE_BYTES:
            raise DiskFull(
                f"no room to install a snapshot of {meta.size} bytes: {free} bytes are free"
            )
        return _IncomingFile(self, self._root, _INCOMING, meta)

    def build(self, meta: SnapshotMeta) -> Incoming:
        return _IncomingFile(self, self._root, _BUILDING, meta)

    def prune(self, keep: frozenset[str]) -> None:
        newest = sorted(self._metas.values(), key=lambda meta: meta.index, reverse=True)
        for meta in newest[KEPT:]:
            if meta.id not in keep:
                del self._metas[meta.id]
                shutil.rmtree(self._root / meta.id, ignore_errors=True)

    def added(self, meta: SnapshotMeta) -> None:
        self._metas[meta.id] = meta

    def _open(self, snapshot_id: str) -> BinaryIO:
        try:
            return (self._root / snapshot_id / "state.bin").open("rb")
        except OSError as error:
            raise StorageError(f"snapshot {snapshot_id} cannot be read: {error}") from error


class _IncomingFile:
    def __init__(self, owner: FileSnapshots, root: Path, prefix: str, meta: SnapshotMeta) -> None:
        self._owner, self._root, self._meta = owner, root, meta
        self._path = root / (prefix + meta.id)
        self._path.mkdir(exist_ok=True)
        self._file = (self._path / "state.bin").open("wb")
        self._digest = hashlib.sha256()
        self.offset = 0

    def write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise DiskFull(f"cannot write snapshot {self._meta.id}: {error}") from error
        self._digest.update(data)
        self.offset += len(data)

    def finish(self) -> SnapshotMeta:
        try:
            meta = _complete(self._meta, self.offset, self._digest.hexdigest())
        except Corrupt:
            self.abort()
            raise
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            with (self._path / "meta.json").open("wb") as file:
                file.write(msgspec.json.encode(meta))
                file.flush()
                os.fsync(file.fileno())
            _sync_directory(self._path)
            target = self._root / meta.id
            # The same one again (its index was already here): the new copy is whole, so use it.
            shutil.rmtree(target, ignore_errors=True)
            self._path.rename(target)
            _sync_directory(self._root)
        except OSError as error:
            raise StorageError(f"cannot finish snapshot {meta.id}: {error}") from error
        self._owner.added(meta)
        return meta

    def abort(self) -> None:
        self._file.close()
        shutil.rmtree(self._path, ignore_errors=True)


class MemorySnapshots:
    """For a store in memory. Not durable, like everything there."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[SnapshotMeta, bytes]] = {}

    def latest(self) -> SnapshotMeta | None:
        metas = (meta for meta, _ in self._held.values())
        return max(metas, key=lambda meta: (meta.index, meta.term), default=None)

    def find(self, snapshot_id: str) -> SnapshotMeta | None:
        found = self._held.get(snapshot_id)
        return found[0] if found else None

    def read(self, snapshot_id: str, offset: int, size: int) -> bytes:
        if snapshot_id not in self._held:
            raise StorageError(f"snapshot {snapshot_id} is gone")
        return self._held[snapshot_id][1][offset : offset + size]

    def chunks(self, snapshot_id: str) -> Iterator[bytes]:
        yield self.read(snapshot_id, 0, self._held[snapshot_id][0].size)

    def receive(self, meta: SnapshotMeta) -> Incoming:
        return _IncomingBytes(self, meta)

    def build(self, meta: SnapshotMeta) -> Incoming:
        return _IncomingBytes(self, meta)

    def prune(self, keep: frozenset[str]) -> None:
        newest = sorted(self._held.values(), key=lambda held: held[0].index, reverse=True)
        for meta, _ in newest[KEPT:]:
            if meta.id not in keep:
                del self._held[meta.id]

    def added(self, meta: SnapshotMeta, data: bytes) -> None:
        self._held[meta.id] = (meta, data)


class _IncomingBytes:
    def __init__(self, owner: MemorySnapshots, meta: SnapshotMeta) -> None:
        self._owner, self._meta = owner, meta
        self._data = bytearray()
        self.offset = 0

    def write(self, data: bytes) -> None:
        self._data += data
        self.offset += len(data)

    def finish(self) -> SnapshotMeta:
        meta = _complete(self._meta, self.offset, hashlib.sha256(self._data).hexdigest())
        self._owner.added(meta, bytes(self._data))
        return meta

    def abort(self) -> None:
        self._data.clear()


def _complete(meta: SnapshotMeta, size: int, checksum: str) -> SnapshotMeta:
    """`meta` with size and checksum; raises `Corrupt` when it came with others."""
    if meta.checksum and (meta.size, meta.checksum) != (size, checksum):
        raise Corrupt(f"snapshot {meta.id} is not what its sender made (checksum)")
    return msgspec.structs.replace(meta, size=size, checksum=checksum)


def _read_meta(path: Path) -> SnapshotMeta | None:
    """The meta of a finished snapshot; None for what is none (a foreign file, a damaged one)."""
    try:
        meta = msgspec.json.decode((path / "meta.json").read_bytes(), type=SnapshotMeta)
        whole = (path / "state.bin").stat().st_size == meta.size
    except (OSError, msgspec.DecodeError):
        return None
    return meta if whole and meta.id == path.name else None


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
