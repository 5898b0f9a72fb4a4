"""`/v1/session/`: creating, ending, renewing and listing sessions (surface 1.4)."""

from __future__ import annotations

from typing import Any, Final, NotRequired, TypedDict

import msgspec

from registry.agent.durations import HOUR, format_duration, parse_duration
from registry.http import errors, params
from registry.http.api import (
    ApiRequest,
    ApiResponse,
    HttpError,
    Routes,
    index_headers,
    json_response,
)
from registry.http.body_readers import (
    anything,
    fields,
    many,
    object_schema,
    read_fields,
    struct,
    text,
    texts,
    unsigned,
)
from registry.http.operations import Operation, Refusal
from registry.http.options import DATACENTER, READ, argument, json_body, reads, shows
from registry.http.reads import ask, wanted_name
from registry.state.base import Query, Refused
from registry.state.sessions import (
    DELETE,
    RELEASE,
    ServiceCheck,
    Session,
    SessionCreate,
    SessionDestroy,
    SessionInfo,
    SessionList,
    SessionRenew,
    SessionsOfNode,
)

routes = Routes()

DEFAULT_LOCK_DELAY_NS: Final = 15_000_000_000
DEFAULT_CHECK: Final = "serfHealth"
TTL_NS_MAX: Final = 24 * HOUR

#: A lock delay under this many "nanoseconds" is taken for seconds.
_SECONDS_BELOW: Final = 1000

_INT64_HALF: Final = 1 << 63

_SESSION: Final = argument("session", "The id of the session.", "Missing session")
_NODE: Final = argument("node", "The name of the node.", "Missing node name")
_NO_UUID: Final = Refusal(500, "failed session lookup: index error: …")
_IMPOSSIBLE: Final = tuple(
    Refusal(500, text)
    for text in (
        "Must provide Node",
        "Invalid Behavior setting '…'",
        "Session TTL '…' invalid: …",
        "Invalid Session TTL '…', must be between […]",
        "Missing node registration",
        "Missing check '…' registration",
        "Check '…' is in … state",
    )
)


class ServiceCheckObject(TypedDict):
    ID: str
    Namespace: str


class SessionObject(TypedDict):
    ID: str
    Name: str
    Node: str
    LockDelay: int
    Behavior: str
    TTL: str
    NodeChecks: tuple[str, ...] | None
    ServiceChecks: list[ServiceCheckObject] | None
    Checks: NotRequired[tuple[str, ...]]
    CreateIndex: int
    ModifyIndex: int


class CreatedObject(TypedDict):
    ID: str


_CREATE_FIELDS: Final = fields(
    id=text,  # the client's wish is not heeded
    name=text,
    node=text,
    lock_delay=anything,
    behavior=text,
    ttl=text,
    node_checks=texts,
    service_checks=many(
        struct(
            lambda id="", namespace="": ServiceCheck(id, namespace),
            fields(id=text, namespace=text),
            lenient=True,
        )
    ),
    checks=texts,
    create_index=unsigned,
    modify_index=unsigned,
)


def session_json(session: Session) -> dict[str, Any]:
    """A session as the API shows it, a `SessionObject`."""
    shown: dict[str, Any] = {
        "ID": session.id,
        "Name": session.name,
        "Node": session.node,
        "LockDelay": session.lock_delay_ns,
        "Behavior": session.behavior,
        "TTL": session.ttl,
        "NodeChecks": session.node_checks,
        "ServiceChecks": _service_checks_json(session.service_checks),
    }
    if session.checks:
        shown["Checks"] = session.checks
    shown["CreateIndex"] = session.create_index
    shown["ModifyIndex"] = session.modify_index
    return shown


def _service_checks_json(checks: tuple[ServiceCheck, ...] | None) -> list[dict[str, str]] | None:
    if checks is None:
        return None
    return [{"ID": check.id, "Namespace": check.namespace} for check in checks]


@routes.put(
    "/v1/session/create",
    Operation(
        summary="Make a session",
        parameters=(DATACENTER,),
        body=json_body(object_schema(_CREATE_FIELDS), required=False),
        answers=shows(CreatedObject),
        refusals=_IMPOSSIBLE,
    ),
)
async def create(request: ApiRequest) -> ApiResponse:
    """A new session's id; without a body a session of this agent's node, all by default."""
    body = await request.body()
    if body.isspace():
        raise HttpError(400, "Request decode failed: EOF")
    value = params.decode_json(request, body)
    given = {} if value is None else value
    try:
        found = read_fields(given, _CREATE_FIELDS, "Session", lenient=True)
        command = _create_command(request, {**_nulls(given), **found})
    except ValueError as problem:
        raise HttpError(400, f"Request decode failed: {problem}") from None
    params.datacenter(request)
    command = _with_ttl(request, command)
    session: Session = errors.check(await request.agent.write(command))
    return json_response({"ID": session.id})


def _create_command(request: ApiRequest, given: dict[str, Any]) -> SessionCreate:
    """Raises `ValueError`."""
    checks, node_checks = _checks_of(given)
    service_checks = given.get("service_checks")
    return SessionCreate(
        name=given.get("name", ""),
        node=given.get("node", request.agent.node_name),
        lock_delay_ns=_lock_delay_ns(given),
        behavior=given.get("behavior") or RELEASE,
        ttl=given.get("ttl", ""),
        node_checks=node_checks,
        service_checks=None if service_checks is None else tuple(service_checks),
        checks=checks,
    )


_Names = tuple[str, ...] | None


def _checks_of(given: dict[str, Any]) -> tuple[_Names, _Names]:
    """What a session is to depend on, in the older spelling and in the newer one; the default is
    there in both. No checks in one of them drop the default of the other."""
    checks = given.get("checks", (DEFAULT_CHECK,))
    node_checks = given.get("node_checks", (DEFAULT_CHECK,))
    if not checks:
        return None, ()
    if checks == (DEFAULT_CHECK,) or not node_checks:
        return None, node_checks
    return checks, node_checks


def _nulls(given: Any) -> dict[str, None]:
    """The lists of checks of which a client said null, which is not the same as saying nothing."""
    names = {"checks": "checks", "nodechecks": "node_checks"}
    said = given.items() if isinstance(given, dict) else ()
    found = (names.get(key.lower()) for key, value in said if value is None)
    return {name: None for name in found if name}


def _lock_delay_ns(given: dict[str, Any]) -> int:
    """Out of a text, a number of nanoseconds, or a small number of seconds. Raises `ValueError`."""
    if "lock_delay" not in given:
        return DEFAULT_LOCK_DELAY_NS
    value, delay = given["lock_delay"], 0
    if isinstance(value, str):
        delay = parse_duration(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        delay = int(value)
    if delay < _SECONDS_BELOW:
        delay *= 1_000_000_000
    # A signed 64-bit number, as the API shows it; one below zero counts as no delay.
    return (delay + _INT64_HALF) % (2 * _INT64_HALF) - _INT64_HALF


def _with_ttl(request: ApiRequest, command: SessionCreate) -> SessionCreate:
    """The command with its TTL read, once it is seen to be fit."""
    if not command.node:
        raise HttpError(500, "Must provide Node")
    if command.behavior not in (RELEASE, DELETE):
        raise HttpError(500, f"Invalid Behavior setting '{command.behavior}'")
    return msgspec.structs.replace(command, ttl_ns=_ttl_ns(request, command.ttl))


def _ttl_ns(request: ApiRequest, ttl: str) -> int:
    if not ttl:
        return 0
    try:
        ttl_ns = parse_duration(ttl)
    except ValueError as problem:
        raise HttpError(500, f"Session TTL '{ttl}' invalid: {problem}") from None
    least_ns = request.agent.config.session_ttl_min_ns
    if ttl_ns and not least_ns <= ttl_ns <= TTL_NS_MAX:
        raise HttpError(
            500,
            f"Invalid Session TTL '{ttl_ns}', must be between "
            f"[{format_duration(least_ns)}={format_duration(TTL_NS_MAX)}]",
        )
    return ttl_ns


@routes.put(
    "/v1/session/destroy/",
    Operation(
        summary="End a session; what it locked is released or deleted",
        path=(_SESSION,),
        parameters=(DATACENTER,),
        answers=shows(bool),
        refusals=(_NO_UUID,),
    ),
)
async def destroy(request: ApiRequest) -> ApiResponse:
    session_id = wanted_name(request, "Missing session")
    params.datacenter(request)
    errors.check(await request.agent.write(SessionDestroy(id=session_id)))
    return json_response(True)


@routes.put(
    "/v1/session/renew/",
    Operation(
        summary="Have the TTL of a session begin anew",
        path=(_SESSION,),
        parameters=READ,
        answers=shows(list[SessionObject]),
        refusals=(_NO_UUID, Refusal(404, "Session id '…' not found")),
    ),
)
async def renew(request: ApiRequest) -> ApiResponse:
    """The session in a list; 404 when there is none."""
    params.read_options(request)  # all are looked at, though only the datacenter changes anything
    session_id = wanted_name(request, "Missing session")
    session: Session | None = errors.check(await request.agent.write(SessionRenew(id=session_id)))
    if session is None:
        raise HttpError(404, f"Session id '{session_id}' not found")
    return json_response([session_json(session)])


@routes.get(
    "/v1/session/info/",
    Operation(
        summary="Show a session in a list, empty when there is none",
        path=(_SESSION,),
        parameters=READ,
        answers=reads(list[SessionObject]),
        refusals=(_NO_UUID,),
    ),
)
async def info(request: ApiRequest) -> ApiResponse:
    session_id = wanted_name(request, "Missing session")
    return await _sessions(request, SessionInfo(id=session_id))


@routes.get(
    "/v1/session/node/",
    Operation(
        summary="List the sessions of a node",
        path=(_NODE,),
        parameters=READ,
        answers=reads(list[SessionObject]),
    ),
)
async def of_node(request: ApiRequest) -> ApiResponse:
    node = wanted_name(request, "Missing node name")
    return await _sessions(request, SessionsOfNode(node=node))


@routes.get(
    "/v1/session/list",
    Operation(summary="List all sessions", parameters=READ, answers=reads(list[SessionObject])),
)
async def list_all(request: ApiRequest) -> ApiResponse:
    return await _sessions(request, SessionList())


async def _sessions(request: ApiRequest, query: Query) -> ApiResponse:
    meta = await ask(request, query)
    if isinstance(meta.value, Refused):
        raise HttpError(500, meta.value.reason, tuple(index_headers(meta)))
    return json_response([session_json(session) for session in meta.value], meta)
