"""How JSON bodies are read: a reader for each kind of value, and tables of the fields of objects.

The readers take field names in any letter case and refuse unknown ones, with the texts that clients
know; `Request decode failed: ` before them is the handler's. Each reader knows its schema, so the
document of the API cannot say otherwise.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from registry.agent.durations import parse_duration
from registry.http.api import ApiRequest, HttpError
from registry.http.operations import DURATION
from registry.http.params import decode_json
from registry.http.views import spelled


class BodyError(ValueError):
    """A body that is no such object; the message says what is wrong with which field."""


@dataclass(frozen=True, slots=True)
class Reader:
    """How a JSON value is read, given the value and its path, and its schema for the document."""

    read: Callable[[Any, str], Any]
    schema: Mapping[str, Any]

    def __call__(self, value: Any, path: str) -> Any:
        return self.read(value, path)


def reader(**schema: Any) -> Callable[[Callable[[Any, str], Any]], Reader]:
    """Decorator: the function as a reader of values with this schema."""
    return lambda read: Reader(read, schema)


class Field(NamedTuple):
    """Where a JSON field goes, how its value is read and how the API spells it."""

    name: str
    read: Reader
    shown: str


Fields = Mapping[str, Field]


def fields(**readers: Reader) -> dict[str, Field]:
    """A table of fields by their lower-case API names; keywords are our names of them."""
    table = (Field(name, read, spelled(name)) for name, read in readers.items())
    return {field.shown.lower(): field for field in table}


def object_schema(table: Fields) -> dict[str, Any]:
    """An object of the fields of a table; each of them may stay away."""
    members = {field.shown: dict(field.read.schema) for field in table.values()}
    return {"type": "object", "properties": members, "additionalProperties": False}


def _kind(value: Any) -> str:
    kinds = ((bool, "bool"), ((int, float), "number"), (str, "string"), (list, "array"))
    return next((name for types, name in kinds if isinstance(value, types)), "object")


def mismatch(value: Any, path: str, wanted: str) -> BodyError:
    """What to raise for a value of another kind than the field wants."""
    return BodyError(
        f"json: cannot unmarshal {_kind(value)} into Go struct field {path} of type {wanted}"
    )


@reader(type="string")
def text(value: Any, path: str) -> str:
    if value is None:
        return ""  # in a list or a map, that is: fields that are null are not there
    if not isinstance(value, str):
        raise mismatch(value, path, "string")
    return value


@reader(type="integer", minimum=-(1 << 63) + 1, maximum=(1 << 63) - 1)
def integer(value: Any, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 63:
        raise mismatch(value, path, "int")
    return value


@reader(type="integer", minimum=0, maximum=(1 << 64) - 1)
def unsigned(value: Any, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise mismatch(value, path, "uint64")
    return value


@reader(type="number")
def number(value: Any, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise mismatch(value, path, "float64")
    if not abs(value) <= sys.float_info.max:
        raise BodyError(
            f"json: cannot unmarshal number into Go struct field {path} of type float64"
        )
    return float(value)


@reader(type="boolean")
def flag(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise mismatch(value, path, "bool")
    return value


@reader(oneOf=[DURATION, {"type": "integer"}])
def duration(value: Any, path: str) -> int:
    """Nanoseconds, from a text such as "10s" or a number of nanoseconds."""
    if isinstance(value, str):
        try:
            return parse_duration(value) if value else 0
        except ValueError as problem:
            raise BodyError(str(problem)) from None
    return int(number(value, path))


@reader()
def anything(value: Any, path: str) -> Any:
    return value


def many(read: Reader) -> Reader:
    @reader(type="array", items=read.schema)
    def read_list(value: Any, path: str) -> list[Any]:
        if not isinstance(value, list):
            raise mismatch(value, path, "[]")
        return [read(item, path) for item in value]

    return read_list


@reader(type="array", items=text.schema)
def texts(value: Any, path: str) -> tuple[str, ...]:
    return tuple(many(text)(value, path))


def mapping(read: Reader) -> Reader:
    @reader(type="object", additionalProperties=read.schema)
    def read_mapping(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise mismatch(value, path, "map")
        return {key: read(item, path) for key, item in value.items()}

    return read_mapping


text_map = mapping(text)


def struct(kind: Callable[..., Any], table: Fields, *, lenient: bool = False) -> Reader:
    """A reader of an object into `kind(**fields)`; `lenient` passes over unknown fields."""

    @reader(**object_schema(table))
    def read_struct(value: Any, path: str) -> Any:
        return kind(**read_fields(value, table, path, lenient=lenient))

    return read_struct


def read_fields(value: Any, table: Fields, path: str, *, lenient: bool = False) -> dict[str, Any]:
    """The fields of a JSON object by our names. Raises `BodyError`; null fields stay away."""
    if not isinstance(value, dict):
        raise BodyError(f"json: cannot unmarshal {_kind(value)} into Go value of type {path}")
    found: dict[str, Any] = {}
    for key, item in value.items():
        field = table.get(key.lower())
        if field is None:
            if lenient:
                continue
            enterprise = " - Namespaces are a Consul Enterprise feature" * (key == "Namespace")
            raise BodyError(f'json: unknown field "{key}"{enterprise}')
        if item is not None:
            found[field.name] = field.read(item, f"{path}.{key}")
    return found


async def read_body(request: ApiRequest, table: Fields, path: str) -> dict[str, Any]:
    """The fields of the request's body; HttpError 400 when it is no such object."""
    body = await request.body()
    value = decode_json(request, body)
    if value is None and not body.strip():
        raise HttpError(400, "Request decode failed: EOF")
    try:
        return read_fields({} if value is None else value, table, path)
    except BodyError as problem:
        raise HttpError(400, f"Request decode failed: {problem}") from None
