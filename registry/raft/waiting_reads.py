"""Callers whose read this server may not answer yet, from the call to the state that may answer.

    add ─> wanted ─ begin ─> the core confirms that we lead ─ settle ─> applied as far ─> woken

All that come between two steps are one read to the core, whose rounds are in `registry.raft.reads`.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools

from registry.errors import Unavailable
from registry.raft.core import RaftCore
from registry.raft.ready import Ready
from registry.raft.waiters import Waiters


class WaitingReads:
    """One server's reads that wait, consistent ones apart from default ones."""

    def __init__(self) -> None:
        self._wanted = {True: Waiters(), False: Waiters()}  # by whether it is to be consistent
        self._contexts = itertools.count(1)
        self._begun: dict[int, Waiters] = {}  # by context
        #: Confirmed, and waiting for apply: (index, context, waiters).
        self._confirmed: list[tuple[int, int, Waiters]] = []

    def add(self, *, consistent: bool) -> asyncio.Future[None]:
        return self._wanted[consistent].join()

    def begin(self, core: RaftCore) -> None:
        for consistent, waiters in self._wanted.items():
            if not waiters:
                continue
            context = next(self._contexts)
            try:
                core.read(context, consistent=consistent)
            except Unavailable as error:
                waiters.fail(error)
            else:
                self._begun[context] = waiters
            self._wanted[consistent] = Waiters()

    def settle(self, ready: Ready, core: RaftCore) -> None:
        """Pass on what the core says of them, and wake those that the applied state may answer."""
        for context in ready.failed_reads:
            self._begun.pop(context, Waiters()).refuse(core.leader_id)
        for read in ready.reads:
            waiters = self._begun.pop(read.context, Waiters())
            heapq.heappush(self._confirmed, (read.index, read.context, waiters))
        applied = core.applied_index
        while self._confirmed and self._confirmed[0][0] <= applied:
            heapq.heappop(self._confirmed)[2].resolve()

    def end(self) -> None:
        confirmed = (waiters for _, _, waiters in self._confirmed)
        for waiters in [*self._wanted.values(), *self._begun.values(), *confirmed]:
            waiters.refuse(None)
