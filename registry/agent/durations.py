"""Durations as text: "10s", "1m30s", "1.5h", read and written the way Go's `time` package does.

Inside the program a duration is an integer of nanoseconds; a name that holds one ends in `_ns`.
"""

from __future__ import annotations

import re

NANOSECOND, MICROSECOND, MILLISECOND = 1, 1_000, 1_000_000
SECOND, MINUTE, HOUR = 1_000 * MILLISECOND, 60_000 * MILLISECOND, 3_600_000 * MILLISECOND

UNITS = {
    "ns": NANOSECOND,
    "us": MICROSECOND,
    "µs": MICROSECOND,  # U+00B5, the micro sign
    "μs": MICROSECOND,  # U+03BC, the Greek letter
    "ms": MILLISECOND,
    "s": SECOND,
    "m": MINUTE,
    "h": HOUR,
}

#: The largest duration: a signed 64-bit count of nanoseconds, about 292 years.
DURATION_NS_MAX = (1 << 63) - 1

_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]*)")


def parse_duration(text: str) -> int:
    """Nanoseconds of a duration such as "-1m30.5s"; "0" alone needs no unit.

    Raises `ValueError` with one sentence that quotes the text.
    """
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    if not rest:
        raise ValueError(f'time: invalid duration "{text}"')
    total = 0
    while rest:
        match = _PART.match(rest)
        assert match is not None  # every part of the pattern is optional
        whole, fraction, unit = match.group(1), match.group(2) or "", match.group(3)
        if not whole and not fraction:
            raise ValueError(f'time: invalid duration "{text}"')
        if not unit:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if unit not in UNITS:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
        # Digits beyond these can not change a nanosecond, but could make the integers huge.
        if len(whole.lstrip("0")) > len(str(DURATION_NS_MAX)):
            raise ValueError(f'time: invalid duration "{text}"')
        fraction = fraction[:18]
        total += int(whole or "0") * UNITS[unit]
        total += int(fraction or "0") * UNITS[unit] // 10 ** len(fraction)
        rest = rest[match.end() :]
    if total > DURATION_NS_MAX:
        raise ValueError(f'time: invalid duration "{text}"')
    return -total if text.startswith("-") else total


def format_duration(duration_ns: int) -> str:
    """The shortest usual text: "0s", "1.5ms", "10s", "1m0s", "2h0m0.5s"."""
    if duration_ns == 0:
        return "0s"
    sign, rest = ("-", -duration_ns) if duration_ns < 0 else ("", duration_ns)
    if rest < SECOND:
        for unit, size in (("ms", MILLISECOND), ("µs", MICROSECOND), ("ns", NANOSECOND)):
            if rest >= size:
                return f"{sign}{_decimal(rest, size)}{unit}"
    minutes, seconds_ns = divmod(rest, MINUTE)
    seconds = f"{_decimal(seconds_ns, SECOND)}s"
    if not minutes:
        return sign + seconds
    hours, minutes = divmod(minutes, 60)
    return f"{sign}{hours}h{minutes}m{seconds}" if hours else f"{sign}{minutes}m{seconds}"


def _decimal(value: int, unit: int) -> str:
    """`value / unit` in decimal without trailing zeros; `unit` is a power of ten."""
    whole, fraction = divmod(value, unit)
    digits = len(str(unit)) - 1
    return f"{whole}.{fraction:0{digits}d}".rstrip("0") if fraction else str(whole)
