"""Change sinks served from the journal: in order, at least once, from where each one was.

Each sink has a task of its own, so that a slow one holds up no other, and sinks may come and go. It
reads the journal behind its cursor, has the changes delivered, and moves the cursor. A cursor that
the journal does not reach back to (`ChangeJournal.covers`) means that changes are missing: then the
sink is told "reset" and shown the whole state, and goes on from there.

Sinks of a server have their cursor beside its journal. Those of the leader have it in the
replicated state, moved at most once a second: the next leader delivers that second's changes
again, but misses none.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

import msgspec

from registry.errors import RegistryError
from registry.hooks import Change, ChangeSink, Origin, PlaceLost
from registry.server.standing_tasks import StandingTasks
from registry.state.base import Command
from registry.state.catalog_records import (
    CHECKS,
    NODES,
    SERF_CHECK_ID,
    SERVICES,
    Check,
    Node,
    Service,
)
from registry.state.changes import FOLLOWED, LAST, ChangeJournal, Cursor, Place, Row
from registry.state.kv import ENTRIES, KvEntry
from registry.state.machine import StateMachine
from registry.state.sinks import TOPIC, AdvanceSink, sink_cursor
from registry.storage.store import Reader, prefix_stop

logger = logging.getLogger("registry.server.changes")

LEADER, SERVER = "leader", "server"

#: The replicated cursor moves at most this often while changes come.
SAVE_INTERVAL_S = 1.0

#: Pauses before a failed delivery is tried again.
RETRY_S, RETRY_S_MAX = 1.0, 60.0

#: How a record of the catalog is shown; handed in from above, where the API's shapes are known.
Show = Callable[[Node | Service | Check], Any]

_decode_entry = msgspec.msgpack.Decoder(KvEntry).decode


class Proposer(Protocol):
    """What the feed asks of its server."""

    async def propose(self, command: Command) -> Any: ...


class _Served(NamedTuple):
    """A sink and the journal that it is served from; both may be others later."""

    sink: ChangeSink
    journal: ChangeJournal


class ChangeFeed:
    """Serves the sinks of one server. `run` and `lead` are tasks of their owner."""

    def __init__(
        self,
        machine: StateMachine,
        proposer: Proposer,
        sinks: Sequence[ChangeSink] = (),
        show: Show = msgspec.to_builtins,
    ) -> None:
        self._machine = machine
        self._proposer = proposer
        self._reader = _Changes(show)
        self._sinks: list[ChangeSink] = []
        self._for_server = StandingTasks(self._serve_here)
        self._for_leader = StandingTasks(self._serve_as_leader)
        self.replace(sinks)

    def replace(self, sinks: Sequence[ChangeSink]) -> None:
        """Serve these sinks from now on. Without any, no changes are kept."""
        self._sinks = list(sinks)
        if not sinks:
            self._machine.let_go_of_changes()
        for tasks, where in ((self._for_server, SERVER), (self._for_leader, LEADER)):
            tasks.replace(
                {
                    sink.name: _Served(sink, self._machine.keep_changes())
                    for sink in sinks
                    if sink.where == where
                }
            )

    async def run(self) -> None:
        """Serve the sinks that every server serves, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_leader())
            group.create_task(self._for_server.run())

    async def lead(self) -> None:
        """Serve the sinks that the leader serves, until cancelled."""
        await self._for_leader.run()

    async def _serve_here(self, served: _Served) -> None:
        await self._serve(served, _LocalCursor(served.journal, served.sink.name))

    async def _serve_as_leader(self, served: _Served) -> None:
        cursor = _SharedCursor(self._machine, self._proposer, served.sink.name)
        await self._serve(served, cursor)

    async def _serve(self, served: _Served, place: _LocalCursor | _SharedCursor) -> None:
        sink, journal = served
        cursor = place.load()
        with journal.waiting() as grown:
            while True:
                grown.clear()
                if cursor is None or not journal.covers(cursor):
                    cursor = await self._show_all(sink)
                    continue  # the journal may have begun anew meanwhile
                places = journal.read(cursor, sink.batch_max)
                if not places:
                    await place.save(cursor, at_once=True)
                    self._trim()
                    await grown.wait()
                    continue
                try:
                    await self._deliver(sink, self._reader.changes(places, sink.kinds))
                except PlaceLost:
                    logger.warning("change sink is told the whole state again sink=%s", sink.name)
                    cursor = await self._show_all(sink)
                    continue
                cursor = places[-1][0]
                await place.save(cursor, at_once=False)
                self._trim()

    async def _deliver(
        self, sink: ChangeSink, changes: list[Change], *, telling_all: bool = False
    ) -> None:
        """Return once they were delivered, however often that has to be tried.

        Raises the sink's `PlaceLost`, unless it is being told everything just now.
        """
        pause = RETRY_S
        while changes:
            try:
                await sink.deliver(changes)
            except (RegistryError, PlaceLost) as problem:
                if isinstance(problem, PlaceLost) and not telling_all:
                    raise
                text = "changes could not be delivered sink=%s index=%d again_in_s=%.0f error=%s"
                logger.warning(text, sink.name, changes[0].index, pause, problem)
                await asyncio.sleep(pause)
                pause = min(pause * 2, RETRY_S_MAX)
            else:
                return

    async def _show_all(self, sink: ChangeSink) -> Cursor:
        """Tell the sink everything that there is; the place from which it is complete."""
        index = self._machine.applied_index
        snapshot = self._machine.snapshot()
        try:
            rows = self._reader.everything(snapshot, index, sink.kinds)
            await self._deliver(sink, [self._reader.reset(index)], telling_all=True)
            while changes := await asyncio.to_thread(_take, rows, sink.batch_max):
                await self._deliver(sink, changes, telling_all=True)
        finally:
            snapshot.close()
        return Cursor(index, LAST)

    async def _follow_leader(self) -> None:
        """Forget what the leader's sinks have had, whichever server leads."""
        while True:
            with self._machine.topics.waiting((TOPIC,)) as moved:
                self._trim()
                await moved.event.wait()

    def _trim(self) -> None:
        journal = self._machine.journal
        if journal is None:
            return
        had = [
            journal.cursor(sink.name)
            if sink.where == SERVER
            else sink_cursor(self._machine.reader, sink.name)
            for sink in self._sinks
        ]
        known = [cursor for cursor in had if cursor is not None]
        if known and len(known) == len(had):
            journal.trim(min(known))


class _LocalCursor:
    """Where a sink of this server is; written with the next sync of the store."""

    def __init__(self, journal: ChangeJournal, name: str) -> None:
        self._journal, self._name = journal, name
        self._saved = self.load()

    def load(self) -> Cursor | None:
        return self._journal.cursor(self._name)

    async def save(self, cursor: Cursor, *, at_once: bool) -> None:
        if cursor != self._saved:
            self._journal.set_cursor(self._name, cursor)
            self._saved = cursor


class _SharedCursor:
    """Where a sink of the cluster is, in the replicated state."""

    def __init__(self, machine: StateMachine, proposer: Proposer, name: str) -> None:
        self._machine, self._proposer, self._name = machine, proposer, name
        self._saved = self.load()
        self._saved_at = float("-inf")

    def load(self) -> Cursor | None:
        return sink_cursor(self._machine.reader, self._name)

    async def save(self, cursor: Cursor, *, at_once: bool) -> None:
        now = time.monotonic()
        if cursor == self._saved or not (at_once or now - self._saved_at >= SAVE_INTERVAL_S):
            return
        # A leader that cannot propose is about to be none; the next one delivers again.
        with suppress(RegistryError):
            await self._proposer.propose(AdvanceSink(name=self._name, cursor=cursor))
            self._saved, self._saved_at = cursor, now


class _Changes:
    """Rows of the journal, or of the state itself, as plugins are told of them."""

    def __init__(self, show: Show) -> None:
        self._show = show

    def changes(self, places: Sequence[Place], kinds: frozenset[str]) -> list[Change]:
        return [
            change
            for cursor, row in places
            for change in self._of_row(cursor, row)
            if change.kind in kinds
        ]

    def reset(self, index: int) -> Change:
        return _mark("reset", index, 0)

    def everything(self, reader: Reader, index: int, kinds: frozenset[str]) -> Iterator[Change]:
        """The state as changes of its index, and that it is complete."""
        now_ms = time.time_ns() // 1_000_000
        sequence = 0
        for prefix in FOLLOWED:
            for key, raw in reader.scan(prefix, prefix_stop(prefix)):
                sequence += 1
                for change in self._of_row(Cursor(index, sequence), Row(now_ms, key, raw)):
                    if change.kind in kinds:
                        yield change
        if "complete" in kinds:
            yield _mark("complete", index, 2 * sequence + 2)

    def _of_row(self, cursor: Cursor, row: Row) -> Iterator[Change]:
        key, stored = row.key, row.value if row.value is not None else row.before
        assert stored is not None
        if key.startswith(ENTRIES):
            name = key[len(ENTRIES) :].decode("utf-8", "surrogateescape")
            yield self._change(cursor, row, "kv", name, _kv_value(row.value))
        elif key.startswith(NODES.prefix):
            node = NODES.decode(stored)
            yield self._change(cursor, row, "node", node.node, self._shown(row, node))
        elif key.startswith(SERVICES.prefix):
            service = SERVICES.decode(stored)
            name = f"{service.node}/{service.id}"
            yield self._change(cursor, row, "service", name, self._shown(row, service))
        else:
            check = CHECKS.decode(stored)
            name = f"{check.node}/{check.check_id}"
            yield self._change(cursor, row, "check", name, self._shown(row, check))
            if check.check_id == SERF_CHECK_ID:
                status = "alive" if check.status == "passing" else "failed"
                value = None if row.value is None else {"Status": status}
                yield self._change(cursor, row, "member", check.node, value, after=True)

    def _shown(self, row: Row, record: Node | Service | Check) -> Any:
        return None if row.value is None else self._show(record)

    def _change(
        self, cursor: Cursor, row: Row, kind: str, key: str, value: Any, *, after: bool = False
    ) -> Change:
        origin = row.origin
        return Change(
            index=cursor.index,
            # Two for each row: a node's check is also news of a member.
            sequence=cursor.sequence * 2 + after,
            time_ms=row.time_ms,
            kind=kind,
            key=key,
            value=value,
            origin=Origin(origin.client, origin.reason) if origin is not None else None,
        )


def _mark(kind: str, index: int, sequence: int) -> Change:
    now_ms = time.time_ns() // 1_000_000
    return Change(index=index, sequence=sequence, time_ms=now_ms, kind=kind, key="")


def _kv_value(raw: bytes | None) -> dict[str, Any] | None:
    if raw is None:
        return None
    entry = _decode_entry(raw)
    return {
        "Value": entry.value,
        "Flags": entry.flags,
        "Session": entry.session,
        "LockIndex": entry.lock_index,
        "CreateIndex": entry.create_index,
        "ModifyIndex": entry.modify_index,
    }


def _take(changes: Iterator[Change], limit: int) -> list[Change]:
    return list(itertools.islice(changes, limit))
