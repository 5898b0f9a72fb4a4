"""`/v1/kv/`: keys and values (surface 1.2).

Reading one key is the most frequent request there is, so its JSON is put together from the entry
by formatting, without a dictionary in between.
"""

from __future__ import annotations

from binascii import b2a_base64
from operator import itemgetter
from typing import NotRequired, TypedDict
from urllib.parse import urlencode

from registry.http import errors, params
from registry.http.api import (
    JSON_TYPE,
    TEXT_TYPE,
    ApiRequest,
    ApiResponse,
    HttpError,
    Routes,
    empty_response,
    encode_json,
    index_headers,
    json_response,
)
from registry.http.operations import (
    BYTES,
    BYTES_MEDIA,
    PRESENT,
    TEXT,
    TEXT_MEDIA,
    UINT64,
    Answer,
    Body,
    Operation,
    Parameter,
    Refusal,
)
from registry.http.options import (
    BLOCKING,
    CAS,
    CONSISTENCY,
    DATACENTER,
    INDEX_HEADERS,
    READ,
    argument,
    shows,
)
from registry.http.origin import REASON, with_origin
from registry.state.base import Command, ReadOptions, ReadResult
from registry.state.kv import (
    KvCas,
    KvDelete,
    KvDeleteCas,
    KvDeleteTree,
    KvEntry,
    KvGet,
    KvKeys,
    KvList,
    KvSet,
)
from registry.state.locks import KvLock, KvUnlock

routes = Routes()


class KvEntryObject(TypedDict):
    LockIndex: int
    Key: str
    Flags: int
    Value: str | None
    Session: NotRequired[str]
    CreateIndex: int
    ModifyIndex: int


_KEY = argument("key", "The key; it may hold slashes.", "Missing key name")
_RECURSE = Parameter("recurse", "All keys under this prefix.", PRESENT)
_LISTING = (
    _RECURSE,
    Parameter("keys", "Only the names of the keys under this prefix.", PRESENT),
    Parameter("separator", "With `keys`: cut names after the first of these past the prefix."),
    Parameter("seperator", "The old spelling of `separator`."),
)
_RAW = Parameter("raw", "The bytes of the value, and nothing else.", PRESENT)
_CONFLICT = Refusal(400, "Conflicting flags: …")
_BAD_SESSION = tuple(
    Refusal(500, text)
    for text in (
        "missing session",
        'invalid session "…"',
        "failed session lookup: index error: …",
    )
)
_LOCKING = (
    Parameter("acquire", "Take the lock for this session.", refusals=_BAD_SESSION),
    Parameter("release", "Give back the lock of this session.", refusals=_BAD_SESSION),
)
_FLAGS = Parameter(
    "flags",
    "A number kept with the value.",
    UINT64,
    refusals=(Refusal(500, 'strconv.ParseUint: parsing "…": …'),),
)
#: What writes take: how they are consistent is checked, though it changes nothing.
_WRITE = (DATACENTER, *BLOCKING, *CONSISTENCY)
_ENTRIES = (
    Answer(list[KvEntryObject], "The entries, values in base64", headers=INDEX_HEADERS),
    Answer(list[str], headers=INDEX_HEADERS),  # with `keys`
)
_PLAIN = Answer(TEXT, media=(TEXT_MEDIA,), headers=INDEX_HEADERS)  # with `raw`
_VALUE = Body(
    BYTES,
    "The value, any bytes.",
    BYTES_MEDIA,
    required=False,
    refusals=(Refusal(413, "Request body(… bytes) too large, max size: … bytes. See …."),),
)
_NONE = Refusal(404)

_VALUE_LIMIT_HELP = "https://www.consul.io/docs/agent/options.html#kv_max_value_size"

#: A stored page must not run in the origin that the UI is served from, whatever its bytes look
#: like (a departure from the source system, which lets the bytes choose the type).
_RAW_HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "sandbox"),
]

_ENTRY = b'{"LockIndex":%d,"Key":%b,"Flags":%d,"Value":%b%b,"CreateIndex":%d,"ModifyIndex":%d}'


def key_of(request: ApiRequest) -> bytes:
    """The key named by the path, byte for byte as the client sent it once decoded."""
    return request.argument.encode("utf-8", "surrogateescape")


def entry_json(key: bytes, entry: KvEntry) -> bytes:
    """One entry as the API shows it: no `Session` unless held, null for an empty value."""
    value = b'"%b"' % b2a_base64(entry.value, newline=False) if entry.value else b"null"
    session = b',"Session":' + encode_json(entry.session) if entry.session else b""
    return _ENTRY % (
        entry.lock_index,
        key_json(key),
        entry.flags,
        value,
        session,
        entry.create_index,
        entry.modify_index,
    )


def key_json(key: bytes) -> bytes:
    """A key as a JSON string; each byte that is no UTF-8 shows as U+FFFD."""
    try:
        return encode_json(key.decode())
    except UnicodeDecodeError:
        text = key.decode("utf-8", "surrogateescape")
        shown = ("\ufffd" if "\udc80" <= char <= "\udcff" else char for char in text)
        return encode_json("".join(shown))


@routes.get(
    "/v1/kv/",
    Operation(
        summary="Read a key, or all under a prefix",
        path=(_KEY,),
        parameters=(*READ, *_LISTING, _RAW),
        answers=(*_ENTRIES, _PLAIN),
        refusals=(_NONE,),
    ),
    Operation(
        summary="List all keys, with `recurse` or `keys`",
        parameters=(*READ, *_LISTING),
        answers=_ENTRIES,
        refusals=(_NONE, *_KEY.refusals),
    ),
)
async def get(request: ApiRequest) -> ApiResponse:
    """One entry, all under a prefix (`recurse`), or only their names (`keys`)."""
    options = params.read_options(request)
    key, query = key_of(request), request.query
    if "keys" in query:
        return await _get_keys(request, key, options)
    if "recurse" in query:
        return await _get_tree(request, key, options)
    _require(key)
    meta = await request.agent.read(KvGet(key=key), options)
    entry: KvEntry | None = meta.value
    if entry is None:
        return empty_response(404, meta)
    if "raw" in query:
        content_type = TEXT_TYPE if entry.value else ""  # nothing has no type
        return ApiResponse(200, entry.value, content_type, index_headers(meta) + _RAW_HEADERS)
    return _json(b"[%b]" % entry_json(key, entry), meta)


async def _get_tree(request: ApiRequest, prefix: bytes, options: ReadOptions) -> ApiResponse:
    meta = await request.agent.read(KvList(prefix=prefix), options)
    if not meta.value:
        return empty_response(404, meta)
    entries = [entry_json(key, entry) for key, entry in meta.value]
    return _json(b"[%b]" % b",".join(entries), meta)


async def _get_keys(request: ApiRequest, prefix: bytes, options: ReadOptions) -> ApiResponse:
    query = request.query
    # The misspelt name came first, and clients still send it.
    name = "separator" if "separator" in query else "seperator"
    separator = query.get_bytes(name)
    meta = await request.agent.read(KvKeys(prefix=prefix, separator=separator), options)
    if not meta.value and prefix:
        return empty_response(404, meta)
    return _json(b"[%b]" % b",".join(map(key_json, meta.value)), meta)


def _json(body: bytes, meta: ReadResult) -> ApiResponse:
    return ApiResponse(200, body, JSON_TYPE, index_headers(meta), is_json=True)


@routes.put(
    "/v1/kv/",
    Operation(
        summary="Write a key: always, by `cas`, or taking or giving back a lock",
        path=(_KEY,),
        parameters=(*_WRITE, _FLAGS, CAS, *_LOCKING, REASON),
        body=_VALUE,
        answers=shows(bool, "Whether it was written"),
        refusals=(_CONFLICT,),
    ),
)
async def put(request: ApiRequest) -> ApiResponse:
    """Write the body: always, by `cas`, or taking (`acquire`) or giving back (`release`) a lock."""
    params.read_options(request)
    key = key_of(request)
    _require(key)
    _refuse_conflict(request, "cas", "acquire", "release")
    flags = _number(request, "flags") or 0
    cas = _number(request, "cas")
    limit = request.agent.config.limits.kv_max_value_size
    value = await body_within(request, limit, _VALUE_LIMIT_HELP)
    command = _write_command(request, key, value, flags, cas)
    return json_response(errors.check(await request.agent.write(with_origin(request, command))))


def _write_command(
    request: ApiRequest, key: bytes, value: bytes, flags: int, cas: int | None
) -> Command:
    query = request.query
    if cas is not None:
        return KvCas(key=key, value=value, flags=flags, index=cas)
    if "acquire" in query:
        return KvLock(key=key, value=value, flags=flags, session=query.get("acquire"))
    if "release" in query:
        return KvUnlock(key=key, value=value, flags=flags, session=query.get("release"))
    return KvSet(key=key, value=value, flags=flags)


@routes.delete(
    "/v1/kv/",
    Operation(
        summary="Delete a key, or all under a prefix",
        path=(_KEY,),
        parameters=(*_WRITE, _RECURSE, CAS, REASON),
        answers=shows(bool, "Whether it is gone"),
        refusals=(_CONFLICT,),
    ),
    Operation(
        summary="Delete all keys, with `recurse`",
        parameters=(*_WRITE, _RECURSE, CAS, REASON),
        answers=shows(bool),
        refusals=_KEY.refusals,
    ),
)
async def delete(request: ApiRequest) -> ApiResponse:
    """Delete one key, one key by `cas`, or all under a prefix (`recurse`)."""
    params.read_options(request)
    key = key_of(request)
    _refuse_conflict(request, "recurse", "cas")
    command: Command
    if "recurse" in request.query:
        command = KvDeleteTree(prefix=key)
    else:
        _require(key)
        cas = _number(request, "cas")
        command = KvDelete(key=key) if cas is None else KvDeleteCas(key=key, index=cas)
    return json_response(errors.check(await request.agent.write(with_origin(request, command))))


def _require(key: bytes) -> None:
    if not key:
        raise HttpError(400, "Missing key name")


def _refuse_conflict(request: ApiRequest, *names: str) -> None:
    query = request.query
    if sum(name in query for name in names) > 1:
        given = sorted(query.pairs(), key=itemgetter(0))  # values keep the order they came in
        raise HttpError(400, "Conflicting flags: " + urlencode(given))


def _number(request: ApiRequest, name: str) -> int | None:
    """An unsigned number in the query; None when the parameter is not there."""
    if name not in request.query:
        return None
    try:
        return params.parse_uint(request.query.get(name))
    except ValueError as problem:
        raise HttpError(500, str(problem)) from None


async def body_within(request: ApiRequest, limit: int, help_url: str) -> bytes:
    """The whole body; HttpError 413 as soon as it is known to be over `limit` bytes."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise HttpError(
            413,
            f"Request body({int(length)} bytes) too large, "
            f"max size: {limit} bytes. See {help_url}.",
        )
    return await request.body(limit)
