"""JSON bodies as the API takes them: names without regard to letter case, null for "not given".

A body is described by a msgspec struct whose fields are spelt like the API's; `read` turns a
decoded JSON value into it. A struct with `forbid_unknown_fields` refuses names that it does not
have. The texts say what a client of the API expects to be told.
"""

from __future__ import annotations

import base64
import binascii
import re
from functools import cache
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from registry.agent.durations import parse_duration

S = TypeVar("S", bound=msgspec.Struct)

_LINE_BREAKS = re.compile("[\r\n]")


def read(value: Any, kind: type[S]) -> S:
    """The value as `kind`. Raises `ValueError` with one sentence."""
    try:
        return msgspec.convert(_renamed(value, kind), kind)
    except msgspec.ValidationError as problem:
        raise ValueError(f"json: cannot unmarshal body: {problem}") from None


def _renamed(value: Any, kind: Any) -> Any:
    """The value with the field names of `kind` in place of however the client spelt them."""
    kind = _without_none(kind)
    if isinstance(value, list):
        item = (*get_args(kind), Any)[0]
        return [_renamed(each, item) for each in value]
    if not isinstance(value, dict) or not _is_struct(kind):
        return value
    fields = _fields(kind)
    found = {}
    for name, each in value.items():
        field = fields.get(name.lower())
        if field is None:
            if kind.__struct_config__.forbid_unknown_fields:
                raise ValueError(f'json: unknown field "{name}"')
        elif each is not None or field[2]:
            found[field[0]] = _renamed(each, field[1])
    return found


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, UnionType):
        return next(each for each in get_args(kind) if each is not type(None))
    return kind


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


@cache
def _fields(kind: type[msgspec.Struct]) -> dict[str, tuple[str, Any, bool]]:
    """Lower-case name -> the field's name, its type, and whether null is a value of it."""
    hints = get_type_hints(kind)
    return {
        name.lower(): (name, hint, type(None) in get_args(hint) or hint is Any)
        for name, hint in hints.items()
        if name in kind.__struct_fields__
    }


def read_base64(text: str) -> bytes:
    """Bytes out of base64 (line breaks are ignored). Raises `ValueError`."""
    try:
        return base64.b64decode(_LINE_BREAKS.sub("", text), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("illegal base64 data") from None


def read_duration_ns(value: str | float | None) -> int:
    """Nanoseconds out of "10s" or a number of nanoseconds. Raises `ValueError`."""
    if value is None:
        return 0
    return parse_duration(value) if isinstance(value, str) else int(value)
