"""Intervals, aggregates, filters and the two forms in which metrics are read."""

import math

import pytest

from registry.agent.metrics import Aggregate, Metrics
from registry.agent.prometheus import render


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000_000.0

    def __call__(self) -> float:
        return self.now


def make(**options: object) -> tuple[Metrics, Clock]:
    clock = Clock()
    metrics = Metrics(clock=clock, **options)  # type: ignore[arg-type]
    metrics.collectors.clear()
    return metrics, clock


def test_an_aggregate_knows_extremes_mean_and_deviation() -> None:
    row = Aggregate()
    for value in (2, 4, 4, 4, 5, 5, 7, 9):
        row.add(value)
    assert (row.count, row.lowest, row.highest, row.mean) == (8, 2, 9, 5)
    assert math.isclose(row.deviation, math.sqrt(32 / 7))
    assert (row.quantile(0.5), row.quantile(0.99)) == (5, 9)
    assert Aggregate().deviation == 0
    assert math.isnan(Aggregate().quantile(0.5))


def test_what_is_shown_is_the_last_whole_interval() -> None:
    metrics, clock = make()
    metrics.count("rpc.query", 3)
    metrics.timer("kvs.apply").add(1.5)
    clock.now += 10
    metrics.count("rpc.query", 100)
    shown = metrics.summary()
    assert shown["Timestamp"] == "2001-09-09 01:46:40 +0000 UTC"
    assert shown["Counters"] == [
        {
            "Name": "consul.rpc.query",
            "Count": 1,
            "Rate": 0.3,
            "Sum": 3,
            "Min": 3,
            "Max": 3,
            "Mean": 3.0,
            "Stddev": 0.0,
            "Labels": {},
        }
    ]
    assert [row["Name"] for row in shown["Samples"]] == ["consul.kvs.apply"]


def test_a_counter_goes_on_into_the_next_interval() -> None:
    metrics, clock = make(filters=("-consul.odd",))
    counter, unwanted = metrics.counter("rpc.query"), metrics.counter("odd")
    for _ in range(2):
        counter.add(1)
        unwanted.add(1)
        clock.now += 10
    metrics.current()
    assert [(row["Name"], row["Sum"]) for row in metrics.summary()["Counters"]] == [
        ("consul.rpc.query", 1)
    ]


def test_a_timer_goes_on_into_the_next_interval() -> None:
    metrics, clock = make()
    timer = metrics.timer("raft.commitTime")
    for _ in range(3):
        timer.add(1)
        clock.now += 10
    timer.add(5)
    clock.now += 10
    assert [row["Sum"] for row in metrics.summary()["Samples"]] == [5]
    assert "consul_raft_commitTime_count 4\n" in render(metrics)
    assert "consul_raft_commitTime_sum 8\n" in render(metrics)


def test_gauges_carry_the_host_and_keep_their_value() -> None:
    metrics, clock = make(host="n1")
    metrics.gauge("runtime.alloc_bytes", 7)
    clock.now += 1000
    gauge = {"Name": "consul.n1.runtime.alloc_bytes", "Value": 7, "Labels": {}}
    assert metrics.summary()["Gauges"] == [gauge]


@pytest.mark.parametrize(
    ("filters", "default", "kept"),
    [
        ((), True, ["consul.a.x", "consul.a.y", "consul.b"]),
        (("-consul.a",), True, ["consul.b"]),
        (("-consul.a", "+consul.a.x"), True, ["consul.a.x", "consul.b"]),
        (("+consul.b",), False, ["consul.b"]),
    ],
)
def test_filters(filters: tuple[str, ...], default: bool, kept: list[str]) -> None:
    metrics, clock = make(filters=filters, filter_default=default)
    for name in ("a.x", "a.y", "b"):
        metrics.timer(name).add(1)
    clock.now += 10
    assert [row["Name"] for row in metrics.summary()["Samples"]] == kept


def test_prometheus_text() -> None:
    metrics, _ = make()
    metrics.gauge("raft.last_index", 5)
    metrics.count("client.rpc", 2)
    metrics.timer("http.GET.v1.kv._", service='a"b').add(1.5)
    assert render(metrics) == (
        "# HELP consul_raft_last_index consul_raft_last_index\n"
        "# TYPE consul_raft_last_index gauge\n"
        "consul_raft_last_index 5\n"
        "# HELP consul_client_rpc consul_client_rpc\n"
        "# TYPE consul_client_rpc counter\n"
        "consul_client_rpc 2\n"
        "# HELP consul_http_GET_v1_kv__ consul_http_GET_v1_kv__\n"
        "# TYPE consul_http_GET_v1_kv__ summary\n"
        'consul_http_GET_v1_kv__{service="a\\"b",quantile="0.5"} 1.5\n'
        'consul_http_GET_v1_kv__{service="a\\"b",quantile="0.9"} 1.5\n'
        'consul_http_GET_v1_kv__{service="a\\"b",quantile="0.99"} 1.5\n'
        'consul_http_GET_v1_kv___sum{service="a\\"b"} 1.5\n'
        'consul_http_GET_v1_kv___count{service="a\\"b"} 1\n'
    )


def test_the_process_is_measured_when_somebody_reads() -> None:
    gauges = {row["Name"]: row["Value"] for row in Metrics().summary()["Gauges"]}
    assert gauges["consul.runtime.alloc_bytes"] > 1_000_000
    assert gauges["consul.runtime.num_goroutines"] >= 1
