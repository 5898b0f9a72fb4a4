"""What a server does with a leader's messages (thesis 3.5; R-23 to R-26, R-52).

The caller has checked the term and taken the sender for leader; here the log is made to follow.
"""

from __future__ import annotations

from registry.raft.invariants import BrokenPromise
from registry.raft.messages import (
    AppendReply,
    AppendRequest,
    HeartbeatReply,
    HeartbeatRequest,
    SnapshotMeta,
)
from registry.raft.replica import Replica


def is_well_formed(request: AppendRequest) -> bool:
    """Whether the entries are what they say: in a row after `prev_index`, of terms that a leader
    of the request's term can have."""
    entries = request.entries
    if not entries:
        return True
    return (
        entries[0].index == request.prev_index + 1
        and entries[-1].index == request.prev_index + len(entries)
        and request.prev_term <= entries[0].term <= entries[-1].term <= request.term
    )


def handle_append(replica: Replica, request: AppendRequest) -> None:
    """Make the log agree with the leader's as far as the request goes, and answer."""
    log = replica.log
    replica.leader_round = max(replica.leader_round, request.round)
    if request.entries and replica.disk_is_stuck:
        return  # what we hold unsynced must not grow without bound
    prev_term = log.term(request.prev_index)
    if request.prev_index > log.commit_index:
        if prev_term != request.prev_term:
            _refuse(replica, request)
            return
    elif prev_term not in (None, request.prev_term):  # None: compacted away, so it fits
        raise BrokenPromise(
            "the leader's log differs from what is committed here",
            index=request.prev_index,
            term=prev_term,
            leader_term=request.prev_term,
        )
    entries = request.entries
    verified = request.prev_index + len(entries)
    position = log.first_conflict(entries)
    if position < len(entries):
        fresh = entries[position:]
        if fresh[0].index <= log.last_index:
            replica.truncate(fresh[0].index)
        replica.append(fresh)
    elif verified < log.last_index and entries and not replica.guards("R-23"):
        replica.truncate(verified + 1)
    # Beyond `verified` we may hold entries that no leader vouches for.
    bound = verified if replica.guards("R-25") else log.last_index
    log.commit_to(min(request.commit_index, bound))
    match = verified if replica.guards("R-24") else log.last_index
    _accept(replica, request.sender, match)


def _accept(replica: Replica, leader: str, match_index: int) -> None:
    replica.promise(
        AppendReply(
            sender=replica.id,
            receiver=leader,
            term=replica.term,
            cluster_id=replica.config.cluster_id,
            success=True,
            match_index=match_index,
            last_index=replica.log.last_index,
            round=replica.leader_round,
        ),
        log_index=match_index,
    )


def _refuse(replica: Replica, request: AppendRequest) -> None:
    """Tell the leader where to look next: at our last entry that is not newer than what it tried;
    newer ones can not be in its log at that place (R-26)."""
    log = replica.log
    hint = log.last_index_with_term_up_to(request.prev_term, request.prev_index - 1)
    replica.promise(
        AppendReply(
            sender=replica.id,
            receiver=request.sender,
            term=replica.term,
            cluster_id=replica.config.cluster_id,
            success=False,
            rejected_prev=request.prev_index,
            last_index=log.last_index,
            conflict_index=hint,
            conflict_term=log.term(hint) or 0,
            round=replica.leader_round,
        )
    )


def handle_heartbeat(replica: Replica, request: HeartbeatRequest) -> None:
    """Take over the commit index: the leader knows that we hold everything up to it (R-29)."""
    replica.leader_round = max(replica.leader_round, request.round)
    replica.log.commit_to(request.commit_index)
    replica.promise(
        HeartbeatReply(
            sender=replica.id,
            receiver=request.sender,
            term=replica.term,
            cluster_id=replica.config.cluster_id,
            round=request.round,
            last_index=replica.log.last_index,
        )
    )


def handle_snapshot(replica: Replica, meta: SnapshotMeta, sender: str) -> None:
    """A whole snapshot is here: install it, or only learn from it what is committed (R-52)."""
    log = replica.log
    if meta.index <= log.commit_index and replica.guards("R-52"):
        _accept(replica, sender, log.commit_index)
        return
    if log.term(meta.index) == meta.term and meta.index > log.commit_index:
        # We have all that is in it, and perhaps acknowledged entries behind it: keep them.
        log.commit_to(meta.index)
    else:
        replica.writes.cut(log.commit_index)
        log.restore(meta)
        replica.set_configuration(meta.configuration)
    _accept(replica, sender, meta.index)
