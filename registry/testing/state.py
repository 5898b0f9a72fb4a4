"""One replica of the state in memory, driven by hand: commands in, results and answers out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from registry.raft.messages import Entry, EntryKind
from registry.state.base import Command, Query
from registry.state.machine import StateMachine, encode_command
from registry.storage.memory import MemoryStore
from registry.storage.store import Store

#: When a replica's time begins: ms since 1970, some day in 2023.
START_MS = 1_700_000_000_000


class Replica:
    """A state machine with its log. Time stands still until a test sets `now_ms`."""

    def __init__(self, store: Store | None = None) -> None:
        self.machine = StateMachine(store or MemoryStore())
        self.now_ms = START_MS
        #: Every entry that was applied by `apply`, to be played to another replica.
        self.log: list[Entry] = []

    @property
    def index(self) -> int:
        return self.machine.applied_index

    def apply(self, command: Command) -> Any:
        """Apply one command, stamped, at the next index; its result."""
        return self.apply_all([command])[0]

    def apply_all(self, commands: Sequence[Command]) -> list[Any]:
        """Apply commands as one committed batch."""
        entries = [
            Entry(index, 1, EntryKind.COMMAND, encode_command(command.stamped(self.now_ms)))
            for index, command in enumerate(commands, self.index + 1)
        ]
        self.log += entries
        return self.machine.apply(entries)

    def ask(self, query: Query) -> Any:
        """The answer without its index."""
        return query.run(self.machine.reader)[1]

    def index_of(self, query: Query) -> int:
        return query.run(self.machine.reader)[0]

    def checksum(self) -> str:
        return self.machine.checksum(self.machine.reader)
