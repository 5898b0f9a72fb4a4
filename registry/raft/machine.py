"""The replicated state as consensus needs it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from registry.raft.messages import Entry
from registry.storage.store import Snapshot, Staged


class Machine(Protocol):
    """Applies what is committed; `registry.state.machine.StateMachine`."""

    @property
    def applied_index(self) -> int:
        """Index of the last entry whose effect is in the store."""
        ...

    def apply(self, entries: Sequence[Entry]) -> list[Any]:
        """Apply a committed batch with one write; a result per entry, None if not a COMMAND."""
        ...

    def dump(self, snapshot: Snapshot) -> Iterator[bytes]:
        """The state as of a store snapshot, in chunks; called in a thread."""
        ...

    def prepare(self, chunks: Iterable[bytes]) -> Staged:
        """Make ready to replace the state by a dump; called in a thread while entries are applied.
        Raises `Corrupt` or `StorageError`; the state is unharmed."""
        ...

    def install(self, prepared: Staged) -> None:
        """Replace the whole state, applied index and all, within milliseconds."""
        ...

    def restore(self, chunks: Iterable[bytes]) -> None:
        """`prepare` and `install` in one."""
        ...
