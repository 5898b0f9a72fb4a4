"""Putting keys back to what they were, by transactions that do nothing if a key moved meanwhile.

Each operation names the write that it was planned against (`cas`, `delete-cas`), so that a
transaction is carried out as a whole on exactly the state that was looked at, or refused.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from .store import Version

#: What one transaction of the registry takes.
OPERATIONS_MAX = 64


class Present(msgspec.Struct, frozen=True):
    """What a key is now."""

    value: bytes
    flags: int
    modify_index: int


class Step(msgspec.Struct, frozen=True):
    """One key to be put back. `version` None: it is deleted. `cas` is the write to replace, 0 where
    there must be no key."""

    key: str
    cas: int
    version: Version | None

    def operation(self) -> dict[str, Any]:
        """As `/v1/txn` takes it."""
        if self.version is None:
            return {"KV": {"Verb": "delete-cas", "Key": self.key, "Index": self.cas}}
        return {
            "KV": {
                "Verb": "cas",
                "Key": self.key,
                "Index": self.cas,
                "Value": base64.b64encode(self.version.value or b"").decode(),
                "Flags": self.version.flags,
            }
        }

    def bytes_max(self) -> int:
        """The operation's size in a transaction is no more than this."""
        value = self.version.value if self.version is not None else None
        return 200 + 6 * len(self.key) + 4 * (len(value or b"") // 3 + 1)


def read_present(entries: Iterable[Mapping[str, Any]]) -> dict[str, Present]:
    """The answer of `/v1/kv/`, by key."""
    return {
        entry["Key"]: Present(
            base64.b64decode(entry["Value"] or ""), entry["Flags"], entry["ModifyIndex"]
        )
        for entry in entries
    }


def plan(present: Mapping[str, Present], wanted: Mapping[str, Version]) -> list[Step]:
    """What has to be done for `present` to be `wanted`, by key."""
    steps = []
    for key in sorted({*present, *wanted}, key=str.encode):
        now, then = present.get(key), wanted.get(key)
        if (
            now is not None
            and then is not None
            and (now.value, now.flags)
            == (
                then.value,
                then.flags,
            )
        ):
            continue
        steps.append(Step(key, now.modify_index if now is not None else 0, then))
    return steps


def transactions(steps: Sequence[Step], bytes_max: int) -> list[list[Step]]:
    """The steps in as few transactions as can take them, in order. A step that is larger than a
    transaction may be is alone."""
    found: list[list[Step]] = []
    room = 0
    for step in steps:
        size = step.bytes_max()
        if not found or len(found[-1]) == OPERATIONS_MAX or size > room:
            found.append([])
            room = bytes_max - 2
        found[-1].append(step)
        room -= size
    return found
