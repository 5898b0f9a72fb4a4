"""What a server tells of its consensus to who watches over it: autopilot, operators."""

from __future__ import annotations

import msgspec

from registry.raft.core import RaftCore
from registry.raft.disk import DiskLog
from registry.raft.messages import Configuration, Role

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


def follower_views(core: RaftCore, log: DiskLog, tick_ms: float) -> dict[str, FollowerView]:
    """What this leader knows of each peer in the configuration; empty on other servers."""
    beat_ticks = core.config.heartbeat_ticks
    return {
        peer: FollowerView(
            match=progress.match,
            match_term=log.term(progress.match) or 0,
            silence_ms=int(max(0, progress.ticks_since_heard - beat_ticks) * tick_ms),
            is_voter=progress.is_voter,
        )
        for peer, progress in core.progress.items()
        if not progress.is_departing
    }


def statistics_block(
    core: RaftCore, log: DiskLog, *, last_contact_ms: int, messages_dropped: int, syncs: int
) -> dict[str, str]:
    """The block "raft" of the agent's Stats, in the words of its API."""
    configuration = core.configuration
    base = log.snapshot_meta()
    voters = [server for server in configuration.servers if server.role is Role.VOTER]
    is_voter = any(server.id == core.config.id for server in voters)
    return {
        "applied_index": str(core.applied_index),
        "commit_index": str(core.commit_index),
        "fsm_pending": str(core.commit_index - core.applied_index),
        "last_contact": _contact(last_contact_ms),
        "last_log_index": str(core.last_index),
        "last_log_term": str(log.term(log.last_index()) or 0),
        "last_snapshot_index": str(base.index if base else 0),
        "last_snapshot_term": str(base.term if base else 0),
        "latest_configuration": _shown(configuration),
        "latest_configuration_index": str(configuration.index),
        "messages_dropped": str(messages_dropped),
        "num_peers": str(len(voters) - is_voter),
        "protocol_version": "3",
        "protocol_version_max": "3",
        "protocol_version_min": "0",
        "snapshot_version_max": "1",
        "snapshot_version_min": "0",
        "state": core.role.value.capitalize(),
        "syncs": str(syncs),
        "term": str(core.term),
    }


def _contact(last_contact_ms: int) -> str:
    if last_contact_ms == NEVER_MS:
        return "never"
    return f"{last_contact_ms}ms" if last_contact_ms else "0"


def _shown(configuration: Configuration) -> str:
    """A configuration on one line, as its API spells it."""
    shown = (
        f"{{Suffrage:{_SUFFRAGE[server.role]} ID:{server.id} Address:{server.address}}}"
        for server in configuration.servers
    )
    return f"[{' '.join(shown)}]"


_SUFFRAGE = {Role.VOTER: "Voter", Role.LEARNER: "Nonvoter"}
