"""What a run did, step by step: as a fingerprint to compare, and as lines to read."""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

from registry.raft.ready import Ready
from registry.testing.clock import Schedule


class Trace:
    """`fingerprint` is equal when all that the cores wanted was, in order and time."""

    def __init__(self, schedule: Schedule, write: Callable[[str], None] | None) -> None:
        """Lines are handed to `write` if there is one."""
        self.fingerprint = 0
        self._schedule = schedule
        self._write = write

    def note(self, server: str, ready: Ready) -> None:
        """What a core wants: part of the fingerprint, and a line."""
        line = f"{self._schedule.now} {server} {ready}"
        self.fingerprint = crc32(line.encode(), self.fingerprint)
        if self._write is not None:
            self._write(line)

    def say(self, line: str) -> None:
        """What is done to the cluster: a line only."""
        if self._write is not None:
            self._write(f"{self._schedule.now} ---- {line}")
