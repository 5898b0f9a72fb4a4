"""Nodes, services and checks of the catalog as the API shows them.

Field order, and what is null, empty or absent, is what clients of the API have always seen.
"""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType

from registry.http.check_definitions import definition_view
from registry.http.mesh_settings import proxy_view
from registry.http.views import View
from registry.state.catalog_queries import NodeServicesResult, ServiceInstance
from registry.state.catalog_records import Check, Node, Service, Weights
from registry.state.health import InstanceHealth


class NodeView(View, frozen=True):
    id: str
    node: str
    address: str
    datacenter: str
    tagged_addresses: dict[str, str] | None
    meta: dict[str, str] | None
    create_index: int
    modify_index: int


class AddressView(View, frozen=True):
    address: str
    port: int


class WeightsView(View, frozen=True):
    passing: int
    warning: int


class CheckView(View, frozen=True):
    node: str
    check_id: str
    name: str
    status: str
    notes: str
    output: str
    service_id: str
    service_name: str
    service_tags: tuple[str, ...] | None
    type: str
    definition: dict[str, Any]
    create_index: int
    modify_index: int


class NodeServiceView(View, frozen=True):
    """A service as part of its node."""

    kind: str | UnsetType
    id: str
    service: str
    tags: tuple[str, ...] | None
    address: str
    tagged_addresses: dict[str, AddressView] | UnsetType
    meta: dict[str, str] | None
    port: int
    weights: WeightsView
    enable_tag_override: bool
    proxy: dict[str, Any]
    connect: dict[str, Any]
    create_index: int
    modify_index: int


class ServiceNodeView(View, frozen=True):
    """A service with its node's fields beside its own."""

    id: str
    node: str
    address: str
    datacenter: str
    tagged_addresses: dict[str, str] | None
    node_meta: dict[str, str] | None
    service_kind: str
    service_id: str
    service_name: str
    service_tags: tuple[str, ...]
    service_address: str
    service_tagged_addresses: dict[str, AddressView] | UnsetType
    service_weights: WeightsView
    service_meta: dict[str, str]
    service_port: int
    service_enable_tag_override: bool
    service_proxy: dict[str, Any]
    service_connect: dict[str, Any]
    create_index: int
    modify_index: int


class InstanceView(View, frozen=True):
    node: NodeView
    service: NodeServiceView
    checks: list[CheckView]


class NodeServicesView(View, frozen=True):
    node: NodeView
    services: dict[str, NodeServiceView]


class NodeServiceListView(View, frozen=True):
    node: NodeView | None
    services: list[NodeServiceView] | None


def node_view(node: Node) -> NodeView:
    return NodeView(
        node.id,
        node.node,
        node.address,
        node.datacenter,
        node.tagged_addresses,
        node.meta,
        node.create_index,
        node.modify_index,
    )


def service_view(service: Service, *, null_tags: bool = False) -> NodeServiceView:
    """A service; no tags are shown as an empty list unless `null_tags` (transactions do that)."""
    weights = service.weights or Weights()
    return NodeServiceView(
        service.kind or UNSET,
        service.id,
        service.name,
        service.tags if null_tags else service.tags or (),
        service.address,
        _addresses(service),
        service.meta,
        service.port,
        WeightsView(weights.passing, weights.warning),
        service.enable_tag_override,
        proxy_view(service.proxy),
        service.connect or {},
        service.create_index,
        service.modify_index,
    )


def _addresses(service: Service) -> dict[str, AddressView] | UnsetType:
    if not service.tagged_addresses:
        return UNSET
    return {
        name: AddressView(each.address, each.port)
        for name, each in service.tagged_addresses.items()
    }


def service_node_view(found: ServiceInstance) -> ServiceNodeView:
    node, service = found.node, found.service
    weights = service.weights or Weights()
    return ServiceNodeView(
        node.id,
        service.node,
        node.address,
        node.datacenter,
        node.tagged_addresses,
        node.meta,
        service.kind,
        service.id,
        service.name,
        service.tags or (),
        service.address,
        _addresses(service),
        WeightsView(weights.passing, weights.warning),
        service.meta or {},
        service.port,
        service.enable_tag_override,
        proxy_view(service.proxy),
        service.connect or {},
        service.create_index,
        service.modify_index,
    )


def check_view(check: Check, *, null_tags: bool = False) -> CheckView:
    return CheckView(
        check.node,
        check.check_id,
        check.name,
        check.status,
        check.notes,
        check.output,
        check.service_id,
        check.service_name,
        check.service_tags if null_tags else check.service_tags or (),
        check.type,
        definition_view(check.definition),
        check.create_index,
        check.modify_index,
    )


def instance_view(found: InstanceHealth) -> InstanceView:
    return InstanceView(
        node_view(found.node),
        service_view(found.service),
        [check_view(check) for check in found.checks],
    )


def node_services_view(found: NodeServicesResult) -> NodeServicesView:
    services = {service.id: service_view(service) for service in found.services}
    return NodeServicesView(node_view(found.node), services)
