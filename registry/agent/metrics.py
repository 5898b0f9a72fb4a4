"""What the agent measures about itself: gauges, counters and timers in intervals of 10 seconds.

Intervals are kept for a minute (surface 7). Names are given without the prefix; `Metrics` puts
`consul.` before them, and the host name before gauges unless that is turned off. A `Timer` is
looked up once and then costs a few additions for each value, so the hottest paths can afford it.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import math
import resource
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

INTERVAL_S = 10
INTERVALS_KEPT = 6

#: Values of a series that quantiles are made of.
RECENT_VALUES = 128

#: Name and labels of one series.
Series = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(slots=True)
class Aggregate:
    """Count, sum, extremes and spread of the values of one series in one interval."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    lowest: float = math.inf
    highest: float = -math.inf
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_VALUES))

    def add(self, value: float) -> None:
        self.count += 1
        self.recent.append(value)
        self.total += value
        self.squares += value * value
        if value < self.lowest:
            self.lowest = value
        if value > self.highest:
            self.highest = value

    def merge(self, other: Aggregate) -> None:
        """Add what another interval measured of the same series."""
        self.count += other.count
        self.total += other.total
        self.squares += other.squares
        self.lowest = min(self.lowest, other.lowest)
        self.highest = max(self.highest, other.highest)
        self.recent.extend(other.recent)

    def quantile(self, share: float) -> float:
        """Of the recent values; NaN when there are none."""
        if not self.recent:
            return math.nan
        ordered = sorted(self.recent)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    @property
    def deviation(self) -> float:
        """The sample's standard deviation; 0 for less than two values."""
        if self.count < 2:
            return 0.0
        spread = self.count * self.squares - self.total * self.total
        return math.sqrt(max(0.0, spread) / (self.count * (self.count - 1)))


@dataclass(slots=True)
class Interval:
    """What was measured in one interval."""

    start_s: int
    gauges: dict[Series, float] = field(default_factory=dict)
    counters: dict[Series, Aggregate] = field(default_factory=dict)
    samples: dict[Series, Aggregate] = field(default_factory=dict)


class _Handle:
    """One series, looked up once in an interval."""

    __slots__ = ("_aggregate", "_interval", "_metrics", "_series")

    def __init__(self, metrics: Metrics, series: Series) -> None:
        self._metrics, self._series = metrics, series
        self._interval: Interval | None = None
        self._aggregate = Aggregate()

    def _table(self, interval: Interval) -> dict[Series, Aggregate]:
        raise NotImplementedError

    def add(self, value: float) -> None:
        interval = self._metrics.current()
        if interval is not self._interval:
            self._interval = interval
            wanted = self._metrics.is_wanted(self._series[0])
            table = self._table(interval) if wanted else {}
            self._aggregate = table.setdefault(self._series, Aggregate())
        self._aggregate.add(value)


class Timer(_Handle):
    """Samples in milliseconds."""

    __slots__ = ()

    def _table(self, interval: Interval) -> dict[Series, Aggregate]:
        return interval.samples


class Counter(_Handle):
    """Something that is counted often."""

    __slots__ = ()

    def _table(self, interval: Interval) -> dict[Series, Aggregate]:
        return interval.counters


class Metrics:
    """All series of one agent. Not for several threads: it belongs to the event loop.

    `clock` gives seconds since 1970.
    """

    def __init__(
        self,
        *,
        prefix: str = "consul",
        host: str = "",
        filters: tuple[str, ...] = (),
        filter_default: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._prefix, self._host, self._clock = prefix, host, clock
        self.set_filters(filters, filter_default)
        self._intervals: deque[Interval] = deque(maxlen=INTERVALS_KEPT)
        self._next_s = 0.0
        #: Called before a reading, to set the gauges that are only looked up then.
        self.collectors: list[Callable[[Metrics], None]] = [runtime_gauges]
        self._gauges: dict[Series, float] = {}
        self._counted: dict[Series, Aggregate] = {}
        self._sampled: dict[Series, Aggregate] = {}

    def set_filters(self, filters: tuple[str, ...], default: bool) -> None:
        """`+prefix` lets series pass, `-prefix` drops them, `default` is for all others."""
        self._default = default
        self._allowed = tuple(text[1:] for text in filters if text.startswith("+"))
        self._dropped = tuple(text[1:] for text in filters if text.startswith("-"))

    def is_wanted(self, name: str) -> bool:
        """Whether a series of this full name is kept; the longest filter that fits decides."""
        allowed = max((len(item) for item in self._allowed if name.startswith(item)), default=-1)
        dropped = max((len(item) for item in self._dropped if name.startswith(item)), default=-1)
        return self._default if allowed == dropped else allowed > dropped

    def current(self) -> Interval:
        """The interval that the clock is in."""
        now = self._clock()
        if now >= self._next_s or now < self._next_s - 2 * INTERVAL_S:
            self._open(int(now) // INTERVAL_S * INTERVAL_S)
        return self._intervals[-1]

    def _open(self, start_s: int) -> None:
        if self._intervals:
            self._fold(self._intervals[-1])
        self._intervals.append(Interval(start_s))
        self._next_s = start_s + INTERVAL_S

    def _fold(self, interval: Interval) -> None:
        """Add a closed interval to what Prometheus is told, which counts since the start."""
        self._merge(interval.counters, self._counted)
        self._merge(interval.samples, self._sampled)

    def _merge(self, table: dict[Series, Aggregate], totals: dict[Series, Aggregate]) -> None:
        for series, aggregate in table.items():
            totals.setdefault(series, Aggregate()).merge(aggregate)

    def cumulative(
        self,
    ) -> tuple[dict[Series, float], dict[Series, Aggregate], dict[Series, Aggregate]]:
        """Gauges as last set; counters and samples since the start."""
        current = self.current()
        counters, samples = copy.deepcopy(self._counted), copy.deepcopy(self._sampled)
        self._merge(current.counters, counters)
        self._merge(current.samples, samples)
        return dict(self._gauges), counters, samples

    def gauge(self, name: str, value: float, **labels: str) -> None:
        host = f"{self._host}." if self._host else ""
        series = self._series(host + name, labels)
        if self.is_wanted(series[0]):
            self.current().gauges[series] = value
            self._gauges[series] = value

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        series = self._series(name, labels)
        if self.is_wanted(series[0]):
            self.current().counters.setdefault(series, Aggregate()).add(amount)

    def timer(self, name: str, **labels: str) -> Timer:
        """The handle for one series of milliseconds; keep it where it is used often."""
        return Timer(self, self._series(name, labels))

    def counter(self, name: str, **labels: str) -> Counter:
        """The same for a count."""
        return Counter(self, self._series(name, labels))

    @contextmanager
    def measure(self, name: str, **labels: str) -> Iterator[None]:
        """Time a block, also when it raises."""
        started = time.perf_counter_ns()
        try:
            yield
        finally:
            self.timer(name, **labels).add((time.perf_counter_ns() - started) / 1_000_000)

    def _series(self, name: str, labels: dict[str, str]) -> Series:
        return f"{self._prefix}.{name}" if self._prefix else name, tuple(sorted(labels.items()))

    def collect(self) -> None:
        """Have every gauge that is only looked up when somebody reads set now."""
        for collector in self.collectors:
            collector(self)

    def latest(self) -> Interval:
        """The last closed interval, or the open one when there is no other yet."""
        self.collect()
        current = self.current()
        return self._intervals[-2] if len(self._intervals) > 1 else current

    def summary(self) -> dict[str, Any]:
        """The body of `/v1/agent/metrics`."""
        interval = self.latest()
        return {
            "Timestamp": _stamp(interval.start_s),
            "Gauges": [
                {"Name": name, "Value": value, "Labels": dict(labels)}
                for (name, labels), value in sorted(self._gauges.items())
            ],
            "Points": [],
            "Counters": [_row(item) for item in sorted(interval.counters.items(), key=_by_series)],
            "Samples": [_row(item) for item in sorted(interval.samples.items(), key=_by_series)],
        }


def runtime_gauges(metrics: Metrics) -> None:
    """What the interpreter and the kernel tell about this process, under the names that dashboards
    of Go programs use: objects are memory blocks, goroutines are tasks and threads."""
    size_pages, resident_pages = _memory_pages()
    page = resource.getpagesize()
    collections = gc.get_stats()
    metrics.gauge("runtime.alloc_bytes", resident_pages * page)
    metrics.gauge("runtime.sys_bytes", size_pages * page)
    metrics.gauge("runtime.heap_objects", sys.getallocatedblocks())
    metrics.gauge("runtime.num_goroutines", _task_count() + threading.active_count())
    metrics.gauge("runtime.total_gc_runs", sum(item["collections"] for item in collections))


def _memory_pages() -> tuple[int, int]:
    """Size and resident part of this process in pages; zeros where the kernel does not tell."""
    try:
        size, resident = Path("/proc/self/statm").read_text().split()[:2]
    except OSError:
        return 0, 0
    return int(size), int(resident)


def _task_count() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:  # no loop is running
        return 0


def _by_series(item: tuple[Series, Aggregate]) -> Series:
    return item[0]


def _row(item: tuple[Series, Aggregate]) -> dict[str, Any]:
    (name, labels), aggregate = item
    return {
        "Name": name,
        "Count": aggregate.count,
        "Rate": aggregate.total / INTERVAL_S,
        "Sum": aggregate.total,
        "Min": aggregate.lowest,
        "Max": aggregate.highest,
        "Mean": aggregate.mean,
        "Stddev": aggregate.deviation,
        "Labels": dict(labels),
    }


def _stamp(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S +0000 UTC")
