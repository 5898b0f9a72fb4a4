"""What one server is and has, whatever its role: term, vote, log, configuration, and its outbox.

The role modules (`follower`, `leader`) act on a `Replica`; `core` owns it and changes the role. It
also keeps the one rule that all promises share: a message whose meaning rests on something that is
not durable yet leaves only after the sync (requirements, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence

from registry.raft.config import RaftConfig
from registry.raft.log import RaftLog
from registry.raft.membership import decode_configuration, voter_ids
from registry.raft.messages import (
    AnyMessage,
    AppendReply,
    Configuration,
    Entry,
    EntryKind,
    HardState,
)
from registry.raft.ready import ReadState
from registry.raft.writes import Writes

#: How many entries are read at a time when looking for an older configuration.
_SEARCH_ENTRIES = 256


class Replica:
    """Mutable state shared by the parts of one core; owned by `RaftCore`."""

    __slots__ = (
        "_guards_off",
        "_initial_configuration",
        "after",
        "at_once",
        "config",
        "configuration",
        "durable_hard_state",
        "failed_reads",
        "hard_state",
        "id",
        "leader_round",
        "log",
        "now",
        "reads",
        "snapshots_wanted",
        "voters",
        "writes",
    )

    def __init__(
        self, config: RaftConfig, log: RaftLog, hard_state: HardState, configuration: Configuration
    ) -> None:
        self.config = config
        self.id = config.id
        self.log = log
        self.hard_state = hard_state
        self.durable_hard_state = hard_state
        self.now = 0  # ticks since this core was made
        self.leader_round = 0  # the latest round that our leader named in this term
        self.writes = Writes()
        self._guards_off = config.disabled_guards
        self._initial_configuration = configuration
        self.configuration = configuration
        self.voters = self._voters()
        # What the next Ready takes along.
        self.at_once: list[AnyMessage] = []
        self.after: list[AnyMessage] = []
        self.reads: list[ReadState] = []
        self.failed_reads: list[int] = []
        self.snapshots_wanted: list[str] = []

    @property
    def term(self) -> int:
        return self.hard_state.term

    @property
    def is_voter(self) -> bool:
        return self.id in self.voters

    @property
    def is_being_removed(self) -> bool:
        """Whether we are no voter by a configuration that is not known to be committed, and were
        one by that before it."""
        latest = self.configuration
        if latest.index <= self.log.commit_index or self.is_voter:
            return False
        return self.id in voter_ids(self.configuration_before(latest.index))

    def guards(self, name: str) -> bool:
        """Whether a safety rule is in force; always, but in mutation checks."""
        return name not in self._guards_off

    def set_hard_state(self, term: int, voted_for: str = "") -> None:
        """Term and vote from here on; durable before anything rests on them. What promises of an
        earlier term still wait here are dropped with it: nobody needs them, and what they rest on
        may never be written."""
        if term > self.hard_state.term:
            self.after.clear()
            self.leader_round = 0
        self.hard_state = HardState(term, voted_for)

    # -- promises ----------------------------------------------------------------------------

    def send(self, message: AnyMessage) -> None:
        """Send what promises nothing."""
        self.at_once.append(message)

    def promise(self, message: AnyMessage, log_index: int = 0) -> None:
        """Send what rests on our term, our vote, and our log up to `log_index`."""
        is_durable = (
            self.hard_state == self.durable_hard_state and log_index <= self.log.durable_index
        )
        if is_durable or not self.guards("S-3"):
            self.at_once.append(message)
        else:
            self.after.append(message)

    @property
    def disk_is_stuck(self) -> bool:
        """Whether a sync takes longer than T (R-29)."""
        since = self.writes.waiting_since()
        return since is not None and self.now - since > self.config.election_ticks

    # -- log and configuration ---------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries behind the last one. A configuration is in force from here on (R-40)."""
        self.log.append(entries)
        for entry in entries:
            if entry.kind is EntryKind.CONFIGURATION:
                self.set_configuration(decode_configuration(entry))

    def truncate(self, index: int) -> None:
        """Drop entries from `index` on, and with them the configuration they brought (R-40)."""
        self.log.truncate(index)
        self.writes.cut(index - 1)
        # An acknowledgement that waits here for a write that now never happens is void.
        self.after = [
            m for m in self.after if not (isinstance(m, AppendReply) and m.match_index >= index)
        ]
        if self.configuration.index >= index and self.guards("R-40"):
            self.set_configuration(self.configuration_before(index))

    def set_configuration(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.voters = self._voters()

    def configuration_before(self, index: int) -> Configuration:
        """The configuration that was in force just before the entry at `index`.

        Searches the log backwards. That is long only when a change is undone long after the one
        before it, which is rare, and never longer than what compaction leaves.
        """
        high = index
        while high > self.log.first_index:
            low = max(self.log.first_index, high - _SEARCH_ENTRIES)
            for entry in reversed(self._entries(low, high)):
                if entry.kind is EntryKind.CONFIGURATION:
                    return decode_configuration(entry)
            high = low
        if (meta := self.log.snapshot_meta) is not None:
            return meta.configuration
        # Not in the log at all: it was handed to us at the start.
        return self._initial_configuration

    def _entries(self, low: int, high: int) -> list[Entry]:
        found: list[Entry] = []
        while low < high:
            part = self.log.entries(low, high, self.config.max_apply_bytes)
            found += part
            low = part[-1].index + 1
        return found

    def _voters(self) -> tuple[str, ...]:
        if self.guards("R-45"):
            return voter_ids(self.configuration)
        return tuple(server.id for server in self.configuration.servers)
