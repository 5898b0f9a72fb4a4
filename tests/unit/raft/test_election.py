"""The vote decision as a table (R-14 to R-16, R-18)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from registry.raft.election import Decision, Voter, decide
from registry.raft.messages import VoteRequest

GRANT, REFUSE, IGNORE = Decision.GRANT, Decision.REFUSE, Decision.IGNORE

REQUEST = VoteRequest(sender="b", receiver="a", term=6, last_index=9, last_term=5)
VOTER = Voter(term=5, voted_for="", has_newer_log=False, hears_leader=False, sticks_to_leader=True)


@pytest.mark.parametrize(
    ("voter", "request_", "decision"),
    [
        pytest.param({}, {}, GRANT, id="higher term, nobody leads"),
        pytest.param({"term": 6}, {}, GRANT, id="same term, no vote yet"),
        pytest.param({"term": 6, "voted_for": "b"}, {}, GRANT, id="asked again"),
        pytest.param({"term": 6, "voted_for": "c"}, {}, REFUSE, id="voted for another"),
        pytest.param({"voted_for": "c"}, {}, GRANT, id="voted for another in an earlier term"),
        pytest.param({"term": 7}, {}, REFUSE, id="lower term"),
        pytest.param({"has_newer_log": True}, {}, REFUSE, id="older log"),
        pytest.param({"hears_leader": True}, {}, IGNORE, id="a leader is heard"),
        pytest.param({"hears_leader": True}, {"transfer": True}, GRANT, id="a leader hands over"),
        pytest.param(
            {"hears_leader": True, "has_newer_log": True},
            {"transfer": True},
            REFUSE,
            id="the mark does not excuse an older log",
        ),
        pytest.param(
            {"hears_leader": True, "sticks_to_leader": False}, {}, GRANT, id="stickiness is off"
        ),
        pytest.param(
            {"hears_leader": True, "term": 7}, {}, REFUSE, id="lower term is told, leader or not"
        ),
        pytest.param({}, {"pre": True}, GRANT, id="pre-vote: nobody leads"),
        pytest.param({"voted_for": "c"}, {"pre": True}, GRANT, id="pre-vote: votes do not matter"),
        pytest.param({"term": 6}, {"pre": True}, REFUSE, id="pre-vote: not a later term"),
        pytest.param({"hears_leader": True}, {"pre": True}, REFUSE, id="pre-vote: a leader"),
        pytest.param({"has_newer_log": True}, {"pre": True}, REFUSE, id="pre-vote: older log"),
    ],
)
def test_decide(voter: dict[str, Any], request_: dict[str, Any], decision: Decision) -> None:
    fields = {name: getattr(VOTER, name) for name in Voter.__slots__} | voter
    assert decide(Voter(**fields), msgspec.structs.replace(REQUEST, **request_)) is decision
