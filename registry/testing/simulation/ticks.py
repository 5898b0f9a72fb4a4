"""A server's clock, which is a little fast or slow, and the ticks that are counted off it."""

from __future__ import annotations

from registry.raft.core import RaftCore
from registry.testing.clock import Schedule
from registry.testing.simulation.options import ELECTION_TICKS, TICK


class DriftingClock:
    """Runs `rate` times as fast as virtual time. It goes on while the server is down."""

    def __init__(self, schedule: Schedule, rate: float) -> None:
        self._schedule = schedule
        self._rate = rate

    def now(self) -> int:
        return int(self._schedule.now * self._rate)

    def true_time_of_a_tick(self) -> int:
        """Virtual microseconds in which at least one tick of this clock goes by."""
        return int(TICK / self._rate) + 1


class Ticks:
    """Hands a core the ticks that its clock has made since the last time, as the driver does."""

    def __init__(self, clock: DriftingClock) -> None:
        self._clock = clock
        self._ticked_at = clock.now()

    def advance(self, core: RaftCore) -> None:
        ticks = (self._clock.now() - self._ticked_at) // TICK
        if ticks <= 0:
            return
        self._ticked_at += ticks * TICK
        if ticks > ELECTION_TICKS // 2:
            core.clock_jumped()
            ticks = ELECTION_TICKS // 2
        core.tick(ticks)
