"""What requests say beside their path: query parameters, consistency, waiting, bodies.

The texts of refusals are those that clients know (surface 1.1).
"""

from __future__ import annotations

import json
import math
import random
import re
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from registry.agent.durations import parse_duration
from registry.goflags import BOOLEANS
from registry.http.api import ApiRequest, ApiResponse, HttpError, Parameters, json_response
from registry.http.cache_control import CacheControl
from registry.state.base import Query, ReadOptions, ReadResult
from registry.state.quote import quote

U64_MAX = (1 << 64) - 1

#: The wait is stretched by a random part of up to this fraction, so that readers woken by the same
#: change, or started together, do not come back together.
JITTER_FRACTION = 16

NO_NAMESPACES = "Namespaces are a Consul Enterprise feature"
NO_PATH = "No path to datacenter"

CONSISTENCY_NAMES = {"default": "leader", "stale": "stale", "consistent": "consistent"}

_BAD_ESCAPE = re.compile(rb"%(?![0-9a-fA-F]{2})")
_SURROGATES = re.compile("[\ud800-\udfff]")

NO_PARAMETERS = Parameters([])


def parse_query(raw: bytes) -> Parameters:
    """The query string, decoded. Raises `ValueError` on a `%` without two hexadecimal digits."""
    if not raw:
        return NO_PARAMETERS
    if b"%" in raw and _BAD_ESCAPE.search(raw):
        raise ValueError("invalid URL escape in the query string")
    pairs = []
    for part in raw.replace(b";", b"&").split(b"&"):
        if part:
            name, _, value = part.partition(b"=")
            pairs.append((_unescaped(name).decode("utf-8", "replace"), _unescaped(value)))
    return Parameters(pairs)


def _unescaped(raw: bytes) -> bytes:
    if b"+" in raw:
        raw = raw.replace(b"+", b" ")
    return unquote_to_bytes(raw) if b"%" in raw else raw


def parse_uint(text: str) -> int:
    """An unsigned 64-bit number in decimal. Raises `ValueError` with the text that clients know."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: invalid syntax")
    number = int(text) if len(text) < 40 else U64_MAX + 1
    if number > U64_MAX:
        raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: value out of range")
    return number


def parse_bool(text: str) -> bool:
    """One of the words for yes and no. Raises `ValueError` with the text that clients know."""
    if text not in BOOLEANS:
        raise ValueError(f"strconv.ParseBool: parsing {quote(text)}: invalid syntax")
    return BOOLEANS[text]


def token(request: ApiRequest) -> str:
    """The ACL token: `?token=`, `X-Consul-Token`, `Authorization: Bearer`, then the agent's."""
    if found := request.query.get("token"):
        return found
    if found := request.headers.get("x-consul-token", ""):
        return found
    words = request.headers.get("authorization", "").split()
    if len(words) > 1 and words[0].lower() == "bearer":
        return words[1]
    return request.agent.config.acl.tokens.default


def refuse_namespace(request: ApiRequest) -> None:
    """HttpError 400 when the request names a namespace."""
    if request.headers.get("x-consul-namespace"):
        raise HttpError(400, f'Bad request: Invalid header: "X-Consul-Namespace" - {NO_NAMESPACES}')
    if request.query.get("ns"):
        raise HttpError(400, f'Bad request: Invalid query parameter: "ns" - {NO_NAMESPACES}')


def datacenter(request: ApiRequest) -> str:
    """The datacenter asked for, by default our own; from now on the request is one for it.

    HttpError 500 when there is no way there.
    """
    if asked := request.query.get("dc"):
        enter(request, asked)
    return request.agent.datacenter


def enter(request: ApiRequest, name: str) -> None:
    """Have the request served by the datacenter `name`: its handler goes on with an agent whose
    backend is that one's. HttpError 500 when there is no way there, also for a name that is not
    in lower case as all of them are."""
    if name == request.agent.datacenter:
        return
    agent = request.agent.elsewhere(name)
    if agent is None:
        raise HttpError(500, NO_PATH)
    request.agent = agent
    if request.cached is not None and request.cache is not None:
        request.cache.attach(request)


def read_options(request: ApiRequest) -> ReadOptions:
    """How the request wants to be answered. Raises `HttpError` where it contradicts itself."""
    query = request.query
    if query is NO_PARAMETERS and "cache-control" not in request.headers:
        # The usual request; the rest would find nothing either.
        return _usual_options(request)
    mode, max_stale_ns = consistency_of(request)
    min_index, wait_ms = wait_of(request)
    home = datacenter(request)
    return ReadOptions(
        datacenter=home,
        mode=mode,
        max_stale_ms=max_stale_ns // 1_000_000 if mode == "stale" and max_stale_ns > 0 else None,
        min_index=min_index,
        wait_ms=wait_ms if min_index else 0,
    )


def _usual_options(request: ApiRequest) -> ReadOptions:
    if request.agent.config.discovery_max_stale_ns > 0 and _discovers(request.path):
        return ReadOptions(
            datacenter=request.agent.datacenter,
            mode="stale",
            max_stale_ms=request.agent.config.discovery_max_stale_ns // 1_000_000,
        )
    return ReadOptions(datacenter=request.agent.datacenter)


def _discovers(path: str) -> bool:
    return path.startswith(("/v1/catalog", "/v1/health"))


def consistency_of(request: ApiRequest) -> tuple[str, int]:
    """Mode and the oldest answer allowed, ns; 0 = any age. Raises `HttpError` as `read_options`."""
    query, config = request.query, request.agent.config
    stale, consistent, max_stale_ns = "stale" in query, "consistent" in query, 0
    cached = "cached" in query and config.http_config.use_cache
    if text := query.get("max_stale"):
        try:
            max_stale_ns = parse_duration(text)
        except ValueError:
            raise HttpError(400, f"Invalid max_stale value {quote(text)}") from None
        stale = stale or max_stale_ns > 0
    chosen = stale or consistent or cached or "leader" in query
    if not chosen and config.discovery_max_stale_ns > 0 and _discovers(request.path):
        stale, max_stale_ns = True, config.discovery_max_stale_ns
    if stale and consistent:
        raise _conflict("stale")
    if consistent and cached:
        raise _conflict("cached")
    CacheControl.read(request.headers.get("cache-control", ""))  # a bad one is refused here
    return ("consistent" if consistent else "stale" if stale else "default"), max_stale_ns


def _conflict(mode: str) -> HttpError:
    return HttpError(400, f"Cannot specify ?{mode} with ?consistent, conflicting semantics.")


def wait_of(request: ApiRequest) -> tuple[int, int]:
    """`?index=` (0: do not block) and how long to wait, ms: defaulted, capped and stretched."""
    config, wait_ns, min_index = request.agent.config, 0, 0
    if text := request.query.get("wait"):
        try:
            wait_ns = parse_duration(text)
        except ValueError:
            raise HttpError(400, "Invalid wait time") from None
    if text := request.query.get("index"):
        try:
            min_index = parse_uint(text)
        except ValueError:
            raise HttpError(400, "Invalid index") from None
    if wait_ns <= 0:
        wait_ns = config.default_query_time_ns
    wait_ns = min(wait_ns, config.max_query_time_ns)
    return min_index, jittered_ms(wait_ns)


def jittered_ms(wait_ns: int) -> int:
    """A wait in ms, never shorter than asked, with the random extra."""
    return math.ceil((wait_ns + random.uniform(0, wait_ns / JITTER_FRACTION)) / 1_000_000)


def read_response(request: ApiRequest, query: Query, meta: ReadResult, value: Any) -> ApiResponse:
    """JSON of `value` with all that the headers say about how it was read."""
    response = json_response(value, meta)
    response.headers.extend(read_headers(request, query, meta))
    return response


def read_headers(request: ApiRequest, query: Query, meta: ReadResult) -> list[tuple[str, str]]:
    """The headers of a read beyond the index: effective consistency, `X-Cache`, `Age`."""
    headers = []
    if query.tells_consistency:
        headers.append(("X-Consul-Effective-Consistency", CONSISTENCY_NAMES[meta.mode]))
    if request.cached is not None:
        headers.extend(request.cached.headers())
    return headers


def decode_json(request: ApiRequest, body: bytes) -> Any:
    """The JSON value at the head of `body`; None when there is nothing. Text after it is ignored.

    Raises `HttpError` 400 on anything else.
    """
    if not body or body.isspace():
        return None
    try:
        return msgspec.json.decode(body)
    except RecursionError:
        raise HttpError(400, "Request decode failed: nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _decode_leniently(body)


def _decode_leniently(body: bytes) -> Any:
    """What the strict decoder refuses and clients may still send: text after the value, bytes that
    are no UTF-8 and halves of surrogate pairs (both become U+FFFD)."""
    try:
        text = body.decode("utf-8", "replace").lstrip(" \t\r\n")
        value, _ = _LENIENT.raw_decode(text)
    except (ValueError, RecursionError) as problem:
        raise HttpError(400, f"Request decode failed: {problem}") from None
    return _without_surrogates(value) if b"\\u" in body else value


def _no_constant(name: str) -> Any:
    raise ValueError(f"invalid character '{name[0]}' looking for beginning of value")


_LENIENT = json.JSONDecoder(parse_constant=_no_constant)


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATES.sub("�", value)
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value
