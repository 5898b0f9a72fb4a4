"""`/v1/agent/service…`: the services of this agent, registered, read, judged and taken out.

What a client registers is in the catalog when it gets its answer, as long as there is a leader.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from registry.agent.checks.base import CRITICAL, PASSING, WARNING
from registry.agent.definition_reader import read_service
from registry.agent.definition_rules import DefinitionRefused, service_warnings, validate_service
from registry.agent.definitions import ServiceDefinition
from registry.agent.local.records import LocalCheck, LocalService
from registry.agent.local.state import LocalState
from registry.agent.services import is_maintenance_id
from registry.agent.transforms import transformed
from registry.errors import ConfigError
from registry.http.agent_maintenance import wants_enabled
from registry.http.api import (
    ApiRequest,
    ApiResponse,
    HttpError,
    Routes,
    empty_response,
    json_response,
)
from registry.http.catalog_views import AddressView, WeightsView
from registry.http.definition_schemas import service_schema
from registry.http.filter import AGENT_SERVICE, compile_filter
from registry.http.mesh_settings import proxy_view
from registry.http.operations import (
    JSON_MEDIA,
    TEXT,
    TEXT_MEDIA,
    Answer,
    Operation,
    Parameter,
    Refusal,
)
from registry.http.options import BLOCKING, ENABLE, FILTER, REASON, argument, json_body, shows
from registry.http.params import decode_json, refuse_namespace, wait_of
from registry.http.views import View

#: The agent's own: what is said of a definition is said there, wherever it comes from.
logger = logging.getLogger("registry.agent")

routes = Routes()

Definition = TypeVar("Definition")

_SERVICE = argument("service", "The id of the service.")
NO_SCRIPTS = Refusal(500, "Scripts are disabled on this agent…")
_FORMAT = (
    Parameter("format", "`text` for the state alone.", {"type": "string", "enum": ["text"]}),
)

MAINTENANCE = "maintenance"

#: Worst last; the position decides.
_SEVERITY = (PASSING, WARNING, CRITICAL, MAINTENANCE)
_HEALTH_STATUS = {PASSING: 200, WARNING: 429, CRITICAL: 503, MAINTENANCE: 503}

#: A check's definition as the local health endpoints show it: never filled in.
_NO_DEFINITION: dict[str, Any] = {
    "Interval": "0s",
    "Timeout": "0s",
    "DeregisterCriticalServiceAfter": "0s",
    "HTTP": "",
    "Header": None,
    "Method": "",
    "Body": "",
    "TLSSkipVerify": False,
    "TCP": "",
}

_PROXY_KINDS = ("connect-proxy", "mesh-gateway", "terminating-gateway", "ingress-gateway")

_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class AgentServiceView(View, frozen=True):
    """A service of this agent; what is UNSET is not shown."""

    kind: str | UnsetType
    id: str
    service: str
    tags: tuple[str, ...]
    meta: dict[str, str]
    port: int
    address: str
    tagged_addresses: dict[str, AddressView] | UnsetType
    weights: WeightsView
    enable_tag_override: bool
    content_hash: str | UnsetType
    proxy: dict[str, Any] | UnsetType
    connect: dict[str, Any] | UnsetType


class ServiceHealthView(View, frozen=True):
    """A service with what its checks add up to."""

    aggregated_status: str
    service: AgentServiceView | None
    checks: list[dict[str, Any]] | None


def _health_answers(shape: Any) -> tuple[Answer, ...]:
    """JSON or, where asked for, a word; a service that is not here is critical."""
    abouts = {200: "Passing", 404: "There is none", 429: "Warning", 503: "Critical, or maintenance"}
    return tuple(
        Answer(kind, about, status, (media,), ("X-Consul-Reason",))
        for status, about in abouts.items()
        for kind, media in ((shape if status != 404 else {}, JSON_MEDIA), (TEXT, TEXT_MEDIA))
    )


def agent_service_view(service: LocalService) -> AgentServiceView:
    given = service.definition
    weights = given.weights
    addresses = {
        name: AddressView(each.address, each.port)
        for name, each in sorted(given.tagged_addresses.items())
    }
    native = bool(given.connect and given.connect.get("Native"))
    return AgentServiceView(
        kind=given.kind or UNSET,
        id=given.id,
        service=given.name,
        tags=given.tags,
        meta=given.meta,
        port=given.port,
        address=given.address,
        tagged_addresses=addresses or UNSET,
        weights=WeightsView(weights.passing, weights.warning) if weights else WeightsView(1, 1),
        enable_tag_override=given.enable_tag_override,
        content_hash=UNSET,
        proxy=proxy_view(given.proxy, local=True) if given.kind in _PROXY_KINDS else UNSET,
        connect={"Native": True} if native else UNSET,
    )


def content_hash(view: AgentServiceView) -> str:
    """The same for the same content, whatever was registered in between."""
    return hashlib.blake2b(_encode_sorted(view), digest_size=8).hexdigest()


# Reading


@routes.get(
    "/v1/agent/services",
    Operation(
        summary="Show the services of this agent by their ids",
        parameters=(FILTER,),
        answers=shows(dict[str, AgentServiceView]),
    ),
)
async def services(request: ApiRequest) -> ApiResponse:
    refuse_namespace(request)
    found = request.agent.local.services
    views = {service_id: agent_service_view(found[service_id]) for service_id in sorted(found)}
    if expression := request.query.get("filter"):
        fits = compile_filter(expression, AGENT_SERVICE)
        views = {key: view for key, view in views.items() if fits(msgspec.to_builtins(view))}
    return json_response(views)


@routes.get(
    "/v1/agent/service/",
    Operation(
        summary="Show a service of this agent",
        path=(_SERVICE,),
        parameters=(
            Parameter("hash", "Wait while the service's content has this hash."),
            *BLOCKING,
        ),
        answers=(Answer(AgentServiceView, headers=("X-Consul-ContentHash",)),),
        refusals=(Refusal(404, "unknown service ID: …"),),
    ),
)
async def service(request: ApiRequest) -> ApiResponse:
    """One service; with `?hash=` it blocks while its content has that hash."""
    refuse_namespace(request)
    _, wait_ms = wait_of(request)
    known_hash = request.query.get("hash")
    deadline = time.monotonic() + wait_ms / 1000
    while True:
        with request.agent.local.waiting_for_service(request.argument) as waiter:
            view = _view_of(request)
            found_hash = content_hash(view)
            left = deadline - time.monotonic()
            if not known_hash or found_hash != known_hash or left <= 0:
                shown = msgspec.structs.replace(view, content_hash=found_hash)
                response = json_response(shown)
                response.headers.append(("X-Consul-Contenthash", found_hash))
                return response
            try:
                async with asyncio.timeout(left):
                    await waiter.event.wait()
            except TimeoutError:
                continue  # one last round gives the unchanged content


def _view_of(request: ApiRequest) -> AgentServiceView:
    found = request.agent.local.services.get(request.argument)
    if found is None:
        raise HttpError(404, f"unknown service ID: {request.argument}")
    return agent_service_view(found)


# Health


@routes.get(
    "/v1/agent/health/service/id/",
    Operation(
        summary="Tell the health of a service of this agent by its status",
        path=(_SERVICE,),
        parameters=_FORMAT,
        answers=_health_answers(ServiceHealthView),
        refusals=(Refusal(500, "Bad request: Missing serviceID"),),
    ),
)
async def health_by_id(request: ApiRequest) -> ApiResponse:
    refuse_namespace(request)
    service_id = request.argument
    if not service_id:
        raise HttpError(500, "Bad request: Missing serviceID")
    local = request.agent.local
    found = local.services.get(service_id)
    if found is None:
        reason = f"ServiceId {service_id} not found"
        nothing = ServiceHealthView(CRITICAL, None, None)
        body = reason if _wants_text(request) else nothing
        return _with_reason(json_response(body, status=404), reason)
    health = service_health(local, found)
    return _health_response(request, health.aggregated_status, health)


@routes.get(
    "/v1/agent/health/service/name/",
    Operation(
        summary="Tell the health of this agent's instances of a service, the worst by its status",
        path=(argument("name", "The name of the service."),),
        parameters=_FORMAT,
        answers=_health_answers(list[ServiceHealthView]),
        refusals=(Refusal(500, "Bad request: Missing service Name"),),
    ),
)
async def health_by_name(request: ApiRequest) -> ApiResponse:
    refuse_namespace(request)
    name = request.argument
    if not name:
        raise HttpError(500, "Bad request: Missing service Name")
    local = request.agent.local
    found = [each for each in local.services.values() if each.definition.name == name]
    if not found:
        reason = f"ServiceName {name} Not Found"
        if _wants_text(request):
            return _with_reason(_word(reason, 404), reason)
        return _with_reason(json_response([], status=404), reason)
    healths = [service_health(local, each) for each in sorted(found, key=lambda s: s.definition.id)]
    return _health_response(request, worst(each.aggregated_status for each in healths), healths)


def service_health(local: LocalState, found: LocalService) -> ServiceHealthView:
    """The service's own checks and the node's."""
    checks = local.checks_of(found.definition.id, with_node=True)
    status = worst(
        MAINTENANCE if is_maintenance_id(check.check_id) else check.status for check in checks
    )
    shown = [_health_check(check, local.node_name) for check in checks]
    return ServiceHealthView(status, agent_service_view(found), shown)


def worst(statuses: Iterable[str]) -> str:
    return max(statuses, key=_SEVERITY.index, default=PASSING)


def _health_check(check: LocalCheck, node: str) -> dict[str, Any]:
    return {
        "Node": node,
        "CheckID": check.check_id,
        "Name": check.name,
        "Status": check.status,
        "Notes": check.definition.notes,
        "Output": check.output,
        "ServiceID": check.service_id,
        "ServiceName": check.service_name,
        "ServiceTags": check.service_tags or None,
        "Type": "",
        "Definition": _NO_DEFINITION,
        "CreateIndex": 0,
        "ModifyIndex": 0,
    }


def _wants_text(request: ApiRequest) -> bool:
    accepted = request.headers.get("accept", "")
    return accepted.startswith("text/plain") or request.query.get("format") == "text"


def _health_response(request: ApiRequest, status: str, body: Any) -> ApiResponse:
    code = _HEALTH_STATUS[status]
    as_text = _wants_text(request)
    response = _word(status, code) if as_text else json_response(body, status=code)
    return _with_reason(response, status)


def _word(text: str, status: int) -> ApiResponse:
    return ApiResponse(status, text.encode("utf-8", "surrogateescape"), TEXT_MEDIA)


def _with_reason(response: ApiResponse, reason: str) -> ApiResponse:
    # A header is one line of Latin-1; a name may hold anything.
    response.headers.append(("X-Consul-Reason", reason.encode("ascii", "replace").decode()))
    return response


# Registering


@routes.put(
    "/v1/agent/service/register",
    Operation(
        summary="Register a service with this agent",
        parameters=(
            Parameter(
                "replace-existing-checks",
                "Take out those checks of the service that are not in the body.",
                {"type": "string", "enum": ["", "true", "false"]},
            ),
        ),
        body=json_body(service_schema()),
        refusals=(
            NO_SCRIPTS,
            Refusal(500, "ServiceTaggedAddresses['…'] …"),
        ),
    ),
)
async def register(request: ApiRequest) -> ApiResponse:
    refuse_namespace(request)
    definition = await _read_definition(request)
    replace = request.query.get("replace-existing-checks")
    local = request.agent.local
    await local.add_service(
        definition,
        replace_checks="replace-existing-checks" in request.query and replace in ("", "true"),
    )
    await local.flush()
    return empty_response()


async def _read_definition(request: ApiRequest) -> ServiceDefinition:
    definition = await read_definition(request, read_service, validate_service)
    if transforms := request.agent.plugins.service_transforms():
        check_types = plugin_check_keys(request)
        definition = await transformed(transforms, definition, "http", check_types)
    for warning in service_warnings(definition):
        logger.warning("%s", warning)
    return definition


async def read_definition(
    request: ApiRequest, read: Callable[..., Definition], validate: Callable[[Definition], None]
) -> Definition:
    """The definition in the body, read and judged; `HttpError` with the text that clients know."""
    mapping = await definition_body(request)
    try:
        definition = read(mapping, source="http", check_types=plugin_check_keys(request))
    except ConfigError as problem:
        raise HttpError(400, f"Request decode failed: {problem.reason}") from None
    try:
        validate(definition)
    except DefinitionRefused as problem:
        raise HttpError(problem.status, problem.reason) from None
    return definition


def plugin_check_keys(request: ApiRequest) -> list[str]:
    """Members of check definitions that plugins add."""
    return [kind.key for kind in request.agent.plugins.check_types()]


async def definition_body(request: ApiRequest) -> Any:
    """The JSON of a definition; null stands for an empty one. HttpError 400 when there is none."""
    body = await request.body()
    value = decode_json(request, body)
    if value is None and not body.strip():
        raise HttpError(400, "Request decode failed: EOF")
    return {} if value is None else value


@routes.put(
    "/v1/agent/service/deregister/",
    Operation(
        summary="Take out a service and its checks; it need not be there",
        path=(_SERVICE,),
        refusals=(Refusal(500, "ServiceID missing"),),
    ),
)
async def deregister(request: ApiRequest) -> ApiResponse:
    refuse_namespace(request)
    local = request.agent.local
    await local.remove_service(request.argument)
    await local.flush()
    return empty_response()


@routes.put(
    "/v1/agent/service/maintenance/",
    Operation(
        summary="Take a service of this agent out of service, or back",
        path=(_SERVICE,),
        parameters=(ENABLE, REASON),
        refusals=(
            Refusal(400, "Missing service ID"),
            Refusal(404, 'No service registered with ID "…"'),
        ),
    ),
)
async def maintenance(request: ApiRequest) -> ApiResponse:
    refuse_namespace(request)
    local, service_id = request.agent.local, request.argument
    if not service_id:
        raise HttpError(400, "Missing service ID")
    if wants_enabled(request):
        await local.maintenance.enable_service(service_id, request.query.get("reason"))
    else:
        await local.maintenance.disable_service(service_id)
    await local.flush()
    return empty_response()
