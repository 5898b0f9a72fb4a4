"""What configuration entries of each kind are made of, and how they are read from bodies.

Bodies are read with good will, as they may have been converted from other notations: names of
fields in any letter case, with underscores or without; a number for a text and the other way round,
one thing for a list of it and a list of one thing for that thing. But no field is passed over that
a kind does not have.

What is read is the entry as it is shown: fields in order, those that are empty left out unless they
are always there, durations as texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, Final, NamedTuple

from registry.agent.durations import format_duration, parse_duration
from registry.goflags import BOOLEANS
from registry.http.body_readers import BodyError, Reader, reader
from registry.http.operations import DURATION
from registry.state.quote import quote

_ABSENT: Final = object()

_I64_MAX: Final = (1 << 63) - 1
_U32_MAX: Final = (1 << 32) - 1


def _kind(value: Any) -> str:
    kinds = ((bool, "bool"), ((int, float), "number"), (str, "string"), (list, "list"))
    return next((name for types, name in kinds if isinstance(value, types)), "object")


def _mismatch(value: Any, path: str, wanted: str) -> BodyError:
    return BodyError(f"'{path}' expected type '{wanted}', got {_kind(value)}")


def _is_number(value: Any) -> bool:
    """Whether this is a number that other systems can hold, too."""
    if isinstance(value, float):
        return isfinite(value)
    return isinstance(value, int) and abs(value) < 1 << 128


def _single(value: Any, empty: Any = None) -> Any:
    """The one thing in a list of one, and `empty` for null."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return empty if value is None else value


# Readers of values.


def _weak_text(value: Any, path: str) -> str:
    value = _single(value, "")
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(int(value))
    if _is_number(value):
        return str(int(value)) if value == int(value) else repr(value)
    raise _mismatch(value, path, "string")


text: Final = Reader(_weak_text, {"type": "string"})


def _weak_flag(value: Any, path: str) -> bool:
    value = _single(value, False)
    if isinstance(value, bool | int | float):
        return value != 0
    if not isinstance(value, str):
        raise _mismatch(value, path, "bool")
    if value and value not in BOOLEANS:
        raise BodyError(f"cannot parse '{path}' as bool: invalid syntax")
    return BOOLEANS.get(value, False)


flag: Final = Reader(_weak_flag, {"type": "boolean"})


def _weak_number(value: Any, path: str) -> int | float:
    value = _single(value, 0)
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        raise BodyError(f"cannot parse '{path}' as a number: invalid syntax") from None
    if not _is_number(number):
        raise _mismatch(value, path, "number")
    return number


def _whole(least: int, most: int) -> Reader:
    @reader(type="integer", minimum=least, maximum=most)
    def read_whole(value: Any, path: str) -> int:
        number = int(_weak_number(value, path))
        if not least <= number <= most:
            raise BodyError(f"'{path}': the number {number} is out of range")
        return number

    return read_whole


integer: Final = _whole(-_I64_MAX, _I64_MAX)
unsigned: Final = _whole(0, _U32_MAX)


@reader(type="number")
def share(value: Any, path: str) -> int | float:
    """A share of a hundred, to the nearest hundredth."""
    number = _weak_number(value, path)
    if abs(number) > _U32_MAX:
        raise BodyError(f"'{path}': the number {number} is out of range")
    nearest = round(number, 2)
    return int(nearest) if nearest == int(nearest) else nearest


@reader(oneOf=[DURATION, {"type": "integer"}])
def duration(value: Any, path: str) -> str:
    """As text; "" for none. Numbers are nanoseconds."""
    value = _single(value)
    try:
        length_ns = parse_duration(value) if isinstance(value, str) else integer(value, path)
    except ValueError as problem:
        raise BodyError(str(problem)) from None
    return format_duration(length_ns) if length_ns else ""


def many(read: Reader) -> Reader:
    @reader(type="array", items=read.schema)
    def read_list(value: Any, path: str) -> list[Any]:
        items = value if isinstance(value, list) else [value] if value != {} else []
        return [read(item, f"{path}[{at}]") for at, item in enumerate(items)]

    return read_list


def _object(value: Any, path: str) -> dict[str, Any]:
    value = _single(value, {})
    if not isinstance(value, dict):
        raise _mismatch(value, path, "map")
    return value


def mapping(read: Reader) -> Reader:
    @reader(type="object", additionalProperties=read.schema)
    def read_mapping(value: Any, path: str) -> dict[str, Any]:
        found = {} if value == [] else _object(value, path)
        return {key: read(item, f"{path}[{key}]") for key, item in found.items()}

    return read_mapping


@reader()
def anything(value: Any, path: str) -> Any:
    """What is not looked at; a list of one thing is that thing, here and in the maps below."""
    if isinstance(value, list) and len(value) == 1:
        value = _without_lists_of_one(value[0])
    _refuse_large_numbers(value, path)
    return value


def _without_lists_of_one(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_lists_of_one(_single(item)) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_lists_of_one(item) for item in value]
    return value


def _refuse_large_numbers(value: Any, path: str) -> None:
    """Raises `BodyError` for a number that does not fit into 64 bits, at whatever depth: it could
    not be stored."""
    if isinstance(value, dict):
        for name, item in value.items():
            _refuse_large_numbers(item, f"{path}.{name}")
    elif isinstance(value, list):
        for item in value:
            _refuse_large_numbers(item, path)
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        raise BodyError(f"{path}: the number {value} has more than 64 bits")
    elif isinstance(value, float) and not isfinite(value):
        raise BodyError(f"{path}: the number is too large")


# Objects.


class Member(NamedTuple):
    """A field of an object: its name, how it is read, and what it is when it is not there."""

    name: str
    read: Reader
    default: Any = _ABSENT
    #: Whether it is shown as soon as it is given, though it be empty.
    is_object: bool = False


def always(name: str, read: Reader, default: Any) -> Member:
    return Member(name, read, default)


def _shown_if_set(**readers: Reader) -> tuple[Member, ...]:
    return tuple(Member(name, read) for name, read in readers.items())


def _key(name: str) -> str:
    return name.lower().replace("_", "")


def read_members(members: tuple[Member, ...], given: Mapping[str, Any], path: str) -> Any:
    """The fields of an object. Raises `BodyError` for one that it does not have."""
    left = {_key(name): (name, value) for name, value in given.items()}
    found: dict[str, Any] = {}
    for member in members:
        name, value = left.pop(_key(member.name), (member.name, None))
        if value is not None:
            value = member.read(value, f"{path}{name}")
        if value or (member.is_object and value is not None):
            found[member.name] = value
        elif member.default is not _ABSENT:
            found[member.name] = member.default if value is None else value
    for name, _ in left.values():
        raise BodyError(f"invalid config key {quote(path + name)}")
    return found


def _schema(members: tuple[Member, ...]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {member.name: dict(member.read.schema) for member in members},
        "additionalProperties": False,
    }


def record(*members: Member) -> Reader:
    """An object of these members."""

    @reader(**_schema(members))
    def read_record(value: Any, path: str) -> Any:
        return read_members(members, _object(value, path), f"{path}.")

    return read_record


def _optional(name: str, read: Reader) -> Member:
    return Member(name, read, is_object=True)


# The kinds.

_MESH_GATEWAY = record(*_shown_if_set(Mode=text))
_EXPOSED_PATH = record(
    *_shown_if_set(
        ListenerPort=integer, Path=text, LocalPathPort=integer, Protocol=text, ParsedFromCheck=flag
    )
)
_EXPOSE = record(*_shown_if_set(Checks=flag, Paths=many(_EXPOSED_PATH)))

_HEADER_MATCH = record(
    always("Name", text, ""),
    *_shown_if_set(Present=flag, Exact=text, Prefix=text, Suffix=text, Regex=text, Invert=flag),
)
_QUERY_MATCH = record(
    always("Name", text, ""), *_shown_if_set(Present=flag, Exact=text, Regex=text)
)
_HTTP_MATCH = record(
    *_shown_if_set(
        PathExact=text,
        PathPrefix=text,
        PathRegex=text,
        Header=many(_HEADER_MATCH),
        QueryParam=many(_QUERY_MATCH),
        Methods=many(Reader(lambda value, path: text(value, path).upper(), text.schema)),
    )
)
_DESTINATION = record(
    *_shown_if_set(
        RequestTimeout=duration,
        Service=text,
        ServiceSubset=text,
        Namespace=text,
        PrefixRewrite=text,
        NumRetries=unsigned,
        RetryOnConnectFailure=flag,
        RetryOnStatusCodes=many(unsigned),
    )
)
_ROUTE = record(
    _optional("Match", record(_optional("HTTP", _HTTP_MATCH))),
    _optional("Destination", _DESTINATION),
)
_SPLIT = record(
    always("Weight", share, 0), *_shown_if_set(Service=text, ServiceSubset=text, Namespace=text)
)
_SUBSET = record(*_shown_if_set(Filter=text, OnlyPassing=flag))
_REDIRECT = record(
    *_shown_if_set(Service=text, ServiceSubset=text, Namespace=text, Datacenter=text)
)
_FAILOVER = record(
    *_shown_if_set(Service=text, ServiceSubset=text, Namespace=text, Datacenters=many(text))
)
_GATEWAY_TLS = record(always("Enabled", flag, False))
_INGRESS_SERVICE = record(always("Name", text, ""), always("Hosts", many(text), None))
_LISTENER = record(
    always("Port", integer, 0),
    always(
        "Protocol",
        Reader(lambda value, path: text(value, path).lower() or "tcp", text.schema),
        "tcp",
    ),
    always("Services", many(_INGRESS_SERVICE), None),
)
_LINKED_SERVICE = record(
    *_shown_if_set(Name=text, CAFile=text, CertFile=text, KeyFile=text, SNI=text)
)

#: Kind -> its fields beside the kind, the name and the indexes.
KINDS: Final[Mapping[str, tuple[Member, ...]]] = {
    "service-defaults": (
        always("Protocol", Reader(lambda value, path: text(value, path).lower(), text.schema), ""),
        always("MeshGateway", _MESH_GATEWAY, {}),
        always("Expose", _EXPOSE, {}),
        Member("ExternalSNI", text),
    ),
    "proxy-defaults": (
        always("Config", mapping(anything), None),
        always("MeshGateway", _MESH_GATEWAY, {}),
        always("Expose", _EXPOSE, {}),
    ),
    "service-router": (always("Routes", many(_ROUTE), None),),
    "service-splitter": (always("Splits", many(_SPLIT), None),),
    "service-resolver": (
        Member("ConnectTimeout", duration),
        Member("DefaultSubset", text),
        Member("Subsets", mapping(_SUBSET)),
        _optional("Redirect", _REDIRECT),
        Member("Failover", mapping(_FAILOVER)),
    ),
    "ingress-gateway": (
        always("TLS", _GATEWAY_TLS, {"Enabled": False}),
        always("Listeners", many(_LISTENER), None),
    ),
    "terminating-gateway": (always("Services", many(_LINKED_SERVICE), None),),
}

#: Fields that a body may have and that nothing is made of.
_PASSED_OVER: Final = ("createindex", "modifyindex")


class Entry(NamedTuple):
    kind: str
    name: str
    settings: dict[str, Any]


def read_entry(body: Mapping[str, Any]) -> Entry:
    """The entry in a body. Raises `BodyError`."""
    kind = body.get("Kind", body.get("kind", _ABSENT))
    if kind is _ABSENT:
        raise BodyError("Payload does not contain a kind/Kind key at the top level")
    if not isinstance(kind, str):
        raise BodyError("Kind value in payload is not a string")
    if kind not in KINDS:
        raise BodyError(f"invalid config entry kind: {kind}")
    given = {name: value for name, value in body.items() if _key(name) not in _PASSED_OVER}
    head = (Member("Kind", text), Member("Name", text))
    found = read_members((*head, *KINDS[kind]), given, "")
    found.pop("Kind")
    return Entry(kind, found.pop("Name", ""), found)


def entry_schema() -> dict[str, Any]:
    """An entry of any kind, as bodies have it."""
    schemas = []
    for kind, members in KINDS.items():
        schema = _schema((Member("Kind", Reader(_weak_text, {"const": kind})), *members))
        schema["properties"]["Name"] = {"type": "string"}
        schemas.append({**schema, "required": ["Kind"]})
    return {"oneOf": schemas}


def shown_settings(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a stored entry, in order. Entries of earlier versions lack what is always
    shown, and have durations in nanoseconds."""
    shown: dict[str, Any] = {}
    for member in KINDS[kind]:
        value = settings.get(member.name, member.default)
        if member.read is duration and isinstance(value, int):
            value = format_duration(value)
        if value is not _ABSENT:
            shown[member.name] = value
    return shown
