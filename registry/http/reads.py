"""What the handlers of listings have in common: the question, the answer's headers, the filter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

from registry.errors import NoPath
from registry.http.api import ApiRequest, ApiResponse, HttpError, index_headers
from registry.http.filter import Predicate, Selectors, compile_filter
from registry.http.params import (
    enter,
    read_options,
    read_response,
)
from registry.state.base import Query, ReadOptions, ReadResult

T = TypeVar("T")

#: Asked for in `near`: the agent that answers.
NEAR_AGENT = "_agent"


def options_of(request: ApiRequest) -> ReadOptions:
    """How the request wants to be read. Refusals that a server would have made carry the index
    headers of an empty answer, as clients that look at them first expect."""
    try:
        return read_options(request)
    except HttpError as problem:
        if problem.status != 500:
            raise
        raise _refused_read(problem.status, problem.text, problem.headers) from None


def _refused_read(status: int, text: str, headers: tuple[tuple[str, str], ...] = ()) -> HttpError:
    nothing = ReadResult(index=0, value=None, known_leader=False)
    return HttpError(status, text, (*headers, *index_headers(nothing)))


async def ask(request: ApiRequest, query: Query, *, at_once: bool = False) -> ReadResult:
    """What the request asks; `at_once` whatever index it has seen already."""
    options = options_of(request)  # first: `?cached` has the request go through the cache
    if at_once:
        options = msgspec.structs.replace(options, min_index=0, wait_ms=0)
    return await _read(request, query, options)


async def _read(request: ApiRequest, query: Query, options: ReadOptions) -> ReadResult:
    try:
        return await request.agent.read(query, options)
    except NoPath as problem:
        raise _refused_read(500, str(problem)) from problem


async def answer(
    request: ApiRequest,
    query: Query,
    show: Callable[[Any], Any],
    selectors: Selectors | None = None,
) -> ApiResponse:
    """The list that `query` finds, each item shown by `show`, kept if the request's filter fits."""
    meta, fits = await ask_filtered(request, query, selectors or {})
    return read_response(request, query, meta, kept(fits, map(show, meta.value)))


async def ask_filtered(
    request: ApiRequest, query: Query, selectors: Selectors
) -> tuple[ReadResult, Predicate | None]:
    """What was asked, and the request's `?filter=` for `kept`.

    HttpError 500 for an expression that is none, before anything is asked or waited for; no
    `selectors` are for a listing that knows no filter.
    """
    options = options_of(request)
    fits = _filter_of(request, selectors)
    return await _read(request, query, options), fits


def _filter_of(request: ApiRequest, selectors: Selectors) -> Predicate | None:
    expression = plain(request.query.get("filter")) if selectors else ""
    if not expression:
        return None
    try:
        return compile_filter(expression, selectors)
    except HttpError as problem:
        raise _refused_read(problem.status, problem.text, problem.headers) from None


def kept(fits: Predicate | None, items: Iterable[T]) -> list[T]:
    """The items that a filter keeps; all of them without one."""
    if fits is None:
        return list(items)
    return [item for item in items if fits(msgspec.to_builtins(item))]


def node_meta(request: ApiRequest) -> dict[str, str]:
    """`?node-meta=k:v`, as often as given; without a colon the value is empty."""
    pairs = (plain(given).partition(":") for given in request.query.get_all("node-meta"))
    return {key: value for key, _, value in pairs}


def near(request: ApiRequest) -> str:
    """The node to sort by, "" for none."""
    given = plain(request.query.get("near"))
    return request.agent.node_name if given == NEAR_AGENT else given


def tags(request: ApiRequest) -> tuple[str, ...] | None:
    """`?tag=`, as often as given; None when it is not there at all."""
    return tuple(map(plain, request.query.get_all("tag"))) if "tag" in request.query else None


def wanted_name(request: ApiRequest, missing: str) -> str:
    """What the path ends in; HttpError 400 with `missing` when that is nothing."""
    if not request.argument:
        raise HttpError(400, missing)
    return plain(request.argument)


def plain(text: str) -> str:
    """Text that may be looked up and stored: bytes that are no UTF-8 became U+FFFD, as in JSON."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def require_home(request: ApiRequest, datacenter: str) -> None:
    """Have a write made in the datacenter that it names; HttpError 500 if there is no way there."""
    if datacenter:
        enter(request, datacenter)
