"""The loop around one server's core, as `registry.raft.loop`: an input in, and its `Ready` out."""

from __future__ import annotations

from collections.abc import Callable

from registry.raft.messages import AnyMessage
from registry.raft.ready import RaftRole, Ready, RoleChange
from registry.testing.checkers import Violation
from registry.testing.clock import MS
from registry.testing.disk import Record, State
from registry.testing.simulation.applying import Applying
from registry.testing.simulation.group_commit import GroupCommit
from registry.testing.simulation.life import CrashPoint, Life
from registry.testing.simulation.requests import Requests
from registry.testing.simulation.snapshots import SnapshotTransfers
from registry.testing.simulation.ticks import Ticks


class Loop:
    """Drives one life of a server. Everything raises `CrashPoint` when it crashes on the way."""

    def __init__(self, life: Life, ticks: Ticks) -> None:
        self.life = life
        self.requests = Requests(life)
        self.commit = GroupCommit(life)
        self._ticks = ticks
        self._applying = Applying(life, self.requests)
        self._transfers = SnapshotTransfers(life)

    def step(self, action: Callable[[], None]) -> None:
        """Count due ticks, take one input, do what the core wants; as the driver's step."""
        core = self.life.core
        self._ticks.advance(core)
        action()
        while core.has_ready():
            self._execute(core.ready())

    def receive(self, message: AnyMessage) -> None:
        self.life.core.receive(message)
        self._transfers.receive(message)

    def _execute(self, ready: Ready) -> None:
        life = self.life
        life.world.trace.note(life.server_id, ready)
        if ready.role_change is not None:
            self._change_role(ready.role_change)
        life.send(life.promises(ready.now))
        life.crash_point()
        if ready.must_sync:
            self._write(ready)
            life.crash_point()
        self.commit.promise(ready)
        for peer in ready.snapshots_wanted:
            self._transfers.send(peer)
        if ready.committed:
            self._applying.commit(ready.committed)
        self.requests.confirm_reads(ready)
        self.requests.answer_reads()

    def _change_role(self, change: RoleChange) -> None:
        life, core = self.life, self.life.core
        if change.reason == "removed" and core.commit_index < core.configuration.index:
            # it leads on until its removal is committed, and the others know.
            raise Violation(
                "I-11", f"{life.server_id} stops leading before its removal is committed"
            )
        if change.role is not RaftRole.LEADER:
            self.requests.forget_writes()
        elif life.random.random() < life.world.options.crash_elected:
            life.later(life.random.randint(0, 100 * MS), self._crash_if_faulty)

    def _crash_if_faulty(self) -> None:
        if self.life.world.faulty:
            raise CrashPoint

    def _write(self, ready: Ready) -> None:
        life = self.life
        state: State | None = None
        if ready.snapshot is not None:
            state = life.world.snapshots[ready.snapshot.id]
            self._applying.replaced()
        record = Record(
            hard_state=ready.hard_state,
            base=ready.snapshot,
            state=state,
            applied_index=ready.snapshot.index if ready.snapshot else None,
        )
        if record != Record():
            life.disk.write(record)
        if ready.entries:
            life.world.checker.appending(life.server_id, life.core, ready.entries)
            life.disk.write(Record(entries=ready.entries))
