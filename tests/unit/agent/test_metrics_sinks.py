"""The agent's metrics are told to plugins."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from registry.agent import metrics_sinks
from registry.agent.metrics import Metrics
from registry.agent.metrics_sinks import MetricsFeed
from registry.hooks import Metric, MetricsSink, hookimpl
from registry.plugins import Plugins
from registry.testing.servers import until


class Sinks:
    def __init__(self) -> None:
        self.told: list[Sequence[Metric]] = []
        self.broken = False

    async def deliver(self, metrics: Sequence[Metric]) -> None:
        self.told.append(metrics)
        if self.broken:
            raise OSError("no connection")

    @hookimpl
    def registry_metrics_sinks(self) -> list[MetricsSink]:
        return [MetricsSink(name="mine", deliver=self.deliver)]


@pytest.fixture
def plugins() -> Iterator[Plugins]:
    plugins = Plugins()
    yield plugins
    plugins.close()


async def test_registry_metrics_sinks(plugins: Plugins) -> None:
    sinks = Sinks()
    plugins.add("mine", sinks)
    metrics = Metrics(clock=lambda: 1000.0)
    metrics.collectors.clear()
    metrics.gauge("members", 3, pool="lan")
    metrics.count("writes", 2)
    metrics.timer("apply").add(5)
    (sink,) = plugins.metrics_sinks()
    await MetricsFeed(metrics, [sink]).tell(sink)
    assert sinks.told == [
        [
            Metric(kind="gauge", name="consul.members", labels={"pool": "lan"}, value=3),
            Metric(
                kind="counter",
                name="consul.writes",
                labels={},
                count=1,
                total=2,
                lowest=2,
                highest=2,
                mean=2,
            ),
            Metric(
                kind="sample",
                name="consul.apply",
                labels={},
                count=1,
                total=5,
                lowest=5,
                highest=5,
                mean=5,
            ),
        ]
    ]


async def test_a_sink_that_fails_harms_nobody(plugins: Plugins) -> None:
    sinks = Sinks()
    sinks.broken = True
    plugins.add("mine", sinks)
    (sink,) = plugins.metrics_sinks()
    await MetricsFeed(Metrics(), [sink]).tell(sink)
    (report,) = plugins.report()
    assert report["Errors"] == ["registry_metrics_sinks: OSError: no connection"]


async def test_sinks_that_come_later_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_sinks, "INTERVAL_S", 0.01)
    told: list[Sequence[Metric]] = []

    async def deliver(metrics: Sequence[Metric]) -> None:
        told.append(metrics)

    feed = MetricsFeed(Metrics())
    async with asyncio.TaskGroup() as group:
        running = group.create_task(feed.run())
        await asyncio.sleep(0)
        feed.replace([MetricsSink(name="late", deliver=deliver, interval_s=0.01)])
        await until(lambda: len(told) > 1)
        running.cancel()
