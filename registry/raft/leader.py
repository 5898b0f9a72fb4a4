"""What a leader does: replicate, count copies, answer reads, change membership, hand over.

    propose ─> log ─┬─> own disk ───────────> durable_index ─┐
                    └─> appends to peers ──> match per peer ─┴─> majority ─> commit_index

One `Leader` lives as long as one leadership: everything in it is forgotten at its end (section 2 of
the requirements), so nothing of an earlier term can be mistaken for this one's.

Source: Ongaro thesis, sections 3.5, 3.6.2, 4.1 to 4.3, 6.4, 10.2.1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from registry.errors import LocalProtocolError, Overloaded, TooLarge
from registry.raft.invariants import BrokenPromise
from registry.raft.log import ENTRY_OVERHEAD_BYTES
from registry.raft.membership import (
    ChangePending,
    ChangeRejected,
    ConfigChange,
    Promote,
    encode_configuration,
    next_configuration,
    voter_ids,
)
from registry.raft.messages import (
    AppendReply,
    AppendRequest,
    Configuration,
    Entry,
    EntryKind,
    HeartbeatReply,
    HeartbeatRequest,
    Role,
    TimeoutNow,
)
from registry.raft.progress import Inflight, Progress, ProgressState
from registry.raft.quorum import majority, reached_by_majority
from registry.raft.reads import Rounds
from registry.raft.ready import ReadState
from registry.raft.replica import Replica
from registry.raft.transfer import Transfer, TransferInProgress, best_target

#: A learner's share of a window: it must not crowd out those that a commit waits for (R-30). With
#: fewer messages than this under way, it would be held up by the round trip alone.
_LEARNER_SHARE = 4
_LEARNER_MESSAGES_MIN = 8


class Leader:
    """One leadership, from winning to `resign_reason` or a higher term."""

    __slots__ = (
        "_counts_self",
        "_heartbeat_at",
        "_is_lease_suspended",
        "_leaving_round",
        "_proposed",
        "_proposed_bytes",
        "_proposed_count",
        "_replica",
        "_slices",
        "_transfer",
        "_voting",
        "noop_index",
        "peers",
        "resign_reason",
        "rounds",
    )

    def __init__(self, replica: Replica) -> None:
        """Take office: append the entry that everything else waits for (R-21)."""
        self._replica = replica
        self.resign_reason = ""  # set when this leadership must end
        self.rounds = Rounds(replica.config.lease_ticks)
        self._heartbeat_at = replica.now
        self._transfer: Transfer | None = None
        self._is_lease_suspended = False
        self._leaving_round = 0  # removed: the round that tells the others; 0 = we stay
        self._proposed: deque[tuple[int, int, int]] = deque()  # (last index, count, bytes)
        self._proposed_count = 0
        self._proposed_bytes = 0
        self._slices: dict[int, tuple[tuple[Entry, ...], int]] = {}
        self.noop_index = replica.log.last_index + 1
        replica.append([Entry(self.noop_index, replica.term, EntryKind.NOOP)])
        self.peers: dict[str, Progress] = {}
        self._voting: list[Progress] = []
        self._counts_self = False
        self._configure()
        self.rounds.begin(replica.now, None)  # our first appends carry it
        self._confirm_rounds()

    # -- proposals ---------------------------------------------------------------------------

    def propose(self, data: Sequence[bytes], kind: EntryKind) -> list[tuple[int, int]]:
        """Append one entry per item, all or none; returns (term, index) of each (R-66, R-69)."""
        self._check_accepting()
        if kind is EntryKind.CONFIGURATION:
            raise LocalProtocolError("configurations are proposed by propose_configuration")
        config, log, term = self._replica.config, self._replica.log, self._replica.term
        largest = max(map(len, data), default=0)
        if largest > config.max_entry_bytes:
            raise TooLarge(f"an entry of {largest} bytes is over the {config.max_entry_bytes}")
        size = sum(map(len, data))
        if (
            self._proposed_count + len(data) > config.max_proposals
            or self._proposed_bytes + size > config.max_proposal_bytes
        ):
            raise Overloaded(f"{self._proposed_count} proposals wait to be applied; retry later")
        if not data:
            return []
        first = log.last_index + 1
        log.append([Entry(index, term, kind, item) for index, item in enumerate(data, first)])
        self._proposed.append((log.last_index, len(data), size))
        self._proposed_count += len(data)
        self._proposed_bytes += size
        if not self._replica.guards("R-3"):
            self.advance_commit()
        return [(term, index) for index in range(first, log.last_index + 1)]

    def applied(self, index: int) -> None:
        """Proposals up to `index` are done with."""
        proposed = self._proposed
        while proposed and proposed[0][0] <= index:
            _, count, size = proposed.popleft()
            self._proposed_count -= count
            self._proposed_bytes -= size

    def _check_accepting(self) -> None:
        if self._transfer is not None:
            raise TransferInProgress(self._transfer.target)
        if self._leaving_round:
            raise TransferInProgress("")

    # -- membership --------------------------------------------------------------------------

    def propose_configuration(self, change: ConfigChange) -> tuple[int, int]:
        """Append the next configuration; it is in force at once (R-40).

        A change that changes nothing appends a barrier instead, so that its caller has something to
        wait for. Raises `ChangeRejected`, or `ChangePending` when it is only too early (R-41).
        """
        self._check_accepting()
        replica, log = self._replica, self._replica.log
        following = next_configuration(replica.configuration, change)
        index = log.last_index + 1
        if following is replica.configuration:
            log.append([Entry(index, replica.term, EntryKind.BARRIER)])
            return replica.term, index
        self._check_change(change, following)
        entry = Entry(index, replica.term, EntryKind.CONFIGURATION, encode_configuration(following))
        replica.append([entry])
        self._configure()
        self._begin_round()  # new peers answer to this one
        if not replica.is_voter and not replica.guards("R-44"):
            self.resign_reason = "removed"
        self.advance_commit()
        return replica.term, index

    def _check_change(self, change: ConfigChange, following: Configuration) -> None:
        replica = self._replica
        if replica.configuration.index > replica.log.commit_index:
            raise ChangePending("another membership change is not committed yet; retry")
        # Without an entry of our own term committed, an earlier leader's change that we never saw
        # may still take effect, and its quorums need not meet ours (found in 2015).
        if not self.has_committed_in_term and replica.guards("R-41"):
            raise ChangePending("the new leader has not committed anything yet; retry")
        if isinstance(change, Promote) and replica.guards("R-43"):
            self._check_caught_up(change.id)
        voters = voter_ids(following)
        if voters == replica.voters or change.force:
            return
        reachable = sum(1 for voter in voters if self._is_reachable(voter))
        if reachable < majority(len(voters)):
            raise ChangeRejected(
                f"only {reachable} of the {len(voters)} voters could be reached after this change; "
                "bring servers back first, or force it"
            )

    def _check_caught_up(self, server_id: str) -> None:
        progress = self.peers[server_id]
        behind = self._replica.log.last_index - progress.match
        if behind > self._replica.config.max_trailing_for_promotion:
            raise ChangeRejected(
                f"{server_id} is {behind} entries behind; promote it once it has caught up"
            )

    def _is_reachable(self, server_id: str) -> bool:
        return server_id == self._replica.id or self._is_alive(self.peers[server_id])

    def _is_alive(self, progress: Progress) -> bool:
        return self._replica.now - progress.heard_at < self._replica.config.election_ticks

    def _configure(self) -> None:
        """Follow the configuration in force: whom we replicate to, and who counts."""
        replica, config = self._replica, self._replica.config
        members = {server.id: server.role for server in replica.configuration.servers}
        members.pop(replica.id, None)
        for server_id, role in members.items():
            progress = self.peers.get(server_id)
            if progress is None or progress.departs_at:
                # One that was removed and comes back may have lost its disk in between:
                # what it answered before, and what is still on its way, counts no more.
                progress = Progress(
                    next=replica.log.last_index,
                    inflight=Inflight(0, 0),
                    heard_at=replica.now,
                    since_round=self.rounds.current + 1,
                )
                self.peers[server_id] = progress
            messages, size = config.max_inflight_messages, config.max_inflight_bytes
            if role is Role.LEARNER:
                messages = max(messages // _LEARNER_SHARE, min(messages, _LEARNER_MESSAGES_MIN))
                size = max(1, size // _LEARNER_SHARE)
            progress.inflight.messages_max = messages
            progress.inflight.bytes_max = size
        for server_id, progress in self.peers.items():
            if server_id not in members and not progress.departs_at:
                # Go on for a while, so that it learns that it was removed.
                progress.departs_at = replica.now + config.election_ticks
        self.peers = dict(sorted(self.peers.items()))
        self._voting = [p for i, p in self.peers.items() if i in replica.voters]
        self._counts_self = replica.is_voter

    # -- commit ------------------------------------------------------------------------------

    @property
    def has_committed_in_term(self) -> bool:
        return self._replica.log.commit_index >= self.noop_index

    def advance_commit(self) -> None:
        """Commit what a quorum of voters holds durably, if its last entry is of our term (R-31)."""
        replica, log = self._replica, self._replica.log
        own = log.durable_index if replica.guards("R-3") else log.last_index
        index = self._reached([progress.match for progress in self._voting], own)
        if index <= log.commit_index:
            return
        if index < self.noop_index and replica.guards("R-31"):
            # Copies of older entries prove nothing: a later leader may lack them (figure 3.7).
            return
        log.commit_to(index)
        is_removed = not self._counts_self and replica.configuration.index <= index
        if is_removed and not self._leaving_round:
            # One more round, so that the others learn of the commit before we go.
            self._begin_round()
            self._leaving_round = self.rounds.current

    def _reached(self, values: list[int], own: int) -> int:
        """`reached_by_majority` of the peers' values and our own, if we count."""
        if self._counts_self:
            values.append(own)
        return reached_by_majority(values)

    # -- reads -------------------------------------------------------------------------------

    def read(self, context: int, *, consistent: bool) -> None:
        replica = self._replica
        if len(self.rounds) >= replica.config.max_reads:
            raise Overloaded("too many reads wait to be confirmed; retry later")
        index = self.lease_index() if not consistent else None
        if index is None and not replica.guards("R-35"):
            index = self._read_index()
        if index is None:
            self.rounds.waiting.append(context)
        else:
            replica.reads.append(ReadState(context, index))

    def lease_index(self) -> int | None:
        """The index that a read may be served at right now, without asking anybody (R-36)."""
        replica = self._replica
        commit_index = replica.log.commit_index
        if commit_index < self.noop_index and replica.guards("R-34"):
            return None
        if not self._voting and self._counts_self:
            return commit_index  # there is nobody else to win an election
        if (
            replica.now >= self.rounds.lease_until
            or self._is_lease_suspended
            or replica.configuration.index > commit_index
            or not replica.config.check_quorum
            or not replica.config.lease_reads
        ):
            return None
        return commit_index

    def _read_index(self) -> int | None:
        """What a confirmed read is answered at; None before the first commit of our term (R-34)."""
        if self.has_committed_in_term or not self._replica.guards("R-34"):
            return self._replica.log.commit_index
        return None

    def _begin_round(self) -> None:
        """Ask every peer whether it still follows us; tells it the commit index as well."""
        replica = self._replica
        self._heartbeat_at = replica.now
        self.rounds.begin(replica.now, self._read_index())
        for peer, progress in self.peers.items():
            self._send_heartbeat(peer, progress)
        self._confirm_rounds()

    def _send_heartbeat(self, peer: str, progress: Progress) -> None:
        replica = self._replica
        progress.commit_sent = min(replica.log.commit_index, progress.match)
        replica.send(
            HeartbeatRequest(
                sender=replica.id,
                receiver=peer,
                term=replica.term,
                cluster_id=replica.config.cluster_id,
                commit_index=progress.commit_sent,
                round=self.rounds.current,
            )
        )

    def _confirm_rounds(self) -> None:
        rounds, replica = self.rounds, self._replica
        reached = self._reached([p.acked_round for p in self._voting], rounds.current)
        if reached <= rounds.confirmed:
            return
        replica.reads += [ReadState(*answered) for answered in rounds.confirm(reached)]
        if not replica.guards("R-36"):
            rounds.lease_until = replica.now + replica.config.election_ticks
        if self._leaving_round and reached >= self._leaving_round:
            self.resign_reason = "removed"

    # -- time --------------------------------------------------------------------------------

    def tick(self) -> None:
        replica, now = self._replica, self._replica.now
        if now - self._heartbeat_at >= replica.config.heartbeat_ticks:
            self._begin_round()
        else:
            self._flush_commit()
        self._forget_departed()
        if self._transfer is not None and now >= self._transfer.deadline:
            self._give_up_transfer(self._transfer)
        # An only voter goes on: nobody could take over, and stepping down would turn a slow disk
        # into an outage. It acknowledges nothing before its sync either way.
        if replica.disk_is_stuck and self._voting and replica.guards("R-29"):
            self.resign_reason = "stuck-disk"
        elif replica.config.check_quorum and not self._hears_quorum():
            self.resign_reason = "no-quorum"

    def _hears_quorum(self) -> bool:
        if not self._replica.guards("R-17"):
            return True
        heard = sum(map(self._is_alive, self._voting)) + self._counts_self
        return heard >= majority(len(self._voting) + self._counts_self)

    def _flush_commit(self) -> None:
        """Tell idle followers within a tick what is committed; busy ones learn it anyway."""
        commit_index = self._replica.log.commit_index
        for peer, progress in self.peers.items():
            if progress.commit_sent < min(commit_index, progress.match):
                self._send_heartbeat(peer, progress)

    def _forget_departed(self) -> None:
        now, removed_at = self._replica.now, self._replica.configuration.index
        gone = [
            peer
            for peer, p in self.peers.items()
            if p.departs_at and (now >= p.departs_at or p.match >= removed_at)
        ]
        for peer in gone:
            del self.peers[peer]

    def clock_jumped(self) -> None:
        if self._replica.guards("R-37"):
            self.rounds.void_lease()

    # -- replication -------------------------------------------------------------------------

    def pump(self) -> None:
        """Send whatever may be sent; cheap when there is nothing."""
        rounds = self.rounds
        if rounds.waiting and rounds.confirmed == rounds.current and self._read_index() is not None:
            self._begin_round()
        last_index = self._replica.log.last_index
        for peer, progress in self.peers.items():
            while self._may_send(progress, last_index) and self._send_append(peer, progress):
                pass
        self._slices.clear()
        if self._transfer is not None:
            self._pump_transfer(self._transfer)

    @staticmethod
    def _may_send(progress: Progress, last_index: int) -> bool:
        if progress.is_paused:
            return False
        # An empty probe is worth sending as long as it can prove something.
        is_unproven = progress.state is ProgressState.PROBE and progress.match < last_index
        return progress.next <= last_index or is_unproven

    def _send_append(self, peer: str, progress: Progress) -> bool:
        """Send the next entries, or none; False when the peer must wait for something."""
        replica, log = self._replica, self._replica.log
        prev_index = progress.next - 1
        prev_term = log.term(prev_index)
        if prev_term is None:
            self._want_snapshot(peer, progress)
            return False
        entries, size = self._slice(progress.next)
        if len(progress.inflight) and size > progress.inflight.room_bytes:
            return False
        commit_index = log.commit_index
        replica.send(
            AppendRequest(
                sender=replica.id,
                receiver=peer,
                term=replica.term,
                cluster_id=replica.config.cluster_id,
                prev_index=prev_index,
                prev_term=prev_term,
                entries=entries,
                commit_index=commit_index,
                round=self.rounds.current,
            )
        )
        last_sent = prev_index + len(entries)
        if progress.state is ProgressState.REPLICATE:
            progress.commit_sent = max(progress.commit_sent, min(commit_index, last_sent))
        progress.sent(last_sent, size)
        return True

    def _slice(self, low: int) -> tuple[tuple[Entry, ...], int]:
        """The entries of one append from `low` on, and their size; shared by peers in step."""
        found = self._slices.get(low)
        if found is None:
            config, log = self._replica.config, self._replica.log
            high = min(log.last_index + 1, low + config.max_entries_per_append)
            entries = tuple(log.entries(low, high, config.max_append_bytes)) if low < high else ()
            size = sum(len(entry.data) for entry in entries) + ENTRY_OVERHEAD_BYTES * len(entries)
            found = self._slices[low] = entries, size
        return found

    def _want_snapshot(self, peer: str, progress: Progress) -> None:
        # For a peer that does not answer a snapshot would only wait, and hold the log.
        if self._is_alive(progress):
            progress.become_snapshot()
            self._replica.snapshots_wanted.append(peer)

    def handle_append_reply(self, reply: AppendReply, progress: Progress) -> None:
        log = self._replica.log
        if reply.round < progress.since_round:
            return
        progress.last_index = reply.last_index
        if not reply.success:
            retry_from = reply.rejected_prev
            if self._replica.guards("R-26"):
                retry_from = 1 + log.last_index_with_term_up_to(
                    reply.conflict_term, reply.conflict_index
                )
            progress.refused(reply.rejected_prev, retry_from)
        elif reply.match_index > log.last_index:
            raise BrokenPromise(
                "a follower acknowledged entries that we never had",
                peer=reply.sender,
                match=reply.match_index,
                last=log.last_index,
            )
        elif progress.succeeded(reply.match_index):
            if progress.match + 1 >= log.first_index:
                progress.snapshot_finished(progress.match)
            self.advance_commit()
        self._handle_round(reply.round, progress)

    def handle_heartbeat_reply(self, reply: HeartbeatReply, progress: Progress) -> None:
        progress.last_index = reply.last_index
        log = self._replica.log
        if self._replica.guards("R-27"):
            progress.heartbeat_answered()
        is_waiting = progress.state is ProgressState.REPLICATE and progress.match < log.last_index
        if is_waiting and progress.next > log.last_index and not progress.is_paused:
            # All is sent but not all answered. If it was lost, an empty append finds out.
            self._send_append(reply.sender, progress)
        self._handle_round(reply.round, progress)

    def _handle_round(self, number: int, progress: Progress) -> None:
        if number > progress.acked_round:
            progress.acked_round = min(number, self.rounds.current)
            self._confirm_rounds()

    # -- handing over ------------------------------------------------------------------------

    def transfer(self, target: str | None) -> None:
        """Begin to hand over (R-47). Raises `ChangeRejected` when `target` can not lead."""
        voters = {i: p for i, p in self.peers.items() if i in self._replica.voters}
        chosen = target if target is not None else best_target(voters)
        if chosen is None:
            raise ChangeRejected("there is no other voter to hand leadership to")
        if chosen not in voters:
            raise ChangeRejected(f"{chosen} can not lead: it is not another voter of this cluster")
        deadline = self._replica.now + self._replica.config.election_ticks
        self._transfer = Transfer(chosen, deadline)
        self._is_lease_suspended = self._replica.guards("R-48")

    def _give_up_transfer(self, transfer: Transfer) -> None:
        self._transfer = None
        # Once a timeout-now is out, it may take effect at any time later in this term.
        self._is_lease_suspended = self._is_lease_suspended and transfer.was_sent

    def _pump_transfer(self, transfer: Transfer) -> None:
        replica = self._replica
        if self.peers[transfer.target].match < replica.log.last_index:
            return
        if transfer.was_sent and replica.now - transfer.sent_at < replica.config.heartbeat_ticks:
            return
        transfer.sent_at = replica.now
        self._send_timeout_now(transfer.target)

    def nudge_successor(self) -> None:
        """We are about to go: let the best voter campaign at once instead of after a timeout."""
        voters = {i: p for i, p in self.peers.items() if i in self._replica.voters}
        target = best_target(voters)
        assert target is not None, "a leader goes only where another voter is left"
        self._send_timeout_now(target)

    def _send_timeout_now(self, target: str) -> None:
        replica = self._replica
        replica.send(
            TimeoutNow(
                sender=replica.id,
                receiver=target,
                term=replica.term,
                cluster_id=replica.config.cluster_id,
            )
        )
