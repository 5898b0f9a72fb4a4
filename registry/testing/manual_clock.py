"""A clock that stands still until a test moves it; implements `registry.agent.clock.Clock`."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable

#: Turns of the event loop that let a woken task run into its next wait, however many awaits are on
#: the way; a turn without anything to do costs microseconds.
SETTLE_TURNS = 50


class ManualTimer:
    """One scheduled call."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class ManualClock:
    """Time in seconds; timers fire in order of their deadline while `advance` runs."""

    def __init__(self, start: float = 1000.0, wall: float = 1_700_000_000.0) -> None:
        self._now = start
        self._wall_offset = wall - start
        self._timers: list[tuple[float, int, ManualTimer]] = []
        self._numbers = itertools.count()

    def monotonic(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._now + self._wall_offset

    def call_later(self, seconds: float, callback: Callable[[], None]) -> ManualTimer:
        timer = ManualTimer(callback)
        heapq.heappush(self._timers, (self._now + max(0.0, seconds), next(self._numbers), timer))
        return timer

    async def settle(self) -> None:
        """Let every task run until it waits for something."""
        for _ in range(SETTLE_TURNS):
            await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        """Move time on; tasks run at each deadline on the way, in its order."""
        await self.settle()
        until = self._now + seconds
        while self._timers and self._timers[0][0] <= until:
            due, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, due)
            if timer.callback is not None:
                timer.callback()
                await self.settle()
        self._now = until
        await self.settle()

    def pending(self) -> int:
        """Timers that are still to fire."""
        return sum(timer.callback is not None for _, _, timer in self._timers)
