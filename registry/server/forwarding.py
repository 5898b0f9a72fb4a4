"""To the leader, wherever it is: how a server does what only the leader may do.

Each request is a loop of: who leads? Do it here, or hand it to that server. What is known not to
have been done is tried again until the hold time is over (R-67); what may have been done is told as
`OutcomeUnknown` when doing it twice could harm, and asked again when it could not (reads). Time
spent at a leader does not count against the hold time, only time without one: a blocking read
that loses its leader after minutes has all of it to find the next.

A leader that vanishes without closing its connections would keep requests waiting. Once another
one is known, what waits at the old one gets a short grace, in which a deposed leader that still
lives tells the outcome itself, and is then given up.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from registry.errors import (
    ConnectionLost,
    NoLeader,
    NotLeader,
    OutcomeUnknown,
    Unavailable,
    Unreachable,
)
from registry.raft.membership import ChangePending
from registry.raft.transfer import TransferInProgress
from registry.rpc.connection import Connection
from registry.rpc.pool import Pool

T = TypeVar("T")

#: How long an old leader may still answer once a new one is known.
MOVED_GRACE_S = 0.5

#: Pause before the same leader is asked again after it said that it does not lead, or could not be
#: reached; a change of leader ends it at once.
RETRY_S = 0.05

#: The hold time is cut at random by up to this part, so that held requests do not all end at once.
_JITTER = 1 / 16


#: What a leader refuses before anything is done, and takes a moment later.
NOT_YET = (TransferInProgress, ChangePending)


class Consensus(Protocol):
    """Who leads, as far as this server knows."""

    @property
    def is_leader(self) -> bool: ...
    @property
    def leader_id(self) -> str: ...
    @property
    def leader_address(self) -> str: ...


class Hold:
    """A budget of time without a leader."""

    __slots__ = ("_left_s",)

    def __init__(self, seconds: float, rng: random.Random) -> None:
        self._left_s = seconds * (1 - rng.uniform(0, _JITTER))

    async def spend(self, work: Awaitable[T], *, at_most_s: float | None = None) -> T | None:
        """Wait for `work`, at most for what is left or `at_most_s`; None when it took longer.

        Raises `NoLeader` once nothing is left.
        """
        limit_s = self._left_s if at_most_s is None else min(self._left_s, at_most_s)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(limit_s):
                return await work
        except TimeoutError:
            if limit_s >= self._left_s:
                raise NoLeader from None
            return None
        finally:
            self._left_s -= loop.time() - began


class Forwarding:
    """One server's way to the leader."""

    def __init__(
        self,
        consensus: Consensus,
        pool: Pool,
        *,
        hold_timeout_s: float,
        rng: random.Random | None = None,
    ) -> None:
        self._consensus = consensus
        self._pool = pool
        self._hold_timeout_s = hold_timeout_s
        self._random = rng or random.Random()
        self._changed = asyncio.Event()
        #: Requests that wait at another server, and which.
        self._waiting: dict[asyncio.Timeout, str] = {}

    def leader_changed(self) -> None:
        """Consensus knows another leader, or none any more."""
        self._changed.set()
        self._changed = asyncio.Event()
        leader = self._consensus.leader_id
        if not leader:
            return
        grace_ends = asyncio.get_running_loop().time() + MOVED_GRACE_S
        for waiting, server_id in self._waiting.items():
            when = waiting.when()
            if server_id != leader and (when is None or when > grace_ends):
                waiting.reschedule(grace_ends)

    async def to_leader(
        self,
        here: Callable[[], Awaitable[T]],
        there: Callable[[Connection], Awaitable[T]],
        *,
        repeatable: bool,
        limit_s: float,
    ) -> T:
        """Do `here` on the leader, or `there` with a connection to it.

        `limit_s` bounds the wait for one answer. Raises `NoLeader` when there was none for the hold
        time, or the one of `NOT_YET` that was said at the end of it; `OutcomeUnknown` when an
        answer was lost and the request is not `repeatable`; and what `here` and `there` raise
        otherwise.
        """
        hold = Hold(self._hold_timeout_s, self._random)
        refusal: Unavailable | None = None
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            leader, changed = self._consensus.leader_id, self._changed
            try:
                if self._consensus.is_leader:
                    return await here()
                if address := self._consensus.leader_address:
                    connection = await hold.spend(self._pool.connect(address))
                    assert connection is not None, "all that was left was granted"
                    return await self._at(leader, there(connection), limit_s)
            except (NotLeader, Unreachable):
                refusal = None  # nothing was done
            except NOT_YET as problem:
                refusal = problem
            except (ConnectionLost, TimeoutError) as problem:
                if not repeatable:
                    waited_s = loop.time() - began  # less than the limit if the leader changed
                    reason = str(problem) or f"no answer from the leader in {waited_s:.1f} s"
                    raise OutcomeUnknown(f"outcome unknown: {reason}") from problem
            pause_s = None if not leader else RETRY_S
            try:
                await hold.spend(changed.wait(), at_most_s=pause_s)
            except NoLeader:
                raise refusal or NoLeader from None

    async def _at(self, leader: str, answer: Awaitable[T], limit_s: float) -> T:
        async with asyncio.timeout(limit_s) as waiting:
            self._waiting[waiting] = leader
            try:
                return await answer
            finally:
                del self._waiting[waiting]
