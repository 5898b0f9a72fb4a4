"""What a rollback does, and how the command line shows a difference."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

# The package stands beside its tests and need not be installed to be tested.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from registry_history.commands import difference_lines
from registry_history.rollback import OPERATIONS_MAX, Present, Step, plan, transactions
from registry_history.settings import HistorySettings
from registry_history.store import Version


def version(value: bytes, flags: int = 0) -> Version:
    return Version(key=b"k", index=3, modify_index=3, time_ms=0, value=value, flags=flags)


@pytest.mark.parametrize(
    ("now", "then", "operation"),
    [
        (Present(b"1", 0, 7), version(b"1"), None),
        (
            Present(b"1", 0, 7),
            version(b"2", 5),
            {"Verb": "cas", "Key": "k", "Index": 7, "Value": "Mg==", "Flags": 5},
        ),
        (
            Present(b"1", 1, 7),
            version(b"1"),
            {"Verb": "cas", "Key": "k", "Index": 7, "Value": "MQ==", "Flags": 0},
        ),
        (None, version(b""), {"Verb": "cas", "Key": "k", "Index": 0, "Value": "", "Flags": 0}),
        (Present(b"1", 0, 7), None, {"Verb": "delete-cas", "Key": "k", "Index": 7}),
    ],
    ids=["same", "value", "flags", "gone", "new"],
)
def test_plan(now: Present | None, then: Version | None, operation: Any) -> None:
    steps = plan({"k": now} if now else {}, {"k": then} if then else {})
    assert [step.operation() for step in steps] == ([{"KV": operation}] if operation else [])


def test_transactions_are_as_few_as_can_be() -> None:
    steps = [Step(f"{number:03}", 1, None) for number in range(OPERATIONS_MAX * 2 + 1)]
    parts = transactions(steps, 1 << 20)
    assert [len(part) for part in parts] == [OPERATIONS_MAX, OPERATIONS_MAX, 1]
    assert [step for part in parts for step in part] == steps
    assert transactions([], 1 << 20) == []


def test_transactions_are_no_larger_than_allowed() -> None:
    steps = [Step("é\n" * 40, 1, version(b"x" * size)) for size in (400, 300, 5000, 10, 20, 900)]
    parts = transactions(steps, 2000)
    assert [step for part in parts for step in part] == steps
    assert len(parts) > 1
    for part in parts:
        body = msgspec.json.encode([step.operation() for step in part])
        assert len(body) <= 2000 or len(part) == 1


def side(value: bytes | None, flags: int = 0) -> dict[str, Any] | None:
    if value is None:
        return None
    return {"Value": base64.b64encode(value).decode(), "Flags": flags}


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        (
            side(b"a\nb\n"),
            side(b"a\nc\n"),
            ["--- k @1", "+++ k @2", "@@ -1,2 +1,2 @@", " a", "-b", "+c"],
        ),
        (None, side(b"x"), ["--- /dev/null", "+++ k @2", "@@ -0,0 +1 @@", "+x"]),
        (side(b"x"), None, ["--- k @1", "+++ /dev/null", "@@ -1 +0,0 @@", "-x"]),
        (side(b""), None, ["--- k @1", "+++ /dev/null"]),
        (side(b"\xff"), side(b"a"), ["Binary values k @1 and k @2 differ"]),
        (side(b"x"), side(b"x", 3), ["--- k @1", "+++ k @2", "flags 0 -> 3"]),
    ],
    ids=["lines", "added", "deleted", "deleted empty", "binary", "flags"],
)
def test_difference(before: Any, after: Any, lines: list[str]) -> None:
    shown = difference_lines({"Key": "k", "Before": before, "After": after}, 1, 2)
    assert list(shown) == lines


@pytest.mark.parametrize("given", [{"versions_max": 0}, {"age_days_max": -1}, {"versions": 3}])
def test_refused_settings(given: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(given, HistorySettings)


def test_no_age_limit() -> None:
    assert HistorySettings(age_days_max=0).age_ms_max is None
    assert HistorySettings(age_days_max=0.5).age_ms_max == 12 * 3600 * 1000
