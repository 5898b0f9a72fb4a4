"""What is done with the keys of gossip, and what the members of a pool say to it."""

from __future__ import annotations

import enum

import msgspec


class KeyOperation(enum.Enum):
    """What is done with a gossip key, by all members of the pools."""

    LIST = "list"
    INSTALL = "install"
    USE = "use"
    REMOVE = "remove"


class KeysCall(msgspec.Struct, frozen=True, array_like=True):
    """An operation for all pools of a server. `key` is empty for a list."""

    operation: KeyOperation
    key: bytes = b""
    relay_factor: int = 0


class PoolKeys(msgspec.Struct, frozen=True, kw_only=True):
    """What one pool said to a key operation: keys in base64, with how many nodes have them."""

    wan: bool
    nodes: int
    answers: int
    errors: int  # of those answers
    messages: dict[str, str]  # by node
    keys: dict[str, int]
    primary_keys: dict[str, int]
