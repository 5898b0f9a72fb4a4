"""The ordered byte store: the one protocol that everything a node keeps goes through.

Keys and values are `bytes`; keys are ordered bytewise. A store has one writer (the event loop's
thread); only `sync` and `stage` may be called from another thread while reads and writes go on.
Design, decision 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable


class Batch:
    """An ordered list of changes that become visible, and durable, all together or not at all.

    Later operations win over earlier ones on the same key. `delete_range` covers
    `start <= key < stop`; a range that is empty or upside down covers nothing.
    """

    __slots__ = ("operations",)

    PUT, DELETE, DELETE_RANGE = 0, 1, 2

    def __init__(self) -> None:
        #: `(kind, key or start, value or stop or b"")` in the order in which they were added.
        self.operations: list[tuple[int, bytes, bytes]] = []

    def put(self, key: bytes, value: bytes) -> None:
        self.operations.append((self.PUT, key, value))

    def delete(self, key: bytes) -> None:
        self.operations.append((self.DELETE, key, b""))

    def delete_range(self, start: bytes, stop: bytes) -> None:
        self.operations.append((self.DELETE_RANGE, start, stop))

    def extend(self, other: Batch) -> None:
        self.operations.extend(other.operations)

    def __len__(self) -> int:
        return len(self.operations)


class Reader(Protocol):
    """What can be read: a store, a snapshot of it, or an overlay of unwritten changes."""

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        ...

    def scan(
        self,
        start: bytes,
        stop: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with `start <= key < stop` (no upper bound if None), ascending or descending.

        `limit` is the most pairs given. The iterator must be used up or dropped before the next
        write to the store; a snapshot's iterators have no such limit.
        """
        ...


class Snapshot(Reader, Protocol):
    """A consistent view of the whole store at one moment; must be closed. Usable from any thread.

    Closing the store closes it too.
    """

    def close(self) -> None: ...


class Staged(Protocol):
    """Pairs that were put aside by `Store.stage`, to be added by `Store.replace`."""

    def discard(self) -> None:
        """Forget them (blocks, any thread); nothing if they were added already."""
        ...


@runtime_checkable
class Store(Reader, Protocol):
    """An engine. Every engine passes `registry.testing.storage.StoreContract`."""

    def write(self, batch: Batch) -> None:
        """Make the batch visible atomically. Durable only after the next `sync`; after a crash an
        unsynced batch is there whole or not at all, and none is there without all before it.

        Raises `DiskFull` or `StorageError`; the store must then be closed.
        """
        ...

    def sync(self) -> None:
        """Return once everything written before the call is on stable storage (blocks, any thread).

        Raises `StorageError`; a failed sync is fatal: the process stops and trusts only what it
        reads back (R-8).
        """
        ...

    def stage(self, pairs: Iterable[tuple[bytes, bytes]]) -> Staged:
        """Put pairs aside, their keys strictly ascending, so that `replace` can add any number of
        them within milliseconds. Blocks for as long as that takes, in any thread; nobody can read
        them before. What is still there when the store is closed is forgotten.

        Raises `DiskFull` or `StorageError`, also for keys out of order; the store is unharmed.
        """
        ...

    def replace(self, before: Batch, staged: Staged) -> None:
        """Write `before`, then add what was staged: one change to whoever reads in the writer's
        thread, and to snapshots. The staged pairs are used up.

        A crash may come between the two, so that `before` is there alone, and may make both
        durable without a `sync`; as ever, nothing is there without all that was written before it.
        Raises like `write`.
        """
        ...

    def snapshot(self) -> Snapshot:
        """A consistent read view; cheap, and does not stop writes."""
        ...

    def close(self) -> None:
        """Release files and locks. Does not imply `sync`."""
        ...


def prefix_stop(prefix: bytes) -> bytes | None:
    """The least key above every key that starts with `prefix`; None if there is none (all 0xff)."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else None
