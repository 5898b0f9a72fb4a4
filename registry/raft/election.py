"""Whom to vote for: the decisions of sections 3.4, 3.6.1, 4.2.3 and 9.6 of the thesis as one table.

Two questions come before the usual ones (R-14):

* *Is somebody leading?* A server that heard from a leader within T does not help to depose it: it
  refuses pre-votes and ignores real requests, term and all (R-15, R-16). Otherwise a server that is
  removed, or cut off from the leader alone, would end every leadership with ever higher terms.
* *May we remember wrongly?* A server that has just restarted does not know when it last heard from
  a leader, so for T it behaves as if it just had; leases rest on that (R-37).

The mark of a transfer overrides both: the leader itself asked for that campaign.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from registry.raft.messages import VoteRequest


class Decision(enum.Enum):
    GRANT = "grant"
    REFUSE = "refuse"
    IGNORE = "ignore"  # no answer, and the request's term is not taken over


@dataclass(frozen=True, slots=True)
class Voter:
    """What a voter's answer depends on."""

    term: int
    voted_for: str
    has_newer_log: bool  # than the candidate
    hears_leader: bool  # within T, or leads itself
    sticks_to_leader: bool  # R-16 is on


def decide(voter: Voter, request: VoteRequest) -> Decision:
    if request.pre:
        return _decide_pre_vote(voter, request)
    if request.term < voter.term:
        return Decision.REFUSE  # our term in the answer lets it catch up
    if voter.hears_leader and voter.sticks_to_leader and not request.transfer:
        return Decision.IGNORE
    voted_for_another = request.term == voter.term and voter.voted_for not in ("", request.sender)
    if voter.has_newer_log or voted_for_another:
        return Decision.REFUSE
    return Decision.GRANT


def _decide_pre_vote(voter: Voter, request: VoteRequest) -> Decision:
    if request.term <= voter.term or voter.hears_leader or voter.has_newer_log:
        return Decision.REFUSE
    return Decision.GRANT
