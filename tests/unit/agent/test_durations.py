"""Durations read and written like Go's."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.agent.durations import HOUR, MILLISECOND, SECOND, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("0", 0, id="zero needs no unit"),
        pytest.param("-0", 0, id="signed zero"),
        pytest.param("10s", 10 * SECOND, id="seconds"),
        pytest.param("1m30s", 90 * SECOND, id="two parts"),
        pytest.param("1.5h", 90 * 60 * SECOND, id="fraction"),
        pytest.param(".5s", 500 * MILLISECOND, id="no whole part"),
        pytest.param("1.s", SECOND, id="no fraction"),
        pytest.param("+3ms", 3 * MILLISECOND, id="plus"),
        pytest.param("-3ms", -3 * MILLISECOND, id="minus"),
        pytest.param("2us", 2000, id="micro"),
        pytest.param("2µs", 2000, id="micro sign"),
        pytest.param("2μs", 2000, id="greek mu"),
        pytest.param("87600h", 87600 * HOUR, id="ten years"),
        pytest.param("1s1s", 2 * SECOND, id="same unit twice"),
    ],
)
def test_parse(text: str, expected: int) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", 'time: invalid duration ""', id="empty"),
        pytest.param("-", 'time: invalid duration "-"', id="sign only"),
        pytest.param("abc", 'time: invalid duration "abc"', id="word"),
        pytest.param("10", 'time: missing unit in duration "10"', id="no unit"),
        pytest.param("10s5", 'time: missing unit in duration "10s5"', id="no unit at the end"),
        pytest.param("1d", 'time: unknown unit "d" in duration "1d"', id="days"),
        pytest.param("1 s", 'time: unknown unit " s" in duration "1 s"', id="space"),
        pytest.param(".s", 'time: invalid duration ".s"', id="no digits"),
        pytest.param("99999999h", 'time: invalid duration "99999999h"', id="over 64 bits"),
    ],
)
def test_parse_refuses(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r"^time:") as caught:
        parse_duration(text)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("duration_ns", "expected"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1500, "1.5µs"),
        (1_100_000, "1.1ms"),
        (10 * SECOND, "10s"),
        (1500 * MILLISECOND, "1.5s"),
        (60 * SECOND, "1m0s"),
        (HOUR, "1h0m0s"),
        (HOUR + 500 * MILLISECOND, "1h0m0.5s"),
        (-90 * SECOND, "-1m30s"),
    ],
)
def test_format(duration_ns: int, expected: str) -> None:
    assert format_duration(duration_ns) == expected


@given(st.integers(min_value=-(2**62), max_value=2**62))
def test_what_is_written_reads_back(duration_ns: int) -> None:
    assert parse_duration(format_duration(duration_ns)) == duration_ns


@given(st.text(alphabet="0123456789.+-smhnuµ x", max_size=30))
def test_any_text_gives_a_number_or_one_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse_duration(text), int)
