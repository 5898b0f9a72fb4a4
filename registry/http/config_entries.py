"""`/v1/config`: configuration entries, kept by kind and name.

Each kind has a table of its fields, so that a misspelt one is refused; what is below them is kept
as it was given. Fields are shown in the order of the table.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, TypedDict

from registry.agent.durations import format_duration
from registry.http.api import (
    ApiRequest,
    ApiResponse,
    HttpError,
    Routes,
    index_headers,
    json_response,
)
from registry.http.errors import check
from registry.http.operations import Operation, Refusal
from registry.http.options import CAS, DATACENTER, READ, argument, json_body, reads, shows
from registry.http.params import datacenter, decode_json, parse_uint, read_response
from registry.http.reads import ask, plain
from registry.http.shapes import (
    BodyError,
    Reader,
    anything,
    duration,
    flag,
    many,
    mapping,
    read_expose,
    read_mesh_gateway,
    text,
)
from registry.state.config_entries import (
    GLOBAL_NAME,
    ConfigEntry,
    DeleteConfigEntry,
    GetConfigEntry,
    ListConfigEntries,
    SetConfigEntry,
)

routes = Routes()

_BAD_BODY = "Bad request: Request decoding failed"


def _settings(**readers: Reader) -> dict[str, Reader]:
    return readers


#: Kind -> field as shown -> its reader.
KINDS: dict[str, dict[str, Reader]] = {
    "service-defaults": _settings(
        Protocol=text,
        MeshGateway=read_mesh_gateway,
        Expose=read_expose,
        ExternalSNI=text,
    ),
    "proxy-defaults": _settings(
        Config=mapping(anything), MeshGateway=read_mesh_gateway, Expose=read_expose
    ),
    "service-router": _settings(Routes=many(mapping(anything))),
    "service-splitter": _settings(Splits=many(mapping(anything))),
    "service-resolver": _settings(
        DefaultSubset=text,
        Subsets=mapping(mapping(anything)),
        Redirect=mapping(anything),
        Failover=mapping(mapping(anything)),
        ConnectTimeout=duration,
    ),
    "ingress-gateway": _settings(TLS=mapping(flag), Listeners=many(mapping(anything))),
    "terminating-gateway": _settings(Services=many(mapping(anything))),
}

#: What a kind shows although it was not given.
_ALWAYS: dict[str, dict[str, Any]] = {
    "service-defaults": {"MeshGateway": {}, "Expose": {}},
    "proxy-defaults": {"Config": None, "MeshGateway": {}, "Expose": {}},
    "ingress-gateway": {"TLS": {"Enabled": False}, "Listeners": None},
    "terminating-gateway": {"Services": None},
}


def entry_view(entry: ConfigEntry) -> dict[str, Any]:
    always = _ALWAYS.get(entry.kind, {})
    shown: dict[str, Any] = {"Kind": entry.kind, "Name": entry.name}
    for field, read in KINDS[entry.kind].items():
        value = entry.settings.get(field)
        if read is duration and value:
            value = format_duration(value)
        if value or field in always:
            shown[field] = value or always[field]
    return {**shown, "CreateIndex": entry.create_index, "ModifyIndex": entry.modify_index}


def _entry_schema() -> dict[str, Any]:
    """An entry of any kind, as bodies have it."""
    names = {"Name": text.schema}
    return {
        "oneOf": [
            {
                "type": "object",
                "required": ["Kind"],
                "properties": {
                    "Kind": {"const": kind},
                    **names,
                    **{field: dict(read.schema) for field, read in readers.items()},
                },
                "additionalProperties": False,
            }
            for kind, readers in KINDS.items()
        ]
    }


class EntryObject(TypedDict):
    """What else there is depends on the kind."""

    Kind: str
    Name: str
    CreateIndex: int
    ModifyIndex: int


_KIND = argument("kind", "The kind of entry.", schema={"type": "string", "enum": list(KINDS)})
_NAME = argument("name", "The name of the entry.")
_UNKNOWN_KIND = "invalid config entry kind: …"


@routes.put(
    "/v1/config",
    Operation(
        summary="Write a configuration entry",
        parameters=(DATACENTER, CAS),
        body=json_body(_entry_schema()),
        answers=shows(bool, "Whether it was written"),
        refusals=(
            Refusal(400, f"{_BAD_BODY}: …"),
            Refusal(500, "Name is required"),
            Refusal(500, "serviceName is required"),
        ),
    ),
)
async def put(request: ApiRequest) -> ApiResponse:
    datacenter(request)
    cas_index = _cas_index(request)
    kind, name, settings = _read_entry(_decoded(request, await request.body()))
    if not name:
        raise HttpError(500, _NAMELESS.get(kind, "Name is required"))
    command = SetConfigEntry(kind=kind, name=name, settings=settings, cas_index=cas_index)
    return json_response(check(await request.agent.write(command)))


#: What is said when an entry of a kind has no name.
_NAMELESS = {"service-defaults": "serviceName is required"}


def _cas_index(request: ApiRequest) -> int | None:
    if not (given := request.query.get("cas")):
        return None
    try:
        return parse_uint(given)
    except ValueError as problem:
        raise HttpError(500, str(problem)) from None


def _decoded(request: ApiRequest, body: bytes) -> dict[str, Any]:
    try:
        value = decode_json(request, body)
    except HttpError as problem:
        raise HttpError(400, f"{_BAD_BODY}: {problem.text.partition(': ')[2]}") from None
    if not isinstance(value, dict):
        reason = "EOF" if not body.strip() else "json: cannot unmarshal body into an entry"
        raise HttpError(400, f"{_BAD_BODY}: {reason}")
    return value


def _read_entry(body: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Kind, name and settings of a body; field names in any letter case, underscores or not."""
    given = {key.lower().replace("_", ""): (key, value) for key, value in body.items()}
    kind, name = given.pop("kind", ("", None))[1], given.pop("name", ("", ""))[1]
    if not kind:
        raise HttpError(
            400, f"{_BAD_BODY}: Payload does not contain a kind/Kind key at the top level"
        )
    if not isinstance(kind, str) or kind not in KINDS:
        raise HttpError(400, f"{_BAD_BODY}: invalid config entry kind: {kind}")
    if not isinstance(name, str | None):
        raise HttpError(400, f"{_BAD_BODY}: 'Name' expected type 'string'")
    for ignored in ("createindex", "modifyindex", "namespace"):
        given.pop(ignored, None)
    settings: dict[str, Any] = {}
    for field, read in KINDS[kind].items():
        key, value = given.pop(field.lower(), (field, None))
        if value is not None:
            settings[field] = _read_setting(read, value, key)
    if given:
        unknown = next(iter(given.values()))[0]
        raise HttpError(400, f'{_BAD_BODY}: invalid config key "{unknown}"')
    return kind, GLOBAL_NAME if kind == "proxy-defaults" else name or "", settings


def _read_setting(read: Reader, value: Any, key: str) -> Any:
    try:
        _refuse_large_numbers(value, key)
        found = read(value, key)
        _refuse_large_numbers(found, key)  # what a duration became, too
    except BodyError as problem:
        raise HttpError(400, f"{_BAD_BODY}: {problem}") from None
    return found


def _refuse_large_numbers(value: Any, path: str) -> None:
    """Raises `BodyError` for a number that does not fit into 64 bits, at whatever depth: it could
    not be stored."""
    if isinstance(value, dict):
        for name, item in value.items():
            _refuse_large_numbers(item, f"{path}.{name}")
    elif isinstance(value, (list, tuple)):
        for item in value:
            _refuse_large_numbers(item, path)
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        raise BodyError(f"{path}: the number {value} has more than 64 bits")
    elif isinstance(value, float) and not isfinite(value):
        raise BodyError(f"{path}: the number is too large")


def _require_kind(kind: str, status: int) -> None:
    if kind not in KINDS:
        raise HttpError(status, f"invalid config entry kind: {kind}")


@routes.get(
    "/v1/config/",
    Operation(
        summary="List the entries of a kind",
        path=(_KIND,),
        parameters=READ,
        answers=reads(list[EntryObject]),
        refusals=(Refusal(500, _UNKNOWN_KIND),),
    ),
    Operation(
        summary="Show an entry",
        path=(_KIND, "/", _NAME),
        parameters=READ,
        answers=reads(EntryObject),
        refusals=(
            Refusal(500, _UNKNOWN_KIND),
            Refusal(404, 'Config entry not found for "…" / "…"'),
        ),
    ),
)
async def get(request: ApiRequest) -> ApiResponse:
    """One entry by kind and name, or the list of a kind."""
    kind, slash, name = plain(request.argument).partition("/")
    if kind or slash:
        _require_kind(kind, 500)
    if not slash:
        return await _list(request, kind)
    query = GetConfigEntry(kind=kind, name=name)
    meta = await ask(request, query)
    if meta.value is None:
        reason = f'Config entry not found for "{kind}" / "{name}"'
        raise HttpError(404, reason, tuple(index_headers(meta)))
    return read_response(request, query, meta, entry_view(meta.value))


async def _list(request: ApiRequest, kind: str) -> ApiResponse:
    query = ListConfigEntries(kind=kind)
    meta = await ask(request, query)
    return read_response(request, query, meta, [entry_view(entry) for entry in meta.value])


@routes.delete(
    "/v1/config/",
    Operation(
        summary="Delete an entry",
        path=(_KIND, "/", _NAME),
        parameters=(DATACENTER,),
        answers=shows(dict[str, str]),
        refusals=(Refusal(400, _UNKNOWN_KIND),),
    ),
)
async def delete(request: ApiRequest) -> ApiResponse:
    kind, slash, name = plain(request.argument).partition("/")
    if not slash:
        raise HttpError(404, "Must provide both a kind and name to delete")
    datacenter(request)
    _require_kind(kind, 400)
    check(await request.agent.write(DeleteConfigEntry(kind=kind, name=name)))
    return json_response({})
