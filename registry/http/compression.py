"""gzip, when the client takes it."""

from __future__ import annotations

import re
import zlib

#: Short answers are most of them; a low level costs a third of the default's time and a few percent
#: of size.
LEVEL = 3

_WEIGHT = re.compile(r"(?:0(?:\.[0-9]*)?|1(?:\.0*)?|\.[0-9]+)")


def accepts_gzip(header: str) -> bool:
    """Whether `Accept-Encoding` lists gzip with a weight above 0. `*` does not count (observed)."""
    if "gzip" not in header and "gzip" not in header.lower():
        return False
    for part in header.lower().split(","):
        coding, *parameters = (piece.strip() for piece in part.split(";"))
        if coding == "gzip":
            return _weight(parameters) > 0
    return False


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            value = value.strip()
            return float(value) if _WEIGHT.fullmatch(value) else 1.0
    return 1.0


def compress(body: bytes) -> bytes:
    """`body` as one gzip member, without a time stamp: equal answers are equal bytes."""
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, 31)
    return packer.compress(body) + packer.flush()
