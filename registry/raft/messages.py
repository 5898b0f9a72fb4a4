"""What servers of one cluster say to each other, and what they keep: values only.

Every message carries sender, receiver, the sender's term and the cluster id (R-4). A message is a
tagged msgspec struct, so it crosses the wire as MessagePack without further mapping, and unknown
fields of a newer version are ignored.
"""

from __future__ import annotations

import enum

import msgspec


class EntryKind(enum.IntEnum):
    """What an entry is about; only COMMAND carries data for the state machine."""

    COMMAND = 0
    NOOP = 1  # a new leader's first entry
    CONFIGURATION = 2
    BARRIER = 3  # proves, once applied, that all before it is applied


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One position of the log."""

    index: int
    term: int
    kind: EntryKind
    data: bytes = b""


class Role(enum.IntEnum):
    VOTER = 0
    LEARNER = 1


class Server(msgspec.Struct, frozen=True, array_like=True):
    """One member of a configuration."""

    id: str
    address: str  # "ip:port" of its RPC listener
    role: Role = Role.VOTER


class Configuration(msgspec.Struct, frozen=True, array_like=True):
    """The servers, sorted by id, and the log index that the list was appended at (0: never)."""

    servers: tuple[Server, ...] = ()
    index: int = 0


class HardState(msgspec.Struct, frozen=True, array_like=True):
    """What must never be forgotten: the term, and who got our vote in it ("" = nobody)."""

    term: int = 0
    voted_for: str = ""


class SnapshotMeta(msgspec.Struct, frozen=True, array_like=True):
    """What a snapshot stands for (R-51). `id` tells two of one index apart; `size` is in bytes."""

    id: str
    index: int
    term: int
    configuration: Configuration
    size: int = 0
    checksum: str = ""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """Common to all: from whom, to whom, the sender's term, and which cluster."""

    sender: str
    receiver: str
    term: int
    cluster_id: str = ""


class VoteRequest(Message, tag="vote", frozen=True, kw_only=True):
    """`pre` asks without raising terms (R-15): then `term` is the one that would be campaigned for.
    `transfer` marks a campaign that the leader itself asked for (R-16, R-47)."""

    last_index: int
    last_term: int
    pre: bool = False
    transfer: bool = False


class VoteReply(Message, tag="vote-reply", frozen=True, kw_only=True):
    granted: bool
    pre: bool = False


class AppendRequest(Message, tag="append", frozen=True, kw_only=True):
    """Entries after (`prev_index`, `prev_term`). `round` numbers the leader's heartbeat rounds:
    the answer repeats it, which is what reads and leases are confirmed by (R-35, R-36)."""

    prev_index: int
    prev_term: int
    entries: tuple[Entry, ...] = ()
    commit_index: int = 0
    round: int = 0


class AppendReply(Message, tag="append-reply", frozen=True, kw_only=True):
    """Success names the last index of *that request* (R-24); a refusal carries what the leader
    needs to jump back by whole terms (R-26): the follower's last entry that may still fit."""

    success: bool
    match_index: int = 0  # on success
    rejected_prev: int = 0  # on refusal: the prev_index that did not fit
    last_index: int = 0  # the follower's last index
    conflict_index: int = 0  # its last index before prev_index with a term <= prev_term
    conflict_term: int = 0  # its term there
    round: int = 0  # the latest that it has heard of in this term


class HeartbeatRequest(Message, tag="heartbeat", frozen=True, kw_only=True):
    """Sent every T/10 whatever the traffic; `commit_index` never above what the peer has (R-29)."""

    commit_index: int = 0
    round: int = 0


class HeartbeatReply(Message, tag="heartbeat-reply", frozen=True, kw_only=True):
    round: int = 0
    last_index: int = 0


class SnapshotChunk(Message, tag="snapshot", frozen=True, kw_only=True):
    """One piece of a snapshot at `offset`; the driver fills `data` in and puts pieces together. The
    core sends it as an offer (no data) and learns the outcome by `snapshot_received`."""

    meta: SnapshotMeta
    offset: int = 0
    data: bytes = b""
    checksum: int = 0  # crc32 of data
    done: bool = False


class SnapshotReply(Message, tag="snapshot-reply", frozen=True, kw_only=True):
    """`offset` up to which the receiver has the bytes; `done` once installed durably."""

    snapshot_id: str
    offset: int = 0
    done: bool = False
    refused: bool = False


class TimeoutNow(Message, tag="timeout-now", frozen=True, kw_only=True):
    """Campaign at once: leadership is being handed over (R-47)."""


AnyMessage = (
    VoteRequest
    | VoteReply
    | AppendRequest
    | AppendReply
    | HeartbeatRequest
    | HeartbeatReply
    | SnapshotChunk
    | SnapshotReply
    | TimeoutNow
)
