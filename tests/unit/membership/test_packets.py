"""Layers on and off, their order, and what each side refuses."""

from __future__ import annotations

import msgpack  # type: ignore[import-untyped]  # no stubs are published
import pytest

from registry.errors import RemoteProtocolError
from registry.membership import packets
from registry.membership.crypto import Keyring
from registry.membership.packets import Envelope, OuterLayerError
from registry.membership.wire import ErrorReply, Nack, decode_stream_message, encode

KEY, OTHER_KEY = bytes(16), bytes(32)
NACK = encode(Nack(7))
LONG = b"\x08" + b"gossip " * 50


def envelope(key: bytes | None = None, **switches: bool) -> Envelope:
    return Envelope(keyring=Keyring([key]) if key is not None else None, **switches)


def opened(data: bytes, by: Envelope | None = None) -> list[bytes]:
    return list((by or envelope()).open_packet(data))


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
@pytest.mark.parametrize("with_crc", [False, True], ids=["bare", "crc"])
@pytest.mark.parametrize("messages", [[NACK], [NACK, LONG, NACK]], ids=["one", "several"])
def test_a_packet_comes_out_as_it_went_in(
    key: bytes | None, with_crc: bool, messages: list[bytes]
) -> None:
    both = envelope(key)
    assert opened(both.seal_packet(messages, with_crc=with_crc), both) == messages


def test_a_packet_is_compressed_only_if_that_makes_it_shorter() -> None:
    assert envelope().seal_packet([NACK], with_crc=False) == NACK
    assert envelope().seal_packet([LONG], with_crc=False)[0] == 9
    assert envelope(compresses=False).seal_packet([LONG], with_crc=False) == LONG


def test_a_stream_is_compressed_whatever_comes_of_it() -> None:
    sealed = envelope().seal_stream(NACK)
    assert sealed[0] == 9
    assert len(sealed) > len(NACK)
    assert envelope(compresses=False).open_stream(sealed) == NACK


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda data: packets.compound([packets.compress(data)]), id="compress-inside"),
        pytest.param(lambda data: packets.compress(packets.compound([data])), id="compound-inside"),
        pytest.param(
            lambda data: packets.compound([packets.compound([data])]), id="compound-in-compound"
        ),
    ],
)
def test_compound_and_compress_may_nest(wrap: object) -> None:
    assert callable(wrap)
    assert opened(wrap(NACK)) == [NACK]


def test_nesting_ends_somewhere() -> None:
    data = NACK
    for _ in range(5):
        data = packets.compound([data])
    with pytest.raises(RemoteProtocolError, match="nested deeper"):
        opened(data)


def test_nesting_does_not_multiply_work() -> None:
    """Bytes that are looked at again on each level are counted again."""
    data = packets.compress(b"\x08" + bytes(60_000))
    bomb = packets.compound([data] * 100)
    with pytest.raises(RemoteProtocolError, match="grows beyond every bound"):
        opened(bomb)


def test_a_packet_does_not_become_larger_than_a_datagram() -> None:
    with pytest.raises(RemoteProtocolError, match="longer than 65536"):
        opened(packets.compress(bytes(100_000)))


def test_a_part_that_is_cut_off_is_dropped_with_those_after_it() -> None:
    whole = packets.compound([NACK, LONG, NACK])
    messages = envelope().open_packet(whole[:-20])
    assert next(messages) == NACK
    with pytest.raises(RemoteProtocolError, match="cut off"):
        next(messages)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x07", id="no-count"),
        pytest.param(b"\x07\x02\x00", id="table-cut-off"),
        pytest.param(b"\x0c\x00", id="crc-cut-off"),
        pytest.param(b"\x0c\x00\x00\x00\x00" + NACK, id="crc-wrong"),
        pytest.param(b"\x09\xc0", id="compress-without-buffer"),
        pytest.param(b"\x09" + msgpack.packb({"Algo": 1, "Buf": b""}), id="unknown-compression"),
    ],
)
def test_damaged_packets_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        opened(data)


def test_255_parts_are_read_though_127_are_the_most_that_may_be_sent() -> None:
    lengths = len(NACK).to_bytes(2, "big") * 255
    assert opened(b"\x07\xff" + lengths + NACK * 255) == [NACK] * 255
    with pytest.raises(AssertionError):
        packets.compound([NACK] * 128)


def test_a_checksum_inside_is_no_layer() -> None:
    inner = packets.add_crc(NACK)
    assert opened(packets.compound([inner])) == [inner]


# Who understands whom, while encryption is turned on step by step.


@pytest.mark.parametrize(
    ("sender", "receiver", "arrives"),
    [
        pytest.param(envelope(), envelope(), True, id="both-plain"),
        pytest.param(envelope(KEY), envelope(KEY), True, id="both-encrypted"),
        pytest.param(envelope(), envelope(KEY), False, id="plain-to-strict"),
        pytest.param(
            envelope(), envelope(KEY, verifies_incoming=False), True, id="plain-to-lenient"
        ),
        pytest.param(
            envelope(KEY, encrypts_outgoing=False), envelope(), True, id="key-but-sends-plain"
        ),
        pytest.param(envelope(KEY), envelope(KEY, encrypts_outgoing=False), True, id="one-way"),
        pytest.param(envelope(KEY), envelope(OTHER_KEY), False, id="other-key"),
    ],
)
def test_who_reads_whom(sender: Envelope, receiver: Envelope, arrives: bool) -> None:
    packet = sender.seal_packet([NACK], with_crc=True)
    stream = sender.seal_stream(NACK)
    if arrives:
        assert opened(packet, receiver) == [NACK]
        assert receiver.open_stream(stream) == NACK
    else:
        with pytest.raises(RemoteProtocolError):
            opened(packet, receiver)
        with pytest.raises(OuterLayerError):
            receiver.open_stream(stream)


@pytest.mark.parametrize(
    ("data", "receiver", "text"),
    [
        pytest.param(
            envelope().seal_stream(NACK),
            envelope(KEY),
            "Encryption is configured but remote state is not encrypted",
            id="plain",
        ),
        pytest.param(
            envelope(KEY).seal_stream(NACK),
            envelope(),
            "Remote state is encrypted and encryption is not configured",
            id="encrypted",
        ),
    ],
)
def test_the_peer_is_told_why(data: bytes, receiver: Envelope, text: str) -> None:
    with pytest.raises(OuterLayerError, match=text):
        receiver.open_stream(data)
    told = decode_stream_message(receiver.open_stream(receiver.seal_error(text)))
    assert told == ErrorReply(text)


def test_the_length_in_front_of_a_stream_is_authenticated() -> None:
    sealed = bytearray(envelope(KEY).seal_stream(NACK))
    sealed[1] ^= 1
    with pytest.raises(OuterLayerError):
        envelope(KEY).open_stream(bytes(sealed))


def test_what_encryption_costs_a_packet() -> None:
    assert envelope().overhead_bytes == 0
    assert envelope(KEY).overhead_bytes == 29
    assert envelope(KEY, encrypts_outgoing=False).overhead_bytes == 0
