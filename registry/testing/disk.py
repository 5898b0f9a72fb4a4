"""A disk that forgets what was not synced: what a server's store is to Raft, without a store.

It behaves as `registry.storage.store.Store` promises: a record is there whole or not at all, and
never without all before it. A crash keeps everything that was synced and any prefix of the rest.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from registry.raft.messages import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    SnapshotMeta,
)

State = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One atomic batch of the store."""

    hard_state: HardState | None = None
    entries: tuple[Entry, ...] = ()
    #: Changes to the state, and the index that they bring it to.
    changes: tuple[tuple[str, str], ...] = ()
    applied_index: int | None = None
    #: Drop the log up to this.
    base: SnapshotMeta | None = None
    #: Replace the state by a snapshot's, and the log as `base` says.
    state: State | None = None


@dataclass(slots=True)
class Image:
    """Everything on a disk at one moment."""

    hard_state: HardState = field(default_factory=HardState)
    base: SnapshotMeta | None = None
    entries: list[Entry] = field(default_factory=list)
    state: State = field(default_factory=dict)
    applied_index: int = 0
    #: Where configurations are in the log, ascending.
    configuration_indexes: list[int] = field(default_factory=list)

    @property
    def base_index(self) -> int:
        return self.base.index if self.base else 0

    @property
    def last_index(self) -> int:
        return self.base_index + len(self.entries)

    @property
    def last_term(self) -> int:
        return self.term(self.last_index) or 0

    def term(self, index: int) -> int | None:
        if index == self.base_index:
            return self.base.term if self.base else 0
        if self.base_index < index <= self.last_index:
            return self.entries[index - self.base_index - 1].term
        return None

    def configuration_at(
        self, index: int, decode: Callable[[Entry], Configuration]
    ) -> Configuration:
        """The latest configuration at or before `index`."""
        for entry in reversed(self.entries[: max(0, index - self.base_index)]):
            if entry.kind is EntryKind.CONFIGURATION:
                return decode(entry)
        return self.base.configuration if self.base else Configuration()

    def copy(self) -> Image:
        return replace(
            self,
            entries=self.entries[:],
            state=dict(self.state),
            configuration_indexes=self.configuration_indexes[:],
        )

    def write(self, record: Record) -> None:
        if record.hard_state is not None:
            self.hard_state = record.hard_state
        if record.state is not None:
            self.state = dict(record.state)
        if record.base is not None:
            self._rebase(record.base, whole=record.state is not None)
        if record.entries:
            keep = record.entries[0].index - self.base_index - 1
            assert 0 <= keep <= len(self.entries), "an append must join the log"
            self.entries[keep:] = record.entries
            self._index_configurations(record.entries)
        self.state.update(record.changes)
        if record.applied_index is not None:
            self.applied_index = record.applied_index

    def _rebase(self, base: SnapshotMeta, *, whole: bool) -> None:
        """Drop the log up to `base`, or the whole of it."""
        del self.entries[: len(self.entries) if whole else base.index - self.base_index]
        self.base = base
        self.configuration_indexes = [
            index for index in self.configuration_indexes if index > base.index and not whole
        ]

    def _index_configurations(self, appended: tuple[Entry, ...]) -> None:
        indexes = self.configuration_indexes
        while indexes and indexes[-1] >= appended[0].index:
            indexes.pop()
        indexes += [e.index for e in appended if e.kind is EntryKind.CONFIGURATION]


class SimulatedDisk:
    """`written` is what the server reads, `durable` what a crash leaves; a `LogReader`."""

    def __init__(self) -> None:
        self.written = Image()
        self.durable = Image()
        self._unsynced: list[Record] = []

    def write(self, record: Record) -> None:
        self.written.write(record)
        self._unsynced.append(record)

    def mark(self) -> int:
        """How many records a sync that begins now will make durable."""
        return len(self._unsynced)

    def synced(self, mark: int) -> None:
        """The sync that began at `mark` is complete."""
        for record in self._unsynced[:mark]:
            self.durable.write(record)
        del self._unsynced[:mark]

    def crash(self, rng: random.Random) -> int:
        """Lose unsynced records: all, a suffix, or none. Returns how many."""
        kept = rng.choice((0, len(self._unsynced), rng.randint(0, len(self._unsynced))))
        lost = len(self._unsynced) - kept
        self.synced(kept)
        self._unsynced.clear()
        self.written = self.durable.copy()
        return lost

    # -- LogReader ---------------------------------------------------------------------------

    def first_index(self) -> int:
        return self.written.base_index + 1

    def last_index(self) -> int:
        return self.written.last_index

    def term(self, index: int) -> int | None:
        return self.written.term(index)

    def entries(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        base = self.written.base_index
        assert base < low <= high <= self.written.last_index + 1, (low, high, base)
        found: list[Entry] = []
        size = 0
        for entry in self.written.entries[low - base - 1 : high - base - 1]:
            size += len(entry.data)
            if found and size > max_bytes:
                break
            found.append(entry)
        return found

    def snapshot_meta(self) -> SnapshotMeta | None:
        return self.written.base
