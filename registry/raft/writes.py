"""What was handed to the disk and is not reported durable yet (R-3)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from registry.raft.messages import HardState


@dataclass(slots=True)
class Write:
    """One `Ready` that has to be synced."""

    token: int
    last_index: int  # the log is durable up to here once this is; lowered when overwritten
    hard_state: HardState  # in force when it was handed out
    tick: int


class Writes:
    """Writes under way, in the order in which they were handed out and will complete."""

    __slots__ = ("_under_way",)

    def __init__(self) -> None:
        self._under_way: deque[Write] = deque()

    def add(self, write: Write) -> None:
        self._under_way.append(write)

    def cut(self, last_index: int) -> None:
        """The log was truncated behind `last_index`: what earlier writes put there no longer counts
        as ours when they complete."""
        for write in self._under_way:
            write.last_index = min(write.last_index, last_index)

    def complete(self, token: int) -> Write | None:
        """The last of the writes up to `token`, all durable now; None if there were none."""
        done = None
        while self._under_way and self._under_way[0].token <= token:
            done = self._under_way.popleft()
        return done

    def waiting_since(self) -> int | None:
        """The tick at which the oldest one was handed out."""
        return self._under_way[0].tick if self._under_way else None
