"""The keyring, and messages under its keys."""

from __future__ import annotations

import pytest

from registry.errors import Rejected, RemoteProtocolError
from registry.membership.crypto import OVERHEAD_BYTES, PADDED, Keyring, sealed_length

ONE, TWO, THREE = bytes([1]) * 16, bytes([2]) * 24, bytes([3]) * 32


def test_the_first_key_is_the_primary() -> None:
    ring = Keyring([ONE, TWO])
    assert list(ring.keys) == [ONE, TWO]
    assert Keyring([ONE]).decrypt(ring.encrypt(b"x")) == b"x"


def test_a_rotation() -> None:
    ring, other = Keyring([ONE]), Keyring([ONE])
    for each in (ring, other):
        each.install(TWO)
    assert list(ring.keys) == [ONE, TWO]
    ring.use(TWO)
    assert list(ring.keys) == [TWO, ONE]
    assert other.decrypt(ring.encrypt(b"new key")) == b"new key"
    assert ring.decrypt(other.encrypt(b"old key")) == b"old key"
    ring.remove(ONE)
    assert list(ring.keys) == [TWO]
    with pytest.raises(RemoteProtocolError, match="no installed key"):
        ring.decrypt(other.encrypt(b"old key"))


def test_installing_twice_and_removing_the_absent_change_nothing() -> None:
    ring = Keyring([ONE, TWO])
    ring.install(TWO)
    ring.remove(THREE)
    assert list(ring.keys) == [ONE, TWO]


@pytest.mark.parametrize("size", [0, 15, 17, 33])
def test_keys_of_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(Rejected, match="key size must be 16, 24 or 32 bytes"):
        Keyring([ONE]).install(bytes(size))


def test_what_a_ring_refuses() -> None:
    ring = Keyring([ONE])
    with pytest.raises(Rejected, match="Requested key is not in the keyring"):
        ring.use(TWO)
    with pytest.raises(Rejected, match="Removing the primary key is not allowed"):
        ring.remove(ONE)
    with pytest.raises(Rejected, match="at least one key"):
        Keyring([])


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17])
@pytest.mark.parametrize("version", [0, 1])
def test_both_versions_are_read_and_their_length_is_known(length: int, version: int) -> None:
    ring = Keyring([THREE])
    sealed = ring.encrypt(bytes(length), version=version, associated=b"header")
    assert sealed[0] == version
    assert len(sealed) == sealed_length(length, version)
    assert ring.decrypt(sealed, associated=b"header") == bytes(length)
    if version != PADDED:
        assert len(sealed) == length + OVERHEAD_BYTES


def test_what_is_associated_is_authenticated() -> None:
    ring = Keyring([ONE])
    with pytest.raises(RemoteProtocolError):
        ring.decrypt(ring.encrypt(b"x", associated=b"a"), associated=b"b")


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="empty"),
        pytest.param(bytes(28), id="too-short"),
        pytest.param(b"\x02" + bytes(40), id="unknown-version"),
    ],
)
def test_what_is_not_encrypted_is_refused(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="not an encrypted message"):
        Keyring([ONE]).decrypt(payload)


@pytest.mark.parametrize(
    "padded",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(bytes(16), id="zero"),
        pytest.param(bytes([17]) * 32, id="more-than-a-block"),
        pytest.param(bytes(14) + b"\x01\x02", id="not-repeated"),
    ],
)
def test_damaged_padding_is_refused(padded: bytes) -> None:
    ring = Keyring([ONE])
    sealed = ring.encrypt(padded)
    as_padded = bytes([PADDED]) + sealed[1:]
    with pytest.raises(RemoteProtocolError, match="padding"):
        ring.decrypt(as_padded)


def test_nonces_differ() -> None:
    ring = Keyring([ONE])
    assert len({ring.encrypt(b"x")[1:13] for _ in range(100)}) == 100
