"""Compression: its own inverse, with known codes, and with an end to what a stream may become."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import RemoteProtocolError
from registry.membership import lzw

MIB = 1 << 20


def codes(*values: int, width: int = 9) -> bytes:
    """Codes of one width, packed as the stream packs them."""
    bits = sum(value << (index * width) for index, value in enumerate(values))
    return bits.to_bytes((len(values) * width + 7) // 8, "little")


CLEAR, END = 256, 257


@pytest.mark.parametrize(
    ("data", "stream"),
    [
        pytest.param(b"", codes(CLEAR, END), id="nothing"),
        pytest.param(b"a", codes(CLEAR, 97, END), id="one-byte"),
        pytest.param(b"ababab", codes(CLEAR, 97, 98, 258, 258, END), id="repeats"),
        pytest.param(b"aaa", codes(CLEAR, 97, 258, END), id="a-code-used-as-it-is-entered"),
    ],
)
def test_known_streams(data: bytes, stream: bytes) -> None:
    assert lzw.encode(data) == stream
    assert lzw.decode(stream, MIB) == data


@pytest.mark.parametrize("data", [b"a", b"ababab"], ids=["one-byte", "repeats"])
def test_the_leading_clear_code_is_optional(data: bytes) -> None:
    assert lzw.decode(lzw.encode(data, leading_clear=False), MIB) == data


@given(st.binary(max_size=3000), st.integers(1, 40))
def test_what_is_encoded_decodes(data: bytes, repeats: int) -> None:
    assert lzw.decode(lzw.encode(data * repeats), len(data) * repeats) == data * repeats


def incompressible(length: int) -> bytes:
    """No pair of bytes comes twice, so that each byte is a code and enters another."""
    data = bytearray([0])
    while len(data) < length:
        step = 2 * (len(data) // 256) + 1
        data.append((data[-1] + step) % 256)
    return bytes(data[:length])


@pytest.mark.parametrize("length", [*range(253, 258), *range(3835, 3842)])
def test_around_the_lengths_at_which_the_width_changes(length: int) -> None:
    """Also when the last code is the one that widens, or starts the table anew."""
    data = incompressible(length)
    assert lzw.decode(lzw.encode(data), length) == data


def test_a_full_table_stays_as_it_is() -> None:
    """A stream that never clears: nothing is entered beyond code 4095, and all stay known."""
    stream, width, top = 0, 9, 257
    position = 0
    literals = [value % 251 for value in range(5000)]
    for value in literals:
        stream |= value << position
        position += width
        top += 1
        if top >= 1 << width and width < 12:
            width += 1
    stream |= END << position
    data = stream.to_bytes((position + width + 7) // 8, "little")
    assert lzw.decode(data, MIB) == bytes(literals)


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(b"", id="empty"),
        pytest.param(codes(CLEAR, 97), id="no-end"),
        pytest.param(codes(CLEAR, 97, 300, END), id="unknown-code"),
        pytest.param(codes(CLEAR, 258, END), id="first-code-unknown"),
    ],
)
def test_damaged_streams_are_refused(stream: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        lzw.decode(stream, MIB)


def test_a_small_stream_does_not_become_large() -> None:
    stream = lzw.encode(b"a" * 1_000_000)
    assert len(stream) < 3000
    with pytest.raises(RemoteProtocolError, match="longer than 65536 bytes"):
        lzw.decode(stream, 65536)


@given(st.binary(max_size=500))
def test_random_bytes_decode_or_are_refused(stream: bytes) -> None:
    try:
        data = lzw.decode(stream, 10_000)
    except RemoteProtocolError:
        return
    assert len(data) <= 10_000
