"""Plugins' settings as reports show them: what is in force, without secrets.

A field is a secret that its type says is one (`registry.hooks.Secret`), or whose name sounds like
one and whose value is no number; so are the password in a URL and its parameters of such names.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec.inspect import (
    CollectionType,
    DictType,
    Metadata,
    StructType,
    TupleType,
    UnionType,
    type_info,
)

HIDDEN: Final = "hidden"

#: What is shown of something nested deeper, or of a value that has no form in JSON.
_DEPTH_MAX = 20

_SECRET_NAME = re.compile(
    r"(^|[_.-])(secret|token|password|passwd|passphrase|credential|authorization|cookie|"
    r"(api|private|signing|encryption|access)[_.-]?key)s?($|[_.-])"
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

#: "user:password@" and "?name=value" in a URL.
_USER = re.compile(r"(?<=://)([^/@:\s]*):[^/@\s]*@")
_PARAMETER = re.compile(r"(?<=[?&])([^=&#\s]+)=([^&#\s]+)")


def shown_settings(settings: msgspec.Struct) -> dict[str, Any]:
    """The fields by the names that they have in the configuration, as data for JSON."""
    shown: dict[str, Any] = _struct(settings, 0)
    return shown


def shown_unread(settings: object) -> Any:
    """The same of settings as they were written, whose type is not known."""
    return _value(settings, 0)


def _struct(struct: msgspec.Struct, depth: int) -> dict[str, Any]:
    marked = _marked(type(struct))
    fields = zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True)
    return {
        shown: _field((name, shown), getattr(struct, name), depth, marked=name in marked)
        for name, shown in fields
    }


def _field(names: tuple[str, ...], value: object, depth: int, *, marked: bool = False) -> Any:
    if marked or (_sounds_secret(names) and not isinstance(value, (bool, int, float))):
        return value if value is None or value == "" else HIDDEN
    return _value(value, depth + 1)


def _sounds_secret(names: tuple[str, ...]) -> bool:
    return any(_SECRET_NAME.search(_CAMEL.sub("_", name).lower()) for name in names)


def _value(value: object, depth: int) -> Any:
    if depth > _DEPTH_MAX:
        return "…"
    if isinstance(value, msgspec.Struct):
        return _struct(value, depth)
    if isinstance(value, Mapping):
        return {str(key): _field((str(key),), item, depth) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_value(item, depth + 1) for item in value]
    if isinstance(value, enum.Enum):
        return _value(value.value, depth + 1)
    if isinstance(value, str):
        return _text(value)
    try:
        return msgspec.to_builtins(value)
    except (TypeError, msgspec.ValidationError):
        return f"a value of type {type(value).__name__}"


def _text(text: str) -> str:
    """Text without the secrets of a URL in it: its password, and parameters that sound like one."""
    if "://" not in text:
        return text

    def hide(found: re.Match[str]) -> str:
        name, value = found.groups()
        return f"{name}={HIDDEN if _sounds_secret((name,)) else value}"

    return _PARAMETER.sub(hide, _USER.sub(rf"\1:{HIDDEN}@", text))


@lru_cache(maxsize=256)
def _marked(kind: type[msgspec.Struct]) -> frozenset[str]:
    """The fields whose types say that they are secret, or hold something secret."""
    info = type_info(kind)
    assert isinstance(info, StructType)
    return frozenset(field.name for field in info.fields if _is_secret(field.type))


def _is_secret(info: msgspec.inspect.Type) -> bool:
    if isinstance(info, Metadata):
        return bool((info.extra or {}).get("secret")) or _is_secret(info.type)
    if isinstance(info, UnionType):
        return any(_is_secret(each) for each in info.types)
    if isinstance(info, TupleType):
        return any(_is_secret(each) for each in info.item_types)
    if isinstance(info, CollectionType):
        return _is_secret(info.item_type)
    return isinstance(info, DictType) and _is_secret(info.value_type)
