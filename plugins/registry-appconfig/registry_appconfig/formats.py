"""A configuration written down: JSON and YAML with its names as a tree, or one line for each name.

    db.pool.size = 5    {"db": {"pool": {"size": "5"}}}    db.pool.size=5    DB_POOL_SIZE=5

Values are text, whatever they look like: version 1.10 stays 1.10. With `typed`, in JSON and YAML,
those that are JSON (numbers, true, false, null, lists, objects) are what they say.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from .layers import ConfigProblem
from .settings import Settings

#: What a typed value that is not text begins with.
_TYPED = re.compile(r"[-0-9tfn\[{]")
_NO_VARIABLE = re.compile(r"[^A-Za-z0-9_]")
_ESCAPED = re.compile(r"[\\\t\n\r\f]|[^\x20-\x7e]")
_ENDS_KEY = re.compile("[ :=#!]")
_SHORT = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\f": "\\f"}


class Style(NamedTuple):
    flat: bool = False
    typed: bool = False


class Format(NamedTuple):
    media: str
    write: Callable[[Mapping[str, str], Style, Settings], bytes]


def data_of(values: Mapping[str, str], style: Style, settings: Settings) -> dict[str, Any]:
    """The values as JSON and YAML show them. Raises `ConfigProblem`."""
    shown: dict[str, Any] = {
        name: _typed(text) if style.typed else text for name, text in values.items()
    }
    if style.flat:
        return shown
    root: dict[str, Any] = {}
    for name, value in shown.items():
        *above, last = name.split(settings.separator)
        branch, path = root, ""
        for word in above:
            path = f"{path}{settings.separator}{word}" if path else word
            if path in values:
                raise ConfigProblem(
                    f"{path} has a value and {name} is below it, which no tree shows: "
                    "ask for it with flat"
                )
            branch = branch.setdefault(word, {})
        branch[last] = value
    return root


def _typed(text: str) -> Any:
    if not _TYPED.match(text):
        return text
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def write_json(values: Mapping[str, str], style: Style, settings: Settings) -> bytes:
    return msgspec.json.encode(data_of(values, style, settings))


def write_yaml(values: Mapping[str, str], style: Style, settings: Settings) -> bytes:
    import yaml  # late: only who asks for YAML needs it

    data = data_of(values, style, settings)
    text: str = yaml.safe_dump(data, allow_unicode=True, sort_keys=False, width=2**31 - 1)
    return text.encode()


def write_properties(values: Mapping[str, str], style: Style, settings: Settings) -> bytes:
    """As `java.util.Properties.load` reads it, in ASCII whatever is in it."""
    lines = [f"{_property_key(name)}={_property(text)}\n" for name, text in values.items()]
    return "".join(lines).encode("ascii")


def _property_key(name: str) -> str:
    return _ENDS_KEY.sub(r"\\\g<0>", _ESCAPED.sub(_property_escape, name))


def _property(text: str) -> str:
    escaped = _ESCAPED.sub(_property_escape, text)
    return "\\" + escaped if escaped.startswith(" ") else escaped


def _property_escape(match: re.Match[str]) -> str:
    if short := _SHORT.get(match[0]):
        return short
    units = match[0].encode("utf-16-be")
    pairs = (units[at : at + 2].hex() for at in range(0, len(units), 2))
    return "".join(f"\\u{pair}" for pair in pairs)


def write_env(values: Mapping[str, str], style: Style, settings: Settings) -> bytes:
    """As a POSIX shell reads it: `NAME=value`, quoted where need be."""
    lines = [f"{name}={shlex.quote(text)}\n" for name, text in variables(values, settings).items()]
    return "".join(lines).encode()


def variables(values: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """The values by names of environment variables. Raises `ConfigProblem`."""
    owners: dict[str, str] = {}
    for name, text in values.items():
        variable = variable_name(name, settings)
        if variable in owners:
            raise ConfigProblem(f"{owners[variable]} and {name} are both the variable {variable}")
        if "\0" in text:
            raise ConfigProblem(f"{name} has a zero byte, which no environment can hold")
        owners[variable] = name
    return {variable: values[name] for variable, name in owners.items()}


def variable_name(name: str, settings: Settings) -> str:
    words = name.split(settings.separator)
    joined = settings.env_separator.join(_NO_VARIABLE.sub("_", word) for word in words)
    return f"_{joined}".upper() if joined[0].isdigit() else joined.upper()


FORMATS = {
    "json": Format("application/json", write_json),
    "yaml": Format("application/yaml; charset=utf-8", write_yaml),
    "env": Format("text/plain; charset=utf-8", write_env),
    "properties": Format("text/plain; charset=utf-8", write_properties),
}
