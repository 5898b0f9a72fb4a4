"""How far the cluster's change sinks have come: the cursors of sinks that the leader serves.

Replicated, so that the next leader goes on where the last one was.
"""

from __future__ import annotations

import msgspec

from registry.state.base import Command, Transaction
from registry.state.changes import LAST, Cursor
from registry.state.tables import Table
from registry.state.topics import table_topic
from registry.storage.store import Reader

TOPIC = table_topic("change-sinks")


class SinkCursor(msgspec.Struct, frozen=True, array_like=True):
    """Everything up to and with this place was delivered."""

    name: str
    cursor: Cursor


_TABLE: Table[SinkCursor] = Table("change-sinks", SinkCursor)


class AdvanceSink(Command, frozen=True, kw_only=True, tag="sink-advance"):
    """Move a sink's cursor; it never goes back, so that a late proposal of a deposed leader does no
    harm."""

    name: str
    cursor: Cursor

    def apply(self, tx: Transaction) -> bool:
        known = _TABLE.get(tx, self.name)
        # One from the future came with the restored state of another cluster.
        if known is not None and self.cursor <= known.cursor <= Cursor(tx.index, LAST):
            return False
        _TABLE.put(tx, SinkCursor(self.name, self.cursor), self.name)
        tx.touch(TOPIC)
        return True


def sink_cursor(reader: Reader, name: str) -> Cursor | None:
    """Where the sink of that name is; None when it was never served."""
    found = _TABLE.get(reader, name)
    return found.cursor if found else None
