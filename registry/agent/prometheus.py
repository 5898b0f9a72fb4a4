"""The agent's metrics as Prometheus' text format, version 0.0.4."""

from __future__ import annotations

import re
from typing import TypeVar

from registry.agent.metrics import Aggregate, Metrics, Series

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

QUANTILES = ("0.5", "0.9", "0.99")

T = TypeVar("T")

#: Names and values of one series, in order.
Labels = tuple[tuple[str, str], ...]

_FORBIDDEN = re.compile(r"[^a-zA-Z0-9_:]")


def render(metrics: Metrics) -> str:
    """Everything measured since the start: gauges as last set, counters and summaries as sums.

    Quantiles are of the intervals that are kept; a summary without values there shows NaN.
    """
    metrics.collect()
    gauges, counters, samples = metrics.cumulative()
    lines: list[str] = []
    for name, rows in _by_name(gauges):
        lines += _head(name, "gauge")
        lines += [f"{name}{_labels(labels)} {_number(value)}" for labels, value in rows]
    for name, counts in _by_name(counters):
        lines += _head(name, "counter")
        lines += [f"{name}{_labels(labels)} {_number(row.total)}" for labels, row in counts]
    for name, summaries in _by_name(samples):
        lines += _head(name, "summary")
        for labels, row in summaries:
            lines += _summary(name, labels, row)
    return "\n".join(lines) + "\n"


def _head(name: str, kind: str) -> list[str]:
    return [f"# HELP {name} {name}", f"# TYPE {name} {kind}"]


def _summary(name: str, labels: Labels, row: Aggregate) -> list[str]:
    lines = []
    for quantile in QUANTILES:
        value = _number(row.quantile(float(quantile)))
        lines.append(f"{name}{_labels((*labels, ('quantile', quantile)))} {value}")
    lines.append(f"{name}_sum{_labels(labels)} {_number(row.total)}")
    lines.append(f"{name}_count{_labels(labels)} {row.count}")
    return lines


def _by_name(table: dict[Series, T]) -> list[tuple[str, list[tuple[Labels, T]]]]:
    names: dict[str, list[tuple[Labels, T]]] = {}
    for (name, labels), value in sorted(table.items(), key=lambda item: item[0]):
        names.setdefault(_FORBIDDEN.sub("_", name), []).append((labels, value))
    return list(names.items())


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return (
        "{"
        + ",".join(f'{_FORBIDDEN.sub("_", name)}="{_value(text)}"' for name, text in labels)
        + "}"
    )


def _value(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return "NaN" if value != value else repr(float(value)) if value % 1 else str(int(value))
