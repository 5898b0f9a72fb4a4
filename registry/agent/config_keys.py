"""Checking what is written in one configuration file against the table of keys.

`decode` takes a mapping as a reader of `registry.agent.formats` (or a plugin) gives it, and returns
it with known keys, right types and small letters, or says which key is wrong. Rules that concern
several keys are `registry.agent.config_rules`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from registry.agent.config_table import ROOT, Key
from registry.agent.durations import parse_duration
from registry.errors import ConfigError

#: Keys whose values are lists of definitions, and their form for one.
DEFINITION_KEYS = {
    "service": "services",
    "services": "services",
    "check": "checks",
    "checks": "checks",
    "watches": "watches",
}


class KeyProblem(ConfigError):
    """One key is wrong. The reason names the key in full, so the message does not repeat it."""

    def __init__(self, path: str, reason: str, *, file: str | None = None) -> None:
        super().__init__(reason, file=file)
        self.field = path


class Decoded(msgspec.Struct, frozen=True):
    """What one file says.

    `values` holds keys that take effect, nested as in the file; `ignored` the others, by path.
    `definitions` are (path, mapping) under "services", "checks" and "watches", in file order.
    """

    values: dict[str, Any]
    ignored: dict[str, Any]
    definitions: dict[str, list[tuple[str, Mapping[str, Any]]]]

    def warnings(self) -> list[str]:
        """One line for all mesh keys, and one for each key of the commercial edition."""
        lines = []
        mesh = sorted(path for path in self.ignored if _use_of(path) == "mesh")
        if mesh:
            lines.append(f"service mesh configuration is accepted and ignored: {', '.join(mesh)}")
        # A whole object is named once, by its topmost key.
        ent = sorted({_topmost(path) for path in self.ignored if _use_of(path) == "ent"})
        lines.extend(
            f'"{path}" is a Consul Enterprise configuration and will have no effect' for path in ent
        )
        return lines


def decode(mapping: Mapping[str, Any]) -> Decoded:
    """Check one file's mapping; raises `KeyProblem` about the first key that is wrong."""
    decoded = Decoded({}, {}, {"services": [], "checks": [], "watches": []})
    for name, key, value in _members(ROOT, "", mapping):
        if name in DEFINITION_KEYS:
            decoded.definitions[DEFINITION_KEYS[name]].extend(_definitions(key, name, value))
        else:
            _decode_into(decoded, decoded.values, name, key, name, value)
    return decoded


def go_type(value: Any) -> str:
    """The type a value of a file has, in the words of the known messages."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "float64"
    if isinstance(value, str):
        return "string"
    return "map[string]interface {}" if isinstance(value, Mapping) else "[]interface {}"


def go_kind(value: Any) -> str:
    """Like `go_type`, for the messages that name only the kind."""
    if isinstance(value, Mapping):
        return "map"
    return "slice" if isinstance(value, (list, tuple)) else go_type(value)


def unconvertible(path: str, expected: str, value: Any) -> KeyProblem:
    return KeyProblem(
        path, f"'{path}' expected type '{expected}', got unconvertible type '{go_type(value)}'"
    )


def read_string(path: str, value: Any) -> str:
    if not isinstance(value, str):
        raise unconvertible(path, "string", value)
    return value


def read_bool(path: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise unconvertible(path, "bool", value)
    return value


def read_int(path: str, value: Any, expected: str = "int") -> int:
    """A whole number of 64 bits; 8500.0 is one, since JSON knows one kind of number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise unconvertible(path, expected, value)
    if isinstance(value, float) and not value.is_integer():
        raise unconvertible(path, expected, value)
    if not -(1 << 63) <= value < 1 << 63:
        raise KeyProblem(path, f"'{path}' is out of range: {value:g}")
    return int(value)


def read_unsigned(path: str, value: Any) -> int:
    number = read_int(path, value, "uint")
    if number < 0:
        raise KeyProblem(path, f"cannot parse '{path}', {number} overflows uint")
    return number


def read_float(path: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise unconvertible(path, "float64", value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise KeyProblem(path, f"'{path}' is out of range")
    return number


def read_duration(path: str, value: Any) -> int:
    """Nanoseconds of a duration with its unit; numbers are refused (surface 4.1)."""
    text = read_string(path, value)
    try:
        return parse_duration(text)
    except ValueError as error:
        raise KeyProblem(path, f'{path}: invalid duration: "{text}": {error}') from None


def read_list(path: str, value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise KeyProblem(
            path, f"'{path}': source data must be an array or slice, got {go_kind(value)}"
        )
    return list(value)


def read_strings(path: str, value: Any) -> list[str]:
    return [
        read_string(f"{path}[{number}]", item) for number, item in enumerate(read_list(path, value))
    ]


def read_object(path: str, value: Any) -> Mapping[str, Any]:
    """A mapping; a list of one mapping, which is how HCL gives a block, is taken for it."""
    if isinstance(value, (list, tuple)) and len(value) <= 1:
        value = value[0] if value else {}
    if not isinstance(value, Mapping):
        raise KeyProblem(path, f"'{path}' expected a map, got '{go_kind(value)}'")
    return value


def read_map(path: str, value: Any) -> dict[str, str]:
    return {
        name: read_string(f"{path}[{name}]", item)
        for name, item in read_object(path, value).items()
        if item is not None
    }


def plain(value: Any) -> Any:
    """`value` without the lists of one that HCL makes of blocks; for members nobody knows."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        if len(value) == 1 and isinstance(value[0], Mapping):
            return plain(value[0])
        return [plain(item) for item in value]
    return value


_READERS = {
    "string": read_string,
    "bool": read_bool,
    "int": read_int,
    "uint": read_unsigned,
    "float": read_float,
    "strings": read_strings,
    "map": read_map,
}


def _members(key: Key, path: str, value: Any) -> Iterator[tuple[str, Key, Any]]:
    """(name, key, value) of each member that is set; raises for one that is not in the table."""
    for written, item in read_object(path, value).items():
        name = written.casefold()
        member = key.members.get(name)
        if member is None:
            unknown = _join(path, written)
            raise KeyProblem(unknown, f"invalid config key {unknown}")
        if item is not None:
            yield name, member, item


def _decode_into(
    decoded: Decoded, target: dict[str, Any], name: str, key: Key, path: str, value: Any
) -> None:
    """Read `value` and file it: in `target` when it takes effect, else in `decoded.ignored`."""
    if key.kind == "object":
        below = target.setdefault(name, {})
        for member_name, member, item in _members(key, path, value):
            _decode_into(decoded, below, member_name, member, _join(path, member_name), item)
        if not below:
            del target[name]
        return
    read = _decode_value(key, path, value)
    if key.use in ("core", "old"):
        target[name] = read
    else:
        decoded.ignored[key.path] = read


def _decode_value(key: Key, path: str, value: Any) -> Any:
    """What is kept of `value`: durations stay text, so that files and defaults look alike."""
    if key.kind in _READERS:
        return _READERS[key.kind](path, value)
    if key.kind == "duration":
        read_duration(path, value)
        return value
    if key.kind == "durations":
        texts = read_map(path, value)
        for name, text in texts.items():
            read_duration(f"{path}[{name}]", text)
        return texts
    if key.kind == "open":
        return plain(read_object(path, value))
    if key.kind == "object":
        return {
            name: _decode_value(member, _join(path, name), item)
            for name, member, item in _members(key, path, value)
        }
    if key.kind == "objects-by-name":
        return {
            name: _decode_value(key._replace(kind="object"), f"{path}[{name}]", item)
            for name, item in read_object(path, value).items()
        }
    assert key.kind in ("objects", "opens")
    one = key._replace(kind="object" if key.kind == "objects" else "open")
    return [
        _decode_value(one, f"{path}[{number}]", item)
        for number, item in enumerate(read_list(path, value))
    ]


def _definitions(key: Key, path: str, value: Any) -> list[tuple[str, Mapping[str, Any]]]:
    if key.kind == "definition":
        return [(path, read_object(path, value))]
    return [
        (f"{path}[{number}]", read_object(f"{path}[{number}]", item))
        for number, item in enumerate(read_list(path, value))
    ]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _key_of(path: str) -> Key:
    key = ROOT
    for name in path.split("."):
        key = key.members[name]
    return key


def _use_of(path: str) -> str:
    return _key_of(path).use


def _topmost(path: str) -> str:
    """The highest key on the way to `path` that is of the same use."""
    use, names = _use_of(path), path.split(".")
    return next(
        above
        for above in (".".join(names[: length + 1]) for length in range(len(names)))
        if _use_of(above) == use
    )
