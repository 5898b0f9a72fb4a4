"""`/v1/internal/ui`: nodes and services with their health, as the web UI shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NotRequired, TypedDict

import msgspec

from registry.http.api import ApiRequest, ApiResponse, HttpError, Routes, index_headers
from registry.http.catalog import GATEWAY, NODE_NAME
from registry.http.catalog_views import (
    CheckView,
    InstanceView,
    NodeServiceView,
    check_view,
    instance_view,
    service_view,
)
from registry.http.filter import INSTANCE, UI_NODE
from registry.http.operations import Operation, Refusal
from registry.http.options import FILTER, READ, reads
from registry.http.params import read_response
from registry.http.reads import answer, ask, ask_filtered, kept, options_of, wanted_name
from registry.http.views import View
from registry.state.config_entries import GatewayServices
from registry.state.health import AllHealth, NodeHealth, NodeOverview, ServiceHealth

routes = Routes()

#: Services with metadata `external-source` were put there by some other system.
_EXTERNAL_SOURCE = "external-source"


class UiNodeView(View, frozen=True):
    id: str
    node: str
    address: str
    tagged_addresses: dict[str, str] | None
    meta: dict[str, str] | None
    services: list[NodeServiceView]
    checks: list[CheckView]


class SummaryObject(TypedDict):
    Name: str
    Kind: NotRequired[str]
    Tags: list[str] | None
    Nodes: list[str]
    InstanceCount: int
    ProxyFor: NotRequired[list[str]]
    ConnectedWithProxy: NotRequired[bool]
    ChecksPassing: int
    ChecksWarning: int
    ChecksCritical: int
    ExternalSources: list[str] | None
    GatewayConfig: dict[str, str]


def _node(found: NodeOverview) -> UiNodeView:
    node = found.node
    return UiNodeView(
        node.id,
        node.node,
        node.address,
        node.tagged_addresses,
        node.meta,
        [service_view(service, null_tags=True) for service in found.services],
        [check_view(check, null_tags=True) for check in found.checks],
    )


@routes.get(
    "/v1/internal/ui/nodes",
    Operation(
        summary="List the nodes with their services and checks",
        parameters=(*READ, FILTER),
        answers=reads(list[UiNodeView]),
    ),
)
async def nodes(request: ApiRequest) -> ApiResponse:
    return await answer(request, NodeHealth(), _node, UI_NODE)


@routes.get(
    "/v1/internal/ui/node/",
    Operation(
        summary="Show a node with its services and checks",
        path=(NODE_NAME,),
        parameters=READ,
        answers=reads(UiNodeView),
        refusals=(Refusal(404),),
    ),
)
async def node(request: ApiRequest) -> ApiResponse:
    query = NodeHealth(node=wanted_name(request, "Missing node name"))
    meta = await ask(request, query)
    if not meta.value:
        raise HttpError(404, "", tuple(index_headers(meta)))
    return read_response(request, query, meta, _node(meta.value[0]))


@routes.get(
    "/v1/internal/ui/services",
    Operation(
        summary="Sum up the services",
        parameters=(*READ, FILTER),
        answers=reads(list[SummaryObject]),
    ),
)
async def services(request: ApiRequest) -> ApiResponse:
    query = AllHealth()
    meta, fits = await ask_filtered(request, query, INSTANCE)
    shown = kept(fits, map(instance_view, meta.value))
    return read_response(request, query, meta, summaries(shown))


@routes.get(
    "/v1/internal/ui/gateway-services-nodes/",
    Operation(
        summary="Sum up the services behind a gateway",
        path=(GATEWAY,),
        parameters=READ,
        answers=reads(list[SummaryObject]),
    ),
)
async def gateway_services_nodes(request: ApiRequest) -> ApiResponse:
    """The services behind a gateway, summed up like any others."""
    query = GatewayServices(gateway=wanted_name(request, "Missing gateway name"))
    meta = await ask(request, query)
    names = sorted({each.service for each in meta.value})
    # The wait, if any, was for the list of services; their health is what it is now.
    options = msgspec.structs.replace(options_of(request), min_index=0, wait_ms=0)
    found = [await request.agent.read(ServiceHealth(name=name), options) for name in names]
    instances = [instance_view(each) for result in found for each in result.value]
    return read_response(request, query, meta, summaries(instances))


def summaries(instances: Iterable[InstanceView]) -> list[dict[str, Any]]:
    """One object per service name, in the order of the names."""
    by_name: dict[str, list[InstanceView]] = {}
    for each in instances:
        by_name.setdefault(each.service.service, []).append(each)
    proxied = {
        str(each.service.proxy.get("DestinationServiceName", ""))
        for found in by_name.values()
        for each in found
        if each.service.kind == "connect-proxy"
    }
    return [_summary(name, by_name[name], with_proxy=name in proxied) for name in sorted(by_name)]


def _summary(name: str, found: list[InstanceView], *, with_proxy: bool) -> dict[str, Any]:
    # A node's own checks come once per instance on it, and are counted as often.
    statuses = Counter(check.status for each in found for check in each.checks)
    kind = next((each.service.kind for each in found if each.service.kind), "")
    sources = (_source(each) for each in found)
    destinations = (str(each.service.proxy.get("DestinationServiceName", "")) for each in found)
    proxy_for = sorted({name for name in destinations if name})
    shown: dict[str, Any] = {"Name": name}
    if kind:
        shown["Kind"] = kind
    shown["Tags"] = sorted({tag for each in found for tag in each.service.tags or ()}) or None
    shown["Nodes"] = sorted({each.node.node for each in found})
    shown["InstanceCount"] = len(found)
    if proxy_for:
        shown["ProxyFor"] = proxy_for
    if with_proxy:
        shown["ConnectedWithProxy"] = True
    shown["ChecksPassing"] = statuses["passing"]
    shown["ChecksWarning"] = statuses["warning"]
    shown["ChecksCritical"] = statuses["critical"]
    shown["ExternalSources"] = sorted({source for source in sources if source}) or None
    shown["GatewayConfig"] = {}
    return shown


def _source(each: InstanceView) -> str:
    return (each.service.meta or {}).get(_EXTERNAL_SOURCE, "")
