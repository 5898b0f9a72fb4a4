"""`/v1/session/`: creating, ending, renewing and listing sessions (surface 1.4)."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from registry.agent.durations import HOUR, format_duration, parse_duration
from registry.http import bodies, errors, params
from registry.http.api import (
    ApiRequest,
    ApiResponse,
    HttpError,
    Routes,
    index_headers,
    json_response,
)
from registry.state.base import Query, ReadOptions, ReadResult, Refused
from registry.state.sessions import (
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


class _ServiceCheck(msgspec.Struct):
    ID: str = ""
    Namespace: str = ""


class _CreateBody(msgspec.Struct):
    """What a client may ask for. Fields left out, and null where it is no value, mean the default;
    `ID` and the indexes have to have the right type, and are not used."""

    ID: str = ""
    Name: str = ""
    Node: str | msgspec.UnsetType = msgspec.UNSET
    LockDelay: Any = msgspec.UNSET
    Behavior: str = RELEASE
    TTL: str = ""
    NodeChecks: list[str] | None = msgspec.field(default_factory=lambda: [DEFAULT_CHECK])
    ServiceChecks: list[_ServiceCheck] | None = None
    Checks: list[str] | None = None
    CreateIndex: int = 0
    ModifyIndex: int = 0


def session_json(session: Session) -> dict[str, Any]:
    """A session as the API shows it."""
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


@routes.put("/v1/session/create")
async def create(request: ApiRequest) -> ApiResponse:
    """A new session's id; without a body a session of this agent's node, all by default."""
    value = params.decode_json(request, await request.body(None))
    try:
        body = bodies.read({} if value is None else value, _CreateBody)
        lock_delay_ns = _lock_delay_ns(body.LockDelay)
    except ValueError as problem:
        raise HttpError(400, f"Request decode failed: {problem}") from None
    params.datacenter(request)
    command = _create_command(request, body, lock_delay_ns)
    session: Session = errors.check(await request.agent.write(command))
    return json_response({"ID": session.id})


def _create_command(request: ApiRequest, body: _CreateBody, lock_delay_ns: int) -> SessionCreate:
    node = request.agent.node_name if isinstance(body.Node, msgspec.UnsetType) else body.Node
    if not node:
        raise HttpError(500, "Must provide Node")
    behavior = body.Behavior or RELEASE
    if behavior not in ("release", "delete"):
        raise HttpError(500, f"Invalid Behavior setting '{behavior}'")
    # An empty list in the older spelling drops the default check of the newer one.
    node_checks = [] if body.Checks == [] else body.NodeChecks
    return SessionCreate(
        name=body.Name,
        node=node,
        lock_delay_ns=lock_delay_ns,
        behavior=behavior,
        ttl=body.TTL,
        ttl_ns=_ttl_ns(request, body.TTL),
        node_checks=None if node_checks is None else tuple(node_checks),
        service_checks=_service_checks(body.ServiceChecks),
        checks=tuple(body.Checks) if body.Checks else None,
    )


def _service_checks(checks: list[_ServiceCheck] | None) -> tuple[ServiceCheck, ...] | None:
    if checks is None:
        return None
    return tuple(ServiceCheck(check.ID, check.Namespace) for check in checks)


def _lock_delay_ns(value: Any) -> int:
    """ "10s", a number of nanoseconds, or a small number of seconds. Raises `ValueError`."""
    if value is msgspec.UNSET:
        return DEFAULT_LOCK_DELAY_NS
    delay = 0
    if isinstance(value, str):
        delay = parse_duration(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        delay = int(value)
    if delay < _SECONDS_BELOW:
        delay *= 1_000_000_000
    # A signed 64-bit number, as the API shows it; one below zero counts as no delay.
    return (delay + _INT64_HALF) % (2 * _INT64_HALF) - _INT64_HALF


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


@routes.put("/v1/session/destroy/")
async def destroy(request: ApiRequest) -> ApiResponse:
    session_id = _required(request, "Missing session")
    params.datacenter(request)
    errors.check(await request.agent.write(SessionDestroy(id=session_id)))
    return json_response(True)


@routes.put("/v1/session/renew/")
async def renew(request: ApiRequest) -> ApiResponse:
    """The session in a list; 404 when there is none."""
    session_id = _required(request, "Missing session")
    params.datacenter(request)
    session: Session | None = errors.check(await request.agent.write(SessionRenew(id=session_id)))
    if session is None:
        raise HttpError(404, f"Session id '{session_id}' not found")
    return json_response([session_json(session)])


@routes.get("/v1/session/info/")
async def info(request: ApiRequest) -> ApiResponse:
    options = _read_options(request)
    session_id = _required(request, "Missing session")
    return await _sessions(request, SessionInfo(id=session_id), options)


@routes.get("/v1/session/node/")
async def of_node(request: ApiRequest) -> ApiResponse:
    options = _read_options(request)
    node = _required(request, "Missing node name")
    return await _sessions(request, SessionsOfNode(node=node), options)


@routes.get("/v1/session/list")
async def list_all(request: ApiRequest) -> ApiResponse:
    return await _sessions(request, SessionList(), _read_options(request))


def _required(request: ApiRequest, complaint: str) -> str:
    if not request.argument:
        raise HttpError(400, complaint)
    return request.argument


def _read_options(request: ApiRequest) -> ReadOptions:
    """As `params.read_options`; what a server would refuse is answered with the index headers."""
    try:
        return params.read_options(request)
    except HttpError as problem:
        if problem.status != 500:
            raise
        nothing_read = ReadResult(index=0, value=None, known_leader=False)
        headers = tuple(index_headers(nothing_read))
        raise HttpError(problem.status, problem.text, headers) from None


async def _sessions(request: ApiRequest, query: Query, options: ReadOptions) -> ApiResponse:
    meta = await request.agent.read(query, options)
    if isinstance(meta.value, Refused):
        raise HttpError(500, meta.value.reason, tuple(index_headers(meta)))
    return json_response([session_json(session) for session in meta.value], meta)
