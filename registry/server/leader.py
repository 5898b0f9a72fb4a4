"""A leader's work: begun after a barrier, ended before the loss of leadership is told (R-68).

All effects are proposals of a leader: a deposed one's fail instead of doing harm. The work is one
task group that is cancelled whole when leadership ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from registry.errors import RegistryError
from registry.raft.ready import RaftRole, RoleChange
from registry.server.autopilot import DEFAULT_SETTINGS, Autopilot, Consensus
from registry.server.expiry import SessionTimers
from registry.server.members import LonePool, MemberPool, PoolMember
from registry.server.reconcile import LocalServerFacts, Proposer, Reconciler
from registry.state.base import Command
from registry.state.kv import KvReap, next_reap_ms
from registry.state.machine import StateMachine
from registry.state.operator import AutopilotSettings, GetAutopilot
from registry.state.sessions import (
    Session,
    SessionCreate,
    SessionDestroy,
    SessionRenew,
    SessionsWithTtl,
    find_session,
)
from registry.state.topics import ALL

logger = logging.getLogger("registry.server.leader")

#: Pause before leadership work that failed is begun again.
RETRY_SECONDS = 1.0

#: Tombstones are looked at this often; the field's granularity of their 15 minutes.
REAP_INTERVAL_SECONDS = 30.0

NANOSECONDS = 1_000_000_000


class LeaderDuties:
    """Runs while this server leads; `role_changed` is the driver's callback."""

    def __init__(
        self,
        facts: LocalServerFacts,
        machine: StateMachine,
        proposer: Proposer,
        consensus: Consensus,
        *,
        autopilot: AutopilotSettings = DEFAULT_SETTINGS,
        more: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
    ) -> None:
        """The pool is that of this server alone until `attach` hands in another. `autopilot` holds
        until an operator sets something else. `more` is further work, begun and ended with the
        rest."""
        self._machine = machine
        self._more = more
        self._autopilot_default = autopilot
        self._proposer = proposer
        self._pool: MemberPool = LonePool(facts.as_member())
        self.autopilot = Autopilot(
            facts.datacenter,
            consensus,
            lambda: self._pool,
            self._autopilot_settings,
            monotonic=time.monotonic,
            wall_ms=lambda: time.time_ns() // 1_000_000,
        )
        self.reconciler = Reconciler(
            facts,
            machine,
            proposer,
            consensus,
            lambda: self._pool,
            on_server_added=self.autopilot.act_soon,
        )
        self._leading = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.timers = SessionTimers(self._end_session, time.monotonic)

    @property
    def pool(self) -> MemberPool:
        return self._pool

    def attach(self, pool: MemberPool) -> None:
        """Follow the members of `pool` from now on."""
        self._pool = pool
        self.reconciler.pass_due()

    def member_changed(self, member: PoolMember) -> None:
        """News of a member of the pool; one that the pool forgot comes as REAPED. Never waits."""
        self.reconciler.member_changed(member)

    def role_changed(self, change: RoleChange) -> None:
        """Begin or end the work; called before anybody else hears of the change."""
        if change.role is RaftRole.LEADER:
            logger.info("cluster leadership acquired: term=%d", change.term)
            self._idle.clear()
            self._leading.set()
        elif self._leading.is_set():
            logger.warning("cluster leadership lost: term=%d reason=%s", change.term, change.reason)
            self._leading.clear()
            self._idle.set()
        if change.leader_id:
            logger.info("New leader elected: payload=%s term=%d", change.leader_id, change.term)

    def observe(self, command: Command, result: Any) -> None:
        """Keep the timers in step with a session command that was applied."""
        if isinstance(command, SessionCreate | SessionRenew):
            if isinstance(result, Session) and result.ttl_ns:
                self.timers.renew(result.id, result.ttl_ns / NANOSECONDS)
        elif isinstance(command, SessionDestroy):
            if result is False:  # renewed a moment before it expired: its timer starts anew
                session = find_session(self._machine.reader, command.id)
                if isinstance(session, Session):
                    self.timers.renew(session.id, session.ttl_ns / NANOSECONDS)
            else:
                self.timers.forget(command.id)

    async def run(self) -> None:
        """Work whenever this server leads, until cancelled."""
        while True:
            await self._leading.wait()
            try:
                async with asyncio.TaskGroup() as group:
                    leading = group.create_task(self._lead())
                    await self._idle.wait()
                    leading.cancel()
            except* RegistryError as problems:
                problem = problems.exceptions[0]
                logger.warning("leader work failed, beginning again: error=%s", problem)
                with suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_SECONDS):
                        await self._idle.wait()

    def _autopilot_settings(self) -> AutopilotSettings:
        _, record = GetAutopilot().run(self._machine.reader)
        return self._autopilot_default if record is None else record.settings

    async def _lead(self) -> None:
        self.autopilot.begin()
        await self._proposer.barrier()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_timers())
            group.create_task(self.timers.run())
            group.create_task(self._reap())
            group.create_task(self.reconciler.run())
            group.create_task(self.autopilot.run())
            for work in self._more:
                group.create_task(work())

    async def _keep_timers(self) -> None:
        """Time the sessions of the state that there is, and of each that an operator restores."""
        while True:
            with self._machine.topics.waiting((ALL,)) as restored:
                _, sessions = SessionsWithTtl().run(self._machine.reader)
                self.timers.reset({s.id: s.ttl_ns / NANOSECONDS for s in sessions})
                await restored.event.wait()
            self.reconciler.pass_due()

    async def _end_session(self, session_id: str) -> None:
        await self._proposer.propose(SessionDestroy(id=session_id, reason="ttl"))

    async def _reap(self) -> None:
        """Forget tombstones and lock delays once they are due; asleep while there are none."""
        while True:
            due_ms = next_reap_ms(self._machine.reader)
            now_ms = time.time_ns() // 1_000_000
            if due_ms is not None and due_ms <= now_ms:
                await self._proposer.propose(KvReap())
                continue
            await asyncio.sleep(REAP_INTERVAL_SECONDS)
