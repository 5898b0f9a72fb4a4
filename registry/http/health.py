"""`/v1/health`: checks, and services with theirs."""

from __future__ import annotations

from registry.http.api import ApiRequest, ApiResponse, HttpError, Routes
from registry.http.catalog import NODE_NAME, SERVICE
from registry.http.catalog_views import CheckView, InstanceView, check_view, instance_view
from registry.http.filter import CHECK, INSTANCE
from registry.http.operations import Operation
from registry.http.options import FILTER, NEAR, NODE_META, PASSING, READ, TAG, argument, reads
from registry.http.reads import answer, near, node_meta, tags, wanted_name
from registry.state.health import (
    ChecksInState,
    IngressHealth,
    NodeChecks,
    ServiceChecks,
    ServiceHealth,
)

routes = Routes()

STATE = argument(
    "state",
    "`any`, `passing`, `warning` or `critical`; nothing is in any other.",
    "Missing check state",
)

#: What a boolean parameter may say.
_BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}


@routes.get(
    "/v1/health/node/",
    Operation(
        summary="List the checks of a node and of its services",
        path=(NODE_NAME,),
        parameters=(*READ, FILTER),
        answers=reads(list[CheckView]),
    ),
)
async def node(request: ApiRequest) -> ApiResponse:
    query = NodeChecks(node=wanted_name(request, "Missing node name"))
    return await answer(request, query, check_view, CHECK)


@routes.get(
    "/v1/health/checks/",
    Operation(
        summary="List the checks of a service",
        path=(SERVICE,),
        parameters=(*READ, NEAR, NODE_META, FILTER),
        answers=reads(list[CheckView]),
    ),
)
async def checks(request: ApiRequest) -> ApiResponse:
    query = ServiceChecks(
        name=wanted_name(request, "Missing service name"),
        node_meta=node_meta(request),
        near=near(request),
    )
    return await answer(request, query, check_view, CHECK)


@routes.get(
    "/v1/health/state/",
    Operation(
        summary="List the checks in a state",
        path=(STATE,),
        parameters=(*READ, NEAR, NODE_META, FILTER),
        answers=reads(list[CheckView]),
    ),
)
async def state(request: ApiRequest) -> ApiResponse:
    query = ChecksInState(
        state=wanted_name(request, "Missing check state"),
        node_meta=node_meta(request),
        near=near(request),
    )
    return await answer(request, query, check_view, CHECK)


@routes.get(
    "/v1/health/service/",
    Operation(
        summary="List the instances of a service with their health",
        path=(SERVICE,),
        parameters=(*READ, TAG, NEAR, NODE_META, PASSING, FILTER),
        answers=reads(list[InstanceView]),
    ),
)
async def service(request: ApiRequest) -> ApiResponse:
    return await _instances(request, connect=False)


@routes.get(
    "/v1/health/connect/",
    Operation(
        summary="List the instances of a service that speak the mesh's protocol with their health",
        path=(SERVICE,),
        parameters=(*READ, TAG, NEAR, NODE_META, PASSING, FILTER),
        answers=reads(list[InstanceView]),
    ),
)
async def connect(request: ApiRequest) -> ApiResponse:
    return await _instances(request, connect=True)


@routes.get(
    "/v1/health/ingress/",
    Operation(
        summary="List the ingress gateways in front of a service with their health",
        path=(SERVICE,),
        parameters=(*READ, NODE_META, PASSING, FILTER),
        answers=reads(list[InstanceView]),
    ),
)
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
