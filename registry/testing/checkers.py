"""What must never happen, checked after every step of a simulation over all servers' true state.

Numbers are those of the requirements (section 14). The checker sees what no server sees: the disks
with what is durable on them, every message at the moment it leaves, and a table of everything that
was ever committed. It keeps tables instead of comparing logs pairwise, so a check costs what has
changed and not what there is:

* log matching (I-3) follows by induction from one table (index, term) -> (data, term before it);
* leader completeness (I-4) and durability of acknowledged writes (I-8) from the table of committed
  entries, compared with each new leader's log from where the log begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from zlib import crc32

from registry.raft.core import RaftCore
from registry.raft.membership import ConfigChange, Promote, decode_configuration
from registry.raft.messages import (
    AnyMessage,
    AppendReply,
    AppendRequest,
    Configuration,
    Entry,
    EntryKind,
    HeartbeatReply,
    HeartbeatRequest,
    Role,
    SnapshotReply,
    VoteReply,
    VoteRequest,
)
from registry.raft.ready import RaftRole
from registry.testing.disk import Image, SimulatedDisk


class Violation(AssertionError):
    """An invariant does not hold; `invariant` is its number."""

    def __init__(self, invariant: str, explanation: str) -> None:
        self.invariant = invariant
        super().__init__(f"{invariant}: {explanation}")


@dataclass(slots=True)
class _Seen:
    """What a server showed last time, for what must not go back (I-6)."""

    term: int = 0
    commit_index: int = 0
    applied_index: int = 0
    is_leader: bool = False


@dataclass(frozen=True, slots=True)
class Promise:
    """A message, and for a success the term that its sender's log had at the index it names."""

    message: AnyMessage
    match_term: int | None = None


def voters(configuration: Configuration) -> list[str]:
    return [server.id for server in configuration.servers if server.role is Role.VOTER]


@dataclass(slots=True)
class Checker:
    """Raises `Violation`. Fed by the simulated cluster; `disks` lists every disk there ever was."""

    disks: Mapping[str, SimulatedDisk]
    leaders: dict[int, str] = field(default_factory=dict)
    #: (index, term) -> (checksum of kind and data, term of the entry before)
    entries: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    #: index -> term of what is committed for good
    committed: dict[int, int] = field(default_factory=dict)
    #: index -> term of the leader that committed it, which may be a later one than the entry's
    committed_in: dict[int, int] = field(default_factory=dict)
    applied: dict[int, tuple[int, int]] = field(default_factory=dict)
    votes: dict[tuple[str, int], str] = field(default_factory=dict)
    durable_terms: dict[str, int] = field(default_factory=dict)
    configurations: dict[int, Configuration] = field(default_factory=dict)
    elections: int = 0
    _steps: int = 0
    _seen: dict[str, _Seen] = field(default_factory=dict)

    # -- events ------------------------------------------------------------------------------

    def bootstrapped(self, entry: Entry) -> None:
        """The first configuration, which is committed from the start on."""
        self.entries[entry.index, entry.term] = (checksum(entry), 0)
        self.committed[entry.index] = self.committed_in[entry.index] = entry.term

    def started(self, server: str, core: RaftCore) -> None:
        """A server was started, or started again: nothing it remembers may be forgotten (I-6)."""
        durable = self.disks[server].durable
        if core.term < self.durable_terms.get(server, 0):
            raise Violation("I-6", f"{server} came back at an older term {core.term}")
        self._seen[server] = _Seen(core.term, core.commit_index, durable.applied_index)

    def appending(self, server: str, core: RaftCore, entries: tuple[Entry, ...]) -> None:
        """`server` is about to write `entries`, having handed none of them out before."""
        image = self.disks[server].written
        first = entries[0].index
        if not image.base_index < first <= image.last_index + 1:
            raise Violation("I-3", f"{server} appends at {first}, its log ends {image.last_index}")
        # As of the step before: what this step appends it may also commit.
        commit_index = self._seen[server].commit_index
        if first <= commit_index and image.term(first) not in (None, entries[0].term):
            raise Violation("I-3", f"{server} overwrites {first}, committed {commit_index}")
        if core.role is RaftRole.LEADER and first <= image.last_index:
            held = [image.term(entry.index) for entry in entries]
            if held != [entry.term for entry in entries]:
                raise Violation("I-2", f"leader {server} overwrites its own log at {first}")
        previous = image.term(first - 1)
        assert previous is not None
        for entry in entries:
            found = (checksum(entry), previous)
            known = self.entries.setdefault((entry.index, entry.term), found)
            if known != found:
                raise Violation(
                    "I-3", f"{server}: entry {entry.index} of term {entry.term} is not unique"
                )
            previous = entry.term

    def synced(self, server: str) -> None:
        """More of this server's disk is durable: its vote is cast (I-9), its term kept (I-6)."""
        state = self.disks[server].durable.hard_state
        if state.term < self.durable_terms.get(server, 0):
            raise Violation("I-6", f"the durable term of {server} goes back to {state.term}")
        self.durable_terms[server] = state.term
        if state.voted_for:
            first = self.votes.setdefault((server, state.term), state.voted_for)
            if first != state.voted_for:
                raise Violation(
                    "I-9", f"{server} voted for {first} and {state.voted_for} in {state.term}"
                )

    def sending(self, server: str, promises: Iterable[Promise]) -> None:
        """Messages leave: whatever they promise must be durable (I-10)."""
        durable = self.disks[server].durable
        for promise in promises:
            reason = _broken_promise(promise, durable)
            if reason:
                raise Violation("I-10", f"{server} sends {promise.message} but {reason}")

    def applying(
        self, server: str, core: RaftCore, entries: Iterable[Entry], applied_index: int
    ) -> None:
        """Committed entries reach the state: the same everywhere, without a gap (I-5)."""
        for entry in entries:
            if entry.index != applied_index + 1:
                raise Violation("I-5", f"{server} applies {entry.index} after {applied_index}")
            applied_index = entry.index
            found = (entry.term, checksum(entry))
            known = self.applied.setdefault(entry.index, found)
            if known != found:
                raise Violation("I-5", f"{server} applies another entry at {entry.index}")
            self._commit(server, entry.index, entry.term, core.term)
            if entry.kind is EntryKind.CONFIGURATION:
                self._commit_configuration(entry)

    def changing(self, server: str, core: RaftCore, change: ConfigChange) -> None:
        """A leader has taken up a membership change: one at a time, after something of its own
        term is committed (I-11), and no empty server becomes a voter (I-12)."""
        log = self.disks[server].written
        if log.term(core.commit_index) != core.term:
            raise Violation("I-11", f"{server} changes members before it committed in its term")
        uncommitted = [i for i in log.configuration_indexes if i > core.commit_index]
        if uncommitted and uncommitted != [core.configuration.index]:
            raise Violation("I-11", f"{server} changes members while {uncommitted} are pending")
        if not isinstance(change, Promote) or change.id == server:
            return
        behind = core.last_index - self.disks[change.id].written.last_index
        allowed = core.config.max_trailing_for_promotion + 1
        if behind > allowed:
            raise Violation("I-12", f"{change.id} is promoted {behind} entries behind")

    def acknowledged(self, server: str, index: int, term: int) -> None:
        """A client is told that its write is done (I-8)."""
        if self.committed.get(index) != term:
            raise Violation("I-8", f"{server} acknowledged {index} of term {term}, not committed")

    def leases(self, holders: list[str]) -> None:
        """Servers that would answer under a lease at this true instant (I-15)."""
        if len(holders) > 1:
            raise Violation("I-15", f"leases are held by {' and '.join(holders)}")

    # -- state -------------------------------------------------------------------------------

    def check(self, server: str, core: RaftCore) -> None:
        """After a step of one server."""
        seen = self._seen[server]
        if core.term < seen.term:
            raise Violation("I-6", f"the term of {server} goes back to {core.term}")
        if core.commit_index < seen.commit_index:
            raise Violation("I-6", f"commit of {server} goes back to {core.commit_index}")
        if core.applied_index < seen.applied_index:
            raise Violation("I-6", f"applied of {server} goes back to {core.applied_index}")
        is_leader = core.role is RaftRole.LEADER
        if is_leader and not (seen.is_leader and core.term == seen.term):
            self._elected(server, core)
        if is_leader and core.commit_index > seen.commit_index:
            self._check_commit(server, core)
        latest = self.disks[server].written.configuration_indexes
        if latest and core.configuration.index != latest[-1]:
            raise Violation(
                "I-11", f"{server} goes by list {core.configuration.index}, not {latest[-1]}"
            )
        self._steps += 1
        if is_leader and self._steps % 16 == 0:  # copies every peer's progress: a sample will do
            _check_windows(server, core)
        seen.term, seen.is_leader = core.term, is_leader
        seen.commit_index, seen.applied_index = core.commit_index, core.applied_index

    def _elected(self, server: str, core: RaftCore) -> None:
        self.elections += 1
        known = self.leaders.setdefault(core.term, server)
        if known != server:
            raise Violation("I-1", f"{known} and {server} both led term {core.term}")
        image = self.disks[server].written
        for index, term in self.committed.items():
            # A late vote may still elect somebody in a term that the others have left: only what
            # was committed before that term must be there.
            is_earlier = self.committed_in[index] < core.term
            if index > image.base_index and is_earlier and image.term(index) != term:
                raise Violation(
                    "I-4", f"{server} leads term {core.term} without committed entry {index}"
                )
        electors = voters(core.configuration)
        given = [v for v in electors if self.votes.get((v, core.term)) == server]
        if len(given) <= len(electors) // 2:
            raise Violation("I-12", f"{server} leads term {core.term} by {given} of {electors}")

    def _check_commit(self, server: str, core: RaftCore) -> None:
        """A leader committed: the entry is of its term, else a later leader may lack it (R-31,
        I-4), and durable on a majority of voters (I-7)."""
        index = core.commit_index
        term = self.disks[server].written.term(index)
        if term is None:
            raise Violation("I-7", f"{server} commits {index}, which it does not hold")
        if term != core.term:
            raise Violation("I-4", f"{server} commits {index} of term {term} in term {core.term}")
        electors = voters(core.configuration)
        having = [v for v in electors if _holds(self.disks[v].durable, index, term)]
        if len(having) <= len(electors) // 2:
            raise Violation("I-7", f"{server} commits {index} durable on {having} of {electors}")
        self._commit(server, index, term, core.term)

    def _commit(self, server: str, index: int, term: int, in_term: int) -> None:
        """Everything up to (index, term) is committed; walk back to what is known already."""
        while index and self.committed.get(index) is None:
            self.committed[index], self.committed_in[index] = term, in_term
            found = self.entries.get((index, term))
            if found is None:
                return  # the first configuration, or before a server's snapshot
            index, term = index - 1, found[1]
        if index and self.committed[index] != term:
            raise Violation(
                "I-5",
                f"{server} commits term {term} at {index}, "
                f"where term {self.committed[index]} was committed",
            )

    def _commit_configuration(self, entry: Entry) -> None:
        """Neighbouring committed configurations differ by at most one voter (I-11)."""
        self.configurations[entry.index] = decode_configuration(entry)
        before = max((i for i in self.configurations if i < entry.index), default=None)
        if before is None:
            return
        old, new = voters(self.configurations[before]), voters(self.configurations[entry.index])
        changed = [v for v in old if v not in new] + [v for v in new if v not in old]
        if len(changed) > 1:
            raise Violation("I-11", f"from {before} to {entry.index} voters {changed} change")


def _check_windows(server: str, core: RaftCore) -> None:
    """What a leader believes of its peers makes sense, and its windows are bounded (I-16)."""
    for peer, progress in core.progress.items():
        if not 0 <= progress.match < progress.next:
            raise Violation("I-16", f"{server} has {progress} of {peer}")
        if progress.inflight > core.config.max_inflight_messages:
            raise Violation("I-16", f"{server} has {progress.inflight} messages under way")


def checksum(entry: Entry) -> int:
    return crc32(entry.data, entry.kind)


def _holds(image: Image, index: int, term: int | None) -> bool:
    held = image.term(index)
    return held == term or (held is None and image.base_index > index)


def _broken_promise(promise: Promise, durable: Image) -> str | None:
    """What is not durable although the message says so (section 3); None if all is well."""
    state = durable.hard_state
    message = promise.message
    match message:
        case VoteRequest(pre=False) | VoteReply(pre=False, granted=True):
            is_request = isinstance(message, VoteRequest)
            candidate = message.sender if is_request else message.receiver
            if state.term > message.term:
                return None  # the vote was durable, and the term has gone on
            if (state.term, state.voted_for) != (message.term, candidate):
                return f"its durable vote is {state}"
        case VoteReply(pre=True) | VoteRequest(pre=True):
            return None
        case AppendReply(success=True, match_index=match_index):
            if state.term < message.term:
                return f"its durable term is {state.term}"
            # A term that was compacted away belongs to a committed entry: any copy is the same.
            expected = promise.match_term or durable.term(match_index)
            if match_index > durable.last_index or not _holds(durable, match_index, expected):
                return f"its durable log has term {durable.term(match_index)} there"
        case VoteReply() | AppendReply() | HeartbeatReply() | AppendRequest() | HeartbeatRequest():
            if state.term < message.term:
                return f"its durable term is {state.term}"
        case SnapshotReply(done=True):
            if state.term < message.term:
                return f"its durable term is {state.term}"
        case _:
            return None
    return None
