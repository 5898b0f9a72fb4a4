"""Session expiry: timers on the leader, effects through the log (R-38).

A session with a TTL is destroyed by a command once it was not renewed for the TTL; a new leader
starts every timer anew at full length, so a session lives between one and two TTLs after its
holder's last renewal. Timers sit in one heap, so the cost of a tick is what expires in it, and a
renewal only moves a deadline: the heap entry is found outdated when it comes up.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Awaitable, Callable

from registry.errors import RegistryError

logger = logging.getLogger("registry.server.expiry")

#: How much of a TTL is granted on top before the session is given up: clients renew late when the
#: network or the leader is slow, and the API promises at most twice the TTL.
GRACE_FACTOR = 2.0

#: Pause before a session that could not be destroyed is tried again.
RETRY_SECONDS = 1.0


class SessionTimers:
    """Deadlines of sessions with a TTL, on the loop's monotonic clock."""

    def __init__(
        self, destroy: Callable[[str], Awaitable[None]], clock: Callable[[], float]
    ) -> None:
        self._destroy = destroy
        self._clock = clock
        self._deadlines: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._deadlines)

    def reset(self, sessions: dict[str, float]) -> None:
        """Forget everything; start a full-length timer for each session id -> TTL in seconds."""
        self._deadlines.clear()
        self._heap.clear()
        for session_id, ttl in sessions.items():
            self.renew(session_id, ttl)

    def renew(self, session_id: str, ttl: float) -> None:
        """Start or restart the timer of one session."""
        deadline = self._clock() + ttl * GRACE_FACTOR
        self._deadlines[session_id] = deadline
        heapq.heappush(self._heap, (deadline, session_id))
        self._changed.set()

    def forget(self, session_id: str) -> None:
        """The session is gone; its heap entries are dropped when they come up."""
        self._deadlines.pop(session_id, None)

    async def run(self) -> None:
        """Destroy what expires, until cancelled."""
        while True:
            self._changed.clear()
            for session_id in self._take_due():
                await self._expire(session_id)
            try:
                async with asyncio.timeout(self._until_next()):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _until_next(self) -> float | None:
        return max(0.0, self._heap[0][0] - self._clock()) if self._heap else None

    def _take_due(self) -> list[str]:
        now = self._clock()
        due = []
        while self._heap and self._heap[0][0] <= now:
            deadline, session_id = heapq.heappop(self._heap)
            if self._deadlines.get(session_id) == deadline:
                del self._deadlines[session_id]
                due.append(session_id)
        return due

    async def _expire(self, session_id: str) -> None:
        try:
            await self._destroy(session_id)
        except RegistryError as problem:
            # Leadership is on its way out, or the queue is full: the next leader's timer, or this
            # one's next round, ends the session.
            logger.warning("could not expire session: session=%s error=%s", session_id, problem)
            self.renew(session_id, RETRY_SECONDS / GRACE_FACTOR)
