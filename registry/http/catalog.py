"""`/v1/catalog`: registering with the catalog directly, and its listings."""

from __future__ import annotations

from typing import Any

from registry.http.api import ApiRequest, ApiResponse, Routes, json_response
from registry.http.errors import check
from registry.http.filter import NODE, NODE_SERVICE, SERVICE_NODE
from registry.http.params import read_headers, read_response
from registry.http.reads import (
    answer,
    ask,
    filtered,
    near,
    node_meta,
    options_of,
    require_home,
    tags,
    wanted_name,
)
from registry.http.shapes import (
    NodeServiceListView,
    NodeServicesView,
    node_services_view,
    node_view,
    read_deregistration,
    read_registration,
    service_node_view,
    service_view,
)
from registry.state.base import ReadResult
from registry.state.catalog import (
    ListNodes,
    ListServices,
    NodeServices,
    NodeServicesResult,
    ServiceNodes,
)
from registry.state.config_entries import GatewayService, GatewayServices

routes = Routes()


@routes.put("/v1/catalog/register")
async def register(request: ApiRequest) -> ApiResponse:
    command = await read_registration(request)
    require_home(request, command.datacenter)
    return json_response(check(await request.agent.write(command)))


@routes.put("/v1/catalog/deregister")
async def deregister(request: ApiRequest) -> ApiResponse:
    home, command = await read_deregistration(request)
    require_home(request, home)
    return json_response(check(await request.agent.write(command)))


@routes.get("/v1/catalog/datacenters")
async def datacenters(request: ApiRequest) -> ApiResponse:
    """The datacenters we know, the nearest first: ourselves."""
    options = options_of(request)
    response = json_response([request.agent.datacenter])
    if request.cached is not None:
        request.cached.hit = request.cache is not None and request.cache.seen("datacenters")
        meta = ReadResult(index=0, value=None, mode=options.mode)
        headers = read_headers(request, ListNodes(), meta)
        response.headers.extend(pair for pair in headers if pair[0] in ("X-Cache", "Age"))
    return response


@routes.get("/v1/catalog/nodes")
async def nodes(request: ApiRequest) -> ApiResponse:
    query = ListNodes(node_meta=node_meta(request), near=near(request))
    return await answer(request, query, node_view, NODE)


@routes.get("/v1/catalog/services")
async def services(request: ApiRequest) -> ApiResponse:
    query = ListServices(node_meta=node_meta(request))
    meta = await ask(request, query)
    return read_response(request, query, meta, meta.value)


@routes.get("/v1/catalog/service/")
async def service(request: ApiRequest) -> ApiResponse:
    return await _instances(request, connect=False)


@routes.get("/v1/catalog/connect/")
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


@routes.get("/v1/catalog/node/")
async def node(request: ApiRequest) -> ApiResponse:
    """The node and its services by id, or null."""
    query = NodeServices(node=wanted_name(request, "Missing node name"))
    meta = await ask(request, query)
    found: NodeServicesResult | None = meta.value
    if found is None:
        return read_response(request, query, meta, None)
    shown = node_services_view(found)
    kept = filtered(request, query, meta, NODE_SERVICE, shown.services.values())
    result = NodeServicesView(shown.node, {each.id: each for each in kept})
    return read_response(request, query, meta, result)


@routes.get("/v1/catalog/node-services/")
async def node_services(request: ApiRequest) -> ApiResponse:
    """The node and its services in a list; both null when there is no such node."""
    query = NodeServices(node=wanted_name(request, "Missing node name"))
    meta = await ask(request, query)
    found: NodeServicesResult | None = meta.value
    if found is None:
        return read_response(request, query, meta, NodeServiceListView(None, None))
    shown = [service_view(each) for each in found.services]
    kept = filtered(request, query, meta, NODE_SERVICE, shown)
    return read_response(request, query, meta, NodeServiceListView(node_view(found.node), kept))


@routes.get("/v1/catalog/gateway-services/")
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
