"""The layers around messages, in packets and on streams.

    packet:  encrypt( crc( compress( compound( message, message, … ) ) ) )
    stream:  encrypt( compress( message ) )

Each layer is optional, the order is fixed. What is put on here in this order comes off in the
opposite one, with bounds on depth and size: a small packet must not grow without end.

Source: gossip sheet, sections 2.2 to 2.6.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence

from registry.errors import RemoteProtocolError
from registry.membership import crypto, lzw
from registry.membership.crypto import Keyring
from registry.membership.fields import Fields, pack, unpack_prefix
from registry.membership.wire import STREAM_BYTES_MAX, ErrorReply, MessageType, encode

#: Peers compute the size of the length table in 8 bits: 128 parts are unreadable for them.
COMPOUND_PARTS_MAX = 127

COMPOUND_HEADER_BYTES = 2
COMPOUND_ENTRY_BYTES = 2

_NESTING_MAX = 4
_PACKET_DECODED_BYTES_MAX = 64 << 10
#: All layers of a packet together: each may look at the same bytes again.
_PACKET_WORK_BYTES_MAX = _NESTING_MAX * _PACKET_DECODED_BYTES_MAX

PLAIN_REFUSED = "Encryption is configured but remote state is not encrypted"
ENCRYPTED_REFUSED = "Remote state is encrypted and encryption is not configured"


def compound(parts: Sequence[bytes]) -> bytes:
    """One message out of several."""
    assert 0 < len(parts) <= COMPOUND_PARTS_MAX, "more parts are unreadable for peers"
    lengths = struct.pack(f">{len(parts)}H", *map(len, parts))
    return b"".join((bytes((MessageType.COMPOUND, len(parts))), lengths, *parts))


def compress(message: bytes, *, leading_clear: bool = True) -> bytes:
    code = lzw.encode(message, leading_clear=leading_clear)
    return bytes([MessageType.COMPRESS]) + pack({"Algo": 0, "Buf": code})


def add_crc(message: bytes) -> bytes:
    return struct.pack(">BI", MessageType.CRC, zlib.crc32(message)) + message


def encrypt_stream(
    message: bytes, keyring: Keyring, *, version: int = crypto.PLAIN, nonce: bytes | None = None
) -> bytes:
    """The header, which holds the length, is authenticated along."""
    length = crypto.sealed_length(len(message), version)
    header = struct.pack(">BI", MessageType.ENCRYPT, length)
    return header + keyring.encrypt(message, associated=header, version=version, nonce=nonce)


class OuterLayerError(RemoteProtocolError):
    """What is around a stream's message could not be taken off: the peer is told so."""


class Envelope:
    """Puts layers on and takes them off as this node is configured.

    The two switches turn encryption on in a running pool: keys everywhere with both off, then
    `encrypts_outgoing` on, then `verifies_incoming` on (2.6).
    """

    def __init__(
        self,
        *,
        keyring: Keyring | None = None,
        compresses: bool = True,
        verifies_incoming: bool = True,
        encrypts_outgoing: bool = True,
    ) -> None:
        self._keyring = keyring
        self._compresses = compresses
        self._verifies_incoming = verifies_incoming
        self._encrypts_outgoing = encrypts_outgoing and keyring is not None

    @property
    def overhead_bytes(self) -> int:
        """What encryption will add to a packet."""
        return crypto.OVERHEAD_BYTES if self._encrypts_outgoing else 0

    # Packets.

    def seal_packet(self, messages: Sequence[bytes], *, with_crc: bool) -> bytes:
        data = messages[0] if len(messages) == 1 else compound(messages)
        if self._compresses:
            compressed = compress(data)
            if len(compressed) < len(data):
                data = compressed
        if with_crc:
            data = add_crc(data)
        if self._encrypts_outgoing:
            assert self._keyring is not None
            data = self._keyring.encrypt(data)
        return data

    def open_packet(self, data: bytes) -> Iterator[bytes]:
        """The messages of a datagram. Raises `RemoteProtocolError`, maybe after the first few."""
        data = self._decrypt_packet(data)
        if data[:1] == bytes([MessageType.CRC]):
            data = _check_crc(data)
        return _unfold(data, _NESTING_MAX, _Allowance(_PACKET_WORK_BYTES_MAX))

    def _decrypt_packet(self, data: bytes) -> bytes:
        if self._keyring is None:
            return data
        try:
            return self._keyring.decrypt(data)
        except RemoteProtocolError:
            if self._verifies_incoming:
                raise
            return data

    # Streams.

    def seal_stream(self, message: bytes) -> bytes:
        if self._compresses:
            message = compress(message)
        if self._encrypts_outgoing:
            assert self._keyring is not None
            message = encrypt_stream(message, self._keyring)
        return message

    def seal_error(self, error: str) -> bytes:
        return self.seal_stream(encode(ErrorReply(error)))

    def open_stream(self, data: bytes) -> bytes:
        """The message. Raises `OuterLayerError`, whose text the peer is to be told."""
        try:
            data = self._decrypt_stream(data)
            if data[:1] == bytes([MessageType.COMPRESS]):
                data = _decompress(data, STREAM_BYTES_MAX)
        except OuterLayerError:
            raise
        except RemoteProtocolError as problem:
            raise OuterLayerError(str(problem)) from problem
        return data

    def _decrypt_stream(self, data: bytes) -> bytes:
        if data[:1] != bytes([MessageType.ENCRYPT]):
            if self._keyring is not None and self._verifies_incoming:
                raise OuterLayerError(PLAIN_REFUSED)
            return data
        if self._keyring is None:
            raise OuterLayerError(ENCRYPTED_REFUSED)
        return self._keyring.decrypt(data[5:], associated=data[:5])


class _Allowance:
    """How many bytes one packet may still become."""

    def __init__(self, byte_count: int) -> None:
        self._left = byte_count

    def spend(self, byte_count: int) -> None:
        self._left -= byte_count
        if self._left < 0:
            raise RemoteProtocolError("a packet that grows beyond every bound")


def _unfold(data: bytes, depth: int, allowance: _Allowance) -> Iterator[bytes]:
    kind = data[0] if data else -1
    if kind not in (MessageType.COMPOUND, MessageType.COMPRESS):
        yield data
        return
    if depth == 0:
        raise RemoteProtocolError(f"layers nested deeper than {_NESTING_MAX}")
    if kind == MessageType.COMPRESS:
        inner = _decompress(data, _PACKET_DECODED_BYTES_MAX)
        allowance.spend(len(inner))
        yield from _unfold(inner, depth - 1, allowance)
        return
    for part in _parts(data):
        # Also what is only repeated by nesting costs: work is bounded along with memory.
        allowance.spend(len(part))
        yield from _unfold(part, depth - 1, allowance)


def _parts(data: bytes) -> Iterator[bytes]:
    """The parts of a compound; the one that is cut off is dropped with those after it."""
    if len(data) < COMPOUND_HEADER_BYTES:
        raise RemoteProtocolError("a compound message without a count")
    count = data[1]
    position = COMPOUND_HEADER_BYTES + COMPOUND_ENTRY_BYTES * count
    if len(data) < position:
        raise RemoteProtocolError("the length table of a compound message is cut off")
    for length in struct.unpack_from(f">{count}H", data, COMPOUND_HEADER_BYTES):
        if position + length > len(data):
            raise RemoteProtocolError("a compound message is cut off")
        yield data[position : position + length]
        position += length


def _decompress(data: bytes, bytes_max: int) -> bytes:
    value, _ = unpack_prefix(data[1:])
    fields = Fields(value, ("Algo", "Buf"))
    if fields.uint("Algo") != 0:
        raise RemoteProtocolError("unknown compression")
    return lzw.decode(fields.raw("Buf") or b"", bytes_max)


def _check_crc(data: bytes) -> bytes:
    if len(data) < 5 or struct.unpack_from(">I", data, 1)[0] != zlib.crc32(data[5:]):
        raise RemoteProtocolError("checksum mismatch")
    return data[5:]
