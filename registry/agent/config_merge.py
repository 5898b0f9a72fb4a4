"""Merging what several sources say, and turning the result into typed values.

Of scalars the later counts, lists grow at the end, maps and objects are merged by member (surface
4.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from registry.agent.durations import parse_duration

StructT = TypeVar("StructT", bound=msgspec.Struct)


def merged(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """A new mapping; neither argument is changed."""
    result = dict(earlier)
    for name, value in later.items():
        before = result.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            result[name] = merged(before, value)
        elif isinstance(before, list) and isinstance(value, list):
            result[name] = before + value
        else:
            result[name] = value
    return result


def flattened(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Leaves by their dotted path."""
    leaves: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{above}.{name}" if above else name
        if isinstance(value, Mapping) and value:
            leaves |= flattened(value, path)
        else:
            leaves[path] = value
    return leaves


def overlaid(base: StructT, values: Mapping[str, Any]) -> StructT:
    """`base` with the members of `values` in its fields; a field `x_ns` takes the duration `x`.

    `values` have passed `registry.agent.config_keys`; members without a field are left out.
    """
    changes: dict[str, Any] = {}
    for field in base.__struct_fields__:
        name = field.removesuffix("_ns")
        if name in values:
            changes[field] = _typed(getattr(base, field), values[name], field != name)
    return msgspec.structs.replace(base, **changes)


def _typed(default: Any, value: Any, is_duration: bool) -> Any:
    if isinstance(default, msgspec.Struct):
        return overlaid(default, value)
    if is_duration and isinstance(value, Mapping):
        return {name: parse_duration(text) for name, text in value.items()}
    if is_duration:
        return parse_duration(value)
    return tuple(value) if isinstance(value, list) else value
