"""Command-line flags the way Go programs read them, and help texts made from the same table.

`-flag=value`, `-flag value`, `--flag=value` and `--flag value` are the same. A boolean flag takes a
value only after `=`. Flags end at the first argument that is not one, or after `--`. A flag given
twice keeps its last value; a repeatable one keeps them all.

Nothing here imports more than the interpreter has loaded anyway: every command pays for it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from registry.errors import ConfigError

#: What Go's strconv.ParseBool takes.
BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}


class FlagError(ConfigError):
    """The arguments make no sense; the message is Go's one line."""


class HelpWanted(Exception):
    """`-h` or `-help` was given."""


def text(value: str) -> str:
    return value


def boolean(value: str) -> bool:
    if value not in BOOLEANS:
        raise ValueError("parse error")
    return BOOLEANS[value]


def integer(value: str) -> int:
    """A signed number of 64 bits, spelt as `_whole` says."""
    number = _whole(value)
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError("value out of range")
    return number


def unsigned(value: str) -> int:
    """A number of 64 bits without a sign, spelt as `_whole` says."""
    if value.startswith(("+", "-")):
        raise ValueError("parse error")
    number = _whole(value)
    if number >= 1 << 64:
        raise ValueError("value out of range")
    return number


def pair(value: str) -> tuple[str, str]:
    """`key=value`; both may be empty."""
    name, equals, rest = value.partition("=")
    if not equals:
        raise ValueError(f'Missing "=" value in argument: {value}')
    return name, rest


def _whole(value: str) -> int:
    """Decimal, or with a base prefix (0x, 0o, 0b); a leading zero means octal, as in Go."""
    digits = value.lstrip("+-")
    octal = len(digits) > 1 and digits.startswith("0") and digits[1:].isdigit()
    try:
        number = int(value, 8 if octal else 0)
    except ValueError:
        raise ValueError("parse error") from None
    if value != value.strip():
        raise ValueError("parse error")
    return number


class Flag(NamedTuple):
    """One flag of a command.

    `convert` makes its value of the text and raises `ValueError` with a short reason. `boolean` as
    `convert` makes it a switch. `metavar` stands for the value in the help text. Flags that name
    the same `into` share one value, so that the order between them is kept.
    """

    name: str
    help: str = ""
    convert: Callable[[str], Any] = text
    default: Any = None
    repeat: bool = False
    metavar: str = "value"
    into: str = ""

    @property
    def place(self) -> str:
        """The name under which its value is found."""
        return self.into or self.name

    @property
    def is_switch(self) -> bool:
        return self.convert is boolean


class ParsedFlags:
    """Values by flag name: every flag of the table has one (its default; `[]` when repeatable)."""

    __slots__ = ("arguments", "given", "values")

    def __init__(self, values: dict[str, Any], given: frozenset[str], arguments: list[str]) -> None:
        self.values, self.given, self.arguments = values, given, arguments

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


def parse_flags(flags: Iterable[Flag], arguments: Sequence[str]) -> ParsedFlags:
    """Read the flags at the start of `arguments`; the rest is left in `.arguments`.

    Raises `FlagError`, or `HelpWanted` for -h, -help and --help where the table has no such flag.
    """
    table = {flag.name: flag for flag in flags}
    values = {flag.place: [] if flag.repeat else flag.default for flag in table.values()}
    given = set()
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        name, has_value, value = word[2 if word.startswith("--") else 1 :].partition("=")
        if not name or name.startswith("-"):
            raise FlagError(f"bad flag syntax: {word}")
        flag = table.get(name)
        if flag is None:
            if name in ("h", "help"):
                raise HelpWanted
            raise FlagError(f"flag provided but not defined: -{name}")
        if not has_value:
            if flag.is_switch:
                value = "true"
            elif rest:
                value = rest.pop(0)
            else:
                raise FlagError(f"flag needs an argument: -{name}")
        converted = _convert(flag, value)
        if flag.repeat:
            values[flag.place].append(converted)
        else:
            values[flag.place] = converted
        given.add(name)
    return ParsedFlags(values, frozenset(given), rest)


def _convert(flag: Flag, value: str) -> Any:
    try:
        return flag.convert(value)
    except ValueError as error:
        what = (
            f'invalid boolean value "{value}" for'
            if flag.is_switch
            else f'invalid value "{value}" for flag'
        )
        raise FlagError(f"{what} -{flag.name}: {error}") from None


def flag_help(flags: Iterable[Flag]) -> str:
    """The flags with their explanations, sorted by name, as they stand in a help text."""
    parts = []
    for flag in sorted(flags, key=lambda flag: flag.name):
        parts.append(f"  -{flag.name}" + ("" if flag.is_switch else f"=<{flag.metavar}>"))
        parts.extend(
            textwrap.wrap(flag.help, 74, initial_indent=" " * 5, subsequent_indent=" " * 5)
        )
        parts.append("")
    return "\n".join(parts).rstrip()


def help_text(usage: str, groups: Iterable[tuple[str, Iterable[Flag]]], about: str = "") -> str:
    """A whole help text: the usage line, what the command does, then each titled group of flags."""
    parts = [f"Usage: {usage}"]
    if about:
        parts.append(textwrap.indent(about.strip(), "  "))
    parts.extend(f"{title}\n\n{flag_help(flags)}" for title, flags in groups)
    return "\n\n".join(parts)
