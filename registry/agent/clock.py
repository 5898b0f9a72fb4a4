"""Time as the agent's services see it: a small protocol, the loop's clock, a flag to sleep on.

Whatever waits for time takes a `Clock`, so that tests move time by hand (`registry.testing`) and
nothing in them sleeps. Seconds are floats; `monotonic` has no fixed origin.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A scheduled call that can still be called off."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Where time comes from."""

    def monotonic(self) -> float:
        """Seconds that only ever grow; for intervals and deadlines."""
        ...

    def wall(self) -> float:
        """Seconds since 1970; for what is written to disk."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` on the event loop once that much time has passed."""
        ...


class LoopClock:
    """The running event loop's time."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(seconds, callback)


class Wakeup:
    """A flag with one sleeper: `set` it any number of times, `wait` takes it down again.

    Sets that happen while nobody sleeps are remembered as one, which is how changes in between
    are merged.
    """

    __slots__ = ("_clock", "_set", "_sleeper")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._set = False
        self._sleeper: asyncio.Future[None] | None = None

    def set(self) -> None:
        self._set = True
        self._rouse()

    def _rouse(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    async def wait(self, seconds: float | None = None) -> bool:
        """Sleep until set (True) or until `seconds` have passed (False)."""
        if not self._set:
            assert self._sleeper is None, "a wakeup has one sleeper"
            self._sleeper = asyncio.get_running_loop().create_future()
            timer = None if seconds is None else self._clock.call_later(seconds, self._rouse)
            try:
                await self._sleeper
            finally:
                self._sleeper = None
                if timer is not None:
                    timer.cancel()
        was_set, self._set = self._set, False
        return was_set


async def pause(clock: Clock, seconds: float) -> None:
    """Let that much time pass."""
    await Wakeup(clock).wait(seconds)
