"""Votes about a name."""

from __future__ import annotations

import pytest

from registry.membership.conflict import Vote
from registry.membership.serf_messages import (
    ConflictResponse,
    JoinIntent,
    encode,
    encode_nobody,
)
from registry.membership.serf_values import Member

OURS, THEIRS = b"\x0a\0\0\1", b"\x0a\0\0\2"


def answer(address: bytes, port: int = 7946) -> bytes:
    return encode(ConflictResponse(Member("beta", "", port), address))


@pytest.mark.parametrize(
    ("answers", "won"),
    [
        pytest.param([], False, id="nobody answers"),
        pytest.param([answer(OURS)], True, id="the only one is for us"),
        pytest.param([answer(THEIRS)], False, id="the only one is not"),
        pytest.param([answer(OURS, 1)], False, id="another port"),
        pytest.param([answer(OURS), answer(THEIRS)], False, id="half is no majority"),
        pytest.param([answer(OURS), answer(OURS), answer(THEIRS)], True, id="majority"),
        pytest.param([answer(OURS), encode_nobody()], False, id="one knows nobody"),
        pytest.param([answer(OURS), b"\x99", encode(JoinIntent(1, "x"))], True, id="nonsense"),
    ],
)
def test_votes(answers: list[bytes], won: bool) -> None:
    vote = Vote(OURS, 7946)
    for payload in answers:
        vote.count(payload)
    assert vote.is_won is won
