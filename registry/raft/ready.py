"""All that a core wants done, in one value (R-1): its whole influence on the world.

`registry.raft.loop` handles one `Ready` after another, in order:

    send  now              (an append request may leave while our own disk works, section 3)
    write hard_state, entries, snapshot     -- as one batch, then sync (group commit, R-11)
    core.persisted(token)                   -- may release more
    send  after            (votes, acknowledgements: only once the above is durable)
    apply committed        (in order, once; then core.applied(index))
    answer reads           (each once applied >= its index)
"""

from __future__ import annotations

import enum

import msgspec

from registry.raft.messages import AnyMessage, Entry, HardState, SnapshotMeta


class RaftRole(enum.Enum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class ReadState(msgspec.Struct, frozen=True):
    """A confirmed read: `context` is what the caller handed in; answer once applied >= `index`."""

    context: int
    index: int


class RoleChange(msgspec.Struct, frozen=True):
    """Who we are and whom we follow, when either changed; `reason` is for the log."""

    role: RaftRole
    term: int
    leader_id: str  # "" = unknown
    reason: str


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    token: int
    hard_state: HardState | None = None
    #: To append; the log is first cut from `entries[0].index` on (R-8: one atomic step).
    entries: tuple[Entry, ...] = ()
    #: To install instead of the log and state up to its index.
    snapshot: SnapshotMeta | None = None
    now: tuple[AnyMessage, ...] = ()
    after: tuple[AnyMessage, ...] = ()
    committed: tuple[Entry, ...] = ()
    reads: tuple[ReadState, ...] = ()
    #: Contexts of reads that can not be answered any more (leadership lost).
    failed_reads: tuple[int, ...] = ()
    role_change: RoleChange | None = None
    #: Peers to start (or restart) a snapshot transfer to.
    snapshots_wanted: tuple[str, ...] = ()

    @property
    def must_sync(self) -> bool:
        return bool(self.hard_state or self.entries or self.snapshot)
