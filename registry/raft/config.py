"""The numbers of one server's Raft core, and the switches that only tests may touch."""

from __future__ import annotations

import msgspec

#: Every safety rule that `RaftConfig.disabled_guards` can switch off, and what then goes wrong. The
#: simulation runs once with each of them off and must find a broken invariant: that proves that it
#: would have noticed the mistake (requirements, section 15, "mutation check").
GUARDS: dict[str, str] = {
    "S-2": "the vote is forgotten on becoming a follower within a term",
    "S-3": "promises (votes, acknowledgements) leave before they are durable",
    "R-3": "the leader counts its own entries, and applies, before they are durable",
    "R-13": "all servers draw the same election timeout",
    "R-14": "votes go to candidates whose log is behind",
    "R-15": "pre-votes are granted although a leader is alive",
    "R-16": "real votes are granted although a leader is alive",
    "R-17": "a leader that hears no quorum stays leader",
    "R-18": "messages of lower terms are ignored instead of answered",
    "R-23": "an append whose entries are all present cuts the log behind them",
    "R-24": "a follower acknowledges its last index instead of the last one of the message",
    "R-25": "a follower commits up to its own last index",
    "R-26": "stale refusals move the leader's view of a follower",
    "R-27": "a full window is never freed by a heartbeat answer",
    "R-29": "a leader with a stuck disk stays leader",
    "R-31": "entries of earlier terms are committed by counting copies",
    "R-34": "a leader answers reads before an entry of its own term is committed",
    "R-35": "consistent reads are answered without a confirming round",
    "R-36": "a lease counts from the arrival of the answers and outlives T",
    "R-37": "a restarted server votes at once; a clock jump leaves the lease in force",
    "R-40": "a truncated configuration stays in force",
    "R-41": "a membership change does not wait for an entry of the leader's own term",
    "R-43": "learners are promoted however far behind they are",
    "R-44": "a removed leader stops leading as soon as it appends its removal",
    "R-45": "learners count in quorums",
    "R-48": "the lease stays in force after leadership was offered to another server",
    "R-52": "an old snapshot replaces newer state",
}


class RaftConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How one core behaves. Times are in ticks; T, the election timeout, is `election_ticks`."""

    id: str
    cluster_id: str = ""
    election_ticks: int = 20
    #: How long who heard a leader does not help to depose it (R-15, R-16); 0: T. What leases rest
    #: on, and all that a known death of the leader has to wait for.
    sticky_ticks: int = 0
    heartbeat_ticks: int = 2
    max_entries_per_append: int = 64
    max_append_bytes: int = 1 << 20
    #: Window of unanswered appends per peer (R-27). A learner gets a quarter of it (R-30).
    max_inflight_messages: int = 256
    max_inflight_bytes: int = 4 << 20
    #: Own proposals that are not yet applied; more are refused as busy (R-5).
    max_proposals: int = 4096
    max_proposal_bytes: int = 32 << 20
    #: One entry: the API's limit of a transaction and room for its wrapping (R-69).
    max_entry_bytes: int = (1 << 20) + (64 << 10)
    #: Committed entries handed out in one `Ready`, and how many such batches may wait for
    #: `applied`: a slow applier holds back what it is given, not this server's memory.
    max_apply_bytes: int = 8 << 20
    max_apply_batches: int = 64
    #: Reads that wait for a round or for the first commit of the term.
    max_reads: int = 65_536
    pre_vote: bool = True
    check_quorum: bool = True
    lease_reads: bool = True
    #: The bound on how much two clocks may differ in rate (R-37).
    clock_drift_percent: int = 10
    #: How many entries a learner may be behind when it is promoted (R-43).
    max_trailing_for_promotion: int = 250
    disabled_guards: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if unknown := self.disabled_guards - GUARDS.keys():
            raise ValueError(f"no such guard: {', '.join(sorted(unknown))}")
        if not 0 < self.heartbeat_ticks < self.loyal_ticks <= self.election_ticks:
            raise ValueError(
                "a heartbeat must be shorter than the election timeout and stickiness, which must "
                "not be longer than the election timeout"
            )

    @property
    def loyal_ticks(self) -> int:
        """Leader stickiness: `sticky_ticks`, or T."""
        return self.sticky_ticks or self.election_ticks

    @property
    def lease_ticks(self) -> int:
        """Stickiness less the margin: the drift bound, rounded up, and one tick for what a count of
        ticks does not show (R-36, R-37). 0 or less: too short for a lease."""
        drift = -(-self.loyal_ticks * self.clock_drift_percent // 100)
        return self.loyal_ticks - drift - 1
