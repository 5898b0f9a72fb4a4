"""The key space of a node's store: who owns which prefix, and how composite keys are encoded.

    m...   meta      format version, node facts             (storage)
    r...   raft      hard state, log entries, snapshot meta (raft)
    s...   state     replicated tables and applied index    (state)
    a...   agent     what one agent remembers for itself    (agent)

A composite key is its parts one after another, each but the last ended by `00 00`, with `00`
inside a part written as `00 01`; so byte order is the order of the parts, and no part can be
mistaken for the beginning of the next.
"""

from __future__ import annotations

META, RAFT, STATE, AGENT = b"m", b"r", b"s", b"a"

_SEPARATOR = b"\x00\x00"


def encode_part(part: str | bytes) -> bytes:
    raw = part.encode() if isinstance(part, str) else part
    return raw.replace(b"\x00", b"\x00\x01") + _SEPARATOR


def encode_parts(*parts: str | bytes) -> bytes:
    """Every part ended by the separator: the prefix of all keys that continue with more parts."""
    return b"".join(map(encode_part, parts))


def encode_u64(number: int) -> bytes:
    """Eight bytes, big-endian: byte order is number order."""
    return number.to_bytes(8, "big")


def decode_u64(raw: bytes) -> int:
    return int.from_bytes(raw, "big")
