"""Signatures: who knows the secret can tell that a request is ours and from now.

What is signed is the time, a full stop and the body, so that nobody can send an old body again
under a new time. A receiver in Python may use `verify` as it is.
"""

from __future__ import annotations

import hashlib
import hmac

TIMESTAMP_HEADER = "x-registry-timestamp"
SIGNATURE_HEADER = "x-registry-signature"

#: How far the clocks of sender and receiver may be apart.
TOLERANCE_S = 300


def sign(secret: str, timestamp: int, body: bytes) -> str:
    """The value of the signature header; `timestamp` is in seconds since 1970."""
    signed = b"%d." % timestamp + body
    return "v1=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def verify(secret: str, timestamp: str, signature: str, body: bytes, now: float) -> bool:
    """Whether a request with these headers is ours and less than `TOLERANCE_S` old."""
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 20):
        return False
    expected = sign(secret, int(timestamp), body)
    return hmac.compare_digest(expected.encode(), signature.encode()) and (
        abs(now - int(timestamp)) <= TOLERANCE_S
    )
