"""Addresses on the wire and in text."""

from __future__ import annotations

import pytest

from registry.errors import RemoteProtocolError
from registry.membership.addresses import format_address, pack_ip, parse_address, unpack_ip


@pytest.mark.parametrize(
    ("text", "raw"),
    [("10.0.0.1", b"\x0a\0\0\1"), ("::1", b"\0" * 15 + b"\1")],
)
def test_packing(text: str, raw: bytes) -> None:
    assert pack_ip(text) == raw
    assert unpack_ip(raw) == text


def test_ipv4_in_sixteen_bytes_is_folded() -> None:
    assert pack_ip("::ffff:10.0.0.1") == b"\x0a\0\0\1"
    assert unpack_ip(b"\0" * 10 + b"\xff\xff\x0a\0\0\1") == "10.0.0.1"


@pytest.mark.parametrize("raw", [b"", b"\1\2\3", b"\0" * 17])
def test_other_lengths_are_no_address(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        unpack_ip(raw)


@pytest.mark.parametrize("address", [("10.0.0.1", 8301), ("::1", 1)])
def test_text(address: tuple[str, int]) -> None:
    assert parse_address(format_address(address)) == address


@pytest.mark.parametrize("text", ["", "10.0.0.1", "host:80", "10.0.0.1:x", "10.0.0.1:70000"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_address(text)
