"""Encryption of gossip: the ring of keys, and what one message looks like under a key.

    version (1) | nonce (12) | ciphertext and tag (16)          AES-GCM, key of 16, 24 or 32 bytes

The first key of the ring is the primary: it alone encrypts, all decrypt. So a pool changes its key
without a moment of deafness: install the new key everywhere, use it everywhere, remove the old one.

Source: gossip sheet, sections 2.6 and 10.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from registry.errors import Rejected, RemoteProtocolError

KEY_SIZES = (16, 24, 32)

#: What encryption as we send it (version 1) adds to a message.
OVERHEAD_BYTES = 29

_NONCE_BYTES = 12
_TAG_BYTES = 16
_BLOCK_BYTES = 16

#: Version 0 pads to whole blocks; only ancient agents send it, but everybody has to read it.
PADDED, PLAIN = 0, 1


class Keyring:
    """The keys of a pool, primary first. Never empty: without keys there is no ring.

    `new_nonce` gives 12 bytes that must not repeat under one key.
    """

    def __init__(
        self,
        keys: Iterable[bytes],
        new_nonce: Callable[[], bytes] = lambda: secrets.token_bytes(_NONCE_BYTES),
    ) -> None:
        self._ciphers: dict[bytes, AESGCM] = {}
        self._new_nonce = new_nonce
        for key in keys:
            self.install(key)
        if not self._ciphers:
            raise Rejected("a keyring needs at least one key")

    @property
    def keys(self) -> tuple[bytes, ...]:
        """Primary first."""
        return tuple(self._ciphers)

    def install(self, key: bytes) -> None:
        """Accept the key; one that is there already stays where it is."""
        if len(key) not in KEY_SIZES:
            raise Rejected("key size must be 16, 24 or 32 bytes")
        self._ciphers.setdefault(key, AESGCM(key))

    def use(self, key: bytes) -> None:
        """Make an installed key the primary."""
        if key not in self._ciphers:
            raise Rejected("Requested key is not in the keyring")
        self._ciphers = {key: self._ciphers[key], **self._ciphers}

    def remove(self, key: bytes) -> None:
        """Forget a key; one that is not there is fine."""
        if key == self.keys[0]:
            raise Rejected("Removing the primary key is not allowed")
        self._ciphers.pop(key, None)

    def encrypt(
        self,
        plaintext: bytes,
        *,
        associated: bytes | None = None,
        version: int = PLAIN,
        nonce: bytes | None = None,
    ) -> bytes:
        """`plaintext` under the primary key; `associated` is authenticated along, not sent."""
        nonce = nonce or self._new_nonce()
        assert len(nonce) == _NONCE_BYTES, "a nonce has 12 bytes"
        if version == PADDED:
            plaintext = _pad(plaintext)
        cipher = next(iter(self._ciphers.values()))
        return bytes([version]) + nonce + cipher.encrypt(nonce, plaintext, associated)

    def decrypt(self, payload: bytes, *, associated: bytes | None = None) -> bytes:
        """The plaintext. Raises `RemoteProtocolError` when no key of the ring opens `payload`."""
        if len(payload) < 1 + _NONCE_BYTES + _TAG_BYTES or payload[0] not in (PADDED, PLAIN):
            raise RemoteProtocolError("this is not an encrypted message")
        nonce, ciphertext = payload[1 : 1 + _NONCE_BYTES], payload[1 + _NONCE_BYTES :]
        for cipher in self._ciphers.values():
            try:
                plaintext = cipher.decrypt(nonce, ciphertext, associated)
            except InvalidTag:
                continue
            return plaintext if payload[0] == PLAIN else _unpad(plaintext)
        raise RemoteProtocolError("no installed key could decrypt the message")


def sealed_length(plaintext_length: int, version: int = PLAIN) -> int:
    """How long the encrypted form will be: streams authenticate the length in front of it."""
    padding = _BLOCK_BYTES - plaintext_length % _BLOCK_BYTES if version == PADDED else 0
    return plaintext_length + padding + OVERHEAD_BYTES


def _pad(plaintext: bytes) -> bytes:
    count = _BLOCK_BYTES - len(plaintext) % _BLOCK_BYTES
    return plaintext + bytes([count]) * count


def _unpad(padded: bytes) -> bytes:
    count = padded[-1] if padded else 0
    if not 1 <= count <= _BLOCK_BYTES or padded[-count:] != bytes([count]) * count:
        raise RemoteProtocolError("the padding of an encrypted message is damaged")
    return padded[:-count]
