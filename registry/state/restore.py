"""Replacing the whole state by that of a snapshot, as ordinary commands.

The pieces of the snapshot are staged under keys of their own, one command each; the last command
puts all of them in place of everything else at once. So a restore is replicated, survives a crash
at any moment and is seen by readers as one change. It needs the memory of one whole state, once.
"""

from __future__ import annotations

import hashlib

import msgspec

from registry.state.base import Command, Refused, Transaction
from registry.state.topics import ALL
from registry.storage.keys import STATE, encode_parts, encode_u64
from registry.storage.store import prefix_stop

_STAGED = STATE + encode_parts("restore")
_STOP = prefix_stop(STATE) or b""

#: Belongs to the machine, not to the state that it keeps.
_APPLIED = STATE + encode_parts("applied")

_pairs_decoder = msgspec.msgpack.Decoder(list[bytes])


class StageRestore(Command, frozen=True, kw_only=True, tag="restore-stage"):
    """Keep one piece: a MessagePack list of keys and values by turns. The first piece of a restore
    (number 0) drops what an earlier one has left."""

    number: int
    pairs: bytes

    def apply(self, tx: Transaction) -> None:
        if self.number == 0:
            _drop(tx, _STAGED, prefix_stop(_STAGED) or b"")
        tx.put(_STAGED + encode_u64(self.number), self.pairs)


class FinishRestore(Command, frozen=True, kw_only=True, tag="restore-finish"):
    """Replace the state by the staged pieces, if they are `count` pieces of this SHA-256."""

    count: int
    sha256: str

    def apply(self, tx: Transaction) -> Refused | None:
        pieces = [value for _, value in tx.scan(_STAGED, prefix_stop(_STAGED) or b"")]
        if len(pieces) != self.count or digest(pieces) != self.sha256:
            return Refused("another restore came in between; nothing was restored", "conflict")
        _drop(tx, STATE, _STOP)
        for piece in pieces:
            pairs = _pairs_decoder.decode(piece)
            for key, value in zip(pairs[::2], pairs[1::2], strict=True):
                if key != _APPLIED and not key.startswith(_STAGED):
                    tx.put(key, value)
        tx.touch(ALL)
        return None


def digest(pieces: list[bytes]) -> str:
    """SHA-256 of the pieces, one after another."""
    whole = hashlib.sha256()
    for piece in pieces:
        whole.update(piece)
    return whole.hexdigest()


def _drop(tx: Transaction, start: bytes, stop: bytes) -> None:
    for key in [key for key, _ in tx.scan(start, stop)]:
        if key != _APPLIED:
            tx.delete(key)
