"""The catalog's commands and listings: which nodes there are and what runs on them.

Writes come from two sides: whole registrations (agents syncing, external tools) as the commands
`Register` and `Deregister`, and single operations of a transaction through the functions
`set_*`, `cas_*`, `delete_*`. Both end in the same few functions here, which keep the tables of
`catalog_records` together, raise the indexes that blocking readers compare, touch the topics that
they sleep on, and end the sessions that a critical or vanished check held.

Indexes (what `X-Consul-Index` says):

    nodes, services, checks    any change of that table
    service.<name>             any change of the health of that service: an instance, its checks,
                               its node, the node's checks. Dropped with the last instance
    service_last_extinction    the last time a service lost its last instance: what readers of
                               unknown services are told; before it, the latest of the tables

Writing what is there already changes nothing, no index and no topic.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import msgspec

from registry.state import coordinates, sessions
from registry.state.base import Command, Query, Refused, Transaction, max_index
from registry.state.catalog_records import (
    CHECKS,
    CHECKS_BY_SERVICE,
    CHECKS_BY_STATE,
    CONNECT,
    CRITICAL,
    EXTINCTION_INDEX,
    INSTANCE_CHECKS,
    INSTANCES,
    NODE_CHECKS,
    NODE_IDS,
    NODES,
    SERF_CHECK_ID,
    SERVICES,
    Check,
    CheckSpec,
    Node,
    NodeChecksOf,
    NodeName,
    Pointer,
    Service,
    ServiceAddress,
    Weights,
    checks_of_instance,
    checks_of_node,
    fold,
    get_check,
    get_node,
    get_node_by_id,
    get_service,
    instances_of,
    node_level_checks,
    service_index,
    services_of_node,
)
from registry.state.mesh_rules import mesh_problem
from registry.state.topics import Topic, table_topic
from registry.state.uuids import strict_flaw
from registry.storage.store import Reader

__all__ = [
    "Check",
    "CheckSpec",
    "Deregister",
    "ListNodes",
    "ListServices",
    "Node",
    "NodeServices",
    "NodeServicesResult",
    "Register",
    "Service",
    "ServiceAddress",
    "ServiceInstance",
    "ServiceNodes",
    "Weights",
    "cas_check",
    "cas_node",
    "cas_service",
    "delete_check",
    "delete_check_cas",
    "delete_node",
    "delete_node_cas",
    "delete_service",
    "delete_service_cas",
    "get_check",
    "get_node",
    "get_node_by_id",
    "get_service",
    "node_problem",
    "prepare_check",
    "prepare_service",
    "set_check",
    "set_node",
    "set_service",
]

#: Limits of service metadata (surface, section 9).
_META_PAIRS_MAX, _META_KEY_MAX, _META_VALUE_MAX = 64, 128, 512
_META_KEY = re.compile(r"[A-Za-z0-9_-]+")
_WEIGHT_MAX = 65535

_MISSING_NODE = Refused("Missing node registration")
_MISSING_SERVICE = Refused("Missing service registration")


def node_topic(name: str) -> Topic:
    return ("node", fold(name))


def node_services_topic(name: str) -> Topic:
    return ("node-services", fold(name))


def service_topic(name: str) -> Topic:
    """Wakes on any change of the health of a service (with `service.<name>`)."""
    return ("service", fold(name))


def instances_topic(name: str) -> Topic:
    """Wakes when the service's instances or their nodes change, checks apart."""
    return ("instances", fold(name))


def connect_topic(destination: str) -> Topic:
    """Wakes when the set of mesh proxies in front of a service changes."""
    return ("connect", fold(destination))


def node_checks_topic(node: str) -> Topic:
    return ("checks-node", fold(node))


def service_checks_topic(name: str) -> Topic:
    return ("checks-service", fold(name))


def state_checks_topic(state: str) -> Topic:
    return ("checks-state", state)


# What must hold before anything is written. These texts are part of the API.


def node_problem(node: str, node_id: str) -> Refused | None:
    """Why this is no node that could be registered, or None."""
    if not node:
        return Refused("Must provide node")
    if node_id and (flaw := strict_flaw(node_id)):
        return Refused(f"Bad node ID: {flaw}")
    return None


def prepare_service(service: Service) -> Service | Refused:
    """The service with its id defaulted to its name, or why it can not be registered."""
    if flaws := mesh_problem(service.kind, service.port, service.proxy, service.connect):
        return Refused(flaws)
    if service.name and not service.id:
        service = msgspec.structs.replace(service, id=service.name)
    if service.id and not service.name:
        return Refused("Must provide service name with ID")
    if service.address in ("0.0.0.0", "::", "[::]"):
        return Refused("Invalid service address")
    return service


def prepare_check(check: Check, node: str) -> Check:
    """The check with id, node and type filled in from its name, the request and its definition."""
    return msgspec.structs.replace(
        check,
        check_id=check.check_id or check.name,
        node=check.node or node,
        type=check.type or _check_type(check.definition),
    )


def _check_type(spec: CheckSpec) -> str:
    """Which kind of check a definition describes; the first that fits."""
    timed = spec.interval_ns > 0
    kinds = (
        ("grpc", bool(spec.grpc) and timed),
        ("http", bool(spec.http) and timed),
        ("ttl", spec.ttl_ns > 0),
        ("tcp", bool(spec.tcp) and timed),
        ("alias", bool(spec.alias_node or spec.alias_service)),
        ("docker", bool(spec.script_args and spec.docker_container_id) and timed),
        ("script", bool(spec.script_args)),
    )
    return next((kind for kind, fits in kinds if fits), "")


def _meta_flaw(meta: dict[str, str]) -> str:
    if len(meta) > _META_PAIRS_MAX:
        return f"Node metadata cannot contain more than {_META_PAIRS_MAX} key/value pairs"
    for key in sorted(meta):
        if flaw := _meta_pair_flaw(key, meta[key]):
            return f"Couldn't load metadata pair ('{key}', '{meta[key]}'): {flaw}"
    return ""


def _meta_pair_flaw(key: str, value: str) -> str:
    if not key:
        return "Key cannot be blank"
    if not _META_KEY.fullmatch(key):
        return "Key contains invalid characters"
    if len(key) > _META_KEY_MAX:
        return f"Key is too long (limit: {_META_KEY_MAX} characters)"
    if key.startswith("consul-"):
        return "Key prefix 'consul-' is reserved for internal use"
    if len(value.encode()) > _META_VALUE_MAX:
        return f"Value is too long (limit: {_META_VALUE_MAX} characters)"
    return ""


# Nodes.


def set_node(tx: Transaction, node: Node) -> Refused | None:
    """Create or replace a node. One with an id keeps its history when its name changes, but what
    was registered under the old name goes."""
    existing: Node | None = None
    if node.id:
        existing = get_node_by_id(tx, node.id)
        if flaw := _name_conflict(tx, node, allow_without_id=existing is None):
            who = f'"{node.id}"' if existing is None else f'"{node.id}" ({node.address})'
            if existing is None or existing.node != node.node:
                return Refused(f"Error while renaming Node ID: {who}: {flaw}")
        if existing is not None and existing.node != node.node:
            delete_node(tx, existing.node)
    if existing is None:
        existing = get_node(tx, node.node)
    if existing is not None and _same(node, existing):
        return None
    _store_node(tx, _stamped(tx, node, existing))
    return None


def _name_conflict(tx: Transaction, node: Node, *, allow_without_id: bool) -> str:
    """Why the name is not free: a healthy node with another id has it."""
    other = get_node(tx, node.node)
    if other is None or other.id == node.id or (not other.id and allow_without_id):
        return ""
    check = get_check(tx, other.node, SERF_CHECK_ID)
    if check is None or check.status == CRITICAL:
        return ""  # not in the gossip pool, or failed there: its name may be taken over
    return (
        f"Node name {node.node} is reserved by node {other.id} with name {other.node} "
        f"({other.address})"
    )


def _store_node(tx: Transaction, node: Node) -> None:
    previous = get_node(tx, node.node)
    if previous is not None and previous.id and fold(previous.id) != fold(node.id):
        NODE_IDS.delete(tx, fold(previous.id))
    if node.id:
        NODE_IDS.put(tx, NodeName(node.node), fold(node.id))
    NODES.put(tx, node, fold(node.node))
    tx.raise_index("nodes")
    tx.touch(table_topic("nodes"), node_topic(node.node))
    for name in _names_on(tx, node.node):
        _raise_instances(tx, name)


def cas_node(tx: Transaction, node: Node) -> bool | Refused:
    """Set the node if its ModifyIndex is `node.modify_index` (0: if there is none)."""
    if not _index_matches(get_node(tx, node.node), node.modify_index):
        return False
    refused = set_node(tx, node)
    return True if refused is None else refused


def delete_node(tx: Transaction, name: str) -> None:
    """Remove a node, its services, checks, coordinates and sessions; unknown: nothing happens."""
    node = get_node(tx, name)
    if node is None:
        return
    for service in list(services_of_node(tx, name)):
        delete_service(tx, name, service.id)
    for check in list(checks_of_node(tx, name)):
        delete_check(tx, name, check.check_id)
    coordinates.delete_coordinates(tx, name)
    if node.id:
        NODE_IDS.delete(tx, fold(node.id))
    NODES.delete(tx, fold(name))
    tx.raise_index("nodes")
    tx.touch(table_topic("nodes"), node_topic(name))
    sessions.invalidate_sessions_of_node(tx, name)


def delete_node_cas(tx: Transaction, name: str, index: int) -> bool:
    node = get_node(tx, name)
    if node is None or node.modify_index != index:
        return False
    delete_node(tx, name)
    return True


# Services.


def set_service(tx: Transaction, node: str, service: Service) -> Refused | None:
    """Create or replace an instance on a registered node."""
    existing = get_service(tx, node, service.id)
    if flaw := _meta_flaw(service.meta or {}):
        return Refused(f"Invalid Service Meta for node {node} and serviceID {service.id}: {flaw}")
    if get_node(tx, node) is None:
        return _MISSING_NODE
    if not service.id:
        return Refused("failed inserting service: object missing primary index")
    service = msgspec.structs.replace(service, node=node, weights=_valid(service.weights))
    if existing is not None and _same(service, existing):
        return None
    _store_service(tx, _stamped(tx, service, existing), existing)
    return None


def _valid(weights: Weights | None) -> Weights:
    """Weights out of range are quietly the default ones in the catalog (the agent refuses them)."""
    if weights is None or weights.passing < 1 or weights.warning < 0:
        return Weights()
    return Weights() if max(weights.passing, weights.warning) > _WEIGHT_MAX else weights


def _store_service(tx: Transaction, service: Service, existing: Service | None) -> None:
    if existing is not None:
        _unlink_service(tx, existing, moved_to=service.name)
    key = (fold(service.node), fold(service.id))
    SERVICES.put(tx, service, *key)
    INSTANCES.put(tx, service, fold(service.name), *key)
    if destination := connect_destination(service):
        CONNECT.put(tx, Pointer(service.node, service.id), fold(destination), *key)
        tx.touch(connect_topic(destination))
    tx.raise_index("services")
    tx.touch(table_topic("services"), node_services_topic(service.node))
    _raise_instances(tx, service.name)


def _unlink_service(tx: Transaction, service: Service, *, moved_to: str) -> None:
    """Take an instance out of its indexes by name; its checks follow when the name changes.

    Whoever waits for the old name learns of it as of any other lost instance.
    """
    key = (fold(service.node), fold(service.id))
    if destination := connect_destination(service):
        CONNECT.delete(tx, fold(destination), *key)
        tx.touch(connect_topic(destination))
    if fold(service.name) == fold(moved_to):
        return
    for check in list(checks_of_instance(tx, service)):
        INSTANCE_CHECKS.delete(tx, fold(service.name), *key, fold(check.check_id))
        INSTANCE_CHECKS.put(tx, check, fold(moved_to), *key, fold(check.check_id))
    INSTANCES.delete(tx, fold(service.name), *key)
    _lost_instance(tx, service.name)


def connect_destination(service: Service) -> str:
    """The service that this instance can be reached through the mesh as; "" for none."""
    if service.kind == "connect-proxy":
        return str((service.proxy or {}).get("DestinationServiceName", ""))
    return service.name if service.connect and service.connect.get("Native") else ""


def cas_service(tx: Transaction, node: str, service: Service) -> bool | Refused:
    if not _index_matches(get_service(tx, node, service.id), service.modify_index):
        return False
    refused = set_service(tx, node, service)
    return True if refused is None else refused


def delete_service(tx: Transaction, node: str, service_id: str) -> None:
    """Remove an instance and its checks; unknown: nothing happens."""
    service = get_service(tx, node, service_id)
    if service is None:
        return
    for check in list(checks_of_instance(tx, service)):
        delete_check(tx, node, check.check_id)
    key = (fold(node), fold(service_id))
    SERVICES.delete(tx, *key)
    INSTANCES.delete(tx, fold(service.name), *key)
    if destination := connect_destination(service):
        CONNECT.delete(tx, fold(destination), *key)
        tx.touch(connect_topic(destination))
    tx.raise_index("checks")
    tx.raise_index("services")
    tx.touch(table_topic("services"), node_services_topic(node))
    _lost_instance(tx, service.name)


def _lost_instance(tx: Transaction, name: str) -> None:
    if next(iter(INSTANCES.scan_raw(tx, fold(name), limit=1)), None) is not None:
        _raise_instances(tx, name)
        return
    tx.drop_index(service_index(name))
    tx.raise_index(EXTINCTION_INDEX)
    tx.touch(service_topic(name), instances_topic(name))


def delete_service_cas(tx: Transaction, node: str, service_id: str, index: int) -> bool:
    service = get_service(tx, node, service_id)
    if service is None or service.modify_index != index:
        return False
    delete_service(tx, node, service_id)
    return True


def _raise_service(tx: Transaction, name: str) -> None:
    tx.raise_index(service_index(name))
    tx.touch(service_topic(name))


def _raise_instances(tx: Transaction, name: str) -> None:
    _raise_service(tx, name)
    tx.touch(instances_topic(name))


def _names_on(tx: Transaction, node: str) -> list[str]:
    """The services that the node, or a check of it, shows in."""
    return sorted({fold(service.name) for service in services_of_node(tx, node)})


# Checks.


def set_check(tx: Transaction, check: Check) -> Refused | None:
    """Create or replace a check of a registered node. A critical one ends the sessions it holds."""
    existing = get_check(tx, check.node, check.check_id)
    check = msgspec.structs.replace(check, status=check.status or CRITICAL)
    if get_node(tx, check.node) is None:
        return _MISSING_NODE
    if not check.check_id:
        return Refused("failed inserting check: object missing primary index")
    if check.service_id:
        service = get_service(tx, check.node, check.service_id)
        if service is None:
            return _MISSING_SERVICE
        check = msgspec.structs.replace(check, service_name=service.name, service_tags=service.tags)
    if existing is None or not _same(check, existing):
        _store_check(tx, _stamped(tx, check, existing), existing)
    if check.status == CRITICAL:
        sessions.invalidate_sessions_of_check(tx, check.node, check.check_id)
    return None


def _store_check(tx: Transaction, check: Check, existing: Check | None) -> None:
    if existing is not None:
        _unlink_check(tx, existing)
    key = (fold(check.node), fold(check.check_id))
    CHECKS.put(tx, check, *key)
    CHECKS_BY_STATE.put(tx, Pointer(check.node, check.check_id), check.status, *key)
    if check.service_name:
        pointer = Pointer(check.node, check.check_id)
        CHECKS_BY_SERVICE.put(tx, pointer, fold(check.service_name), *key)
    if check.service_id:
        INSTANCE_CHECKS.put(tx, check, *_instance_check_key(check, check.service_name))
    else:
        _put_node_level(tx, check.node, (*node_level_checks(tx, check.node), check))
    _checks_changed(tx, check)


def _instance_check_key(check: Check, service_name: str) -> tuple[str, str, str, str]:
    return (fold(service_name), fold(check.node), fold(check.service_id), fold(check.check_id))


def _put_node_level(tx: Transaction, node: str, checks: Iterable[Check]) -> None:
    ordered = tuple(sorted(checks, key=lambda check: fold(check.check_id)))
    if ordered:
        NODE_CHECKS.put(tx, NodeChecksOf(ordered), fold(node))
    else:
        NODE_CHECKS.delete(tx, fold(node))


def _unlink_check(tx: Transaction, check: Check) -> None:
    """Take a check out of the indexes; the record itself is replaced or deleted by the caller."""
    key = (fold(check.node), fold(check.check_id))
    CHECKS_BY_STATE.delete(tx, check.status, *key)
    tx.touch(state_checks_topic(check.status))
    if check.service_name:
        CHECKS_BY_SERVICE.delete(tx, fold(check.service_name), *key)
        tx.touch(service_checks_topic(check.service_name))
    if check.service_id:
        # An instance that was renamed took its checks along under the new name.
        service = get_service(tx, check.node, check.service_id)
        name = check.service_name if service is None else service.name
        INSTANCE_CHECKS.delete(tx, *_instance_check_key(check, name))
    else:
        rest = node_level_checks(tx, check.node)
        keep = [each for each in rest if fold(each.check_id) != fold(check.check_id)]
        _put_node_level(tx, check.node, keep)


def _checks_changed(tx: Transaction, check: Check) -> None:
    """Raise and touch what a change of this check shows in."""
    tx.raise_index("checks")
    tx.touch(table_topic("checks"), node_checks_topic(check.node), state_checks_topic(check.status))
    if check.service_name:
        tx.touch(service_checks_topic(check.service_name))
    if not check.service_id:
        for name in _names_on(tx, check.node):
            _raise_service(tx, name)
        return
    service = get_service(tx, check.node, check.service_id)
    _raise_service(tx, check.service_name if service is None else service.name)


def cas_check(tx: Transaction, check: Check) -> bool | Refused:
    if not _index_matches(get_check(tx, check.node, check.check_id), check.modify_index):
        return False
    refused = set_check(tx, check)
    return True if refused is None else refused


def delete_check(tx: Transaction, node: str, check_id: str) -> None:
    """Remove a check and end the sessions that it holds; unknown: nothing happens."""
    check = get_check(tx, node, check_id)
    if check is None:
        return
    _unlink_check(tx, check)
    CHECKS.delete(tx, fold(node), fold(check_id))
    _checks_changed(tx, check)
    if not check.service_id:
        tx.raise_index("services")  # as clients see it; the listing itself is as it was
    sessions.invalidate_sessions_of_check(tx, node, check_id)


def delete_check_cas(tx: Transaction, node: str, check_id: str, index: int) -> bool:
    check = get_check(tx, node, check_id)
    if check is None or check.modify_index != index:
        return False
    delete_check(tx, node, check_id)
    return True


# What all three kinds of records have in common.


def _same(new: Any, old: Any) -> bool:
    """Whether writing `new` over `old` would change anything but the indexes."""
    indexes = {"create_index": old.create_index, "modify_index": old.modify_index}
    return bool(msgspec.structs.replace(new, **indexes) == old)


def _stamped(tx: Transaction, new: Any, old: Any) -> Any:
    created = tx.index if old is None else old.create_index
    return msgspec.structs.replace(new, create_index=created, modify_index=tx.index)


def _index_matches(existing: Node | Service | Check | None, index: int) -> bool:
    """Compare-and-set: 0 wants nothing to be there, a number wants just that ModifyIndex."""
    if existing is None:
        return index == 0
    return index != 0 and index == existing.modify_index


# Commands.


class Register(Command, tag="catalog-register", frozen=True, kw_only=True):
    """A node and, with it, a service on it and checks of either, all or nothing; True or `Refused`.

    `skip_node_update` leaves a node that is there already as it is; `keep_node_details` leaves its
    tagged addresses and meta, for one who registers without knowing them. `checks` may name the
    node or leave it out. Ids of services and checks default to their names.
    """

    node: str
    id: str = ""
    address: str = ""
    datacenter: str = ""
    tagged_addresses: dict[str, str] | None = None
    node_meta: dict[str, str] | None = None
    skip_node_update: bool = False
    keep_node_details: bool = False
    service: Service | None = None
    checks: tuple[Check, ...] = ()

    def apply(self, tx: Transaction) -> bool | Refused:
        steps = (self._check_arguments, self._apply_node, self._apply_service, self._apply_checks)
        for step in steps:
            if (refused := step(tx)) is not None:
                return refused
        return True

    def _check_arguments(self, tx: Transaction) -> Refused | None:
        if (refused := node_problem(self.node, self.id)) is not None:
            return refused
        if not self.address and not self.skip_node_update:
            return Refused("Must provide address if SkipNodeUpdate is not set")
        return None

    def _apply_node(self, tx: Transaction) -> Refused | None:
        existing = get_node(tx, self.node)
        tagged_addresses, meta = self.tagged_addresses, self.node_meta
        if existing is not None and self.keep_node_details:
            tagged_addresses, meta = existing.tagged_addresses, existing.meta
        node = Node(
            node=self.node,
            id=self.id,
            address=self.address,
            datacenter=self.datacenter,
            tagged_addresses=tagged_addresses,
            meta=meta,
        )
        if existing is not None and (self.skip_node_update or _same(node, existing)):
            return None
        refused = set_node(tx, node)
        return refused and Refused(f"failed inserting node: {refused.reason}")

    def _apply_service(self, tx: Transaction) -> Refused | None:
        if self.service is None:
            return None
        service = prepare_service(self.service)
        if isinstance(service, Refused):
            return service
        refused = set_service(tx, self.node, service)
        return refused and Refused(f"failed inserting service: {refused.reason}")

    def _apply_checks(self, tx: Transaction) -> Refused | None:
        for given in self.checks:
            check = prepare_check(given, self.node)
            if check.node != self.node:
                return Refused(f'check node "{check.node}" does not match node "{self.node}"')
            if (refused := set_check(tx, check)) is not None:
                return Refused(f'failed inserting check: {refused.reason} on node "{check.node}"')
        return None


class Deregister(Command, tag="catalog-deregister", frozen=True, kw_only=True):
    """Remove a service, or else a check, or else the whole node; what is not there is no error."""

    node: str
    service_id: str = ""
    check_id: str = ""

    def apply(self, tx: Transaction) -> bool | Refused:
        if not self.node:
            return Refused("Must provide node")
        if self.service_id:
            delete_service(tx, self.node, self.service_id)
        elif self.check_id:
            delete_check(tx, self.node, self.check_id)
        else:
            delete_node(tx, self.node)
        return True


# Queries. `near` sorts by round-trip time from that node; "" keeps the catalog's order, by name.


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


def find_node(reader: Reader, name_or_id: str) -> Node | None:
    """A node by name, or by a prefix of its id (at least two digits) that only one node has."""
    node = get_node(reader, name_or_id)
    if node is not None or len(name_or_id) < 2:
        return node
    prefix = fold(name_or_id)
    prefix = prefix[: len(prefix) // 2 * 2]  # whole bytes of the UUID, as the API cuts it
    start = NODE_IDS.prefix + prefix.encode("utf-8", "surrogateescape")
    stop = start + b"\xff"
    found = [raw for _, raw in reader.scan(start, stop, limit=2)]
    if len(found) != 1:
        return None
    return get_node(reader, msgspec.msgpack.decode(found[0], type=NodeName).node)


def find_instances(reader: Reader, name: str, *, connect: bool) -> list[Service]:
    """The instances of a service, or of the proxies in front of it."""
    if not connect:
        return list(instances_of(reader, name))
    pointers = CONNECT.scan(reader, fold(name))
    found = (get_service(reader, pointer.node, pointer.id) for pointer in pointers)
    return [service for service in found if service is not None]


def instances_index(
    reader: Reader, found: Iterable[Service], tables: tuple[str, ...] = ("nodes", "services")
) -> int:
    """The index of a read that found these instances (before any filter); `tables` are those that
    it looks into."""
    names = sorted({service_index(service.name) for service in found})
    if not names:
        return max_index(reader, EXTINCTION_INDEX) or max_index(reader, *tables)
    return max_index(reader, *names)


def instance_topics(
    reader: Reader, name: str, topic: Callable[[str], Topic] = service_topic, *, connect: bool
) -> tuple[Topic, ...]:
    """What a read of a service depends on: `topic` of each name that its instances have."""
    if not connect:
        return (topic(name),)
    proxies = sorted({fold(each.name) for each in find_instances(reader, name, connect=True)})
    return (connect_topic(name), *map(topic, proxies))


def has_meta(meta: dict[str, str] | None, wanted: dict[str, str]) -> bool:
    return all((meta or {}).get(key) == value for key, value in wanted.items())


def has_tags(tags: tuple[str, ...] | None, wanted: tuple[str, ...] | None) -> bool:
    """Whether every wanted tag is there, without regard to letter case; None wants nothing."""
    if wanted is None:
        return True
    have = {tag.lower() for tag in tags or ()}
    return all(tag.lower() in have for tag in wanted)
