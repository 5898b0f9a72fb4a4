"""Output that changed while the status did not: it reaches the catalog only after a while."""

from __future__ import annotations

import heapq
import random

from registry.agent.clock import Clock
from registry.agent.definitions import SECOND
from registry.agent.local.records import LocalCheck, Records
from registry.agent.local.sync_marks import SyncMarks


class DeferredOutputs:
    """Which checks are to be marked for their output, and when."""

    def __init__(
        self, records: Records, marks: SyncMarks, *, clock: Clock, chance: random.Random
    ) -> None:
        self._records = records
        self._marks = marks
        self._clock = clock
        self._chance = chance
        self._due: list[tuple[float, str]] = []  # heap; outdated entries are skipped

    def defer(self, check: LocalCheck, interval_ns: int) -> None:
        """Between a half and one and a half intervals from the first change on, so that the checks
        of many agents, which all change at once after an incident, do not write at once too."""
        if check.output_due is not None:
            return
        interval_s = interval_ns / SECOND
        due = self._clock.monotonic() + interval_s * self._chance.uniform(0.5, 1.5)
        check.output_due = due
        heapq.heappush(self._due, (due, check.check_id))
        self._marks.wake()

    def next_due(self) -> float | None:
        """When deferred output is next to be written, on the clock's monotonic time."""
        return self._due[0][0] if self._due else None

    def release_due(self) -> None:
        """Mark checks whose deferred output is due."""
        now = self._clock.monotonic()
        while self._due and self._due[0][0] <= now:
            due, check_id = heapq.heappop(self._due)
            check = self._records.checks.get(check_id)
            if check is not None and check.output_due == due:
                check.output_due = None
                self._marks.mark_check(check)
