"""`/v1/catalog`: registering with the catalog directly, and its listings."""

from __future__ import annotations

from typing import Any, TypedDict

from registry.http.api import ApiRequest, ApiResponse, Routes, json_response
from registry.http.body_readers import object_schema
from registry.http.catalog_bodies import (
    DEREGISTER_FIELDS,
    REGISTER_FIELDS,
    read_deregistration,
    read_registration,
)
from registry.http.catalog_views import (
    NodeServiceListView,
    NodeServicesView,
    NodeView,
    ServiceNodeView,
    node_services_view,
    node_view,
    service_node_view,
    service_view,
)
from registry.http.errors import NO_LEADER, check
from registry.http.filter import NODE, NODE_SERVICE, SERVICE_NODE
from registry.http.operations import Operation, Refusal
from registry.http.options import (
    CONSISTENCY,
    FILTER,
    NEAR,
    NODE_META,
    READ,
    TAG,
    argument,
    json_body,
    reads,
    shows,
)
from registry.http.params import NO_PATH, consistency_of, read_headers, read_response
from registry.http.reads import (
    answer,
    ask,
    ask_filtered,
    kept,
    near,
    node_meta,
    require_home,
    tags,
    wanted_name,
)
from registry.state.base import ReadResult
from registry.state.catalog_queries import (
    ListNodes,
    ListServices,
    NodeServices,
    NodeServicesResult,
    ServiceNodes,
)
from registry.state.config_entries import GatewayService, GatewayServices

routes = Routes()

SERVICE = argument("service", "The name of the service.", "Missing service name")
NODE_NAME = argument("node", "The name of the node.", "Missing node name")
GATEWAY = argument("gateway", "The name of the gateway.", "Missing gateway name")


class NamedObject(TypedDict):
    ID: str
    Name: str


class GatewayServiceObject(TypedDict, total=False):
    Gateway: NamedObject
    Service: NamedObject
    GatewayKind: str
    Port: int
    Protocol: str
    Hosts: list[str]
    CAFile: str
    CertFile: str
    KeyFile: str
    SNI: str


#: Why a registration can not be, each with the text that clients know.
_UNREGISTRABLE = tuple(
    Refusal(500, text)
    for text in (
        NO_PATH,
        NO_LEADER,
        "Must provide node",
        "Must provide address if SkipNodeUpdate is not set",
        "Must provide service name with ID",
        "Invalid service address",
        "Bad node ID: …",
        "Missing node registration",
        "Missing service registration",
        "Invalid Service Meta for node …",
        'check node "…" does not match node "…"',
        "Error while renaming Node ID: …",
        "failed inserting …",
        "… error occurred:…",
        "… errors occurred:…",
    )
)


@routes.put(
    "/v1/catalog/register",
    Operation(
        summary="Register a node, and a service and checks on it",
        body=json_body(object_schema(REGISTER_FIELDS)),
        answers=shows(bool),
        refusals=_UNREGISTRABLE,
    ),
)
async def register(request: ApiRequest) -> ApiResponse:
    command = await read_registration(request)
    require_home(request, command.datacenter)
    return json_response(check(await request.agent.write(command)))


@routes.put(
    "/v1/catalog/deregister",
    Operation(
        summary="Take out a node, or one of its services or checks",
        body=json_body(object_schema(DEREGISTER_FIELDS)),
        answers=shows(bool),
        refusals=(
            Refusal(500, "Must provide node"),
            Refusal(500, NO_PATH),
            Refusal(500, NO_LEADER),
        ),
    ),
)
async def deregister(request: ApiRequest) -> ApiResponse:
    home, command = await read_deregistration(request)
    require_home(request, home)
    return json_response(check(await request.agent.write(command)))


@routes.get(
    "/v1/catalog/datacenters",
    Operation(
        summary="List the known datacenters, the nearest first",
        parameters=CONSISTENCY,
        answers=shows(list[str]),
    ),
)
async def datacenters(request: ApiRequest) -> ApiResponse:
    """Those we know, whichever of them is asked: `?dc=` is passed over."""
    mode, _ = consistency_of(request)
    known = await request.agent.datacenters.known()
    response = json_response([each.name for each in known] or [request.agent.datacenter])
    if request.cached is not None:
        assert request.cache is not None  # it is what attached the other
        request.cache.note(request, "datacenters")
        meta = ReadResult(index=0, value=None, mode=mode)
        headers = read_headers(request, ListNodes(), meta)
        response.headers.extend(pair for pair in headers if pair[0] in ("X-Cache", "Age"))
    return response


@routes.get(
    "/v1/catalog/nodes",
    Operation(
        summary="List the nodes",
        parameters=(*READ, NEAR, NODE_META, FILTER),
        answers=reads(list[NodeView]),
    ),
)
async def nodes(request: ApiRequest) -> ApiResponse:
    query = ListNodes(node_meta=node_meta(request), near=near(request))
    return await answer(request, query, node_view, NODE)


@routes.get(
    "/v1/catalog/services",
    Operation(
        summary="List the names of the services, each with its tags",
        parameters=(*READ, NODE_META),
        answers=reads(dict[str, list[str]]),
    ),
)
async def services(request: ApiRequest) -> ApiResponse:
    query = ListServices(node_meta=node_meta(request))
    meta = await ask(request, query)
    return read_response(request, query, meta, meta.value)


@routes.get(
    "/v1/catalog/service/",
    Operation(
        summary="List the instances of a service",
        path=(SERVICE,),
        parameters=(*READ, TAG, NEAR, NODE_META, FILTER),
        answers=reads(list[ServiceNodeView]),
    ),
)
async def service(request: ApiRequest) -> ApiResponse:
    return await _instances(request, connect=False)


@routes.get(
    "/v1/catalog/connect/",
    Operation(
        summary="List the instances of a service that speak the mesh's protocol",
        path=(SERVICE,),
        parameters=(*READ, TAG, NEAR, NODE_META, FILTER),
        answers=reads(list[ServiceNodeView]),
    ),
)
async def connect(request: ApiRequest) -> ApiResponse:
    return await _instances(request, connect=True)


async def _instances(request: ApiRequest, *, connect: bool) -> ApiResponse:
    query = ServiceNodes(
        name=wanted_name(request, "Missing service name"),
        tags=tags(request),
        connect=connect,
        node_meta=node_meta(request),
        near=near(request),
    )
    return await answer(request, query, service_node_view, SERVICE_NODE)


@routes.get(
    "/v1/catalog/node/",
    Operation(
        summary="Show a node and its services by id, or null",
        path=(NODE_NAME,),
        parameters=(*READ, FILTER),
        answers=reads(NodeServicesView | None),
    ),
)
async def node(request: ApiRequest) -> ApiResponse:
    """The node and its services by id, or null."""
    query = NodeServices(node=wanted_name(request, "Missing node name"))
    meta, fits = await ask_filtered(request, query, NODE_SERVICE)
    found: NodeServicesResult | None = meta.value
    if found is None:
        return read_response(request, query, meta, None)
    shown = node_services_view(found)
    by_id = {each.id: each for each in kept(fits, shown.services.values())}
    result = NodeServicesView(shown.node, by_id)
    return read_response(request, query, meta, result)


@routes.get(
    "/v1/catalog/node-services/",
    Operation(
        summary="Show a node and its services in a list",
        path=(NODE_NAME,),
        parameters=(*READ, FILTER),
        answers=reads(NodeServiceListView),
    ),
)
async def node_services(request: ApiRequest) -> ApiResponse:
    """The node and its services in a list; both null when there is no such node."""
    query = NodeServices(node=wanted_name(request, "Missing node name"))
    meta, fits = await ask_filtered(request, query, NODE_SERVICE)
    found: NodeServicesResult | None = meta.value
    if found is None:
        return read_response(request, query, meta, NodeServiceListView(None, None))
    shown = kept(fits, map(service_view, found.services))
    return read_response(request, query, meta, NodeServiceListView(node_view(found.node), shown))


@routes.get(
    "/v1/catalog/gateway-services/",
    Operation(
        summary="List what a mesh gateway stands in front of",
        path=(GATEWAY,),
        parameters=READ,
        answers=reads(list[GatewayServiceObject]),
    ),
)
async def gateway_services(request: ApiRequest) -> ApiResponse:
    """What a mesh gateway stands in front of, as its configuration entry says."""
    query = GatewayServices(gateway=wanted_name(request, "Missing gateway name"))
    return await answer(request, query, _gateway_service)


def _gateway_service(found: GatewayService) -> dict[str, Any]:
    shown = {
        "Gateway": {"ID": found.gateway, "Name": found.gateway},
        "Service": {"ID": found.service, "Name": found.service},
        "GatewayKind": found.gateway_kind,
        "Port": found.port,
        "Protocol": found.protocol,
        "Hosts": found.hosts,
        "CAFile": found.ca_file,
        "CertFile": found.cert_file,
        "KeyFile": found.key_file,
        "SNI": found.sni,
    }
    return {name: value for name, value in shown.items() if value}
