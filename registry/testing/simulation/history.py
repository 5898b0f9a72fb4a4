"""What the clients saw, which must look as if one server had done it all, one by one (I-13)."""

from __future__ import annotations

from registry.testing.checkers import Violation
from registry.testing.clock import Schedule
from registry.testing.linearizability import NEVER, Operation, explain_violation


class History:
    """The operations of all clients by key, and the writes of which nobody knows the outcome."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._operations: dict[str, list[Operation]] = {}
        self._unknown_writes: dict[str, tuple[str, int]] = {}  # value -> key, start

    def __len__(self) -> int:
        return sum(map(len, self._operations.values()))

    def write_begins(self, key: str, value: str) -> None:
        """From now on the value may be seen. No two writes have the same."""
        self._unknown_writes[value] = (key, self._schedule.now)

    def write_refused(self, value: str) -> None:
        """It never took effect, and never will."""
        self._unknown_writes.pop(value, None)

    def finished(self, key: str, is_write: bool, value: str | None, start: int) -> None:
        """An operation begun at `start` was acknowledged just now."""
        if is_write and value is not None:
            self._unknown_writes.pop(value, None)
        self._add(key, Operation(is_write, value, start, self._schedule.now))

    def check(self) -> None:
        """Raises `Violation`. To be called once, at the end: unknown writes become part of it."""
        for value, (key, start) in self._unknown_writes.items():
            self._add(key, Operation(True, value, start, NEVER))
        for key, operations in sorted(self._operations.items()):
            reason = explain_violation(operations)
            if reason:
                raise Violation("I-13", f"the history of {key} is not linearizable: {reason}")

    def _add(self, key: str, operation: Operation) -> None:
        self._operations.setdefault(key, []).append(operation)
