"""The catalog's listings: which nodes there are and what runs on them.

`near` sorts by round-trip time from that node; "" keeps the catalog's order, by name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import msgspec

from registry.state import coordinates
from registry.state.base import Query, max_index
from registry.state.catalog_lookup import (
    find_instances,
    find_node,
    has_meta,
    has_tags,
    instance_topics,
    instances_index,
)
from registry.state.catalog_records import (
    INSTANCES,
    NODES,
    Node,
    Service,
    get_node,
    services_of_node,
)
from registry.state.catalog_topics import instances_topic, node_services_topic, node_topic
from registry.state.topics import Topic, table_topic
from registry.storage.store import Reader


class ServiceInstance(msgspec.Struct, frozen=True):
    """An instance with the node it runs on."""

    node: Node
    service: Service


class NodeServicesResult(msgspec.Struct, frozen=True):
    """A node with the services on it, in the order of their ids."""

    node: Node
    services: list[Service]


class ListNodes(Query, tag="catalog-nodes", frozen=True, kw_only=True):
    """All nodes that have every pair of `node_meta`: `list[Node]`."""

    tells_consistency: ClassVar[bool] = True

    node_meta: dict[str, str] = msgspec.field(default_factory=dict)
    near: str = ""

    def run(self, reader: Reader) -> tuple[int, list[Node]]:
        nodes = [node for node in NODES.scan(reader) if has_meta(node.meta, self.node_meta)]
        coordinates.sort_by_distance(reader, self.near, nodes, lambda node: node.node)
        return max_index(reader, "nodes"), nodes

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        return (table_topic("nodes"),)


class ListServices(Query, tag="catalog-services", frozen=True, kw_only=True):
    """Service names with the tags of their instances: `dict[str, list[str]]`, sorted."""

    tells_consistency: ClassVar[bool] = True

    node_meta: dict[str, str] = msgspec.field(default_factory=dict)

    def run(self, reader: Reader) -> tuple[int, dict[str, list[str]]]:
        index = max_index(reader, "services", *(("nodes",) if self.node_meta else ()))
        tags: dict[str, set[str]] = {}
        for service in self._services(reader):
            tags.setdefault(service.name, set()).update(service.tags or ())
        return index, {name: sorted(tags[name]) for name in sorted(tags)}

    def _services(self, reader: Reader) -> Iterable[Service]:
        if not self.node_meta:
            return INSTANCES.scan(reader)
        return (
            service
            for node in NODES.scan(reader)
            if has_meta(node.meta, self.node_meta)
            for service in services_of_node(reader, node.node)
        )

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        return (table_topic("services"), *((table_topic("nodes"),) if self.node_meta else ()))


class ServiceNodes(Query, tag="catalog-service", frozen=True, kw_only=True):
    """The instances of a service: `list[ServiceInstance]`. A check that changes raises the index
    of the service, but there is nothing to see of it here, so nobody is woken for it.

    `tags` None does not look at tags; otherwise every one of them must be there. `connect` asks for
    the mesh proxies in front of the service instead.
    """

    tells_consistency: ClassVar[bool] = True

    name: str
    tags: tuple[str, ...] | None = None
    connect: bool = False
    node_meta: dict[str, str] = msgspec.field(default_factory=dict)
    near: str = ""

    def run(self, reader: Reader) -> tuple[int, list[ServiceInstance]]:
        found = find_instances(reader, self.name, connect=self.connect)
        index = instances_index(reader, found)
        nodes: dict[str, Node | None] = {}
        result: list[ServiceInstance] = []
        for service in found:
            if not has_tags(service.tags, self.tags):
                continue
            if service.node not in nodes:
                nodes[service.node] = get_node(reader, service.node)
            node = nodes[service.node]
            assert node is not None, "a service is removed with its node"
            if has_meta(node.meta, self.node_meta):
                result.append(ServiceInstance(node, service))
        coordinates.sort_by_distance(reader, self.near, result, lambda each: each.service.node)
        return index, result

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        return instance_topics(reader, self.name, instances_topic, connect=self.connect)


class NodeServices(Query, tag="catalog-node", frozen=True, kw_only=True):
    """A node, by name or by an unambiguous beginning of its id, and its services:
    `NodeServicesResult | None`."""

    tells_consistency: ClassVar[bool] = True

    node: str

    def run(self, reader: Reader) -> tuple[int, NodeServicesResult | None]:
        node = find_node(reader, self.node)
        if node is None:
            return 0, None
        services = list(services_of_node(reader, node.node))
        return max_index(reader, "nodes", "services"), NodeServicesResult(node, services)

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        node = find_node(reader, self.node)
        name = self.node if node is None else node.node
        return (node_topic(name), node_services_topic(name))
