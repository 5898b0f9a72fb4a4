"""Key queries: what a member does when asked, and what the asker makes of the answers."""

from __future__ import annotations

from base64 import b64encode

import pytest

from registry.errors import Rejected
from registry.membership import key_queries
from registry.membership.key_queries import encode_within, obey, tally
from registry.membership.serf_messages import JoinIntent, KeyRequest, KeyResponse, decode, encode

A, B = b"a" * 16, b"b" * 16


class Ring:
    """A list of keys that refuses what the real one refuses."""

    def __init__(self, *keys: bytes) -> None:
        self.keys = list(keys)

    def install(self, key: bytes) -> None:
        if len(key) not in (16, 24, 32):
            raise Rejected("key size must be 16, 24 or 32 bytes")
        self.keys.append(key)

    def use(self, key: bytes) -> None:
        self.keys.remove(key)
        self.keys.insert(0, key)

    def remove(self, key: bytes) -> None:
        if key == self.keys[0]:
            raise Rejected("Removing the primary key is not allowed")
        self.keys.remove(key)


def request(key: bytes = b"") -> bytes:
    return encode(KeyRequest(key))


@pytest.mark.parametrize(
    ("name", "key", "after"),
    [
        pytest.param(key_queries.INSTALL, b"c" * 16, [A, B, b"c" * 16], id="install"),
        pytest.param(key_queries.USE, B, [B, A], id="use"),
        pytest.param(key_queries.REMOVE, B, [A], id="remove"),
    ],
)
def test_changes(name: str, key: bytes, after: list[bytes]) -> None:
    ring = Ring(A, B)
    assert obey(name, request(key), ring) == KeyResponse(True)
    assert ring.keys == after


def test_listing() -> None:
    first, second = (b64encode(key).decode() for key in (A, B))
    assert obey(key_queries.LIST, request(), Ring(A, B)) == KeyResponse(
        True, "", (first, second), first
    )


@pytest.mark.parametrize(
    ("name", "payload", "message"),
    [
        pytest.param(key_queries.INSTALL, request(b"x"), "key size must be", id="wrong size"),
        pytest.param(key_queries.REMOVE, request(A), "Removing the primary key", id="primary"),
        pytest.param(key_queries.USE, b"", "no such type", id="nothing"),
        pytest.param(key_queries.USE, encode(JoinIntent(1, "x")), "no key request", id="other"),
    ],
)
def test_refusals(name: str, payload: bytes, message: str) -> None:
    response = obey(name, payload, Ring(A))
    assert not response.result
    assert message in response.message


def test_without_a_keyring() -> None:
    response = obey(key_queries.LIST, request(), None)
    assert response == KeyResponse(False, key_queries.NO_KEYRING)


def test_a_list_that_does_not_fit_is_cut_and_says_so() -> None:
    whole = KeyResponse(True, "", tuple(f"key-{n:020}" for n in range(100)), "key-0")
    encoded = encode_within(whole, 900)
    assert len(encoded) <= 900
    cut = decode(encoded)
    assert isinstance(cut, KeyResponse)
    assert cut.keys == whole.keys[: len(cut.keys or ())] if whole.keys else False
    assert f"showing first {len(cut.keys or ())} of 100 keys" in cut.message
    assert encode_within(whole, 10_000) == encode(whole)


def test_the_asker_counts() -> None:
    answers = {
        "alpha": encode(KeyResponse(True, "", ("A", "B"), "A")),
        "beta": encode(KeyResponse(True, "", ("A",), "A")),
        "gamma": encode(KeyResponse(False, "no ring")),
        "delta": b"\x99",
        "epsilon": encode(JoinIntent(1, "x")),
    }
    result = tally(6, answers)
    assert (result.answers, result.errors, result.is_complete) == (5, 3, False)
    assert result.keys == {"A": 2, "B": 1}
    assert result.primary_keys == {"A": 2}
    assert set(result.messages) == {"gamma", "delta", "epsilon"}


def test_success_is_everybody_without_an_error() -> None:
    fine = encode(KeyResponse(True))
    assert tally(1, {"alpha": fine}).is_complete
    assert not tally(2, {"alpha": fine}).is_complete
