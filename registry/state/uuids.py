"""What is wrong with a text that ought to be a UUID; the texts are part of the API.

Ids of nodes have to be spelt the usual way. For ids of sessions the length counts and little else:
hyphens may stand anywhere.
"""

from __future__ import annotations

from typing import Final

_CHARACTERS: Final = 36
_HYPHENS_MAX: Final = 4
_HYPHENS_AT: Final = (8, 13, 18, 23)
_HEX_DIGITS: Final = frozenset(b"0123456789abcdefABCDEF")


def strict_flaw(text: str) -> str:
    """Why this is no UUID with its hyphens in place, "" if it is one."""
    spelt = _bytes(text)
    if len(spelt) != _CHARACTERS:
        return "uuid string is wrong length"
    if any(spelt[at] != ord("-") for at in _HYPHENS_AT):
        return "uuid is improperly formatted"
    return _hex_flaw(bytes(byte for at, byte in enumerate(spelt) if at not in _HYPHENS_AT))


def loose_flaw(text: str) -> str:
    """Why this can not be looked up as a UUID, "" if it can."""
    spelt = _bytes(text)
    if len(spelt) != _CHARACTERS:
        return "UUID must be 36 characters"
    hyphens = spelt.count(b"-")
    if hyphens > _HYPHENS_MAX:
        return f'UUID should have maximum of 4 "-"; got {hyphens}'
    digits = spelt.replace(b"-", b"")
    if len(digits) % 2:
        return "UUID (without hyphens) must be even length"
    flaw = _hex_flaw(digits)
    return f"Invalid UUID: {flaw}" if flaw else ""


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _hex_flaw(digits: bytes) -> str:
    for byte in digits:
        if byte not in _HEX_DIGITS:
            shown = f" '{chr(byte)}'" if chr(byte).isprintable() else ""
            return f"encoding/hex: invalid byte: U+{byte:04X}{shown}"
    return ""
