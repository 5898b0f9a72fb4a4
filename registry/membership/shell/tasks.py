"""What runs beside the loop: streams and writes, none of which outlives it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class PoolTasks:
    """Children of the group that `GossipPool.run` opens."""

    def __init__(self) -> None:
        self._group: asyncio.TaskGroup | None = None
        self._spawned: set[asyncio.Task[None]] = set()

    @property
    def are_open(self) -> bool:
        return self._group is not None

    def open(self, group: asyncio.TaskGroup) -> None:
        self._group = group

    def close(self) -> None:
        """Nothing new is begun."""
        self._group = None

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self._group is None:  # not yet, or no longer
            work.close()
            return
        task = self._group.create_task(work)
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)

    def cancel(self) -> None:
        for task in self._spawned:
            task.cancel()
