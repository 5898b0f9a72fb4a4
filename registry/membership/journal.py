"""What the next start of this agent shall know, noted as it happens if there is a snapshot.

`snapshot` decides what of it is a line worth writing, and when.

Source: gossip sheet, section 11.
"""

from __future__ import annotations

from registry.membership.addresses import format_address
from registry.membership.context import SerfContext
from registry.membership.serf_values import MemberEvent, MemberEventKind
from registry.membership.snapshot import SnapshotLog, SnapshotWrite


class Journal:
    """Facts for the snapshot; without one they are forgotten."""

    def __init__(self, context: SerfContext, snapshot: SnapshotLog | None) -> None:
        self._context = context
        self._snapshot = snapshot

    def member_changed(self, event: MemberEvent) -> None:
        if self._snapshot is None or event.kind is MemberEventKind.UPDATE:
            return
        member, now_ms = event.member, self._context.now_ms
        if event.kind is MemberEventKind.JOIN:
            address = format_address((member.address, member.port))
            self._snapshot.alive(member.name, address, now_ms)
        else:
            self._snapshot.not_alive(member.name, now_ms)

    def event_heard(self, l_time: int) -> None:
        if self._snapshot is not None:
            self._snapshot.event_clock(l_time, self._context.now_ms)

    def we_leave(self) -> None:
        if self._snapshot is not None:
            self._snapshot.leave(self._context.now_ms)

    def next_deadline_ms(self) -> int | None:
        return self._snapshot.next_deadline_ms if self._snapshot else None

    def take_write(self, *, member_time: int, query_time: int) -> SnapshotWrite | None:
        """What is due to be written, after the newest times of intents and queries."""
        if self._snapshot is None:
            return None
        now_ms = self._context.now_ms
        self._snapshot.clock(member_time, now_ms)
        self._snapshot.query_clock(query_time, now_ms)
        return self._snapshot.take_write(now_ms)
