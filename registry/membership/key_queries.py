"""Changing the pool's encryption keys while it runs, by queries that every member obeys.

A rotation is three of them: install the new key everywhere, use it everywhere, remove the old one.
The order matters, because a query that makes a key primary already travels under that key.

Source: gossip sheet, section 10.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from registry.errors import Rejected, RemoteProtocolError
from registry.membership.serf_messages import KeyRequest, KeyResponse, decode, encode

INSTALL, USE, REMOVE, LIST = (
    "_serf_install-key",
    "_serf_use-key",
    "_serf_remove-key",
    "_serf_list-keys",
)

NO_KEYRING = "No keyring to modify (encryption not enabled)"


class Ring(Protocol):
    """The keyring as key queries change it. Each change raises `Rejected` when it must not be."""

    @property
    def keys(self) -> Sequence[bytes]:
        """Primary first."""
        ...

    def install(self, key: bytes) -> None: ...
    def use(self, key: bytes) -> None: ...
    def remove(self, key: bytes) -> None: ...


class KeyringResult(msgspec.Struct, frozen=True):
    """What the pool said to a key query: `keys` counts, per base64 key, the nodes that have it."""

    nodes: int
    answers: int = 0
    errors: int = 0
    messages: dict[str, str] = {}
    keys: dict[str, int] = {}
    primary_keys: dict[str, int] = {}

    @property
    def is_complete(self) -> bool:
        """Everybody answered, and nobody failed."""
        return self.answers == self.nodes and self.errors == 0


def is_key_query(name: str) -> bool:
    return name in (INSTALL, USE, REMOVE, LIST)


def encode_request(key: bytes = b"") -> bytes:
    """The payload of a key query; listing takes no key."""
    return encode(KeyRequest(key))


def obey(name: str, payload: bytes, ring: Ring | None) -> KeyResponse:
    """Do what the query says, at once, and give the answer to it."""
    if ring is None:
        return KeyResponse(result=False, message=NO_KEYRING)
    try:
        request = decode(payload)
        if not isinstance(request, KeyRequest):
            raise RemoteProtocolError("the payload is no key request")
        if name == LIST:
            keys = tuple(b64encode(key).decode() for key in ring.keys)
            return KeyResponse(result=True, keys=keys, primary_key=keys[0])
        _CHANGES[name](ring, request.key)
    except (Rejected, RemoteProtocolError) as problem:
        return KeyResponse(result=False, message=str(problem))
    return KeyResponse(result=True)


_CHANGES: dict[str, Callable[[Ring, bytes], None]] = {
    INSTALL: lambda ring, key: ring.install(key),
    USE: lambda ring, key: ring.use(key),
    REMOVE: lambda ring, key: ring.remove(key),
}


def encode_within(response: KeyResponse, bytes_max: int) -> bytes:
    """`response` as a payload; a list of keys that is too long is cut, and says so."""
    encoded = encode(response)
    keys = response.keys or ()
    shown = len(keys)
    while len(encoded) > bytes_max and shown > 0:
        shown -= 1
        cut = f"truncated key list response, showing first {shown} of {len(keys)} keys"
        encoded = encode(msgspec.structs.replace(response, keys=keys[:shown], message=cut))
    return encoded


def tally(nodes: int, answers: dict[str, bytes]) -> KeyringResult:
    """Sum up the answers (node name to payload) of a pool with `nodes` live members."""
    errors, messages = 0, {}
    keys: dict[str, int] = {}
    primary_keys: dict[str, int] = {}
    for node, payload in answers.items():
        response = _response(payload)
        if not response.result:
            errors += 1
        if response.message:
            messages[node] = response.message
        for key in response.keys or ():
            keys[key] = keys.get(key, 0) + 1
        if response.primary_key:
            primary_keys[response.primary_key] = primary_keys.get(response.primary_key, 0) + 1
    return KeyringResult(nodes, len(answers), errors, messages, keys, primary_keys)


def _response(payload: bytes) -> KeyResponse:
    try:
        response = decode(payload)
    except RemoteProtocolError as problem:
        return KeyResponse(result=False, message=f"unreadable answer: {problem}")
    if isinstance(response, KeyResponse):
        return response
    return KeyResponse(result=False, message="unreadable answer: no key response")
