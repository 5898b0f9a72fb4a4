"""User events: which are new, and the buffer of those that were.

Gossip brings everything several times, and push/pull brings it again. An event is known by its
Lamport time, name and payload. The buffer is a ring: an event of time t lies in slot t mod size, so
what is more than a ring behind the clock cannot be told from a repeat and is dropped.

Source: gossip sheet, section 8.4 and 8.6.
"""

from __future__ import annotations

import msgspec

from registry.membership.clocks import LamportClock

#: One time is shared by what was sent at once in different places: a handful. A flood is cut.
EVENTS_PER_SLOT_MAX = 256


class BufferedEvent(msgspec.Struct, frozen=True):
    name: str
    payload: bytes | None = None


class EventSlot(msgspec.Struct, frozen=True):
    """All events of one Lamport time."""

    l_time: int
    events: tuple[BufferedEvent, ...]


class EventBuffer:
    """The events of the last `size` Lamport times."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._slots: dict[int, EventSlot] = {}
        self.clock = LamportClock()
        #: Events before this time are none of ours: we joined later, or heard them in a life
        #: before.
        self.least_time = 0

    def admit(self, l_time: int, event: BufferedEvent) -> bool:
        """Witness the time, and enter the event; False if it is a repeat or too old."""
        self.clock.witness(l_time)
        if l_time < self.least_time or is_behind(l_time, self.clock.time, self._size):
            return False
        slot = self._slots.get(l_time % self._size)
        if slot is None or slot.l_time != l_time:
            self._slots[l_time % self._size] = EventSlot(l_time, (event,))
            return True
        if event in slot.events or len(slot.events) >= EVENTS_PER_SLOT_MAX:
            return False
        self._slots[l_time % self._size] = EventSlot(l_time, (*slot.events, event))
        return True

    def slots(self) -> list[EventSlot]:
        """The filled slots, oldest first."""
        return sorted(self._slots.values(), key=lambda slot: slot.l_time)


def is_behind(l_time: int, now: int, size: int) -> bool:
    """Whether `l_time` has been overtaken by a whole ring of `size` slots."""
    return now > size and l_time < now - size
