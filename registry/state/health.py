"""Reads of checks, and of services together with their checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import ClassVar

import msgspec

from registry.state import coordinates
from registry.state.base import Query, max_index
from registry.state.catalog_lookup import (
    find_instances,
    has_meta,
    has_tags,
    instance_topics,
    instances_index,
)
from registry.state.catalog_records import (
    CHECKS,
    CHECKS_BY_SERVICE,
    CHECKS_BY_STATE,
    INSTANCE_CHECKS,
    INSTANCES,
    NODES,
    PASSING,
    Check,
    Node,
    Pointer,
    Service,
    checks_of_instance,
    checks_of_node,
    fold,
    get_check,
    get_node,
    node_level_checks,
    service_index,
    services_of_node,
)
from registry.state.catalog_topics import (
    node_checks_topic,
    node_services_topic,
    node_topic,
    service_checks_topic,
    service_topic,
    state_checks_topic,
)
from registry.state.config_entries import ingress_gateways_of
from registry.state.topics import Topic, table_topic
from registry.storage.store import Reader

#: What reads across the whole catalog depend on.
_TABLES = ("nodes", "services", "checks")

#: Asked for instead of a state: all checks.
ANY_STATE = "any"


class InstanceHealth(msgspec.Struct, frozen=True):
    """An instance, its node, and the checks of both, the node's first."""

    node: Node
    service: Service
    checks: list[Check]


class NodeChecks(Query, tag="health-node", frozen=True, kw_only=True):
    """All checks on a node: `list[Check]`, in the order of their ids."""

    tells_consistency: ClassVar[bool] = True

    node: str

    def run(self, reader: Reader) -> tuple[int, list[Check]]:
        return max_index(reader, "checks"), list(checks_of_node(reader, self.node))

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        return (node_checks_topic(self.node),)


class ServiceChecks(Query, tag="health-checks", frozen=True, kw_only=True):
    """The checks of a service's instances: `list[Check]`."""

    tells_consistency: ClassVar[bool] = True

    name: str
    node_meta: dict[str, str] = msgspec.field(default_factory=dict)
    near: str = ""

    def run(self, reader: Reader) -> tuple[int, list[Check]]:
        found = _resolved(reader, CHECKS_BY_SERVICE.scan(reader, fold(self.name)))
        checks = list(_of_nodes(reader, found, self.node_meta))
        coordinates.sort_by_distance(reader, self.near, checks, lambda check: check.node)
        return self._index(reader), checks

    def _index(self, reader: Reader) -> int:
        if not self.node_meta:
            return max_index(reader, "checks")
        own = max_index(reader, service_index(self.name))
        return own or max_index(reader, "nodes", "services", "checks")

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        by_meta = (service_topic(self.name),) if self.node_meta else ()
        return (service_checks_topic(self.name), *by_meta)


class ChecksInState(Query, tag="health-state", frozen=True, kw_only=True):
    """The checks in a state, or all for the state "any": `list[Check]`."""

    tells_consistency: ClassVar[bool] = True

    state: str
    node_meta: dict[str, str] = msgspec.field(default_factory=dict)
    near: str = ""

    def run(self, reader: Reader) -> tuple[int, list[Check]]:
        checks = list(_of_nodes(reader, self._found(reader), self.node_meta))
        coordinates.sort_by_distance(reader, self.near, checks, lambda check: check.node)
        return max_index(reader, "checks", *(("nodes",) if self.node_meta else ())), checks

    def _found(self, reader: Reader) -> Iterator[Check]:
        if self.state == ANY_STATE:
            return CHECKS.scan(reader)
        return _resolved(reader, CHECKS_BY_STATE.scan(reader, self.state))

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        any_state = self.state == ANY_STATE
        own = table_topic("checks") if any_state else state_checks_topic(self.state)
        return (own, *((table_topic("nodes"),) if self.node_meta else ()))


class ServiceHealth(Query, tag="health-service", frozen=True, kw_only=True):
    """The instances of a service with their checks: `list[InstanceHealth]`.

    `tags` None does not look at tags. `passing_only` leaves out instances with a check, of their
    own or of their node, that is not passing. `connect` asks for the proxies in front of it.
    """

    tells_consistency: ClassVar[bool] = True

    name: str
    tags: tuple[str, ...] | None = None
    passing_only: bool = False
    connect: bool = False
    node_meta: dict[str, str] = msgspec.field(default_factory=dict)
    near: str = ""

    def run(self, reader: Reader) -> tuple[int, list[InstanceHealth]]:
        found = find_instances(reader, self.name, connect=self.connect)
        index = instances_index(reader, found, _TABLES)
        wanted = [service for service in found if has_tags(service.tags, self.tags)]
        health = with_checks(reader, self.name, wanted, together=not self.connect)
        result = [each for each in health if self._fits(each)]
        coordinates.sort_by_distance(reader, self.near, result, lambda each: each.node.node)
        return index, result

    def _fits(self, each: InstanceHealth) -> bool:
        if not has_meta(each.node.meta, self.node_meta):
            return False
        return not self.passing_only or all(check.status == PASSING for check in each.checks)

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        return instance_topics(reader, self.name, connect=self.connect)


class AllHealth(Query, tag="health-all", frozen=True, kw_only=True):
    """Every instance of every service with its checks: `list[InstanceHealth]`, by service."""

    def run(self, reader: Reader) -> tuple[int, list[InstanceHealth]]:
        result: list[InstanceHealth] = []
        for _, group in groupby(INSTANCES.scan(reader), key=lambda each: fold(each.name)):
            services = list(group)
            result += with_checks(reader, services[0].name, services, together=True)
        return max_index(reader, *_TABLES), result

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        return tuple(map(table_topic, _TABLES))


class NodeOverview(msgspec.Struct, frozen=True):
    """A node with all that is on it."""

    node: Node
    services: list[Service]
    checks: list[Check]


class NodeHealth(Query, tag="health-nodes", frozen=True, kw_only=True):
    """Nodes with their services and checks: `list[NodeOverview]`; only `node` if that is not ""."""

    node: str = ""

    def run(self, reader: Reader) -> tuple[int, list[NodeOverview]]:
        one = get_node(reader, self.node) if self.node else None
        nodes = NODES.scan(reader) if not self.node else iter([one] if one is not None else [])
        result = [
            NodeOverview(
                node,
                list(services_of_node(reader, node.node)),
                list(checks_of_node(reader, node.node)),
            )
            for node in nodes
        ]
        return max_index(reader, *_TABLES), result

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        if not self.node:
            return tuple(map(table_topic, _TABLES))
        name = self.node
        return (node_topic(name), node_services_topic(name), node_checks_topic(name))


class IngressHealth(Query, tag="health-ingress", frozen=True, kw_only=True):
    """The instances of the ingress gateways that lead to a service: `list[InstanceHealth]`."""

    tells_consistency: ClassVar[bool] = True

    service: str
    passing_only: bool = False
    node_meta: dict[str, str] = msgspec.field(default_factory=dict)

    def run(self, reader: Reader) -> tuple[int, list[InstanceHealth]]:
        found = [each.run(reader) for each in self._gateways(reader)]
        index = max((index for index, _ in found), default=max_index(reader, "config-entries"))
        return index, [instance for _, instances in found for instance in instances]

    def _gateways(self, reader: Reader) -> list[ServiceHealth]:
        return [
            ServiceHealth(name=name, passing_only=self.passing_only, node_meta=self.node_meta)
            for name in ingress_gateways_of(reader, self.service)
        ]

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        gateways = (service_topic(each.name) for each in self._gateways(reader))
        return (table_topic("config-entries"), *gateways)


def with_checks(
    reader: Reader, name: str, services: list[Service], *, together: bool
) -> list[InstanceHealth]:
    """Each instance with its node and checks.

    `together`: all are instances of `name`, so that their checks are read as one range instead of
    one per instance.
    """
    nodes: dict[str, tuple[Node, tuple[Check, ...]]] = {}
    own = _checks_reader(reader, name, services, together)
    result: list[InstanceHealth] = []
    for service in services:
        if service.node not in nodes:
            node = get_node(reader, service.node)
            assert node is not None, "a service is removed with its node"
            nodes[service.node] = node, node_level_checks(reader, service.node)
        node, shared = nodes[service.node]
        result.append(InstanceHealth(node, service, [*shared, *own(service)]))
    return result


def _checks_reader(
    reader: Reader, name: str, services: list[Service], together: bool
) -> Callable[[Service], Iterable[Check]]:
    if not together or len(services) < 2:
        return lambda service: checks_of_instance(reader, service)
    grouped: dict[tuple[str, str], list[Check]] = {}
    for check in INSTANCE_CHECKS.scan(reader, fold(name)):
        grouped.setdefault((fold(check.node), fold(check.service_id)), []).append(check)
    return lambda service: grouped.get((fold(service.node), fold(service.id)), ())


def _resolved(reader: Reader, pointers: Iterable[Pointer]) -> Iterator[Check]:
    for pointer in pointers:
        check = get_check(reader, pointer.node, pointer.id)
        assert check is not None, "an index entry goes with its check"
        yield check


def _of_nodes(
    reader: Reader, checks: Iterable[Check], node_meta: dict[str, str]
) -> Iterator[Check]:
    """Those checks whose node has every pair of `node_meta`."""
    if not node_meta:
        yield from checks
        return
    fits: dict[str, bool] = {}
    for check in checks:
        if check.node not in fits:
            node = get_node(reader, check.node)
            fits[check.node] = node is not None and has_meta(node.meta, node_meta)
        if fits[check.node]:
            yield check
