"""The log as the core sees it: what is stored, and over it the tail that is not durable yet.

              base      durable       handed out        last
    ───────────┼───────────┼───────────────┼──────────────┤
     snapshot  │  reader   │     tail: in memory here     │
               │           │  being synced │  not yet in  │
               │           │               │  any Ready   │

An entry is appended to the tail, handed out in a `Ready` (`take_unsaved`), and becomes durable when
the driver says so (`mark_durable`). The tail keeps it until it is also handed out as committed, so
that the usual life of an entry never reads it back from the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from registry.errors import LocalProtocolError
from registry.raft.invariants import BrokenPromise
from registry.raft.messages import Entry, SnapshotMeta

#: What an entry costs in limits beside its data, so that empty entries are not free.
ENTRY_OVERHEAD_BYTES = 32


class LogReader(Protocol):
    """The stored log: everything handed out in a `Ready` and written, whether durable or not."""

    def first_index(self) -> int:
        """Index of the first entry held: that of the snapshot + 1."""
        ...

    def last_index(self) -> int:
        """Index of the last entry held, or of the snapshot."""
        ...

    def term(self, index: int) -> int | None:
        """Term of the entry at `index`, or of the snapshot; None for what is not held."""
        ...

    def entries(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        """Entries `low <= index < high`, cut at `max_bytes` of data, but at least one."""
        ...

    def snapshot_meta(self) -> SnapshotMeta | None:
        """What the log begins after; None if it begins at 1."""
        ...


class RaftLog:
    """One server's log with its commit and apply positions.

    Invariants: handed_out <= commit_index <= last_index; applied_index <= handed_out;
    durable_index <= last_index; terms never fall along the log.
    """

    __slots__ = (
        "_first_unsaved",
        "_reader",
        "_restored",
        "_snapshot_unsaved",
        "_tail",
        "_tail_first",
        "applied_index",
        "commit_index",
        "durable_index",
        "handed_out",
        "last_index",
        "last_term",
    )

    def __init__(self, reader: LogReader, applied_index: int) -> None:
        """All that `reader` holds now counts as durable. Raises `BrokenPromise` when the applied
        state does not belong to the log."""
        self._reader = reader
        self.last_index = reader.last_index()
        self.last_term = reader.term(self.last_index) or 0
        if not reader.first_index() - 1 <= applied_index <= self.last_index:
            raise BrokenPromise(
                "the applied state does not belong to the log",
                applied=applied_index,
                first=reader.first_index(),
                last=self.last_index,
            )
        self.durable_index = self.last_index
        self.commit_index = applied_index
        self.handed_out = applied_index  # as committed, to be applied
        self.applied_index = applied_index
        self._tail: list[Entry] = []
        self._tail_first = self.last_index + 1  # entries from here on are in the tail only
        self._first_unsaved = self.last_index + 1
        #: A snapshot that replaces what the reader holds, until it is durable.
        self._restored: SnapshotMeta | None = None
        self._snapshot_unsaved = False

    # -- reading -----------------------------------------------------------------------------

    @property
    def first_index(self) -> int:
        return self._restored.index + 1 if self._restored else self._reader.first_index()

    @property
    def snapshot_meta(self) -> SnapshotMeta | None:
        return self._restored or self._reader.snapshot_meta()

    def term(self, index: int) -> int | None:
        """Term at `index`; None for what is compacted away or not there yet."""
        if index == self.last_index:
            return self.last_term
        if index >= self._tail_first:
            position = index - self._tail_first
            return self._tail[position].term if position < len(self._tail) else None
        if self._restored is not None:
            return self._restored.term if index == self._restored.index else None
        return self._reader.term(index)

    def entries(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        """Entries `low <= index < high`, in order; perhaps fewer, but at least one (ask again)."""
        if low < self._tail_first:
            return self._reader.entries(low, min(high, self._tail_first), max_bytes)
        found = self._tail[low - self._tail_first : high - self._tail_first]
        size = 0
        for position, entry in enumerate(found):
            size += len(entry.data) + ENTRY_OVERHEAD_BYTES
            if size > max_bytes and position:
                return found[:position]
        return found

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log that ends so is at least as new as this one (thesis 3.6.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def last_index_with_term_up_to(self, term: int, index: int) -> int:
        """The greatest index <= `index` whose entry has a term <= `term`; 0, or the snapshot's
        index, when there is none above it.

        Terms never fall along the log, so this is a binary search: a million diverging entries
        cost twenty looks (R-26).
        """
        low, high = self.first_index - 1, min(index, self.last_index)
        while low < high:
            middle = (low + high + 1) // 2
            if (self.term(middle) or 0) <= term:
                low = middle
            else:
                high = middle - 1
        return min(low, index)

    # -- appending ---------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries that follow the last one."""
        self._tail.extend(entries)
        self.last_index = entries[-1].index
        self.last_term = entries[-1].term

    def first_conflict(self, entries: Sequence[Entry]) -> int:
        """Position in `entries` of the first that this log lacks or has with another term; their
        number if there is none (R-23)."""
        if entries and entries[0].index == self.last_index + 1:
            return 0
        base = self.first_index - 1
        for position, entry in enumerate(entries):
            if entry.index > base and self.term(entry.index) != entry.term:
                return position
        return len(entries)

    def truncate(self, index: int) -> None:
        """Drop entries from `index` on. Raises `BrokenPromise` at or below commit (R-6)."""
        if index <= self.commit_index:
            raise BrokenPromise(
                "a committed entry would be overwritten", index=index, commit=self.commit_index
            )
        self.last_term = self.term(index - 1) or 0
        self.last_index = index - 1
        if index >= self._tail_first:
            del self._tail[index - self._tail_first :]
        else:
            self._tail.clear()
            self._tail_first = index
        self._first_unsaved = min(self._first_unsaved, index)
        self.durable_index = min(self.durable_index, index - 1)

    def commit_to(self, index: int) -> bool:
        """Raise the commit index; False if it was there already (R-32)."""
        if index <= self.commit_index:
            return False
        if index > self.last_index:
            raise BrokenPromise(
                "entries are committed that this log does not hold; was the disk wiped?",
                commit=index,
                last=self.last_index,
            )
        self.commit_index = index
        return True

    def restore(self, meta: SnapshotMeta) -> None:
        """Replace the whole log by a snapshot (R-52)."""
        self._restored = meta
        self._snapshot_unsaved = True
        self._tail.clear()
        self._tail_first = self._first_unsaved = meta.index + 1
        self.last_index, self.last_term = meta.index, meta.term
        # What was durable beyond the commit index is gone; the snapshot is durable when it is.
        self.durable_index = min(self.durable_index, self.commit_index)
        self.commit_index = meta.index
        self.handed_out = meta.index

    # -- handing out -------------------------------------------------------------------------

    @property
    def has_unsaved(self) -> bool:
        return self._first_unsaved <= self.last_index or self._snapshot_unsaved

    def take_unsaved(self) -> tuple[tuple[Entry, ...], SnapshotMeta | None]:
        """What has to be written since the last call. Entries come after the snapshot."""
        entries = tuple(self._tail[self._first_unsaved - self._tail_first :])
        snapshot = self._restored if self._snapshot_unsaved else None
        self._first_unsaved = self.last_index + 1
        self._snapshot_unsaved = False
        return entries, snapshot

    def mark_durable(self, index: int) -> None:
        """Everything up to `index` is durable now, as far as it was not overwritten since."""
        if index <= self.durable_index:
            return
        self.durable_index = index
        if self._restored is not None and index >= self._restored.index:
            # The driver has installed it: the reader begins there now, and so does the state.
            self.applied_index = max(self.applied_index, self._restored.index)
            self._restored = None
        self._trim()

    def take_committed(self, limit: int, max_bytes: int) -> tuple[Entry, ...]:
        """The next committed entries, up to `limit`, each handed out once (R-33)."""
        high = min(self.commit_index, limit)
        if self.handed_out >= high:
            return ()
        found = tuple(self.entries(self.handed_out + 1, high + 1, max_bytes))
        self.handed_out = found[-1].index
        self._trim()
        return found

    def mark_applied(self, index: int) -> None:
        """The state machine has applied up to `index`."""
        if index > self.handed_out:
            raise LocalProtocolError(
                f"index {index} cannot be applied: only {self.handed_out} was handed out"
            )
        # A snapshot may have overtaken what was being applied.
        self.applied_index = max(self.applied_index, index)

    def _trim(self) -> None:
        """Forget what the reader has and nobody is about to ask for."""
        keep_from = min(self.durable_index, self.handed_out) + 1
        if keep_from > self._tail_first:
            del self._tail[: keep_from - self._tail_first]
            self._tail_first = keep_from
