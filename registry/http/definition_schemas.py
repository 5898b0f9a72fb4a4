"""The schemas of service and check definitions, from the tables by which bodies are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from registry.agent.definition_reader import HTTP_MEMBERS
from registry.http.operations import DURATION, TEXT
from registry.http.views import spelled

#: Schema by the kind of a member's value; objects of their own are in `HTTP_MEMBERS`.
_KINDS: Final[Mapping[str, Any]] = {
    "string": TEXT,
    "int": {"type": "integer"},
    "bool": {"type": "boolean"},
    "strings": {"type": "array", "items": TEXT},
    "map": {"type": "object", "additionalProperties": TEXT},
    "header": {"type": "object", "additionalProperties": {"type": "array", "items": TEXT}},
    "duration": {"oneOf": [DURATION, {"type": "integer"}]},
    "open": {"type": "object"},
}


def service_schema() -> dict[str, Any]:
    return _object(HTTP_MEMBERS["service"], required=["Name"])


def check_schema() -> dict[str, Any]:
    """A check by itself; plugins may know further members."""
    return {**_object(HTTP_MEMBERS["top_check"], required=["Name"]), "additionalProperties": True}


def _object(members: Mapping[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    properties = {_shown(name): _schema(kind) for name, kind in members.items()}
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": required} if required else schema


def _shown(name: str) -> str:
    return name if name[:1].isupper() else spelled(name)


def _schema(kind: Any) -> dict[str, Any]:
    """The schema of a member: a word, the members of an object, or a list of such objects."""
    if isinstance(kind, Mapping):
        return _object(kind)
    if isinstance(kind, list):
        return {"type": "array", "items": _schema(kind[0])}
    if kind == "checks":
        return {"type": "array", "items": _schema("check")}
    if kind == "addresses":
        return {"type": "object", "additionalProperties": _object(HTTP_MEMBERS["address"])}
    if kind in HTTP_MEMBERS:
        return _object(HTTP_MEMBERS[kind])
    return dict(_KINDS[kind])
