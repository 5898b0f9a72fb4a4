"""The loop around the Raft core: it feeds it and does what its `Ready` asks for.

Life of a write on the leader:

    propose ─> proposals ─> core.propose ─> Ready: entries ─> store.write (loop, unsynced)
                                                                │ store.sync (its own thread)
      meanwhile the next group gathers in the proposals         v
    answer <─ machine.apply (one write) <─ Ready: committed <─ core.persisted(token)

**One WAL.** Log and state are in one store, so the state's batch needs no sync of its own: a crash
that loses it also finds the entries again that lead to it, and applies them again (R-7).

**Compaction.** For the same reason the log is cut without writing a snapshot: the state at the cut
is already in the store, ahead of the cut in the same WAL (see `registry.raft.disk`). A snapshot is
written only for a peer that has fallen behind the log (`registry.raft.compaction`).

**Failure.** A failed sync or write ends `run` with that error; see `registry.raft.group_commit`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence

import msgspec

from registry.raft.compaction import Compaction
from registry.raft.core import RaftCore
from registry.raft.group_commit import GroupCommit
from registry.raft.inbox import Inbox
from registry.raft.machine import Machine
from registry.raft.messages import AnyMessage, Configuration, Entry, Role, SnapshotChunk
from registry.raft.proposals import Proposals
from registry.raft.ready import RaftRole, Ready, RoleChange
from registry.raft.ticks import Ticks
from registry.raft.transport import Transport
from registry.raft.waiters import Waiters
from registry.raft.waiting_reads import WaitingReads

logger = logging.getLogger("registry.raft")

#: A step goes on to the next thing as long as it had fewer entries than this, to write or to apply.
#: One or two milliseconds of work: a request takes several turns of the loop to be answered, and
#: each may have such a step before it.
_STEP_ENTRIES = 64


class CoreLoop:
    """Drives one server's core with what gathers in the parts that it is given.

    `core` is replaced by a request on a server that is blank, and never after. `role_changed` is
    called at every change of role or leader, before anybody else hears of it.
    """

    def __init__(
        self,
        core: RaftCore,
        *,
        machine: Machine,
        transport: Transport,
        inbox: Inbox,
        ticks: Ticks,
        proposals: Proposals,
        reads: WaitingReads,
        commit: GroupCommit,
        compaction: Compaction,
        role_changed: Callable[[RoleChange], None],
    ) -> None:
        self.core = core
        self.is_running = False
        self.leader_changed = Waiters()
        self.leadership_ended = Waiters()
        self.configuration_changed = Waiters()
        self._machine = machine
        self._transport = transport
        self._inbox = inbox
        self._ticks = ticks
        self._proposals = proposals
        self._reads = reads
        self._commit = commit
        self._compaction = compaction
        self._role_changed = role_changed
        self._peers_told: Configuration | None = None

    async def run(self) -> None:
        """Drive the core until cancelled. Ends with the error when a write or sync fails."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._begin(tasks)
                while True:
                    await self._inbox.wait()
                    self._step()
        except BaseExceptionGroup as group:
            # One cause stops a server; the owner should not have to dig for it.
            raise next(_leaves(group)) from None
        finally:
            self._end()

    def _begin(self, tasks: asyncio.TaskGroup) -> None:
        self.is_running = True
        self._commit.begin()
        self._ticks.restart()
        tasks.create_task(self._ticks.keep_waking(self._inbox.wake), name="raft-ticks")
        self._compaction.begin(tasks)
        if self._is_only_voter():
            # Nobody else can lead, so there is nothing to wait for.
            self.core.campaign()
        self._inbox.wake()

    def _is_only_voter(self) -> bool:
        voters = [s.id for s in self.core.configuration.servers if s.role is Role.VOTER]
        return voters == [self.core.config.id]

    def _end(self) -> None:
        self.is_running = False
        self._commit.end()
        self._compaction.end()
        self._proposals.end()
        self._reads.end()
        for waiters in (self.leadership_ended, self.leader_changed, self.configuration_changed):
            waiters.refuse(None)

    def _step(self) -> None:
        """Hand collected input to the core, then do what it wants.

        All of it, as long as that is little. A follower that catches up has thousands of entries to
        write and to apply: it does so in steps of some milliseconds, and answers in between.
        """
        self._ticks.advance(self.core)
        self._commit.settle(self.core)
        for message in self._inbox.take_messages(_STEP_ENTRIES):
            self._deliver(message)
        for request in self._inbox.take_requests():
            request()
        self._proposals.append_to(self.core)
        self._reads.begin(self.core)
        entries = 0
        while self.core.has_ready():
            if entries >= _STEP_ENTRIES:
                self._inbox.wake()
                break
            ready = self.core.ready()
            entries += len(ready.entries) + len(ready.committed)
            self._execute(ready)
        self._tell_configuration()

    def _deliver(self, message: AnyMessage) -> None:
        core = self.core
        if isinstance(message, SnapshotChunk):
            # The core judges the sender and keeps its timers; the bytes are none of its business.
            core.receive(msgspec.structs.replace(message, data=b""))
            is_leader = message.sender == core.leader_id and message.term == core.term
            if is_leader and message.receiver == core.config.id:
                self._compaction.accept(message)
            return
        core.receive(message)
        self._compaction.heard(message)

    def _execute(self, ready: Ready) -> None:
        """Do one `Ready`, in the order that `registry.raft.ready` documents."""
        if ready.role_change is not None:
            self._change_role(ready.role_change)
        if ready.now:
            self._transport.send(ready.now)
        self._commit.write(ready, self.core)
        self._compaction.send_snapshots(ready.snapshots_wanted)
        if ready.committed:
            self._apply(ready.committed)
        self._reads.settle(ready, self.core)

    def _apply(self, entries: Sequence[Entry]) -> None:
        results = self._machine.apply(entries)
        self.core.applied(entries[-1].index)
        self._proposals.answer(entries, results, self.core.leader_id)

    def _change_role(self, change: RoleChange) -> None:
        logger.info(
            "raft role is %s: %s; node=%s term=%d leader=%s",
            change.role.value,
            change.reason,
            self.core.config.id,
            change.term,
            change.leader_id or "unknown",
        )
        # Leader-only work stops before anybody is told that leadership is lost.
        self._role_changed(change)
        self.leader_changed.resolve()
        if change.role is not RaftRole.LEADER:
            self._proposals.fail_appended("leadership was lost before the command was committed")
            self.leadership_ended.resolve()
            self._compaction.leadership_lost()

    def _tell_configuration(self) -> None:
        configuration = self.core.configuration
        if configuration is not self._peers_told:
            self._peers_told = configuration
            self._transport.set_peers(configuration)
            self.configuration_changed.resolve()


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
