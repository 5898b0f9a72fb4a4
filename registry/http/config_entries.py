"""`/v1/config`: configuration entries, kept by kind and name.

What they are made of is in `config_bodies`, what they may say in `registry.state.config_rules`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, TypedDict

from registry.http.api import (
    ApiRequest,
    ApiResponse,
    HttpError,
    Routes,
    index_headers,
    json_response,
)
from registry.http.body_readers import BodyError
from registry.http.config_bodies import KINDS, Entry, entry_schema, read_entry, shown_settings
from registry.http.errors import check
from registry.http.operations import Operation, Refusal
from registry.http.options import CAS, DATACENTER, READ, argument, json_body, reads, shows
from registry.http.params import datacenter, decode_json, parse_uint, read_response
from registry.http.reads import ask, plain
from registry.state.config_entries import (
    GLOBAL_NAME,
    ConfigEntry,
    DeleteConfigEntry,
    GetConfigEntry,
    ListConfigEntries,
    SetConfigEntry,
)
from registry.state.config_rules import flaw_of
from registry.state.quote import quote

routes = Routes()

_BAD_BODY = "Bad request: Request decoding failed"


def entry_view(entry: ConfigEntry) -> dict[str, Any]:
    return {
        "Kind": entry.kind,
        "Name": entry.name,
        **shown_settings(entry.kind, entry.settings),
        "CreateIndex": entry.create_index,
        "ModifyIndex": entry.modify_index,
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


#: Why entries do not fit together.
_MISFITS = (
    "serviceName is required",
    "discovery chain … uses …",
    "detected circular …",
    "service … …",
    "cannot create a … config entry with name …, a … config entry with that name already exists",
)
#: How the flaws of entries begin.
_FLAWS = (
    "Name is required",
    "Route[…] …",
    "no splits configured",
    "split destination occurs more than once: …",
    "the sum of all split weights must be 100, not …",
    "Subset … is invalid: …",
    "DefaultSubset … is not a valid subset",
    "Redirect…",
    "Bad Failover[…]…",
    "Bad ConnectTimeout '…', must be >= 0",
    "port … declared on two listeners",
    "protocol must be …",
    "No service declared for listener with port …",
    "… (listener on port …)",
    "Host … …",
    "Service … …",
    *_MISFITS,
)


@routes.put(
    "/v1/config",
    Operation(
        summary="Write a configuration entry",
        parameters=(DATACENTER, CAS),
        body=json_body(entry_schema()),
        answers=shows(bool, "Whether it was written"),
        refusals=(
            Refusal(400, f"{_BAD_BODY}: …"),
            *(Refusal(500, text) for text in _FLAWS),
        ),
    ),
)
async def put(request: ApiRequest) -> ApiResponse:
    entry = _read(request, await request.body())
    cas_index = _cas_index(request)
    _enter(request)
    if flaw := flaw_of(entry.kind, entry.name, entry.settings):
        raise HttpError(500, flaw)
    command = SetConfigEntry(
        kind=entry.kind,
        name=_kept_as(entry.kind, entry.name),
        settings=entry.settings,
        cas_index=cas_index,
        must_fit=True,
    )
    return json_response(check(await request.agent.write(command)))


def _kept_as(kind: str, name: str) -> str:
    """The name that an entry is written under, whatever it is called."""
    return GLOBAL_NAME if kind == "proxy-defaults" else name


def _enter(request: ApiRequest) -> None:
    """Go to the datacenter asked for if there is one: clients see a write to any other done in the
    one that keeps the entries of all."""
    with suppress(HttpError):
        datacenter(request)


def _cas_index(request: ApiRequest) -> int | None:
    if not (given := request.query.get("cas")):
        return None
    try:
        return parse_uint(given)
    except ValueError as problem:
        raise HttpError(500, str(problem)) from None


def _read(request: ApiRequest, body: bytes) -> Entry:
    try:
        value = decode_json(request, body)
    except HttpError as problem:
        raise HttpError(400, f"{_BAD_BODY}: {problem.text.partition(': ')[2]}") from None
    if value is None and body.strip():
        value = {}
    if not isinstance(value, dict):
        reason = "EOF" if not body.strip() else "json: cannot unmarshal body into an entry"
        raise HttpError(400, f"{_BAD_BODY}: {reason}")
    try:
        return read_entry(value)
    except BodyError as problem:
        raise HttpError(400, f"{_BAD_BODY}: {problem}") from None


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
        reason = f"Config entry not found for {quote(kind)} / {quote(name)}"
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
        refusals=(Refusal(400, _UNKNOWN_KIND), *(Refusal(500, text) for text in _MISFITS)),
    ),
)
async def delete(request: ApiRequest) -> ApiResponse:
    kind, slash, name = plain(request.argument).partition("/")
    if not slash:
        raise HttpError(404, "Must provide both a kind and name to delete")
    _require_kind(kind, 400)
    _enter(request)
    command = DeleteConfigEntry(kind=kind, name=_kept_as(kind, name), must_fit=True)
    check(await request.agent.write(command))
    return json_response({})
