"""The msgpack dialect of the gossip protocol, and a suspicious reader of its maps.

The protocol is older than msgpack's difference between text and bytes: both travel as "raw". Values
are therefore decoded to bytes and become text only where a field is known to be text.

Source: gossip sheet, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgpack  # type: ignore[import-untyped]  # no stubs are published

from registry.errors import RemoteProtocolError

#: What no single message exceeds: a push/pull, the largest, is bounded to this by its reader.
MESSAGE_BYTES_MAX = 20 << 20


def pack(value: Any) -> bytes:
    """`value` in the dialect: text and bytes alike as raw, nothing as bin or str8."""
    packed: bytes = msgpack.packb(value, use_bin_type=False)
    return packed


class Incomplete(RemoteProtocolError):
    """The bytes end before the value does."""


class ValueReader:
    """One value after another out of bytes that may still be coming in; raw comes as bytes.

    Unlike repeated `unpack_prefix`, it neither copies the rest each time nor begins anew when a
    value was not whole yet.
    """

    def __init__(self, data: bytes = b"", bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        bound = min(bytes_max, MESSAGE_BYTES_MAX)
        self._unpacker = msgpack.Unpacker(
            raw=True,
            strict_map_key=False,
            max_buffer_size=bound + 1,
            max_str_len=bound,
            max_bin_len=bound,
            max_array_len=bound,
            max_map_len=bound,
            max_ext_len=0,
        )
        self.feed(data[: bound + 1])

    @property
    def position(self) -> int:
        """Bytes that the values so far took."""
        position: int = self._unpacker.tell()
        return position

    def feed(self, data: bytes) -> None:
        """More bytes. Raises `RemoteProtocolError` beyond the bound."""
        try:
            self._unpacker.feed(data)
        except msgpack.BufferFull as problem:
            raise RemoteProtocolError("a message beyond every bound") from problem

    def next(self) -> Any:
        """Raises `Incomplete` when more bytes are needed, `RemoteProtocolError` on nonsense."""
        return self._read(self._unpacker.unpack)

    def skip(self) -> None:
        """Like `next`, for a value that is not wanted."""
        self._read(self._unpacker.skip)

    def _read(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except msgpack.OutOfData as problem:
            raise Incomplete("not readable as msgpack: no whole value") from problem
        except (msgpack.UnpackException, ValueError, TypeError) as problem:
            raise RemoteProtocolError(f"not readable as msgpack: {problem}") from problem


def unpack_prefix(data: bytes) -> tuple[Any, int]:
    """The first value in `data` and how many bytes it took; raw comes as bytes.

    Raises `RemoteProtocolError` when there is no whole value.
    """
    values = ValueReader(data, len(data))
    return values.next(), values.position


class Fields:
    """A decoded map; a missing field is a zero value, a wrong one raises `RemoteProtocolError`.

    A struct may also come as a bare array of its fields in `order`.
    """

    def __init__(self, value: Any, order: Sequence[str] = ()) -> None:
        if value is None:
            value = {}
        elif isinstance(value, list) and len(value) <= len(order):
            value = dict(zip((name.encode() for name in order), value, strict=False))
        if not isinstance(value, dict):
            raise RemoteProtocolError(f"a map was expected, not {type(value).__name__}")
        self._values = value

    def any(self, name: str) -> Any:
        return self._values.get(name.encode())

    def uint(self, name: str, bits: int = 64) -> int:
        return self._integer(name, 0, (1 << bits) - 1)

    def int64(self, name: str) -> int:
        return self._integer(name, -(1 << 63), (1 << 63) - 1)

    def flag(self, name: str) -> bool:
        value = self.any(name)
        if value is not None and not isinstance(value, bool):
            raise _wrong(name, "a boolean")
        return bool(value)

    def raw(self, name: str) -> bytes | None:
        value = self.any(name)
        if value is not None and not isinstance(value, bytes):
            raise _wrong(name, "bytes")
        return value

    def text(self, name: str) -> str:
        return _text(name, self.raw(name) or b"")

    def number(self, name: str) -> float:
        value = self.any(name)
        return 0.0 if value is None else _number(name, value)

    def items(self, name: str, most: int) -> list[Any]:
        value = self.any(name)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > most:
            raise _wrong(name, f"a list of at most {most}")
        return value

    def raws(self, name: str, most: int) -> list[bytes]:
        items = self.items(name, most)
        if not all(isinstance(item, bytes) for item in items):
            raise _wrong(name, "a list of bytes")
        return items

    def texts(self, name: str, most: int) -> list[str]:
        return [_text(name, item) for item in self.raws(name, most)]

    def numbers(self, name: str, most: int) -> list[float]:
        return [_number(name, item) for item in self.items(name, most)]

    def text_map(self, name: str, most: int) -> dict[str, str]:
        return {
            _text(name, key): _text(name, value)
            for key, value in self._map(name, most).items()
            if isinstance(value, bytes) or _refuse(name, "a map of texts")
        }

    def times(self, name: str, most: int) -> dict[str, int]:
        """A map from names to Lamport times."""
        return {
            _text(name, key): value
            for key, value in self._map(name, most).items()
            if _is_time(value) or _refuse(name, "a map of times")
        }

    def _map(self, name: str, most: int) -> dict[bytes, Any]:
        value = self.any(name)
        if value is None:
            return {}
        if not isinstance(value, dict) or len(value) > most:
            raise _wrong(name, f"a map of at most {most}")
        if not all(isinstance(key, bytes) for key in value):
            raise _wrong(name, "a map with names as keys")
        return value

    def _integer(self, name: str, least: int, most: int) -> int:
        value = self.any(name)
        if value is None:
            return 0
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise _wrong(name, f"an integer of {least} to {most}")
        return value


def _is_time(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as problem:
        raise RemoteProtocolError(f"{name} is not text: {problem}") from problem


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(name, "a number")
    return float(value)


def _wrong(name: str, wanted: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"{name} must be {wanted}")


def _refuse(name: str, wanted: str) -> bool:
    raise _wrong(name, wanted)
