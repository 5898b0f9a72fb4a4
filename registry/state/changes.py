"""What every applied command changed, kept in order until everybody who follows has had it.

Who follows changes (a plugin's change sink) must miss none, also across a restart or a change of
leader. The log is no help there: it holds commands, not what came of them, and it is cut. So a node
with followers keeps a journal beside its state, written in the same batch as the state itself:

    a changes 00 00 row    index u64, sequence u32 -> Row
    a changes 00 00 span   -> Span       which indexes the rows are complete for
    a changes 00 00 cursor name -> Cursor    how far a follower of this node has come

The journal belongs to the node and not to the replicated state: it is in no snapshot and no
checksum, and a node without followers keeps none. Where it is not complete, because the state was
replaced as a whole, was changed while nobody followed, or had more changes than are kept, the span
begins later, and a follower who is not that far is shown the whole state instead (`Span.after`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from registry.state.base import Origin, Transaction
from registry.state.catalog_records import CHECKS, NODES, SERVICES
from registry.state.kv import ENTRIES
from registry.state.topics import ALL
from registry.storage.keys import AGENT, encode_parts, encode_u64
from registry.storage.store import Batch, Store, prefix_stop

#: The tables whose changes are kept, by the prefix of their keys.
FOLLOWED: Final = (ENTRIES, NODES.prefix, SERVICES.prefix, CHECKS.prefix)

#: Rows beyond this are dropped, the oldest first: a follower that is gone must not fill the disk.
ROWS_MAX: Final = 1_000_000
#: How many of them at once.
_DROPPED: Final = ROWS_MAX // 10

_PREFIX = AGENT + encode_parts("changes")
_ROWS = _PREFIX + encode_parts("row")
_ROWS_STOP = prefix_stop(_ROWS) or b""
_SPAN = _PREFIX + encode_parts("span")
_CURSORS = _PREFIX + encode_parts("cursor")


class Cursor(msgspec.Struct, frozen=True, array_like=True, order=True):
    """A place in the changes: everything up to and with it was had."""

    index: int
    sequence: int


#: A sequence after all of an index.
LAST: Final = (1 << 32) - 1


class Span(msgspec.Struct, frozen=True, array_like=True):
    """The rows are complete for the indexes `after < index <= until`."""

    after: int
    until: int
    count: int


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One key of one table that a command changed. `before` is what a deletion deleted."""

    time_ms: int
    key: bytes
    value: bytes | None
    before: bytes | None = None
    origin: Origin | None = None


Place = tuple[Cursor, Row]

_encode = msgspec.msgpack.Encoder().encode
_decode_row = msgspec.msgpack.Decoder(Row).decode
_decode_span = msgspec.msgpack.Decoder(Span).decode
_decode_cursor = msgspec.msgpack.Decoder(Cursor).decode


class ChangeJournal:
    """The journal of one node. Belongs to the thread that writes the store.

    `StateMachine` calls `note` for each command and `add_to` for each batch.
    """

    def __init__(self, store: Store, applied_index: int) -> None:
        self._store = store
        self._rows: list[tuple[bytes, Row]] = []
        self._waiting: set[asyncio.Event] = set()
        raw = store.get(_SPAN)
        span = _decode_span(raw) if raw is not None else None
        if span is None or span.until != applied_index:
            # Nobody kept a journal while the state went on.
            span = self._begin(applied_index)
        self.span = span

    def note(self, index: int, tx: Transaction, origin: Origin | None) -> None:
        """Take down what the command that `tx` has just run changed."""
        if ALL in tx.touched:
            return  # `add_to` begins anew
        sequence = 0
        for key, before in tx.changed_since_settled():
            if not key.startswith(FOLLOWED):
                continue
            value = tx.get(key)
            if value is None and before is None:
                continue  # made and deleted by the same command
            row = Row(tx.now_ms, key, value, before if value is None else None, origin)
            self._rows.append((_place(Cursor(index, sequence)), row))
            sequence += 1

    def add_to(self, batch: Batch, tx: Transaction, applied_index: int) -> None:
        """Put what was noted into the batch that makes it true."""
        if ALL in tx.touched:
            self._rows.clear()
            batch.delete_range(_ROWS, _ROWS_STOP)
            self.span = Span(applied_index, applied_index, 0)
        for key, row in self._rows:
            batch.put(key, _encode(row))
        count = self.span.count + len(self._rows)
        self._rows.clear()
        self.span = Span(self.span.after, applied_index, count)
        batch.put(_SPAN, _encode(self.span))

    def written(self) -> None:
        """The batch is in the store."""
        if self.span.count > ROWS_MAX:
            self._drop_oldest()
        for event in self._waiting:
            event.set()

    def replaced(self, applied_index: int) -> None:
        """The whole state was replaced; followers have to be shown all of it."""
        self.span = self._begin(applied_index)
        for event in self._waiting:
            event.set()

    def read(self, after: Cursor, limit: int) -> list[Place]:
        """The next changes, at most `limit`. What `span` does not cover is not there."""
        start = _place(after) + b"\x00"
        cut = len(_ROWS)
        return [
            (_cursor(key[cut:]), _decode_row(raw))
            for key, raw in self._store.scan(start, _ROWS_STOP, limit=limit)
        ]

    @contextmanager
    def waiting(self) -> Iterator[asyncio.Event]:
        """Set whenever the journal has grown or begun anew; cleared by whoever waits."""
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            yield event
        finally:
            self._waiting.discard(event)

    def trim(self, had: Cursor) -> None:
        """Forget the changes up to `had`: everybody who follows has had them."""
        batch = Batch()
        stop = _place(had) + b"\x00"
        count = sum(1 for _ in self._store.scan(_ROWS, stop))
        if not count:
            return
        batch.delete_range(_ROWS, stop)
        # What an index is cut in the middle of is still complete from the cursor on.
        after = max(self.span.after, had.index if had.sequence == LAST else had.index - 1)
        self.span = Span(after, self.span.until, max(0, self.span.count - count))
        batch.put(_SPAN, _encode(self.span))
        self._store.write(batch)

    # Followers of this node alone

    def cursor(self, name: str) -> Cursor | None:
        raw = self._store.get(_CURSORS + name.encode())
        return None if raw is None else _decode_cursor(raw)

    def set_cursor(self, name: str, cursor: Cursor) -> None:
        batch = Batch()
        batch.put(_CURSORS + name.encode(), _encode(cursor))
        self._store.write(batch)

    def covers(self, cursor: Cursor | None) -> bool:
        """Whether nothing is missing between `cursor` and what `read` gives after it.

        A cursor of the future is one of another cluster, whose state an operator restored here.
        """
        if cursor is None or cursor.index > self.span.until:
            return False
        return cursor >= Cursor(self.span.after, LAST)

    def _drop_oldest(self) -> None:
        places = [key for key, _ in self._store.scan(_ROWS, _ROWS_STOP, limit=_DROPPED)]
        last = _cursor(places[-1][len(_ROWS) :])
        # Whole indexes only, so that `after` says exactly what is missing.
        self.trim(Cursor(last.index, LAST))

    def _begin(self, applied_index: int) -> Span:
        span = Span(applied_index, applied_index, 0)
        batch = Batch()
        batch.delete_range(_ROWS, _ROWS_STOP)
        batch.put(_SPAN, _encode(span))
        self._store.write(batch)
        return span


def _place(cursor: Cursor) -> bytes:
    return _ROWS + encode_u64(cursor.index) + cursor.sequence.to_bytes(4, "big")


def _cursor(raw: bytes) -> Cursor:
    return Cursor(int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:12], "big"))
