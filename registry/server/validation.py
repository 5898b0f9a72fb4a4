"""Writes of keys shown to plugins before they are proposed, on the server that received them.

A validator refuses by raising `WriteRefused`; its text and status reach the client. What a plugin
does for any other reason is its own failure, and then the validator's `on_failure` decides. Nothing
of this is replicated: the log holds only what was let through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from registry.hooks import KvValidator, KvWrite, Origin, WriteRefused
from registry.state.base import Command, Refused
from registry.state.kv import KvCas, KvDelete, KvDeleteCas, KvDeleteTree, KvSet
from registry.state.locks import KvLock, KvUnlock
from registry.state.txn import KvOperation, Txn, is_write

#: How a refusal's status travels to the face that answers the client.
_KINDS = {400: "bad-request", 403: "forbidden"}

DELETE_TREE = "delete-tree"

#: What each command is called to validators; the words of transactions.
_VERBS: dict[type[Command], str] = {
    KvSet: "set",
    KvCas: "cas",
    KvLock: "lock",
    KvUnlock: "unlock",
    KvDelete: "delete",
    KvDeleteCas: "delete-cas",
    KvDeleteTree: DELETE_TREE,
}


class Validation:
    """Asks the validators about a command."""

    def __init__(self, validators: Sequence[KvValidator]) -> None:
        self._validators = list(validators)

    async def judge(self, command: Command) -> Refused | None:
        """Why the command is not to be proposed; None lets it pass."""
        for write in kv_writes(command):
            for validator in self._validators:
                if _concerns(write, validator.prefix):
                    try:
                        await validator.validate(write)  # async: its guard made it so
                    except WriteRefused as refusal:
                        kind = _KINDS.get(refusal.status, "bad-request")
                        return Refused(refusal.text, kind)
        return None


def kv_writes(command: Command) -> Iterator[KvWrite]:
    """What a command would write to keys, in order; reads and checks are left out."""
    origin = command.origin
    told = Origin(origin.client, origin.reason) if origin is not None else None
    if isinstance(command, Txn):
        for operation in command.operations:
            if isinstance(operation, KvOperation) and is_write(operation):
                value = None if operation.verb.startswith("delete") else operation.value
                yield _write(operation.verb, operation.key, value, operation.flags, told)
        return
    verb = _VERBS.get(type(command))
    if isinstance(command, KvSet | KvCas | KvLock | KvUnlock):
        yield _write(verb or "", command.key, command.value, command.flags, told)
    elif isinstance(command, KvDelete | KvDeleteCas):
        yield _write(verb or "", command.key, None, 0, told)
    elif isinstance(command, KvDeleteTree):
        yield _write(DELETE_TREE, command.prefix, None, 0, told)


def _write(
    verb: str, key: bytes, value: bytes | None, flags: int, origin: Origin | None
) -> KvWrite:
    name = key.decode("utf-8", "surrogateescape")
    return KvWrite(verb=verb, key=name, value=value, flags=flags, origin=origin)


def _concerns(write: KvWrite, prefix: str) -> bool:
    """A tree concerns a validator also when the keys it watches are only part of it."""
    if write.verb == DELETE_TREE and prefix.startswith(write.key):
        return True
    return write.key.startswith(prefix)
