"""A change sink that keeps what it was told, for tests of what is told and when."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from registry.hooks import Change, ChangeSink, hookimpl

DEFAULT_KINDS = frozenset({"kv", "node", "service", "check", "member"})


class ChangeRecorder:
    """A plugin to hand to an agent in the test's process.

    `changes` is what a receiver that leaves out what it had before comes to; `deliveries` are all,
    those that were refused and those that came again included.
    """

    def __init__(
        self,
        *,
        kinds: frozenset[str] = DEFAULT_KINDS,
        where: str = "leader",
        batch_max: int = 500,
        wants_origin: bool = False,
    ) -> None:
        self.changes: list[Change] = []
        self.deliveries: list[list[Change]] = []
        self._refusals = 0
        self._grown = threading.Condition()
        self._sink = ChangeSink(
            name="recorder",
            deliver=self._deliver,
            kinds=kinds,
            where=where,
            batch_max=batch_max,
            wants_origin=wants_origin,
        )

    @hookimpl
    def registry_change_sinks(self) -> list[ChangeSink]:
        return [self._sink]

    def refuse(self, deliveries: int) -> None:
        """Have the next deliveries fail, after they were noted."""
        with self._grown:
            self._refusals = deliveries

    def wait_for(
        self, fits: Callable[[Sequence[Change]], bool], what: str = "", *, seconds: float = 20.0
    ) -> list[Change]:
        """The changes, once they fit; AssertionError when that takes too long."""
        with self._grown:
            if not self._grown.wait_for(lambda: fits(self.changes), seconds):
                told = [(each.index, each.kind, each.key) for each in self.changes[-20:]]
                raise AssertionError(f"not within {seconds:g} s: {what or fits}; last were {told}")
            return list(self.changes)

    def wait_for_key(self, key: str, *, kind: str = "kv", seconds: float = 20.0) -> Change:
        """The latest change of this key, once there is one."""

        def known(changes: Sequence[Change]) -> bool:
            return any((each.kind, each.key) == (kind, key) for each in changes)

        changes = self.wait_for(known, f"a change of {kind} {key}", seconds=seconds)
        return next(each for each in reversed(changes) if (each.kind, each.key) == (kind, key))

    def state(self, kind: str = "kv") -> dict[str, Any]:
        """What the changes of one kind come to: keys, and their values after the last change."""
        found: dict[str, Any] = {}
        with self._grown:
            for change in self.changes:
                if change.kind == "reset":
                    found.clear()
                elif change.kind == kind:
                    found[change.key] = change.value
        return {key: value for key, value in found.items() if value is not None}

    async def _deliver(self, changes: Sequence[Change]) -> None:
        with self._grown:
            self.deliveries.append(list(changes))
            if self._refusals:
                self._refusals -= 1
                raise ConnectionError("the test refuses this delivery")
            for change in changes:
                if change.kind == "reset" or not self._had(change):
                    self.changes.append(change)
            self._grown.notify_all()

    def _had(self, change: Change) -> bool:
        if not self.changes:
            return False
        last = self.changes[-1]
        return (change.index, change.sequence) <= (last.index, last.sequence)
