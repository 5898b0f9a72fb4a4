"""The agent's metrics told to plugins, each sink at its own interval."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from registry.agent.metrics import INTERVAL_S, Metrics
from registry.errors import RegistryError
from registry.hooks import Metric, MetricsSink
from registry.server.standing_tasks import StandingTasks

logger = logging.getLogger("registry.agent")


class MetricsFeed:
    """Tells sinks the last interval's metrics; their guards keep what goes wrong."""

    def __init__(self, metrics: Metrics, sinks: Sequence[MetricsSink] = ()) -> None:
        self._metrics = metrics
        self._tasks = StandingTasks(self._feed)
        self.replace(sinks)

    def replace(self, sinks: Sequence[MetricsSink]) -> None:
        """Tell these from now on."""
        self._tasks.replace({sink.name: sink for sink in sinks})

    async def run(self) -> None:
        """Tell them until cancelled."""
        await self._tasks.run()

    async def _feed(self, sink: MetricsSink) -> None:
        while True:
            await asyncio.sleep(max(sink.interval_s, INTERVAL_S))
            await self.tell(sink)

    async def tell(self, sink: MetricsSink) -> None:
        try:
            await sink.deliver(told(self._metrics.summary()))
        except RegistryError as problem:
            logger.debug("metrics were not taken: sink=%s error=%s", sink.name, problem)


def told(summary: dict[str, Any]) -> list[Metric]:
    """The series of `Metrics.summary`, as plugins are told of them."""
    gauges = [
        Metric(kind="gauge", name=row["Name"], labels=row["Labels"], value=row["Value"])
        for row in summary["Gauges"]
    ]
    others = [
        Metric(
            kind=kind,
            name=row["Name"],
            labels=row["Labels"],
            count=row["Count"],
            total=row["Sum"],
            lowest=row["Min"],
            highest=row["Max"],
            mean=row["Mean"],
        )
        for kind, table in (("counter", "Counters"), ("sample", "Samples"))
        for row in summary[table]
    ]
    return gauges + others
