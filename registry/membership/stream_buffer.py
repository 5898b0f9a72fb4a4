"""When is a message on a stream whole? Nothing in front of a plain one says how long it is.

    encrypted   0a, length (4), payload
    compressed  09, map
    push/pull   06, header map, node maps and tail (how many and long says the header)
    user        08, header map, bytes (their number is in the header)
    others      type, map

Source: gossip sheet, sections 2.6, 2.7 and 7.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from registry.errors import RemoteProtocolError
from registry.membership.fields import Incomplete, ValueReader
from registry.membership.wire import (
    STREAM_BYTES_MAX,
    MessageType,
    push_pull_header,
    user_length,
)

_ENCRYPT_HEADER_BYTES = 5
_SINGLE_MAP = frozenset(
    (MessageType.PING, MessageType.ACK, MessageType.COMPRESS, MessageType.ERROR)
)


class StreamBuffer:
    """Collects the chunks of one message."""

    def __init__(self, bytes_max: int = STREAM_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._data = bytearray()
        self._values = ValueReader(bytes_max=bytes_max)
        # Suspended where more bytes are needed; ends with the length of the message.
        self._steps = self._measure()
        self._length: int | None = None
        self._header: Any = None

    def feed(self, chunk: bytes) -> bytes | None:
        """The whole message once it is there; what comes after it is ignored.

        Raises `RemoteProtocolError` when this cannot become a message, or becomes too long.
        """
        self._data += chunk
        if len(self._data) > self._bytes_max + _ENCRYPT_HEADER_BYTES:
            raise RemoteProtocolError(f"a message of more than {self._bytes_max} bytes")
        if not chunk:
            return None
        if self._is_plain:
            # The type byte is not part of the values.
            begins = len(self._data) == len(chunk)
            self._values.feed(chunk[1:] if begins else chunk)
        if self._length is None:
            self._length = next(self._steps)
        if self._length is None or len(self._data) < self._length:
            return None
        return bytes(self._data[: self._length])

    @property
    def _is_plain(self) -> bool:
        return self._data[0] != MessageType.ENCRYPT

    def _measure(self) -> Iterator[int | None]:
        message_type = self._data[0]
        if message_type == MessageType.ENCRYPT:
            yield from self._measure_encrypted()
        elif message_type == MessageType.PUSH_PULL:
            yield from self._measure_push_pull()
        elif message_type == MessageType.USER:
            yield from self._whole_value()
            length = user_length(self._header)
            yield self._checked(1 + self._values.position + length)
        elif message_type in _SINGLE_MAP:
            yield from self._whole_value()
            yield self._checked(1 + self._values.position)
        else:
            raise RemoteProtocolError(f"message type {message_type} in a stream")

    def _measure_encrypted(self) -> Iterator[int | None]:
        while len(self._data) < _ENCRYPT_HEADER_BYTES:
            yield None
        length = int.from_bytes(self._data[1:_ENCRYPT_HEADER_BYTES], "big")
        if length > self._bytes_max:
            raise RemoteProtocolError(f"an encrypted message of {length} bytes")
        yield _ENCRYPT_HEADER_BYTES + length

    def _measure_push_pull(self) -> Iterator[int | None]:
        yield from self._whole_value()
        node_count, state_length, _ = push_pull_header(self._header)
        for _ in range(node_count):
            yield from self._whole_value(keep=False)
        yield self._checked(1 + self._values.position + state_length)

    def _whole_value(self, *, keep: bool = True) -> Iterator[None]:
        while True:
            try:
                if keep:
                    self._header = self._values.next()
                else:
                    self._values.skip()
            except Incomplete:
                yield None
            else:
                return

    def _checked(self, length: int) -> int:
        if length > self._bytes_max:
            raise RemoteProtocolError(f"a message of {length} bytes")
        return length
