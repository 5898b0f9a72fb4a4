"""Typed tables over the byte store: one prefix, one record type, keys made of ordered parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

import msgspec

from registry.storage.keys import STATE, encode_parts
from registry.storage.store import Reader, prefix_stop

T = TypeVar("T", bound=msgspec.Struct)


class Writer(Reader, Protocol):
    """What a command may do to the state: read it, with its own changes in place, and change it."""

    def put(self, key: bytes, value: bytes) -> None: ...
    def delete(self, key: bytes) -> None: ...


class Table(Generic[T]):
    """Records of one type under `s<name>00 00<key>`, in key order.

    The key of a record is its parts, encoded by `registry.storage.keys`; a part order that matches
    the common listing makes that listing one range. With `raw_tail` the last part of a full key is
    stored as it is, so that a prefix of it is a prefix of the stored key (KV needs that).
    """

    __slots__ = ("_decode", "_encode", "name", "prefix", "raw_tail")

    def __init__(self, name: str, record: type[T], *, raw_tail: bool = False) -> None:
        self.name = name
        self.prefix = STATE + encode_parts(name)
        self.raw_tail = raw_tail
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(record).decode

    def key(self, *parts: str) -> bytes:
        if self.raw_tail:
            return (
                self.prefix
                + encode_parts(*parts[:-1])
                + parts[-1].encode("utf-8", "surrogateescape")
            )
        return self.prefix + encode_parts(*parts)

    def get(self, reader: Reader, *parts: str) -> T | None:
        raw = reader.get(self.key(*parts))
        return None if raw is None else self._decode(raw)

    def decode(self, raw: bytes) -> T:
        return self._decode(raw)

    def put(self, writer: Writer, record: T, *parts: str) -> None:
        writer.put(self.key(*parts), self._encode(record))

    def delete(self, writer: Writer, *parts: str) -> None:
        writer.delete(self.key(*parts))

    def scan(
        self, reader: Reader, *parts: str, reverse: bool = False, limit: int | None = None
    ) -> Iterator[T]:
        """Records whose key begins with these parts: whole ones, but a raw tail may be cut."""
        for _, raw in self.scan_raw(reader, *parts, reverse=reverse, limit=limit):
            yield self._decode(raw)

    def scan_raw(
        self, reader: Reader, *parts: str, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Stored keys and values; the key without the table's prefix."""
        start = self.key(*parts) if parts else self.prefix
        cut = len(self.prefix)
        for key, raw in reader.scan(start, prefix_stop(start), reverse=reverse, limit=limit):
            yield key[cut:], raw
