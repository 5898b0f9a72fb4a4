"""The shell around the Raft core: one loop that feeds it and does what its `Ready` asks for.

Life of a write on the leader:

    propose ─> inbox ─> core.propose ─> Ready: entries ─> store.write (loop, unsynced)
                                                            │ store.sync (its own thread)
      meanwhile the next group gathers in the inbox         v
    answer <─ machine.apply (one write) <─ Ready: committed <─ core.persisted(token)

**Group commit.** There is at most one sync under way. Whatever was written while it ran is covered
by the next one, so a thousand concurrent proposals share a sync and a single one pays for one
(R-11). Messages that promise something (`Ready.after`) wait in line behind the sync that makes the
promise durable (section 3 of the requirements); nothing is acknowledged before.

**One WAL.** Log and state are in one store, so the state's batch needs no sync of its own: a crash
that loses it also finds the entries again that lead to it, and applies them again (R-7).

**Compaction.** For the same reason the log is cut without writing a snapshot: the state at the cut
is already in the store, ahead of the cut in the same WAL (see `registry.raft.disk`). A snapshot is
written only for a peer that has fallen behind the log (`registry.raft.compaction`).

**Time.** Ticks are counted off a monotonic clock, all that are due before anything else is handled,
so that the core never believes an old contact to be a new one. A gap far above a tick (the process
or the machine was paused) is told to the core before any read is answered (R-37).

**Failure.** A failed sync or write ends `run` with that error; the process must stop and trust only
what it reads back (R-8).
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from registry.errors import (
    Corrupt,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    Rejected,
    TimedOut,
    TooLarge,
    Unavailable,
)
from registry.raft.compaction import Compaction
from registry.raft.core import RaftConfig, RaftCore
from registry.raft.disk import DiskLog, Identity
from registry.raft.machine import Machine
from registry.raft.membership import ConfigChange
from registry.raft.messages import (
    AnyMessage,
    AppendRequest,
    Configuration,
    Entry,
    EntryKind,
    Role,
    SnapshotChunk,
)
from registry.raft.ready import RaftRole, Ready, RoleChange
from registry.raft.settings import RaftSettings
from registry.raft.snapshots import FileSnapshots, MemorySnapshots
from registry.raft.syncer import Syncer
from registry.raft.transport import NullTransport, Transport
from registry.storage.store import Store

__all__ = ["NEVER_MS", "FollowerView", "Machine", "RaftDriver", "RaftSettings"]

logger = logging.getLogger("registry.raft")


#: A step goes on to the next thing as long as it had fewer entries than this, to write or to apply.
#: One or two milliseconds of work: a request takes several turns of the loop to be answered, and
#: each may have such a step before it.
_STEP_ENTRIES = 64
#: The most that is applied in one go, but at least one entry: about as much.
_APPLY_BYTES = 32 << 10

#: Shorter pauses are usual, and with the short timeouts of -dev they count as jumps of the clock.
_PAUSE_TOLD_MS = 200

#: What `last_contact_ms` says when no leader was ever heard: longer than any `max_stale`.
NEVER_MS = 1 << 53


class FollowerView(msgspec.Struct, frozen=True):
    """What the leader knows of a peer.

    `silence_ms` is how long its answer to a heartbeat is overdue: 0 while it answers each one. As
    heartbeats are T/10 apart, the time since its last answer would tell their interval instead.
    """

    match: int  # highest index known to be durable there; 0 = unknown
    match_term: int  # the term of the entry there; 0 = unknown, or compacted away
    silence_ms: int
    is_voter: bool


@dataclass(slots=True)
class _Proposal:
    """Something to append, and who waits for it to be applied."""

    data: bytes
    kind: EntryKind
    future: asyncio.Future[Any]


@dataclass(slots=True)
class _Appended:
    """Who waits for the entry of this term at some index."""

    term: int
    size: int
    future: asyncio.Future[Any]


class RaftDriver:
    """One server's consensus. Everything but `run` is called from the loop that runs it."""

    def __init__(
        self,
        *,
        server_id: str,
        store: Store,
        machine: Machine,
        cluster_id: str = "",
        transport: Transport | None = None,
        settings: RaftSettings | None = None,
        snapshot_directory: Path | None = None,
        on_role_change: Callable[[RoleChange], None] | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Read and verify what the store holds; nothing happens before `run`.

        `cluster_id` is for a new server; "" takes the one on disk. Snapshots for peers go to
        `snapshot_directory`, or are kept in memory without one.
        `clock` gives seconds that never go back, and goes on while the machine sleeps.
        Raises `Corrupt` when log and state do not fit together, `StorageError` when the store is
        another server's.
        """
        self._settings = settings or RaftSettings()
        self._store = store
        self._machine = machine
        self._transport = transport or NullTransport()
        #: Called on the loop at every change of role or leader, before anybody else hears of it.
        self.on_role_change = on_role_change
        self._clock = clock or _steady_clock
        self._server_id = server_id
        # Salted with the id: servers that were given equal seeds must not time out together.
        self._random = random.Random(f"{server_id} {(rng or random.Random()).getrandbits(64)}")
        self._log = DiskLog(store)
        restarted = not self._log.is_empty
        if not cluster_id and self._log.identity is not None:
            cluster_id = self._log.identity.cluster_id
        self._log.establish(Identity(server_id, cluster_id))
        self._compaction = Compaction(
            server_id=server_id,
            store=store,
            log=self._log,
            machine=machine,
            snapshots=(
                FileSnapshots(snapshot_directory) if snapshot_directory else MemorySnapshots()
            ),
            transport=self._transport,
            settings=self._settings,
            rng=self._random,
            core=lambda: self._core,
            ask=self._ask,
        )
        self._recover()
        self._core = self._new_core(cluster_id, restarted=restarted)
        self._peers_told: Configuration | None = None

        # Input, collected until the next step.
        self._messages: list[AnyMessage] = []
        self._proposals: list[_Proposal] = []
        self._reads_wanted: dict[bool, list[asyncio.Future[None]]] = {True: [], False: []}
        self._requests: list[Callable[[], None]] = []
        self._synced: int | None = None
        self._failure: BaseException | None = None
        self._awake = False
        self._waker: asyncio.Future[None] | None = None

        # Output under way.
        self._unsynced: deque[Ready] = deque()  # written or waiting in line, in token order
        self._syncing = False
        self._syncer: Syncer | None = None
        self._pending: dict[int, _Appended] = {}  # by index
        self._outstanding_bytes = 0  # of proposals in the inbox or pending
        self._contexts = itertools.count(1)
        self._reads: dict[int, list[asyncio.Future[None]]] = {}  # context -> waiters
        #: Confirmed reads that wait for apply: (index, tie-breaker, waiters).
        self._reads_ready: list[tuple[int, int, list[asyncio.Future[None]]]] = []
        self._leadership_ends: list[asyncio.Future[None]] = []
        self._leader_waiters: list[asyncio.Future[None]] = []
        self._removal_waiters: list[asyncio.Future[None]] = []
        self._tasks: asyncio.TaskGroup | None = None
        self._ticked_at = self._clock()
        self._tick_s = self._settings.tick_ms / 1000
        self._messages_dropped = 0
        self._syncs = 0

    def _new_core(self, cluster_id: str, *, restarted: bool) -> RaftCore:
        return RaftCore(
            self._config(cluster_id),
            self._log,
            self._log.hard_state,
            self._log.configuration,
            self._machine.applied_index,
            self._random,
            restarted=restarted,
        )

    def _config(self, cluster_id: str) -> RaftConfig:
        settings = self._settings
        return RaftConfig(
            id=self._server_id,
            cluster_id=cluster_id,
            election_ticks=settings.election_ticks,
            sticky_ticks=settings.sticky_ticks,
            heartbeat_ticks=settings.heartbeat_ticks,
            max_proposals=settings.proposals_max,
            max_proposal_bytes=settings.proposal_bytes_max,
            max_apply_bytes=_APPLY_BYTES,
        )

    def _recover(self) -> None:
        """Finish what a crash interrupted, and check that log and state belong together."""
        if (meta := self._log.pending_install) is not None:
            logger.warning("finishing the installation of snapshot %s after a restart", meta.id)
            self._compaction.install(meta)
        # A killed process leaves writes that it never synced, and from here on the core takes all
        # that is in the log for durable: so make it so, before it counts towards any promise.
        self._store.sync()
        applied, first, last = (
            self._machine.applied_index,
            self._log.first_index(),
            self._log.last_index(),
        )
        if not first - 1 <= applied <= last:
            raise Corrupt(
                f"the state is at index {applied}, but the Raft log holds {first}..{last}; "
                "restore this server from a backup, or wipe it and let it rejoin as a new one"
            )

    # -- what callers ask --------------------------------------------------------------------

    async def propose(self, data: bytes) -> Any:
        """Replicate a command and return its result, once committed, durable and applied.

        Definitely not done: `NotLeader`, `Overloaded`, `TooLarge`. `OutcomeUnknown`: it was
        appended, then leadership was lost or the server stopped; repeat only what is safe to
        repeat (R-66). Cancelling the call does not take the command back.
        """
        if len(data) > self._core.config.max_entry_bytes:
            raise TooLarge(
                f"a command of {len(data)} bytes is over the limit of "
                f"{self._core.config.max_entry_bytes}"
            )
        return await self._enqueue(data, EntryKind.COMMAND)

    async def barrier(self) -> None:
        """Return once everything proposed before is applied here (R-68). Raises like `propose`."""
        await self._enqueue(b"", EntryKind.BARRIER)

    def try_lease_read(self) -> bool:
        """Whether the applied state may answer a default read right now, under the lease (R-36)."""
        if self._clock() - self._ticked_at >= self._tick_s:
            # We may have been paused since the last tick: the lease must not be older than it says.
            self._advance_clock()
            self._wake()
        index = self._core.lease_read_index()
        return index is not None and index <= self._core.applied_index

    async def read_barrier(self, consistent: bool = False) -> None:
        """Return once the applied state may answer: by the lease, or by a quorum round if
        `consistent` (R-35); reads that wait at the same time share a round. Raises `NotLeader`."""
        if not consistent and self.try_lease_read():
            return
        self._check_running()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reads_wanted[consistent].append(future)
        self._wake()
        await future

    async def change_configuration(self, change: ConfigChange) -> None:
        """Carry out one membership change; returns once it is committed (R-41, R-42).

        Raises `Rejected` for a change that must not be, `NotLeader`, `OutcomeUnknown`.
        """

        def append(future: asyncio.Future[Any]) -> None:
            term, index = self._core.propose_configuration(change)
            self._pending[index] = _Appended(term, 0, future)

        await self._request(append)

    async def bootstrap(self, configuration: Configuration) -> None:
        """Begin a cluster while running, as one of `configuration` (R-55, R-58).

        Raises `Rejected` when there is Raft state here already, be it only a vote.
        """
        await self._begin_anew("", lambda: self._log.begin(configuration))

    async def adopt_cluster(self, cluster_id: str) -> None:
        """Become a server of the cluster with this id, before hearing from any (R-60).

        Raises `Rejected` when this server is part of another one already.
        """
        if cluster_id != self.cluster_id:
            identity = Identity(self._server_id, cluster_id)
            await self._begin_anew(cluster_id, lambda: self._log.reidentify(identity))

    async def _begin_anew(self, cluster_id: str, write: Callable[[], None]) -> None:
        """Change what is on disk under a core that has done nothing yet, and replace it."""

        def begin(future: asyncio.Future[Any]) -> None:
            if not self.is_blank:
                raise Rejected("this server already holds Raft state")
            write()
            # On the loop, for once in the life of a server: the new core takes what is written for
            # durable, and may acknowledge it to a leader at once.
            self._store.sync()
            self._core = self._new_core(cluster_id or self.cluster_id, restarted=False)
            future.set_result(None)

        await self._request(begin)

    def campaign(self) -> None:
        """Do not wait for the election timeout, as long as nobody leads."""
        self._ask(lambda: None if self.leader_id else self._core.campaign())

    async def transfer(self, target: str | None = None) -> None:
        """Hand leadership to `target`, or to the voter that is best prepared (R-47).

        Returns once this server leads no more. Raises `TimedOut` when that did not come about
        within an election timeout, and `Rejected` or `NotLeader` when it can not be begun.
        """

        def begin(future: asyncio.Future[Any]) -> None:
            self._core.transfer(target)
            self._leadership_ends.append(future)

        # Half a timeout longer than the core tries, so that its own end of it comes first.
        limit_s = 1.5 * self._settings.election_timeout_ms / 1000
        try:
            async with asyncio.timeout(limit_s):
                await self._request(begin)
        except TimeoutError:
            raise TimedOut(f"leadership was not taken over within {limit_s:.1f} s") from None

    async def wait_for_leader(self) -> str:
        """Return the id of the leader once one is known, this server or another.

        Gives way to other tasks at least once, so that a loop of it and `propose` stays polite.
        """
        await asyncio.sleep(0)
        while not self.leader_id:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._leader_waiters.append(future)
            await future
        return self.leader_id

    async def wait_until_removed(self) -> None:
        """Return once the configuration in force here does not list this server any more."""
        while any(server.id == self._server_id for server in self.configuration.servers):
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._removal_waiters.append(future)
            await future

    def receive(self, message: AnyMessage) -> None:
        """Hand in what a peer sent. Dropped when too much is waiting (R-5)."""
        if len(self._messages) >= self._settings.messages_max:
            self._messages_dropped += 1
            return
        self._messages.append(message)
        self._wake()

    def unreachable(self, peer: str) -> None:
        """The transport lost its connection to `peer`."""
        self._ask(lambda: self._core.unreachable(peer))

    def gone(self, peer: str) -> None:
        """The process of `peer` has ended, as far as the network tells."""
        self._ask(lambda: self._core.gone(peer))

    # -- facts -------------------------------------------------------------------------------

    @property
    def server_id(self) -> str:
        return self._server_id

    @property
    def term(self) -> int:
        return self._core.term

    @property
    def role(self) -> RaftRole:
        return self._core.role

    @property
    def is_leader(self) -> bool:
        return self._core.role is RaftRole.LEADER

    @property
    def leader_id(self) -> str:
        """Who leads as far as is known here; "" when nobody is known to."""
        return self._core.leader_id or ""

    @property
    def leader_address(self) -> str:
        leader_id = self.leader_id
        servers = self._core.configuration.servers
        return next((server.address for server in servers if server.id == leader_id), "")

    @property
    def commit_index(self) -> int:
        return self._core.commit_index

    @property
    def applied_index(self) -> int:
        return self._core.applied_index

    @property
    def last_index(self) -> int:
        return self._core.last_index

    @property
    def last_term(self) -> int:
        """The term of the last entry."""
        return self._core.last_term

    @property
    def configuration(self) -> Configuration:
        return self._core.configuration

    @property
    def cluster_id(self) -> str:
        return self._core.config.cluster_id

    @property
    def is_blank(self) -> bool:
        """Whether this server was never part of a cluster: no log, no snapshot, no vote (R-55)."""
        core = self._core
        return self._log.is_empty and not self._unsynced and not (core.term or core.last_index)

    def followers(self) -> dict[str, FollowerView]:
        """What this leader knows of each peer in the configuration; empty on other servers."""
        beat_ticks = self._core.config.heartbeat_ticks
        return {
            peer: FollowerView(
                match=progress.match,
                match_term=self._log.term(progress.match) or 0,
                silence_ms=int(
                    max(0, progress.ticks_since_heard - beat_ticks) * self._settings.tick_ms
                ),
                is_voter=progress.is_voter,
            )
            for peer, progress in self._core.progress.items()
            if not progress.is_departing
        }

    def last_contact_ms(self) -> int:
        """Milliseconds since a leader was last heard: 0 on the leader itself, `NEVER_MS` if none
        was since the start."""
        if self.is_leader:
            return 0
        ticks = self._core.last_contact_ticks
        if ticks is None:
            return NEVER_MS
        return int(ticks * self._settings.tick_ms + (self._clock() - self._ticked_at) * 1000)

    def statistics(self) -> dict[str, str]:
        """The block "raft" of the agent's Stats, in the words of its API."""
        configuration = self._core.configuration
        contact = self.last_contact_ms()
        base = self._log.snapshot_meta()
        voters = [server for server in configuration.servers if server.role is Role.VOTER]
        is_voter = any(server.id == self._server_id for server in voters)
        return {
            "applied_index": str(self.applied_index),
            "commit_index": str(self.commit_index),
            "fsm_pending": str(self.commit_index - self.applied_index),
            "last_contact": "never" if contact == NEVER_MS else f"{contact}ms" if contact else "0",
            "last_log_index": str(self.last_index),
            "last_log_term": str(self._log.term(self._log.last_index()) or 0),
            "last_snapshot_index": str(base.index if base else 0),
            "last_snapshot_term": str(base.term if base else 0),
            "latest_configuration": _shown(configuration),
            "latest_configuration_index": str(configuration.index),
            "messages_dropped": str(self._messages_dropped),
            "num_peers": str(len(voters) - is_voter),
            "protocol_version": "3",
            "protocol_version_max": "3",
            "protocol_version_min": "0",
            "snapshot_version_max": "1",
            "snapshot_version_min": "0",
            "state": self._core.role.value.capitalize(),
            "syncs": str(self._syncs),
            "term": str(self.term),
        }

    # -- the loop ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Drive the core until cancelled. Ends with the error when a write or sync fails."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._begin(tasks)
                while True:
                    await self._input()
                    self._step()
        except BaseExceptionGroup as group:
            # One cause stops a server; the owner should not have to dig for it.
            raise next(_leaves(group)) from None
        finally:
            self._end()

    def _begin(self, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = tasks
        self._syncer = Syncer(self._store, loop, self._on_synced)
        self._ticked_at = self._clock()
        tasks.create_task(self._wake_for_ticks(), name="raft-ticks")
        self._compaction.begin(tasks)
        if self._is_only_voter():
            # Nobody else can lead, so there is nothing to wait for.
            self._core.campaign()
        self._wake()

    def _is_only_voter(self) -> bool:
        voters = [s.id for s in self._core.configuration.servers if s.role is Role.VOTER]
        return voters == [self._server_id]

    def _end(self) -> None:
        self._tasks = None
        if self._syncer is not None:
            self._syncer.close()
        self._compaction.end()
        self._fail_pending("the server stopped")
        _refuse((proposal.future for proposal in self._proposals), None)
        self._proposals.clear()
        for futures in [*self._reads_wanted.values(), *self._reads.values()]:
            _refuse(futures, None)
        for _, _, futures in self._reads_ready:
            _refuse(futures, None)
        waiters = [*self._leadership_ends, *self._leader_waiters, *self._removal_waiters]
        _refuse(waiters, None)

    async def _wake_for_ticks(self) -> None:
        while True:
            await asyncio.sleep(self._tick_s)
            self._wake()

    async def _input(self) -> None:
        if self._awake:
            await asyncio.sleep(0)  # the last step left something; others on the loop have a turn
        else:
            self._waker = asyncio.get_running_loop().create_future()
            await self._waker
            self._waker = None
        self._awake = False

    def _wake(self) -> None:
        self._awake = True
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)

    def _step(self) -> None:
        """Hand collected input to the core, then do what it wants.

        All of it, as long as that is little. A follower that catches up has thousands of entries to
        write and to apply: it does so in steps of some milliseconds, and answers in between.
        """
        self._advance_clock()
        if self._failure is not None:
            raise self._failure
        if self._synced is not None:
            self._finish_sync(self._synced)
        self._deliver_messages()
        requests, self._requests = self._requests, []
        for request in requests:
            request()
        self._append_proposals()
        self._begin_reads()
        entries = 0
        while self._core.has_ready():
            if entries >= _STEP_ENTRIES:
                self._wake()
                break
            ready = self._core.ready()
            entries += len(ready.entries) + len(ready.committed)
            self._execute(ready)
        self._tell_transport()

    def _deliver_messages(self) -> None:
        entries = taken = 0
        while taken < len(self._messages) and entries < _STEP_ENTRIES:
            message = self._messages[taken]
            taken += 1
            if isinstance(message, AppendRequest):
                entries += len(message.entries)
            self._deliver(message)
        del self._messages[:taken]
        if self._messages:
            self._wake()

    def _advance_clock(self) -> None:
        """Count the ticks that are due."""
        ticks = int((self._clock() - self._ticked_at) / self._tick_s)
        if ticks <= 0:
            return
        self._ticked_at += ticks * self._tick_s
        ticks_max = max(1, self._settings.election_ticks // 2)
        if ticks > ticks_max:
            jump_ms = ticks * self._settings.tick_ms
            logger.log(
                logging.DEBUG if jump_ms < _PAUSE_TOLD_MS else logging.WARNING,
                "the clock jumped by %d ms: the process or the machine was paused",
                jump_ms,
            )
            # What the peers said meanwhile is still to be read: the jump voids every lease, but
            # does not by itself run out the timeouts.
            self._core.clock_jumped()
            ticks = ticks_max
        self._core.tick(ticks)

    def _append_proposals(self) -> None:
        """Everything that gathered, each kind as one call: one group, one sync."""
        if not self._proposals:
            return
        proposals, self._proposals = self._proposals, []
        for kind, group in itertools.groupby(proposals, key=lambda proposal: proposal.kind):
            batch = list(group)
            try:
                positions = self._core.propose([proposal.data for proposal in batch], kind)
            except (Rejected, Unavailable) as error:
                for proposal in batch:
                    self._outstanding_bytes -= len(proposal.data)
                    _fail(proposal.future, error)
                continue
            for proposal, (term, index) in zip(batch, positions, strict=True):
                self._pending[index] = _Appended(term, len(proposal.data), proposal.future)

    def _begin_reads(self) -> None:
        for consistent, futures in self._reads_wanted.items():
            if not futures:
                continue
            context = next(self._contexts)
            try:
                self._core.read(context, consistent=consistent)
            except Unavailable as error:
                for future in futures:
                    _fail(future, error)
            else:
                self._reads[context] = futures
            self._reads_wanted[consistent] = []

    def _execute(self, ready: Ready) -> None:
        """Do one `Ready`, in the order that `registry.raft.ready` documents."""
        if ready.role_change is not None:
            self._change_role(ready.role_change)
        if ready.now:
            self._transport.send(ready.now)
        if ready.must_sync:
            if ready.snapshot is not None:
                self._compaction.install(ready.snapshot)
            if ready.hard_state is not None or ready.entries:
                self._log.save(ready.hard_state, ready.entries)
            self._unsynced.append(ready)
            self._start_sync()
        elif self._unsynced:
            self._unsynced.append(ready)  # its promises may rest on what is being synced
        else:
            self._complete(ready)
        self._compaction.send_snapshots(ready.snapshots_wanted)
        if ready.committed:
            self._apply(ready.committed)
        for context in ready.failed_reads:
            _refuse(self._reads.pop(context, []), self._core.leader_id)
        for read in ready.reads:
            entry = (read.index, read.context, self._reads.pop(read.context, []))
            heapq.heappush(self._reads_ready, entry)
        self._answer_reads()

    def _start_sync(self) -> None:
        if not self._syncing:
            assert self._syncer is not None
            self._syncing = True
            self._syncs += 1
            self._syncer.request(self._unsynced[-1].token)

    def _on_synced(self, token: int, error: BaseException | None) -> None:
        if error is None:
            self._synced = token
        else:
            self._failure = error
        self._wake()

    def _finish_sync(self, token: int) -> None:
        """Everything written before the sync began is durable; go on with what came after."""
        self._synced = None
        self._syncing = False
        while self._unsynced and (
            self._unsynced[0].token <= token or not self._unsynced[0].must_sync
        ):
            self._complete(self._unsynced.popleft())
        if self._unsynced:
            self._start_sync()

    def _complete(self, ready: Ready) -> None:
        """`ready` is durable: tell the core, and let its promises go."""
        self._core.persisted(ready.token)
        if ready.after:
            # While it waited, a later write may have overwritten what it rests on; that takes a
            # new term, so a promise of an older one is not kept any more and stays here.
            term = self._core.term
            self._transport.send([message for message in ready.after if message.term >= term])

    def _apply(self, entries: Sequence[Entry]) -> None:
        results = self._machine.apply(entries)
        self._core.applied(entries[-1].index)
        for entry, result in zip(entries, results, strict=True):
            waiting = self._pending.pop(entry.index, None)
            if waiting is None:
                continue
            self._outstanding_bytes -= waiting.size
            if waiting.future.done():
                continue  # the caller has gone
            if waiting.term == entry.term:
                waiting.future.set_result(result)
            else:
                # Another leader's entry is committed in its place, so it never will be.
                waiting.future.set_exception(NotLeader(self._core.leader_id))

    def _answer_reads(self) -> None:
        applied = self._core.applied_index
        while self._reads_ready and self._reads_ready[0][0] <= applied:
            _resolve(heapq.heappop(self._reads_ready)[2])

    def _change_role(self, change: RoleChange) -> None:
        logger.info(
            "raft role is %s: %s; node=%s term=%d leader=%s",
            change.role.value,
            change.reason,
            self._server_id,
            change.term,
            change.leader_id or "unknown",
        )
        # Leader-only work stops before anybody is told that leadership is lost.
        if self.on_role_change is not None:
            self.on_role_change(change)
        _resolve(self._leader_waiters)
        if change.role is not RaftRole.LEADER:
            self._fail_pending("leadership was lost before the command was committed")
            _resolve(self._leadership_ends)
            self._compaction.leadership_lost()

    def _fail_pending(self, reason: str) -> None:
        for waiting in self._pending.values():
            self._outstanding_bytes -= waiting.size
            _fail(waiting.future, OutcomeUnknown(f"outcome unknown: {reason}"))
        self._pending.clear()

    def _deliver(self, message: AnyMessage) -> None:
        if isinstance(message, SnapshotChunk):
            # The core judges the sender and keeps its timers; the bytes are none of its business.
            self._core.receive(msgspec.structs.replace(message, data=b""))
            is_leader = message.sender == self._core.leader_id and message.term == self._core.term
            if is_leader and message.receiver == self._server_id:
                self._compaction.accept(message)
            return
        self._core.receive(message)
        self._compaction.heard(message)

    # -- helpers of the loop -----------------------------------------------------------------

    def _tell_transport(self) -> None:
        configuration = self._core.configuration
        if configuration is not self._peers_told:
            self._peers_told = configuration
            self._transport.set_peers(configuration)
            _resolve(self._removal_waiters)

    # -- helpers of the callers' side --------------------------------------------------------

    async def _enqueue(self, data: bytes, kind: EntryKind) -> Any:
        self._check_running()
        if not self.is_leader:
            raise NotLeader(self._core.leader_id)
        waiting = len(self._proposals) + len(self._pending)
        # The core has the same limits, but would refuse a whole group for its last member.
        too_many_bytes = self._outstanding_bytes + len(data) > self._settings.proposal_bytes_max
        if waiting >= self._settings.proposals_max or too_many_bytes:
            raise Overloaded(f"{waiting} commands are waiting to be committed; retry later")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._proposals.append(_Proposal(data, kind, future))
        self._outstanding_bytes += len(data)
        self._wake()
        return await future

    async def _request(self, begin: Callable[[asyncio.Future[Any]], None]) -> Any:
        """Run `begin` in the next step; its errors, and the future it is handed, come back here."""
        self._check_running()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def attempt() -> None:
            try:
                begin(future)
            except (Rejected, Unavailable) as error:
                _fail(future, error)

        self._ask(attempt)
        return await future

    def _ask(self, request: Callable[[], None]) -> None:
        """Have something done in the next step."""
        self._requests.append(request)
        self._wake()

    def _check_running(self) -> None:
        if self._tasks is None:
            raise NotLeader(None)


def _steady_clock() -> float:
    """Seconds, going on while the machine is suspended where the platform can tell (R-37)."""
    return time.clock_gettime(_CLOCK) if _CLOCK is not None else time.monotonic()


_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)


def _resolve(futures: list[asyncio.Future[None]]) -> None:
    """Wake everybody on the list, and empty it."""
    for future in futures:
        if not future.done():
            future.set_result(None)
    futures.clear()


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _refuse(futures: Iterable[asyncio.Future[Any]], leader_id: str | None) -> None:
    """Tell everybody that this server does not lead."""
    for future in futures:
        _fail(future, NotLeader(leader_id))


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _shown(configuration: Configuration) -> str:
    """A configuration on one line, as its API spells it."""
    shown = (
        f"{{Suffrage:{_SUFFRAGE[server.role]} ID:{server.id} Address:{server.address}}}"
        for server in configuration.servers
    )
    return f"[{' '.join(shown)}]"


_SUFFRAGE = {Role.VOTER: "Voter", Role.LEARNER: "Nonvoter"}
