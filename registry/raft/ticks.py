"""The core's time: ticks, counted off a clock that never goes back.

All that are due are counted before anything else is handled, so that the core never believes an old
contact to be a new one. A gap far above a tick (the process or the machine was paused) is told to
the core before any read is answered (R-37).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from registry.raft.core import RaftCore
from registry.raft.settings import RaftSettings

logger = logging.getLogger("registry.raft")

#: Shorter pauses are usual, and with the short timeouts of -dev they count as jumps of the clock.
_PAUSE_TOLD_MS = 200


class Ticks:
    """Counts ticks of `settings.tick_ms`; `clock` gives seconds."""

    def __init__(self, settings: RaftSettings, clock: Callable[[], float] | None) -> None:
        self._clock = clock or _steady_clock
        self._tick_ms = settings.tick_ms
        self._tick_s = settings.tick_ms / 1000
        self._ticks_max = max(1, settings.election_ticks // 2)
        self._ticked_at = self._clock()

    def restart(self) -> None:
        """Count from now on."""
        self._ticked_at = self._clock()

    async def keep_waking(self, wake: Callable[[], None]) -> None:
        """Wake whoever is to count them, about as often as ticks are due."""
        while True:
            await asyncio.sleep(self._tick_s)
            wake()

    def is_due(self) -> bool:
        return self._clock() - self._ticked_at >= self._tick_s

    def ms_since_last(self) -> float:
        return (self._clock() - self._ticked_at) * 1000

    def advance(self, core: RaftCore) -> None:
        """Count the ticks that are due."""
        ticks = int((self._clock() - self._ticked_at) / self._tick_s)
        if ticks <= 0:
            return
        self._ticked_at += ticks * self._tick_s
        if ticks > self._ticks_max:
            jump_ms = ticks * self._tick_ms
            logger.log(
                logging.DEBUG if jump_ms < _PAUSE_TOLD_MS else logging.WARNING,
                "the clock jumped by %d ms: the process or the machine was paused",
                jump_ms,
            )
            # What the peers said meanwhile is still to be read: the jump voids every lease, but
            # does not by itself run out the timeouts.
            core.clock_jumped()
            ticks = self._ticks_max
        core.tick(ticks)


def _steady_clock() -> float:
    """Seconds, going on while the machine is suspended where the platform can tell (R-37)."""
    return time.clock_gettime(_CLOCK) if _CLOCK is not None else time.monotonic()


_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)
