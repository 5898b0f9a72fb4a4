"""`/v1/health`: checks, and services with theirs."""

from __future__ import annotations

from registry.http.api import ApiRequest, ApiResponse, HttpError, Routes
from registry.http.filter import CHECK, INSTANCE
from registry.http.reads import answer, near, node_meta, tags, wanted_name
from registry.http.shapes import check_view, instance_view
from registry.state.health import (
    ChecksInState,
    IngressHealth,
    NodeChecks,
    ServiceChecks,
    ServiceHealth,
)

routes = Routes()

#: What a boolean parameter may say.
_BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}


@routes.get("/v1/health/node/")
async def node(request: ApiRequest) -> ApiResponse:
    query = NodeChecks(node=wanted_name(request, "Missing node name"))
    return await answer(request, query, check_view, CHECK)


@routes.get("/v1/health/checks/")
async def checks(request: ApiRequest) -> ApiResponse:
    query = ServiceChecks(
        name=wanted_name(request, "Missing service name"),
        node_meta=node_meta(request),
        near=near(request),
    )
    return await answer(request, query, check_view, CHECK)


@routes.get("/v1/health/state/")
async def state(request: ApiRequest) -> ApiResponse:
    query = ChecksInState(
        state=wanted_name(request, "Missing check state"),
        node_meta=node_meta(request),
        near=near(request),
    )
    return await answer(request, query, check_view, CHECK)


@routes.get("/v1/health/service/")
async def service(request: ApiRequest) -> ApiResponse:
    return await _instances(request, connect=False)


@routes.get("/v1/health/connect/")
async def connect(request: ApiRequest) -> ApiResponse:
    return await _instances(request, connect=True)


@routes.get("/v1/health/ingress/")
async def ingress(request: ApiRequest) -> ApiResponse:
    """The instances of the ingress gateways in front of a service."""
    query = IngressHealth(
        service=wanted_name(request, "Missing service name"),
        passing_only=_passing(request),
        node_meta=node_meta(request),
    )
    return await answer(request, query, instance_view, INSTANCE)


async def _instances(request: ApiRequest, *, connect: bool) -> ApiResponse:
    query = ServiceHealth(
        name=wanted_name(request, "Missing service name"),
        tags=tags(request),
        passing_only=_passing(request),
        connect=connect,
        node_meta=node_meta(request),
        near=near(request),
    )
    return await answer(request, query, instance_view, INSTANCE)


def _passing(request: ApiRequest) -> bool:
    """`?passing`, alone or with a boolean."""
    if "passing" not in request.query:
        return False
    given = request.query.get("passing")
    if given and given not in _BOOLEANS:
        raise HttpError(400, "Invalid value for ?passing")
    return _BOOLEANS.get(given, True)
