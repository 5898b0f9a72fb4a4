"""Virtual time: a queue of events that jumps from one to the next, always in the same order."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

MS = 1000  # one millisecond; virtual time is counted in whole microseconds


class Event:
    """Something that will happen, unless cancelled."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        self.action = None


class Schedule:
    """Events in order of time, at equal times of planning. `now` is in microseconds."""

    def __init__(self) -> None:
        self.now = 0
        self.happened = 0
        self._events: list[tuple[int, int, Event]] = []
        self._numbers = itertools.count()

    def after(self, delay: int, action: Callable[[], None]) -> Event:
        event = Event(action)
        heapq.heappush(self._events, (self.now + max(0, delay), next(self._numbers), event))
        return event

    def step(self) -> bool:
        """Let the next event happen; False when none is left."""
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            if event.action is not None:
                self.happened += 1
                event.action()
                return True
        return False

    def run_until(self, time: int, after_each: Callable[[], None] | None = None) -> None:
        """Let everything happen that is due by `time`, calling `after_each` after each event."""
        while self._events and self._events[0][0] <= time:
            self.step()
            if after_each is not None:
                after_each()
        self.now = max(self.now, time)
