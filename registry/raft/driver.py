"""One server's consensus, as the others see it: what it does when asked, and what it tells.

It puts the parts together. What callers ask gathers in `inbox`, `proposals` and `waiting_reads`;
`loop` takes it from there to the core, and does what the core wants, with `ticks` for the time,
`group_commit` for the disk and `compaction` for snapshots. `startup` makes the core.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from registry.errors import NotLeader, Rejected, TimedOut, TooLarge, Unavailable
from registry.raft.compaction import Compaction
from registry.raft.core import RaftCore
from registry.raft.group_commit import GroupCommit
from registry.raft.inbox import Inbox
from registry.raft.loop import CoreLoop
from registry.raft.machine import Machine
from registry.raft.membership import ConfigChange
from registry.raft.messages import AnyMessage, Configuration, EntryKind
from registry.raft.proposals import Proposals
from registry.raft.ready import RaftRole, RoleChange
from registry.raft.reports import NEVER_MS, FollowerView, follower_views, statistics_block
from registry.raft.settings import RaftSettings
from registry.raft.snapshots import FileSnapshots, MemorySnapshots
from registry.raft.startup import Startup
from registry.raft.ticks import Ticks
from registry.raft.transport import NullTransport, Transport
from registry.raft.waiters import fail
from registry.raft.waiting_reads import WaitingReads
from registry.storage.store import Store


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
        settings = settings or RaftSettings()
        transport = transport or NullTransport()
        # Salted with the id: servers that were given equal seeds must not time out together.
        rng = random.Random(f"{server_id} {(rng or random.Random()).getrandbits(64)}")
        #: Called on the loop at every change of role or leader, before anybody else hears of it.
        self.on_role_change = on_role_change
        self._server_id = server_id
        self._settings = settings
        self._startup = Startup(
            server_id=server_id,
            cluster_id=cluster_id,
            store=store,
            machine=machine,
            settings=settings,
            rng=rng,
        )
        self._log = self._startup.log
        self._inbox = Inbox(settings.messages_max)
        self._proposals = Proposals(settings)
        self._reads = WaitingReads()
        compaction = Compaction(
            server_id=server_id,
            store=store,
            log=self._log,
            machine=machine,
            snapshots=(
                FileSnapshots(snapshot_directory) if snapshot_directory else MemorySnapshots()
            ),
            transport=transport,
            settings=settings,
            rng=rng,
            core=lambda: self._loop.core,
            ask=self._inbox.ask,
        )
        self._commit = GroupCommit(
            store=store,
            log=self._log,
            transport=transport,
            install=compaction.install,
            wake=self._inbox.wake,
        )
        core = self._startup.recover(compaction.install)
        self._ticks = Ticks(settings, clock)
        self._loop = CoreLoop(
            core,
            machine=machine,
            transport=transport,
            inbox=self._inbox,
            ticks=self._ticks,
            proposals=self._proposals,
            reads=self._reads,
            commit=self._commit,
            compaction=compaction,
            role_changed=self._role_changed,
        )

    def _role_changed(self, change: RoleChange) -> None:
        if self.on_role_change is not None:
            self.on_role_change(change)

    async def run(self) -> None:
        """Drive the core until cancelled. Ends with the error when a write or sync fails."""
        await self._loop.run()

    # -- what callers ask --------------------------------------------------------------------

    async def propose(self, data: bytes) -> Any:
        """Replicate a command and return its result, once committed, durable and applied.

        Definitely not done: `NotLeader`, `Overloaded`, `TooLarge`. `OutcomeUnknown`: it was
        appended, then leadership was lost or the server stopped; repeat only what is safe to
        repeat (R-66). Cancelling the call does not take the command back.
        """
        if len(data) > self._loop.core.config.max_entry_bytes:
            raise TooLarge(
                f"a command of {len(data)} bytes is over the limit of "
                f"{self._loop.core.config.max_entry_bytes}"
            )
        return await self._enqueue(data, EntryKind.COMMAND)

    async def barrier(self) -> None:
        """Return once everything proposed before is applied here (R-68). Raises like `propose`."""
        await self._enqueue(b"", EntryKind.BARRIER)

    def try_lease_read(self) -> bool:
        """Whether the applied state may answer a default read right now, under the lease (R-36)."""
        core = self._loop.core
        if self._ticks.is_due():
            # We may have been paused since the last tick: the lease must not be older than it says.
            self._ticks.advance(core)
            self._inbox.wake()
        index = core.lease_read_index()
        return index is not None and index <= core.applied_index

    async def read_barrier(self, consistent: bool = False) -> None:
        """Return once the applied state may answer: by the lease, or by a quorum round if
        `consistent` (R-35); reads that wait at the same time share a round. Raises `NotLeader`."""
        if not consistent and self.try_lease_read():
            return
        self._check_running()
        future = self._reads.add(consistent=consistent)
        self._inbox.wake()
        await future

    async def change_configuration(self, change: ConfigChange) -> None:
        """Carry out one membership change; returns once it is committed (R-41, R-42).

        Raises `Rejected` for a change that must not be, `NotLeader`, `OutcomeUnknown`.
        """

        def append(future: asyncio.Future[Any]) -> None:
            term, index = self._loop.core.propose_configuration(change)
            self._proposals.expect(term, index, future)

        await self._request(append)

    async def bootstrap(self, configuration: Configuration) -> None:
        """Begin a cluster while running, as one of `configuration` (R-55, R-58).

        Raises `Rejected` when there is Raft state here already, be it only a vote.
        """
        await self._begin_anew(lambda: self._startup.found(configuration))

    async def adopt_cluster(self, cluster_id: str) -> None:
        """Become a server of the cluster with this id, before hearing from any (R-60).

        Raises `Rejected` when this server is part of another one already.
        """
        if cluster_id != self.cluster_id:
            await self._begin_anew(lambda: self._startup.adopt(cluster_id))

    async def _begin_anew(self, new_core: Callable[[], RaftCore]) -> None:
        """Change what is on disk under a core that has done nothing yet, and replace it."""

        def begin(future: asyncio.Future[Any]) -> None:
            if not self.is_blank:
                raise Rejected("this server already holds Raft state")
            self._loop.core = new_core()
            future.set_result(None)

        await self._request(begin)

    def campaign(self) -> None:
        """Do not wait for the election timeout, as long as nobody leads."""
        self._inbox.ask(lambda: None if self.leader_id else self._loop.core.campaign())

    async def transfer(self, target: str | None = None) -> None:
        """Hand leadership to `target`, or to the voter that is best prepared (R-47).

        Returns once this server leads no more. Raises `TimedOut` when that did not come about
        within an election timeout, and `Rejected` or `NotLeader` when it can not be begun.
        """

        def begin(future: asyncio.Future[Any]) -> None:
            self._loop.core.transfer(target)
            self._loop.leadership_ended.add(future)

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
            await self._loop.leader_changed.join()
        return self.leader_id

    async def wait_until_removed(self) -> None:
        """Return once the configuration in force here does not list this server any more."""
        while any(server.id == self._server_id for server in self.configuration.servers):
            await self._loop.configuration_changed.join()

    def receive(self, message: AnyMessage) -> None:
        """Hand in what a peer sent. Dropped when too much is waiting (R-5)."""
        self._inbox.receive(message)

    def unreachable(self, peer: str) -> None:
        """The transport lost its connection to `peer`."""
        self._inbox.ask(lambda: self._loop.core.unreachable(peer))

    def gone(self, peer: str) -> None:
        """The process of `peer` has ended, as far as the network tells."""
        self._inbox.ask(lambda: self._loop.core.gone(peer))

    # -- facts -------------------------------------------------------------------------------

    @property
    def server_id(self) -> str:
        return self._server_id

    @property
    def term(self) -> int:
        return self._loop.core.term

    @property
    def role(self) -> RaftRole:
        return self._loop.core.role

    @property
    def is_leader(self) -> bool:
        return self._loop.core.role is RaftRole.LEADER

    @property
    def leader_id(self) -> str:
        """Who leads as far as is known here; "" when nobody is known to."""
        return self._loop.core.leader_id or ""

    @property
    def leader_address(self) -> str:
        leader_id = self.leader_id
        servers = self._loop.core.configuration.servers
        return next((server.address for server in servers if server.id == leader_id), "")

    @property
    def commit_index(self) -> int:
        return self._loop.core.commit_index

    @property
    def applied_index(self) -> int:
        return self._loop.core.applied_index

    @property
    def last_index(self) -> int:
        return self._loop.core.last_index

    @property
    def last_term(self) -> int:
        """The term of the last entry."""
        return self._loop.core.last_term

    @property
    def configuration(self) -> Configuration:
        return self._loop.core.configuration

    @property
    def cluster_id(self) -> str:
        return self._loop.core.config.cluster_id

    @property
    def is_blank(self) -> bool:
        """Whether this server was never part of a cluster: no log, no snapshot, no vote (R-55)."""
        core = self._loop.core
        return self._log.is_empty and self._commit.is_idle and not (core.term or core.last_index)

    def followers(self) -> dict[str, FollowerView]:
        """What this leader knows of each peer in the configuration; empty on other servers."""
        return follower_views(self._loop.core, self._log, self._settings.tick_ms)

    def last_contact_ms(self) -> int:
        """Milliseconds since a leader was last heard: 0 on the leader itself, `NEVER_MS` if none
        was since the start."""
        if self.is_leader:
            return 0
        ticks = self._loop.core.last_contact_ticks
        if ticks is None:
            return NEVER_MS
        return int(ticks * self._settings.tick_ms + self._ticks.ms_since_last())

    def statistics(self) -> dict[str, str]:
        """The block "raft" of the agent's Stats, in the words of its API."""
        return statistics_block(
            self._loop.core,
            self._log,
            last_contact_ms=self.last_contact_ms(),
            messages_dropped=self._inbox.dropped,
            syncs=self._commit.syncs,
        )

    # -- helpers of the callers' side --------------------------------------------------------

    def _enqueue(self, data: bytes, kind: EntryKind) -> asyncio.Future[Any]:
        self._check_running()
        if not self.is_leader:
            raise NotLeader(self._loop.core.leader_id)
        future = self._proposals.add(data, kind)
        self._inbox.wake()
        return future

    async def _request(self, begin: Callable[[asyncio.Future[Any]], None]) -> Any:
        """Run `begin` in the next step; its errors, and the future it is handed, come back here."""
        self._check_running()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def attempt() -> None:
            if future.done():
                return  # the caller has gone before anything was begun
            try:
                begin(future)
            except (Rejected, Unavailable) as error:
                fail(future, error)

        self._inbox.ask(attempt)
        return await future

    def _check_running(self) -> None:
        if not self._loop.is_running:
            raise NotLeader(None)
