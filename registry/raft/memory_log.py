"""A stored log in memory: the simplest `LogReader` that is right, for tests and simulations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from registry.errors import LocalProtocolError
from registry.raft.membership import decode_configuration
from registry.raft.messages import Configuration, Entry, EntryKind, SnapshotMeta
from registry.raft.ready import Ready


class MemoryLog:
    """Entries after an optional snapshot; what is written is there at once."""

    def __init__(self, entries: Iterable[Entry] = (), base: SnapshotMeta | None = None) -> None:
        self._base = base
        self._entries: list[Entry] = []
        self.append(tuple(entries))

    def first_index(self) -> int:
        return self._base.index + 1 if self._base else 1

    def last_index(self) -> int:
        return self.first_index() - 1 + len(self._entries)

    def term(self, index: int) -> int | None:
        position = index - self.first_index()
        if 0 <= position < len(self._entries):
            return self._entries[position].term
        if position == -1:
            return self._base.term if self._base else 0
        return None

    def entries(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        first = self.first_index()
        if low < first or high > self.last_index() + 1:
            raise LocalProtocolError(
                f"asked for {low}..{high - 1}, the log holds {first}..{self.last_index()}"
            )
        found = self._entries[low - first : high - first]
        size = 0
        for position, entry in enumerate(found):
            size += len(entry.data)
            if size > max_bytes and position:
                return found[:position]
        return found

    def snapshot_meta(self) -> SnapshotMeta | None:
        return self._base

    @property
    def configuration(self) -> Configuration:
        """The latest in the log, else the snapshot's, else none."""
        return self.configuration_at(self.last_index())

    def configuration_at(self, index: int) -> Configuration:
        """The one in force after the entry at `index`."""
        for entry in reversed(self._entries[: index - self.first_index() + 1]):
            if entry.kind is EntryKind.CONFIGURATION:
                return decode_configuration(entry)
        return self._base.configuration if self._base else Configuration()

    def append(self, entries: Sequence[Entry]) -> None:
        """Write `entries`, cutting the log at the first of them."""
        if not entries:
            return
        position = entries[0].index - self.first_index()
        if not 0 <= position <= len(self._entries):
            raise LocalProtocolError(f"cannot append at {entries[0].index}: it leaves a gap")
        self._entries[position:] = entries

    def install(self, meta: SnapshotMeta) -> None:
        """Begin after `meta`, without any entries."""
        self._base = meta
        self._entries.clear()

    def compact(self, index: int) -> SnapshotMeta:
        """Drop entries up to `index` and begin after them."""
        term = self.term(index)
        if term is None or index < self.first_index():
            raise LocalProtocolError(f"cannot compact to {index}: the log does not hold it")
        meta = SnapshotMeta(f"{term}-{index}", index, term, self.configuration_at(index))
        del self._entries[: index - self.first_index() + 1]
        self._base = meta
        return meta

    def write(self, ready: Ready) -> None:
        """Write what one `Ready` wants written, in its order."""
        if ready.snapshot is not None:
            self.install(ready.snapshot)
        self.append(ready.entries)
