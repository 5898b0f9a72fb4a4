"""`/v1/query`: prepared queries, kept and run."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import msgspec

from registry.agent import prepared_queries
from registry.agent.definition_rules import metadata_problem
from registry.agent.durations import MILLISECOND, parse_duration
from registry.http.api import (
    ApiRequest,
    ApiResponse,
    Handler,
    HttpError,
    Routes,
    empty_response,
    index_headers,
    json_response,
)
from registry.http.body_readers import (
    Field,
    fields,
    flag,
    integer,
    object_schema,
    read_body,
    struct,
    text,
    text_map,
    texts,
    unsigned,
)
from registry.http.catalog_views import (
    CheckView,
    NodeServiceView,
    NodeView,
    check_view,
    node_view,
    service_view,
)
from registry.http.errors import REFUSED_STATUS, check
from registry.http.operations import BOOLEAN, Operation, Parameter, Refusal
from registry.http.options import (
    DATACENTER,
    NEAR,
    READ,
    argument,
    json_body,
    reads,
    shows,
)
from registry.http.params import CONSISTENCY_NAMES, datacenter, parse_bool, read_response
from registry.http.reads import NEAR_AGENT, ask, options_of, plain
from registry.http.session import CreatedObject
from registry.http.views import View
from registry.state.base import ReadOptions, ReadResult, Refused
from registry.state.health import InstanceHealth
from registry.state.prepared import (
    CreateQuery,
    DeleteQuery,
    ExecuteQuery,
    Execution,
    ExplainQuery,
    Failover,
    GetQuery,
    ListQueries,
    PreparedQuery,
    ServiceQuery,
    Template,
    UpdateQuery,
    flaw_of,
    modifiable,
)
from registry.state.quote import quote

routes = Routes()

_NOT_FOUND = "Query not found"
_EXECUTE, _EXPLAIN = "/execute", "/explain"


_ID = argument("id", "The id of the query.")
_NAME = argument("name", "The name or the id of the query, or a name that a template stands for.")
_LIMIT = Parameter(
    "limit",
    "Show so many instances at most.",
    {"type": "integer", "minimum": 0},
    refusals=(Refusal(500, "Bad limit: …"),),
)
_UNFIT = tuple(
    Refusal(500, text)
    for text in (
        "Invalid prepared query: …",
        "failed compiling template: …",
        'invalid session "…"',
        "name '…' aliases an existing query …",
        "a query template with an empty name already exists",
    )
)
_NO_UUID = Refusal(500, "failed prepared query lookup: index error: …")
_UNKNOWN = (
    Refusal(500, "Cannot modify non-existent prepared query: '…'"),
    Refusal(500, "Prepared Query lookup failed: …"),
)
_UNRUNNABLE = tuple(
    Refusal(500, text)
    for text in (
        "Missing Query ID",
        "prepared query templates can only be resolved up by name, not by ID",
        "failed to render template: …",
    )
)


class TemplateView(View, frozen=True):
    type: str
    regexp: str
    remove_empty_tags: bool


class FailoverView(View, frozen=True):
    nearest_n: int
    datacenters: tuple[str, ...] | None


class ServiceQueryView(msgspec.Struct, frozen=True):
    service: str = msgspec.field(name="Service")
    failover: FailoverView = msgspec.field(name="Failover")
    only_passing: bool = msgspec.field(name="OnlyPassing")
    ignore_check_ids: tuple[str, ...] | None = msgspec.field(name="IgnoreCheckIDs")
    near: str = msgspec.field(name="Near")
    tags: tuple[str, ...] | None = msgspec.field(name="Tags")
    node_meta: dict[str, str] | None = msgspec.field(name="NodeMeta")
    service_meta: dict[str, str] | None = msgspec.field(name="ServiceMeta")
    connect: bool = msgspec.field(name="Connect")


class DnsView(View, frozen=True):
    ttl: str


class QueryView(View, frozen=True):
    id: str
    name: str
    session: str
    token: str
    template: TemplateView
    service: ServiceQueryView
    dns: DnsView = msgspec.field(name="DNS")
    create_index: int
    modify_index: int


class FoundView(View, frozen=True):
    """An instance as it is kept: unlike listings, with null for tags and checks that are not."""

    node: NodeView
    service: NodeServiceView
    checks: list[CheckView] | None


class ExecutionView(View, frozen=True):
    service: str
    nodes: list[FoundView]
    dns: DnsView = msgspec.field(name="DNS")
    datacenter: str
    failovers: int
    index: int
    last_contact: int
    known_leader: bool
    consistency_level: str


class ExplanationView(View, frozen=True):
    query: QueryView
    index: int
    last_contact: int
    known_leader: bool
    consistency_level: str


def query_view(query: PreparedQuery) -> QueryView:
    template, service = query.template, query.service
    return QueryView(
        query.id,
        query.name,
        query.session,
        query.token,
        TemplateView(template.type, template.regexp, template.remove_empty_tags),
        ServiceQueryView(
            service.service,
            FailoverView(service.failover.nearest_n, service.failover.datacenters),
            service.only_passing,
            service.ignore_check_ids,
            service.near,
            service.tags,
            service.node_meta,
            service.service_meta,
            service.connect,
        ),
        DnsView(query.dns_ttl),
        query.create_index,
        query.modify_index,
    )


def _found_view(found: InstanceHealth) -> FoundView:
    return FoundView(
        node_view(found.node),
        service_view(found.service, null_tags=True),
        [check_view(check, null_tags=True) for check in found.checks] or None,
    )


_SERVICE_FIELDS = {
    **fields(
        service=text,
        failover=struct(Failover, fields(nearest_n=integer, datacenters=texts)),
        only_passing=flag,
        near=text,
        tags=texts,
        node_meta=text_map,
        service_meta=text_map,
        connect=flag,
    ),
    "ignorecheckids": Field("ignore_check_ids", texts, "IgnoreCheckIDs"),
}
_FIELDS = fields(
    id=text,
    name=text,
    session=text,
    token=text,
    template=struct(Template, fields(type=text, regexp=text, remove_empty_tags=flag)),
    service=struct(ServiceQuery, _SERVICE_FIELDS),
    dns=struct(lambda ttl="": ttl, fields(ttl=text)),
    create_index=unsigned,
    modify_index=unsigned,
)


async def _read_definition(request: ApiRequest, *, required: bool = True) -> PreparedQuery:
    """The definition in the body; an empty one, if none is required and there is no body."""
    given = {}
    if required or _has_body(request):
        given = await read_body(request, _FIELDS, "PreparedQuery")
    given["dns_ttl"] = given.pop("dns", "")
    return PreparedQuery(**given)


def _has_body(request: ApiRequest) -> bool:
    length = request.headers.get("content-length", "0")
    return length != "0" or "transfer-encoding" in request.headers


def _flaw(query: PreparedQuery) -> str:
    return flaw_of(query, parse_duration, partial(metadata_problem, allow_reserved=True))


def _require_sound(query: PreparedQuery) -> None:
    if flaw := _flaw(query):
        raise HttpError(500, flaw)


@routes.post(
    "/v1/query",
    Operation(
        summary="Keep a query",
        parameters=(DATACENTER,),
        body=json_body(object_schema(_FIELDS)),
        answers=shows(CreatedObject),
        refusals=(
            Refusal(500, "ID must be empty when creating a new prepared query"),
            *_UNFIT,
        ),
    ),
)
async def create(request: ApiRequest) -> ApiResponse:
    query = await _read_definition(request)
    datacenter(request)
    if query.id:
        raise HttpError(500, "ID must be empty when creating a new prepared query")
    _require_sound(query)
    created = check(await request.agent.write(CreateQuery(query=query)))
    return json_response({"ID": created})


@routes.get(
    "/v1/query",
    Operation(summary="List the queries", parameters=READ, answers=reads(list[QueryView])),
)
async def list_queries(request: ApiRequest) -> ApiResponse:
    query = ListQueries()
    meta = await ask(request, query)
    return read_response(request, query, meta, [query_view(each) for each in meta.value])


@routes.get(
    "/v1/query/",
    Operation(
        summary="Show a query in a list",
        path=(_ID,),
        parameters=READ,
        answers=reads(list[QueryView]),
        refusals=(Refusal(404, _NOT_FOUND), _NO_UUID),
    ),
    Operation(
        summary="Run a query",
        path=(_NAME, _EXECUTE),
        parameters=(
            *READ,
            NEAR,
            _LIMIT,
            Parameter(
                "connect",
                "Instances that speak the mesh's protocol.",
                BOOLEAN,
                refusals=(Refusal(500, "Error parsing 'connect' value: …"),),
            ),
        ),
        answers=reads(ExecutionView),
        refusals=(Refusal(404, _NOT_FOUND), *_UNRUNNABLE),
    ),
    Operation(
        summary="Show the query that a name leads to",
        path=(_NAME, _EXPLAIN),
        parameters=(*READ, _LIMIT),
        answers=reads(ExplanationView),
        refusals=(Refusal(404, _NOT_FOUND), *_UNRUNNABLE),
    ),
)
async def get(request: ApiRequest) -> ApiResponse:
    """A definition by id; with `/execute` or `/explain` after it, what a name or id leads to."""
    asked = plain(request.argument)
    if request.path.endswith(_EXECUTE):
        return await _execute(request, asked.removesuffix(_EXECUTE))
    if request.path.endswith(_EXPLAIN):
        return await _explain(request, asked.removesuffix(_EXPLAIN))
    query = GetQuery(id=asked)
    if "index" in request.query:  # nobody waits for what is not there
        _found(request, await ask(request, query, at_once=True))
    meta = await ask(request, query)
    return read_response(request, query, meta, [query_view(_found(request, meta))])


async def _require_known(request: ApiRequest, query_id: str) -> None:
    found = await request.agent.read(GetQuery(id=query_id), ReadOptions())
    check(modifiable(query_id, found.value))


@routes.put(
    "/v1/query/",
    Operation(
        summary="Change a query",
        path=(_ID,),
        parameters=(DATACENTER,),
        body=json_body(object_schema(_FIELDS)),
        refusals=(*_UNFIT, *_UNKNOWN),
    ),
)
async def update(request: ApiRequest) -> ApiResponse:
    _refuse_method(request)
    query = await _read_definition(request, required=False)
    datacenter(request)
    query = msgspec.structs.replace(query, id=plain(request.argument))
    if _flaw(query):
        # That there is no such query is told before what is wrong with its new definition.
        await _require_known(request, query.id)
        _require_sound(query)
    check(await request.agent.write(UpdateQuery(query=query)))
    return empty_response()


@routes.delete(
    "/v1/query/",
    Operation(
        summary="Delete a query",
        path=(_ID,),
        parameters=(DATACENTER,),
        refusals=_UNKNOWN,
    ),
)
async def delete(request: ApiRequest) -> ApiResponse:
    _refuse_method(request)
    datacenter(request)
    check(await request.agent.write(DeleteQuery(id=plain(request.argument))))
    return empty_response()


def _methods(request: ApiRequest) -> str:
    runs = request.path.endswith((_EXECUTE, _EXPLAIN))  # which a query may be called, too
    return "GET" if runs else "GET,PUT,DELETE"


def _refuse_method(request: ApiRequest) -> None:
    """Below a query there is something that can only be read."""
    if request.method not in _methods(request).split(","):
        allowed = (("Allow", _methods(request)),)
        raise HttpError(405, f"method {request.method} not allowed", allowed)


async def _other_method(request: ApiRequest) -> ApiResponse:
    """What a query and what is below it allow differs, so it is answered here."""
    if request.method == "OPTIONS":
        response = json_response({})
        response.headers.append(("Allow", f"OPTIONS,{_methods(request)}"))
        return response
    allowed = (("Allow", _methods(request)),)
    raise HttpError(405, f"method {request.method} not allowed", allowed)


def _serve_other_methods(handler: Handler) -> None:
    for method in ("OPTIONS", "POST", "HEAD", "PATCH"):
        routes.add(method, "/v1/query/")(handler)


_serve_other_methods(_other_method)


def _found(request: ApiRequest, meta: ReadResult) -> Any:
    """What a read found; HttpError when that is nothing, or a refusal."""
    headers = tuple(index_headers(meta))
    if isinstance(meta.value, Refused):
        raise HttpError(REFUSED_STATUS.get(meta.value.kind, 500), meta.value.reason, headers)
    if meta.value is None:
        # What a cache passes on is not known any more for the answer that it is.
        raise HttpError(500 if request.cached is not None else 404, _NOT_FOUND, headers)
    return meta.value


def _unwaiting(request: ApiRequest) -> ReadOptions:
    """As the request wants to be read, but at once: running a query has no index to wait for."""
    return msgspec.structs.replace(options_of(request), min_index=0, wait_ms=0)


async def _execute(request: ApiRequest, name: str) -> ApiResponse:
    node = request.agent.node_name
    limit = _limit(request)
    near = plain(request.query.get("near"))
    query = ExecuteQuery(
        name=name,
        near=node if near in (NEAR_AGENT, "_ip") else near,
        agent_node=node,
        connect=_connect(request),
    )
    options = _unwaiting(request)  # first: `?dc` has the request served by another agent
    ran = await prepared_queries.execute(request.agent, query, options)
    meta = ran.meta
    execution: Execution = _found(request, meta)
    instances = list(execution.instances)
    is_sorted = near or execution.query.service.near
    if ran.failovers or not is_sorted:
        # Clients take the first one: without an order of its own, each shall be that equally often.
        random.shuffle(instances)
    result = ExecutionView(
        execution.query.service.service,
        [_found_view(each) for each in instances[: limit or None]],
        DnsView(execution.query.dns_ttl),
        ran.datacenter,
        ran.failovers,
        0,
        meta.last_contact_ms * MILLISECOND,  # as everywhere in bodies, unlike in the header
        meta.known_leader,
        CONSISTENCY_NAMES[meta.mode],
    )
    return read_response(request, query, meta, result)


def _connect(request: ApiRequest) -> bool:
    given = request.query.get("connect")
    try:
        return bool(given) and parse_bool(given)
    except ValueError as problem:
        raise HttpError(500, f"Error parsing 'connect' value: {problem}") from None


def _limit(request: ApiRequest) -> int:
    """`?limit=`, 0 for none; a negative one is none, too."""
    given = request.query.get("limit")
    if not given:
        return 0
    digits = given[1:] if given[0] in "+-" else given
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 18:
        raise HttpError(500, f"Bad limit: strconv.Atoi: parsing {quote(given)}: invalid syntax")
    return max(int(given), 0)


async def _explain(request: ApiRequest, name: str) -> ApiResponse:
    query = ExplainQuery(name=name)
    _limit(request)  # means nothing here, but has to be one
    options = _unwaiting(request)
    meta = await request.agent.read(query, options)
    result = ExplanationView(
        query_view(_found(request, meta)),
        0,
        meta.last_contact_ms * MILLISECOND,
        meta.known_leader,
        CONSISTENCY_NAMES[meta.mode],
    )
    return read_response(request, query, meta, result)
