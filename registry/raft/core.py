"""The Raft core of one server: inputs in, one `Ready` at a time out, nothing else (R-1).

`RaftCore` decides which role the server has and hands each input to the part that knows it:

                        times out               pre-votes of a quorum
    FOLLOWER ───────────────────> PRE_CANDIDATE ──────────────────────> CANDIDATE
       ^  ^                            │                                 │   │
       │  └──── a leader is heard ─────┴──── or votes of a quorum lost ──┘   │ votes of a quorum
       │                                                                     v
       └──────── higher term, silent quorum, stuck disk, removed ───────── LEADER

There is no clock, thread, socket, file or global random source in this package's core: the same
inputs give the same outputs, byte for byte (R-2). How to drive it: `registry.raft.ready`.

Source: Ongaro thesis, chapters 3, 4, 6, 9.6; section 3 of the requirements for what has to be
durable before what is sent.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from registry.errors import NotLeader
from registry.raft.config import RaftConfig
from registry.raft.election import Decision, Voter, decide
from registry.raft.follower import handle_append, handle_heartbeat, handle_snapshot, is_well_formed
from registry.raft.invariants import BrokenPromise
from registry.raft.leader import Leader
from registry.raft.log import LogReader, RaftLog
from registry.raft.membership import ConfigChange
from registry.raft.messages import (
    AnyMessage,
    AppendReply,
    AppendRequest,
    Configuration,
    EntryKind,
    HardState,
    HeartbeatReply,
    HeartbeatRequest,
    SnapshotChunk,
    SnapshotMeta,
    SnapshotReply,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from registry.raft.progress import Progress, ProgressView
from registry.raft.quorum import VoteResult, vote_result
from registry.raft.ready import RaftRole, Ready, RoleChange
from registry.raft.replica import Replica
from registry.raft.writes import Write

__all__ = ["LogReader", "RaftConfig", "RaftCore"]

#: After the death of a leader, voters campaign so many ticks after their own stickiness has ended,
#: and one after the other, this part of it apart: time for an election, which takes milliseconds.
_TURN_MARGIN_TICKS = 2
_TURNS_PER_STICKINESS = 5


class RaftCore:
    """One server's consensus. Not for concurrent use; no method waits.

    After `BrokenPromise` from any method the server must stop (R-6).
    """

    def __init__(
        self,
        config: RaftConfig,
        log: LogReader,
        hard_state: HardState,
        configuration: Configuration,
        applied_index: int,
        rng: random.Random,
        *,
        restarted: bool = False,
    ) -> None:
        """Start as a follower from what is durable.

        `configuration` is the latest in the log, committed or not, else the snapshot's (R-40).
        `restarted`: this server ran before and may have heard from a leader just now, so it does
        not vote for as long as that would bind it (R-37).
        """
        self.config = config
        self._log = RaftLog(log, applied_index)
        if self._log.last_term > hard_state.term:
            raise BrokenPromise(
                "the log is of a later term than the vote; the vote file was lost",
                log_term=self._log.last_term,
                term=hard_state.term,
            )
        self._replica = Replica(config, self._log, hard_state, configuration)
        self._random = rng
        self._role = RaftRole.FOLLOWER
        self._leader_id = ""
        self._leader: Leader | None = None
        self._votes: dict[str, bool] = {}
        self._heard_leader_at: int | None = None  # tick of its last message, of whatever term
        self._led_at: int | None = None  # tick at which we were last sure to lead
        waits_to_vote = restarted and self._replica.guards("R-37")
        self._votes_from = config.loyal_ticks if waits_to_vote else 0
        self._is_leader_gone = False  # the last leader is known to have ended, and none is heard
        self._election_at = 0  # tick at which the election timeout runs out
        self._reset_election_timer()
        self._token = 0
        self._handed_hard_state = hard_state
        self._role_changes: deque[RoleChange] = deque()
        self._apply_batches: deque[int] = deque()  # last index of each batch handed out
        #: Messages that were not for us, of another cluster, or nonsense (R-4).
        self.dropped_messages = 0
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            AppendRequest: self._on_append_request,
            AppendReply: self._on_append_reply,
            HeartbeatRequest: self._on_heartbeat_request,
            HeartbeatReply: self._on_heartbeat_reply,
            VoteRequest: self._on_vote_request,
            VoteReply: self._on_vote_reply,
            SnapshotChunk: self._on_snapshot_chunk,
            SnapshotReply: self._on_snapshot_reply,
            TimeoutNow: self._on_timeout_now,
        }

    # -- facts -------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        return self.config.id

    @property
    def term(self) -> int:
        return self._replica.term

    @property
    def hard_state(self) -> HardState:
        """Term and vote in force; perhaps not durable yet."""
        return self._replica.hard_state

    @property
    def role(self) -> RaftRole:
        return self._role

    @property
    def leader_id(self) -> str | None:
        """Who leads, as far as is known here."""
        return self._leader_id or None

    @property
    def commit_index(self) -> int:
        return self._log.commit_index

    @property
    def applied_index(self) -> int:
        return self._log.applied_index

    @property
    def last_index(self) -> int:
        return self._log.last_index

    @property
    def last_term(self) -> int:
        return self._log.last_term

    @property
    def durable_index(self) -> int:
        return self._log.durable_index

    @property
    def configuration(self) -> Configuration:
        """The one in force: the latest in the log, committed or not (R-40)."""
        return self._replica.configuration

    @property
    def committed_configuration_index(self) -> int:
        """The log index of the latest committed configuration."""
        configuration = self._replica.configuration
        if configuration.index > self._log.commit_index:
            configuration = self._replica.configuration_before(self._log.commit_index + 1)
        return configuration.index

    @property
    def progress(self) -> Mapping[str, ProgressView]:
        """What we, as leader, know of each peer; empty on other servers. Frozen copies."""
        if self._leader is None:
            return MappingProxyType({})
        replica = self._replica
        return MappingProxyType(
            {
                peer: progress.view(replica.now, is_voter=peer in replica.voters)
                for peer, progress in self._leader.peers.items()
            }
        )

    @property
    def last_contact_ticks(self) -> int | None:
        """Ticks since a leader was heard; 0 on the leader, None if none was since the start.

        A leader that was deposed counts from the last round that a quorum answered: until it began,
        nobody else can have committed anything (section 7).
        """
        if self._leader is not None:
            return 0
        moments = [at for at in (self._heard_leader_at, self._led_at) if at is not None]
        return self._replica.now - max(moments) if moments else None

    @property
    def holds_lease(self) -> bool:
        """Whether a default read would be answered right now without asking anybody."""
        return self.lease_read_index() is not None

    # -- inputs ------------------------------------------------------------------------------

    def tick(self, n: int = 1) -> None:
        """`n` ticks have gone by."""
        for _ in range(n):
            self._replica.now += 1
            if self._leader is not None:
                self._leader.tick()
                self._check_resignation()
            elif self._replica.now >= self._election_at:
                self._time_out()

    def receive(self, message: AnyMessage) -> None:
        """Handle what a peer sent. What is not for us or makes no sense is counted and dropped."""
        handler = self._handlers.get(type(message))
        if (
            handler is None
            or message.receiver != self.config.id
            or message.cluster_id != self.config.cluster_id
        ):
            self.dropped_messages += 1
            return
        handler(message)

    def propose(
        self, data: bytes | Sequence[bytes], kind: EntryKind = EntryKind.COMMAND
    ) -> list[tuple[int, int]]:
        """Append entries, all or none; returns (term, index) of each.

        An entry is done when it comes back as committed with that term at that index; when another
        comes at that index, it never will be. Raises, before anything is appended, `NotLeader`,
        `TransferInProgress`, `Overloaded` or `TooLarge` (R-66).
        """
        items = [data] if isinstance(data, bytes) else data
        return self._leading().propose(items, kind)

    def propose_configuration(self, change: ConfigChange) -> tuple[int, int]:
        """Append a membership change; returns its (term, index).

        Raises `NotLeader`; `ChangeRejected` when it must not be made; `ChangePending` when an
        earlier change, or the first entry of this term, is not committed yet (R-41).
        """
        position = self._leading().propose_configuration(change)
        self._check_resignation()
        return position

    def read(self, context: int, *, consistent: bool) -> None:
        """Ask when a read may be answered: `Ready.reads` tells, or `Ready.failed_reads`.

        Default reads are confirmed at once under the lease; consistent ones, and others without a
        lease, by a round of heartbeats that all waiting reads share. Raises `NotLeader`,
        `Overloaded`.
        """
        self._leading().read(context, consistent=consistent)

    def lease_read_index(self) -> int | None:
        """The index that a default read may be served at right now, once applied; None without a
        lease (then `read` is the way). The ticks due must have been counted before (R-37)."""
        return None if self._leader is None else self._leader.lease_index()

    def transfer(self, target: str | None) -> None:
        """Begin to hand leadership to `target`, or to the voter that is best prepared (R-47).

        Proposals are refused until it succeeds, which shows as a change of role, or until T is
        over. Raises `NotLeader`, `ChangeRejected`.
        """
        self._leading().transfer(target)

    def campaign(self) -> None:
        """Start an election now instead of at the timeout; nothing on a leader, or on a server
        that may not campaign (R-19)."""
        if self._leader is None and self._may_campaign():
            self._campaign("asked-to")

    def persisted(self, token: int) -> None:
        """Everything in every `Ready` up to `token` is durable."""
        write = self._replica.writes.complete(token)
        if write is None:
            return
        self._replica.durable_hard_state = write.hard_state
        self._log.mark_durable(write.last_index)
        self._forget_applied()  # an installed snapshot counts as applied
        if self._leader is not None:
            self._leader.advance_commit()
            self._check_resignation()
        elif self._role is RaftRole.CANDIDATE:
            self._count_own_vote()

    def applied(self, index: int) -> None:
        """The state machine has applied everything up to `index`."""
        self._log.mark_applied(index)
        self._forget_applied()
        if self._leader is not None:
            self._leader.applied(index)

    def _forget_applied(self) -> None:
        applied_index = self._log.applied_index
        while self._apply_batches and self._apply_batches[0] <= applied_index:
            self._apply_batches.popleft()

    def snapshot_received(self, meta: SnapshotMeta, sender: str) -> None:
        """A whole snapshot from `sender` is here. If it is needed, `Ready.snapshot` says so, and
        the driver installs it; else it may be thrown away (R-52)."""
        if meta.term > self.term:
            # It vouches for a leader of that term, even if we never heard from one.
            self._become_follower(meta.term, "", "higher-term")
        if self._leader is None:
            handle_snapshot(self._replica, meta, sender)

    def snapshot_finished(self, peer: str, ok: bool, index: int) -> None:
        """The transfer to `peer` has ended: it has a snapshot up to `index`, or the transfer
        failed."""
        progress = self._leader.peers.get(peer) if self._leader is not None else None
        if progress is not None:
            progress.snapshot_finished(index if ok else 0)

    def unreachable(self, peer: str) -> None:
        """What was sent to `peer` is probably lost."""
        progress = self._leader.peers.get(peer) if self._leader is not None else None
        if progress is not None:
            progress.connection_lost()

    def gone(self, peer: str) -> None:
        """The process of `peer` has ended: its connection was closed from there, or a new one was
        refused.

        If it led, nobody has to wait out its silence: elections follow one another as fast as
        leader stickiness allows, until a leader is heard. A false report does no harm, since the
        next heartbeat ends it, and votes are given by the same rules as ever.
        """
        if self._leader is not None or not peer or peer != self._leader_id:
            return
        self._is_leader_gone = True
        # Voters take turns, so that they do not split the votes; the first a moment after its own
        # stickiness has ended, since the others may have heard the leader a moment later.
        turns = sorted(voter for voter in self._replica.voters if voter != peer)
        turn = turns.index(self.id) if self.id in turns else len(turns)
        heard_at = self._replica.now if self._heard_leader_at is None else self._heard_leader_at
        loyal = self.config.loyal_ticks
        turn_at = max(self._replica.now, heard_at + loyal + _TURN_MARGIN_TICKS)
        turn_at += turn * max(1, loyal // _TURNS_PER_STICKINESS)
        self._election_at = min(self._election_at, turn_at)

    def compacted(self, meta: SnapshotMeta) -> None:
        """The log now begins after `meta`. Nothing in here keeps a copy of where it begins; only
        the promise is checked (R-51)."""
        if meta.index > self._log.applied_index:
            raise BrokenPromise(
                "the log was compacted beyond what is applied",
                index=meta.index,
                applied=self._log.applied_index,
            )

    def clock_jumped(self) -> None:
        """Time went by that was not fully counted in ticks: no lease survives it (R-37)."""
        if self._leader is not None:
            self._leader.clock_jumped()

    # -- output ------------------------------------------------------------------------------

    def has_ready(self) -> bool:
        """Whether `ready()` has anything to say."""
        if self._leader is not None:
            self._leader.pump()
        replica, log = self._replica, self._log
        return bool(
            replica.at_once
            or replica.after
            or log.has_unsaved
            or replica.hard_state != self._handed_hard_state
            or self._role_changes
            or replica.reads
            or replica.failed_reads
            or replica.snapshots_wanted
            or self._apply_limit() > log.handed_out
        )

    def ready(self) -> Ready:
        """Everything that is to be done since the last call. Several may be on their way to the
        disk, to be completed in order (R-3)."""
        if self._leader is not None:
            self._leader.pump()
        replica, log = self._replica, self._log
        self._token += 1
        hard_state = None
        if replica.hard_state != self._handed_hard_state:
            hard_state = self._handed_hard_state = replica.hard_state
        entries, snapshot = log.take_unsaved()
        if hard_state or entries or snapshot:
            replica.writes.add(Write(self._token, log.last_index, replica.hard_state, replica.now))
        committed = log.take_committed(self._apply_limit(), self.config.max_apply_bytes)
        if committed:
            self._apply_batches.append(committed[-1].index)
        ready = Ready(
            token=self._token,
            hard_state=hard_state,
            entries=entries,
            snapshot=snapshot,
            now=tuple(replica.at_once),
            after=tuple(replica.after),
            committed=committed,
            reads=tuple(replica.reads),
            failed_reads=tuple(replica.failed_reads),
            role_change=self._role_changes.popleft() if self._role_changes else None,
            snapshots_wanted=tuple(replica.snapshots_wanted),
        )
        for taken in (
            replica.at_once,
            replica.after,
            replica.reads,
            replica.failed_reads,
            replica.snapshots_wanted,
        ):
            taken.clear()
        return ready

    def _apply_limit(self) -> int:
        """Up to where entries may be handed out to be applied: committed, durable here (R-12), and
        not more batches than the applier may have waiting."""
        log = self._log
        if len(self._apply_batches) >= self.config.max_apply_batches:
            return log.handed_out
        if not self._replica.guards("R-3"):
            return log.commit_index
        return min(log.commit_index, log.durable_index)

    # -- roles -------------------------------------------------------------------------------

    def _leading(self) -> Leader:
        if self._leader is None:
            raise NotLeader(self.leader_id)
        return self._leader

    def _change_role(self, role: RaftRole, leader_id: str, reason: str) -> None:
        changed = (role, leader_id) != (self._role, self._leader_id)
        self._role, self._leader_id = role, leader_id
        if changed:
            self._role_changes.append(RoleChange(role, self.term, leader_id, reason))

    def _become_follower(self, term: int, leader_id: str, reason: str) -> None:
        """Follow `leader_id` ("" = unknown) in `term`. The vote is forgotten only when the term
        rises: a second one in the same term could elect a second leader (section 2)."""
        if term > self.term or not self._replica.guards("S-2"):
            self._replica.set_hard_state(term)
        if self._leader is not None:
            self._replica.failed_reads += self._leader.rounds.take_all()
            self._led_at = self._leader.rounds.confirmed_at
            self._leader = None
            self._reset_election_timer()
        self._votes = {}
        self._change_role(RaftRole.FOLLOWER, leader_id, reason)

    def _check_resignation(self) -> None:
        leader = self._leader
        if leader is None or not leader.resign_reason:
            return
        if leader.resign_reason != "no-quorum":
            # Others can hear us and lead: no need to make them wait for a timeout.
            leader.nudge_successor()
        self._become_follower(self.term, "", leader.resign_reason)

    # -- elections ---------------------------------------------------------------------------

    def _reset_election_timer(self) -> None:
        """Draw the timeout anew, uniform in [T, 2T): servers that start together part (R-13).

        While the leader is known to be gone, stickiness takes the place of T: there is nobody whose
        silence could be a passing one.
        """
        config = self.config
        ticks = config.loyal_ticks if self._is_leader_gone else config.election_ticks
        spread = self._random.randrange(ticks) if self._replica.guards("R-13") else 0
        self._election_at = self._replica.now + ticks + spread

    def _may_campaign(self) -> bool:
        """Voters in their own latest configuration whose disk works (R-19, R-29), and those that an
        uncommitted one leaves out.

        The latter depart from the letter of R-19, as the thesis does (4.2.2): when {a, b} becomes
        {b} and only a has the entry, b can not win against a's longer log, so a must lead until the
        change is committed. It does not count itself, then or as leader (R-44).
        """
        replica = self._replica
        return (replica.is_voter or replica.is_being_removed) and not replica.disk_is_stuck

    def _time_out(self) -> None:
        if self._may_campaign():
            self._campaign("timeout")
        else:
            self._reset_election_timer()
            self._change_role(RaftRole.FOLLOWER, "", "timeout")

    def _campaign(self, reason: str, *, transfer: bool = False) -> None:
        """Ask for votes, or first whether it would be worth it (R-15).

        An isolated server comes back with a large term. Pre-vote keeps it from deposing a healthy
        leader (9.6). A transfer does without: there the leader itself wants to be deposed.
        """
        self._reset_election_timer()
        if transfer or not self.config.pre_vote:
            self._stand(reason, transfer=transfer)
            return
        self._votes = {self.id: True}
        self._change_role(RaftRole.PRE_CANDIDATE, "", reason)
        self._request_votes(pre=True, transfer=False)
        self._count_votes()

    def _stand(self, reason: str, *, transfer: bool = False) -> None:
        """Become candidate of the next term (thesis 3.4)."""
        self._replica.set_hard_state(self.term + 1, self.id)
        self._votes = {}
        self._change_role(RaftRole.CANDIDATE, "", reason)
        self._request_votes(pre=False, transfer=transfer)
        if not self._replica.guards("S-3"):
            self._count_own_vote()

    def _count_own_vote(self) -> None:
        """Our vote for ourselves is a promise as well: it counts once it is durable."""
        replica = self._replica
        is_durable = replica.hard_state == replica.durable_hard_state
        if is_durable or not replica.guards("S-3"):
            self._votes[self.id] = True
            self._count_votes()

    def _request_votes(self, *, pre: bool, transfer: bool) -> None:
        replica = self._replica
        for voter in replica.voters:
            if voter == self.id:
                continue
            request = VoteRequest(
                sender=self.id,
                receiver=voter,
                term=self.term + 1 if pre else self.term,
                cluster_id=self.config.cluster_id,
                last_index=self._log.last_index,
                last_term=self._log.last_term,
                pre=pre,
                transfer=transfer,
            )
            if pre:
                replica.send(request)
            else:
                replica.promise(request)

    def _count_votes(self) -> None:
        result = vote_result(self._votes, self._replica.voters)
        if result is VoteResult.LOST:
            self._become_follower(self.term, "", "votes-lost")
        elif result is VoteResult.WON and self._role is RaftRole.PRE_CANDIDATE:
            self._reset_election_timer()
            self._stand("pre-votes-won")
        elif result is VoteResult.WON:
            self._lead()

    def _lead(self) -> None:
        self._votes = {}
        self._is_leader_gone = False
        self._leader = Leader(self._replica)
        self._change_role(RaftRole.LEADER, self.id, "votes-won")

    def _hears_leader(self) -> bool:
        """Whether a leader was heard just now, or may have been before a restart (R-37)."""
        now = self._replica.now
        if self._leader is not None or now < self._votes_from:
            return True
        heard_at = self._heard_leader_at
        return heard_at is not None and now - heard_at < self.config.loyal_ticks

    def _on_vote_request(self, request: VoteRequest) -> None:
        replica = self._replica
        hears_leader = self._hears_leader()
        behind = not self._log.is_up_to_date(request.last_index, request.last_term)
        decision = decide(
            Voter(
                term=self.term,
                voted_for=replica.hard_state.voted_for,
                has_newer_log=behind and replica.guards("R-14"),
                hears_leader=hears_leader and (not request.pre or replica.guards("R-15")),
                sticks_to_leader=self.config.check_quorum and replica.guards("R-16"),
            ),
            request,
        )
        if decision is Decision.IGNORE:
            return
        if request.term < self.term and not replica.guards("R-18"):
            return
        granted = decision is Decision.GRANT
        if not request.pre:
            if request.term > self.term:
                self._become_follower(request.term, "", "higher-term")
            if granted:
                self._replica.set_hard_state(self.term, request.sender)
                self._reset_election_timer()
        self._answer_vote(request, granted)

    def _answer_vote(self, request: VoteRequest, granted: bool) -> None:
        is_granted_pre_vote = request.pre and granted
        reply = VoteReply(
            sender=self.id,
            receiver=request.sender,
            # A granted pre-vote is for a term that nobody is in yet.
            term=request.term if is_granted_pre_vote else self.term,
            cluster_id=self.config.cluster_id,
            granted=granted,
            pre=request.pre,
        )
        if is_granted_pre_vote:
            self._replica.send(reply)
        else:
            self._replica.promise(reply)

    def _on_vote_reply(self, reply: VoteReply) -> None:
        if reply.pre and reply.granted:
            is_expected = self._role is RaftRole.PRE_CANDIDATE and reply.term == self.term + 1
        elif reply.term > self.term:
            self._become_follower(reply.term, "", "higher-term")
            return
        elif reply.pre:
            is_expected = self._role is RaftRole.PRE_CANDIDATE
        else:
            is_expected = self._role is RaftRole.CANDIDATE and reply.term == self.term
        if is_expected:
            self._votes[reply.sender] = reply.granted
            self._count_votes()

    def _on_timeout_now(self, message: TimeoutNow) -> None:
        """The leader hands over to us: campaign at once, with its mark (R-47)."""
        if message.term < self.term or self._leader is not None:
            return
        if message.term > self.term:
            self._become_follower(message.term, "", "higher-term")
        if self._may_campaign():
            self._campaign("transfer", transfer=True)

    # -- messages of a leader ----------------------------------------------------------------

    def _follows(self, message: AppendRequest | HeartbeatRequest | SnapshotChunk) -> bool:
        """Take the sender for leader, if its term allows. False: it was an old one, and is told."""
        if message.term < self.term:
            self._tell_higher_term(message.sender)
            return False
        if self._leader is not None and message.term == self.term:
            raise BrokenPromise(
                "two leaders in one term", term=self.term, server=self.id, other=message.sender
            )
        if (
            message.term > self.term
            or self._role is not RaftRole.FOLLOWER
            or self._leader_id != message.sender
        ):
            self._become_follower(message.term, message.sender, "leader-heard")
        self._heard_leader_at = self._replica.now
        self._is_leader_gone = False
        self._reset_election_timer()
        return True

    def _tell_higher_term(self, receiver: str) -> None:
        """Answer an old leader, so that it steps down: a server whose term ran ahead could neither
        follow it nor, against pre-vote and stickiness, replace it (R-18)."""
        if self._replica.guards("R-18"):
            self._replica.promise(
                HeartbeatReply(
                    sender=self.id,
                    receiver=receiver,
                    term=self.term,
                    cluster_id=self.config.cluster_id,
                )
            )

    def _on_append_request(self, request: AppendRequest) -> None:
        if not is_well_formed(request):
            self.dropped_messages += 1
        elif self._follows(request):
            handle_append(self._replica, request)

    def _on_heartbeat_request(self, request: HeartbeatRequest) -> None:
        if self._follows(request):
            handle_heartbeat(self._replica, request)

    def _on_snapshot_chunk(self, chunk: SnapshotChunk) -> None:
        # The bytes are the driver's business; for us it is a sign of life.
        self._follows(chunk)

    # -- answers to a leader -----------------------------------------------------------------

    def _answering_peer(
        self, reply: AppendReply | HeartbeatReply | SnapshotReply
    ) -> Progress | None:
        """The peer that answers this leadership; None for answers that are no use to us."""
        if reply.term > self.term:
            self._become_follower(reply.term, "", "higher-term")
        if self._leader is None or reply.term < self.term:
            return None
        progress = self._leader.peers.get(reply.sender)
        if progress is not None:
            progress.heard_at = self._replica.now
        return progress

    def _on_append_reply(self, reply: AppendReply) -> None:
        progress = self._answering_peer(reply)
        if progress is not None and self._leader is not None:
            self._leader.handle_append_reply(reply, progress)
            self._check_resignation()

    def _on_heartbeat_reply(self, reply: HeartbeatReply) -> None:
        progress = self._answering_peer(reply)
        if progress is not None and self._leader is not None:
            self._leader.handle_heartbeat_reply(reply, progress)
            self._check_resignation()

    def _on_snapshot_reply(self, reply: SnapshotReply) -> None:
        # How the transfer goes is the driver's business; for us it is a sign of life.
        self._answering_peer(reply)
