"""One server's syncs: one under way at a time, and the promises that wait for it.

As `registry.raft.group_commit`: what is written while a sync is under way gathers for the next one.
"""

from __future__ import annotations

from collections import deque

from registry.raft.ready import RaftRole, Ready
from registry.testing.checkers import Promise, Violation, voters
from registry.testing.clock import MS
from registry.testing.simulation.life import Life
from registry.testing.simulation.options import T


class GroupCommit:
    """Keeps what each `Ready` promises until all that was written before it is durable."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._unsynced: deque[tuple[Ready, list[Promise]]] = deque()
        self._syncing_since: int | None = None

    def promise(self, ready: Ready) -> None:
        """Send `ready.after`, which is written already, once that is durable; in order."""
        promises = self._life.promises(ready.after)
        if ready.must_sync or self._unsynced:
            self._unsynced.append((ready, promises))
            if self._syncing_since is None:
                self._start_sync()
        else:
            self._complete(ready, promises)

    def _start_sync(self) -> None:
        life, options = self._life, self._life.world.options
        self._syncing_since = life.world.schedule.now
        mark, token = life.disk.mark(), self._unsynced[-1][0].token
        stalls = life.world.faulty and life.random.random() < options.stall
        delay = life.random.randint(MS // 10, options.stall_max if stalls else options.sync_max)

        def durable() -> None:
            # A paused process does not stop its disk.
            if not life.is_over:
                life.disk.synced(mark)
                life.world.checker.synced(life.server_id)
                life.later(life.random.randint(0, MS), lambda: self._finish_sync(token))

        life.world.schedule.after(delay, durable)

    def _finish_sync(self, token: int) -> None:
        self._syncing_since = None
        while self._unsynced:
            ready, promises = self._unsynced[0]
            if ready.must_sync and ready.token > token:
                break
            self._unsynced.popleft()
            self._complete(ready, promises)
            self._life.crash_point()
        if self._unsynced:
            self._start_sync()

    def _complete(self, ready: Ready, promises: list[Promise]) -> None:
        core = self._life.core
        core.persisted(ready.token)
        self._life.send([promise for promise in promises if promise.message.term >= core.term])

    def resumed(self) -> None:
        """The process was paused: it has not seen the time of its sync go by."""
        if self._syncing_since is not None:
            self._syncing_since = self._life.world.schedule.now

    def check(self) -> None:
        """A leader whose disk hangs must not go on leading (R-29)."""
        life, since = self._life, self._syncing_since
        if since is None:
            return
        hangs = life.world.schedule.now - since > 2 * T
        could_hand_over = len(voters(life.core.configuration)) > 1
        if hangs and could_hand_over and life.core.role is RaftRole.LEADER:
            raise Violation("I-17", f"{life.server_id} leads although its disk hangs")
