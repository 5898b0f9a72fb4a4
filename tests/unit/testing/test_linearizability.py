"""The checker against its definition: a search over all orders finds one exactly if it says so."""

from __future__ import annotations

import itertools
import random

import pytest

from registry.testing.linearizability import NEVER, Operation, explain_violation


def write(value: str, start: int, end: int) -> Operation:
    return Operation(True, value, start, end)


def read(value: str | None, start: int, end: int) -> Operation:
    return Operation(False, value, start, end)


@pytest.mark.parametrize(
    ("history", "linearizable"),
    [
        pytest.param([], True, id="nothing happened"),
        pytest.param([read(None, 1, 2)], True, id="empty at first"),
        pytest.param([write("a", 1, 2), read("a", 3, 4)], True, id="read after write"),
        pytest.param([write("a", 1, 2), read(None, 3, 4)], False, id="stale read"),
        pytest.param([write("a", 1, 5), read(None, 2, 3)], True, id="read before it took effect"),
        pytest.param([write("a", 1, 5), read("a", 2, 3)], True, id="read after it took effect"),
        pytest.param(
            [write("a", 1, 9), read("a", 2, 3), read(None, 4, 5)], False, id="value gone again"
        ),
        pytest.param([read("a", 1, 2), write("a", 3, 4)], False, id="read from the future"),
        pytest.param([read("x", 1, 2)], False, id="out of thin air"),
        pytest.param([write("a", 1, NEVER), read(None, 5, 6)], True, id="lost write"),
        pytest.param([write("a", 1, NEVER), read("a", 5, 6)], True, id="late effect"),
        pytest.param(
            [write("a", 1, NEVER), read("a", 5, 6), read(None, 7, 8)], False, id="effect undone"
        ),
        pytest.param([write("a", 1, 2), write("b", 3, 4), read("a", 5, 6)], False, id="old value"),
        pytest.param(
            [write("a", 1, 4), write("b", 2, 5), read("b", 6, 7), read("a", 8, 9)],
            False,
            id="two values by turns",
        ),
    ],
)
def test_history(history: list[Operation], linearizable: bool) -> None:
    assert (explain_violation(history) is None) is linearizable


def test_agrees_with_a_search_over_all_orders() -> None:
    rng = random.Random(7)
    seen = {True: 0, False: 0}
    for _ in range(1500):
        history = random_history(rng)
        expected = exists_order(history)
        assert (explain_violation(history) is None) is expected, history
        seen[expected] += 1
    assert min(seen.values()) > 100, "both answers are tried"


def random_history(rng: random.Random) -> list[Operation]:
    times = rng.sample(range(100), 12)
    history: list[Operation] = []
    values: list[str | None] = [None]
    for number in range(rng.randint(2, 6)):
        start, end = sorted(times[2 * number : 2 * number + 2])
        if rng.random() < 0.5:
            value = f"v{number}"
            values.append(value)
            history.append(write(value, start, NEVER if rng.random() < 0.2 else end))
        else:
            history.append(read(rng.choice(values), start, end))
    return history


def exists_order(history: list[Operation]) -> bool:
    """Whether some order respects time and reads; a write of unknown outcome may be left out."""
    unknown = [op for op in history if op.end == NEVER]
    known = [op for op in history if op.end != NEVER]
    return any(
        is_legal(order)
        for count in range(len(unknown) + 1)
        for some in itertools.combinations(unknown, count)
        for order in itertools.permutations([*known, *some])
    )


def is_legal(order: tuple[Operation, ...]) -> bool:
    value: str | None = None
    latest_start = -1
    for op in order:
        if op.end < latest_start:
            return False  # something that began only after its end comes before it
        latest_start = max(latest_start, op.start)
        if op.is_write:
            value = op.value
        elif op.value != value:
            return False
    return True
