"""Consensus among a few servers: a replicated log that loses nothing it has acknowledged.

The package is a **core** and its shell. The core (`core`, `log`, `progress`, `leader`, `follower`,
`election`, `reads`, `membership`, `transfer`, `quorum`, `replica`, `writes`, with the values in
`messages` and `ready`) is a plain synchronous state machine: no clock, no socket, no file, no task.
Inputs go in by methods of `RaftCore`, and everything it wants done comes out as one `Ready`. The
shell (`driver`, with `loop`, `group_commit`, `disk`, `compaction`, `transport` and others behind
it) owns the disk and the sockets and does what each `Ready` says, in the order that `ready`
documents. The same core runs in production and in the simulation of `tests/simulation`.

Contract: an entry that came out in `Ready.committed` is durable on a quorum and comes out on every
server, at the same index, in order, once. Start reading at `core`, then `DESIGN.md`.
"""

from registry.raft.config import GUARDS, RaftConfig
from registry.raft.core import RaftCore
from registry.raft.invariants import BrokenPromise
from registry.raft.log import LogReader
from registry.raft.membership import (
    AddLearner,
    ChangeAddress,
    ChangePending,
    ChangeRejected,
    ConfigChange,
    Demote,
    Promote,
    Remove,
)
from registry.raft.messages import (
    AnyMessage,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Role,
    Server,
    SnapshotMeta,
)
from registry.raft.ready import RaftRole, ReadState, Ready, RoleChange
from registry.raft.transfer import TransferInProgress

__all__ = [
    "GUARDS",
    "AddLearner",
    "AnyMessage",
    "BrokenPromise",
    "ChangeAddress",
    "ChangePending",
    "ChangeRejected",
    "ConfigChange",
    "Configuration",
    "Demote",
    "Entry",
    "EntryKind",
    "HardState",
    "LogReader",
    "Promote",
    "RaftConfig",
    "RaftCore",
    "RaftRole",
    "ReadState",
    "Ready",
    "Remove",
    "Role",
    "RoleChange",
    "Server",
    "SnapshotMeta",
    "TransferInProgress",
]
