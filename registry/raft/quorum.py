"""Majority arithmetic: pure functions over small collections of voters."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence


class VoteResult(enum.Enum):
    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def majority(voters: int) -> int:
    """How many of `voters` make a quorum: any two of that size share a server."""
    return voters // 2 + 1


def reached_by_majority(values: Sequence[int]) -> int:
    """The greatest value that a majority of the voters has reached; one value per voter.

    0 without voters: nobody can promise anything. Serves the commit index (R-31, thesis 3.5) and
    the confirmed round of reads (R-35) alike.
    """
    if not values:
        return 0
    return sorted(values, reverse=True)[majority(len(values)) - 1]


def vote_result(votes: Mapping[str, bool], voters: Collection[str]) -> VoteResult:
    """What the answers so far amount to. Answers of servers that are no voters do not count."""
    granted = sum(1 for voter in voters if votes.get(voter) is True)
    refused = sum(1 for voter in voters if votes.get(voter) is False)
    needed = majority(len(voters))
    if granted >= needed:
        return VoteResult.WON
    if len(voters) - refused < needed:
        return VoteResult.LOST
    return VoteResult.PENDING
