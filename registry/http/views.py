"""How the API spells and shows an object: the base of all views."""

from __future__ import annotations

import msgspec

_ACRONYMS = {"id": "ID", "http": "HTTP", "tls": "TLS", "tcp": "TCP", "ttl": "TTL", "grpc": "GRPC"}


def spelled(name: str) -> str:
    """The API's spelling of a field name: "service_id" is "ServiceID"."""
    return "".join(_ACRONYMS.get(word, word.capitalize()) for word in name.split("_"))


class View(msgspec.Struct, frozen=True, rename=spelled):
    """An object as the API shows it; fields are encoded in the order in which they stand here."""
