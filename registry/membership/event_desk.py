"""User events: ours go to everybody, those of others to the application, each once.

Source: gossip sheet, sections 8.4 and 8.6.
"""

from __future__ import annotations

from collections.abc import Iterable

from registry.errors import TooLarge
from registry.membership.context import SerfContext
from registry.membership.events import BufferedEvent, EventBuffer, EventSlot
from registry.membership.journal import Journal
from registry.membership.outbox import Outbox
from registry.membership.serf_config import USER_EVENT_BYTES_CEILING
from registry.membership.serf_messages import UserEventMessage, encode
from registry.membership.serf_values import UserEvent


class EventDesk:
    """Events of others are taken in here, ours go out by `outbox`."""

    def __init__(self, context: SerfContext, outbox: Outbox, journal: Journal) -> None:
        #: Whether a join takes none of the events that were before it.
        self.ignores_old = False
        self._context = context
        self._outbox = outbox
        self._journal = journal
        self._buffer = EventBuffer(context.config.event_buffer_size)
        self.clock = self._buffer.clock

    def begin_at(self, least_time: int) -> None:
        """Take none of the events that were before."""
        self._buffer.least_time = max(self._buffer.least_time, least_time)

    def fire(self, name: str, payload: bytes, *, coalesce: bool) -> None:
        """Tell everybody, ourselves included. Raises `TooLarge`."""
        limit = self._context.config.user_event_bytes_max
        if len(name.encode()) + len(payload) > limit:
            raise TooLarge(f"user event exceeds configured limit of {limit} bytes before encoding")
        l_time = self.clock.time
        message = UserEventMessage(l_time, name, payload or None, coalesce)
        encoded = encode(message)
        if len(encoded) > min(limit, USER_EVENT_BYTES_CEILING):
            raise TooLarge(
                f"encoded user event exceeds configured limit of {limit} bytes after encoding"
            )
        self.receive(message)
        self._outbox.add(encoded)

    def receive(self, message: UserEventMessage) -> bool:
        """Deliver it if it is new; whether it is to be gossiped on."""
        event = BufferedEvent(message.name, message.payload)
        return self._take(message.l_time, event, coalesce=message.coalesce)

    def slots(self) -> list[EventSlot]:
        """What push/pull tells of events, oldest first."""
        return self._buffer.slots()

    def merge(self, slots: Iterable[EventSlot], their_time: int, *, join: bool) -> None:
        """Take in what push/pull told."""
        if join and self.ignores_old:
            self.begin_at(their_time)
        for slot in slots:
            for event in slot.events:
                self._take(slot.l_time, event, coalesce=False)

    def _take(self, l_time: int, event: BufferedEvent, *, coalesce: bool) -> bool:
        if not self._buffer.admit(l_time, event):
            return False
        self._journal.event_heard(l_time)
        self._context.deliver(UserEvent(l_time, event.name, event.payload or b"", coalesce))
        return True
