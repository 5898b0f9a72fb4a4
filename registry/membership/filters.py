"""Filters of a query: whom it concerns.

Each is one type byte and a msgpack value: 0, a list of node names that ours must be in; 1, a tag
and a regular expression of RE2 that its value must match. All filters of a query must match. What
cannot be read does not match: a node that cannot tell whether it is asked keeps silent.

Source: gossip sheet, section 8.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeAlias

import msgspec

from registry.errors import RemoteProtocolError
from registry.membership.fields import Fields, pack, unpack_prefix

_NODES, _TAG = 0, 1

#: Names in one list; a query is 1024 bytes at most.
_NAMES_MAX = 1024


class Pattern(Protocol):
    """A compiled regular expression that takes linear time whoever wrote it."""

    def found_in(self, text: str) -> bool: ...


#: Compiles an expression with the syntax of RE2, unanchored; raises `ValueError`. Handed in from
#: above.
PatternCompiler: TypeAlias = Callable[[str], Pattern]


class NodeFilter(msgspec.Struct, frozen=True):
    names: tuple[str, ...]


class TagFilter(msgspec.Struct, frozen=True):
    tag: str
    expression: str


Filter: TypeAlias = NodeFilter | TagFilter


def encode_filter(filter_: Filter) -> bytes:
    if isinstance(filter_, NodeFilter):
        return bytes([_NODES]) + pack(list(filter_.names))
    return bytes([_TAG]) + pack({"Expr": filter_.expression, "Tag": filter_.tag})


def decode_filter(data: bytes) -> Filter:
    """Raises `RemoteProtocolError`."""
    value, _ = unpack_prefix(data[1:])
    if data[0] == _NODES:
        return NodeFilter(tuple(Fields({b"names": value}).texts("names", _NAMES_MAX)))
    if data[0] == _TAG:
        fields = Fields(value, ("Tag", "Expr"))
        return TagFilter(fields.text("Tag"), fields.text("Expr"))
    raise RemoteProtocolError(f"no such type of filter: {data[0]}")


def concerns(
    filters: Iterable[bytes], name: str, tags: Mapping[str, str], compile_pattern: PatternCompiler
) -> bool:
    """Whether all `filters` match the node with this name and these tags."""
    return all(_matches(data, name, tags, compile_pattern) for data in filters)


def _matches(
    data: bytes, name: str, tags: Mapping[str, str], compile_pattern: PatternCompiler
) -> bool:
    try:
        filter_ = decode_filter(data)
        if isinstance(filter_, NodeFilter):
            return name in filter_.names
        return compile_pattern(filter_.expression).found_in(tags.get(filter_.tag, ""))
    except (RemoteProtocolError, ValueError):
        return False
