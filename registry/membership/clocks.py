"""Lamport clocks: they order what members say without trusting anybody's wall clock.

Source: Lamport, "Time, Clocks, and the Ordering of Events in a Distributed System", 1978. Serf
keeps three of them (members, user events, queries), each starting at 1.
"""

from __future__ import annotations

#: Times travel as 64 bits. A witnessed time of the last value would leave no later one, so it and
#: everything near it, which no honest pool ever reaches, is not believed.
TIME_MAX = 2**63


class LamportClock:
    """A counter that is always greater than every time it has witnessed."""

    __slots__ = ("_time",)

    def __init__(self) -> None:
        self._time = 1

    @property
    def time(self) -> int:
        """The time that the next message of ours carries."""
        return self._time

    def take(self) -> int:
        """The present time, which nobody else gets: the clock goes on."""
        taken = self._time
        self._time += 1
        return taken

    def witness(self, time: int) -> None:
        """Somebody is at `time`, so we are past it."""
        if self._time <= time < TIME_MAX:
            self._time = time + 1
