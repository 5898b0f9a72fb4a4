"""Quoting of names and listing of reasons in messages, the way the API's texts have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_ESCAPES: Final = {
    '"': '\\"',
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}


def quote(text: str | bytes) -> str:
    """The text in double quotes, unprintable characters and bytes that are no UTF-8 escaped."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    return '"' + "".join(map(_escaped, text)) + '"'


def listed(reasons: Sequence[str]) -> str:
    """Several reasons, or one, as one text of several lines."""
    head = "1 error" if len(reasons) == 1 else f"{len(reasons)} errors"
    return f"{head} occurred:\n" + "".join(f"\t* {reason}\n" for reason in reasons) + "\n"


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # stands for a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
