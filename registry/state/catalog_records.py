"""What the catalog keeps: nodes, service instances and checks, their tables, and reading them.

Names and ids are looked up without regard to letter case, as in the API, but are kept and shown as
they were given. Every read that the API offers is one range or one point here:

    catalog.nodes            node                          -> Node
    catalog.node-ids         uuid                          -> node
    catalog.services         node, service id              -> Service
    catalog.instances        name, node, service id        -> Service     (the same, by name)
    catalog.connect          destination, node, service id -> Pointer     (mesh proxies)
    catalog.checks           node, check id                -> Check
    catalog.node-checks      node                          -> NodeChecksOf (those of no service)
    catalog.instance-checks  name, node, service id, check -> Check       (those of an instance)
    catalog.checks-service   name, node, check id          -> Pointer
    catalog.checks-state     state, node, check id         -> Pointer

The health of a service is therefore two ranges and two points per node it runs on, whatever
else the catalog holds. Only `catalog_nodes`, `catalog_services` and `catalog_checks` write
these tables and keep them together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from registry.state.tables import Table
from registry.storage.store import Reader

PASSING, WARNING, CRITICAL = "passing", "warning", "critical"

#: The check that says whether the gossip pool sees a node.
SERF_CHECK_ID = "serfHealth"


class Node(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One machine. `id` is a UUID or "" (nodes that no agent runs on)."""

    node: str
    id: str = ""
    address: str = ""
    datacenter: str = ""
    tagged_addresses: dict[str, str] | None = None
    meta: dict[str, str] | None = None
    create_index: int = 0
    modify_index: int = 0


class ServiceAddress(msgspec.Struct, frozen=True):
    address: str
    port: int = 0


class Weights(msgspec.Struct, frozen=True):
    """DNS weights of an instance, by what its checks say."""

    passing: int = 1
    warning: int = 1


class Service(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One instance of a service on a node. None and empty are told apart, as the API shows them so.

    `proxy` and `connect` are mesh data in the API's spelling, kept and shown back. `weights` None
    in a command means the default; it is always set in the store.
    """

    id: str = ""
    name: str = ""
    node: str = ""  # filled in by the catalog
    kind: str = ""
    tags: tuple[str, ...] | None = None
    address: str = ""
    tagged_addresses: dict[str, ServiceAddress] | None = None
    meta: dict[str, str] | None = None
    port: int = 0
    weights: Weights | None = None
    enable_tag_override: bool = False
    proxy: dict[str, Any] | None = None
    connect: dict[str, Any] | None = None
    create_index: int = 0
    modify_index: int = 0


class CheckSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a check is made, as told to the catalog; only shown. Durations in nanoseconds."""

    interval_ns: int = 0
    output_max_size: int = 0
    timeout_ns: int = 0
    deregister_critical_service_after_ns: int = 0
    http: str = ""
    tls_skip_verify: bool = False
    header: dict[str, list[str]] | None = None
    method: str = ""
    body: str = ""
    tcp: str = ""
    script_args: tuple[str, ...] | None = None
    docker_container_id: str = ""
    shell: str = ""
    grpc: str = ""
    grpc_use_tls: bool = False
    alias_node: str = ""
    alias_service: str = ""
    ttl_ns: int = 0


class Check(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One check of a node (`service_id` "") or of a service instance on it.

    `service_name` and `service_tags` are copied from the instance when the check is written and do
    not follow it afterwards. Any word is a valid status to the catalog.
    """

    check_id: str = ""
    name: str = ""
    node: str = ""  # "" in a command: the node registered with it
    status: str = ""  # "" in a command: critical
    notes: str = ""
    output: str = ""
    service_id: str = ""
    service_name: str = ""
    service_tags: tuple[str, ...] | None = None
    type: str = ""
    definition: CheckSpec = CheckSpec()
    create_index: int = 0
    modify_index: int = 0


class NodeChecksOf(msgspec.Struct, frozen=True):
    """The checks of one node that belong to no service: a few, needed with each of its services."""

    checks: tuple[Check, ...] = ()


class NodeName(msgspec.Struct, frozen=True):
    node: str


class Pointer(msgspec.Struct, frozen=True, array_like=True):
    """An index entry: the node, and the id of the service or check on it."""

    node: str
    id: str


NODES: Table[Node] = Table("catalog.nodes", Node)
NODE_IDS: Table[NodeName] = Table("catalog.node-ids", NodeName)
SERVICES: Table[Service] = Table("catalog.services", Service)
INSTANCES: Table[Service] = Table("catalog.instances", Service)
CONNECT: Table[Pointer] = Table("catalog.connect", Pointer)
CHECKS: Table[Check] = Table("catalog.checks", Check)
NODE_CHECKS: Table[NodeChecksOf] = Table("catalog.node-checks", NodeChecksOf)
INSTANCE_CHECKS: Table[Check] = Table("catalog.instance-checks", Check)
CHECKS_BY_SERVICE: Table[Pointer] = Table("catalog.checks-service", Pointer)
CHECKS_BY_STATE: Table[Pointer] = Table("catalog.checks-state", Pointer)


def fold(name: str) -> str:
    """The form in which names and ids are compared."""
    return name.lower()


def get_node(reader: Reader, name: str) -> Node | None:
    return NODES.get(reader, fold(name))


def get_node_by_id(reader: Reader, node_id: str) -> Node | None:
    found = NODE_IDS.get(reader, fold(node_id))
    return None if found is None else get_node(reader, found.node)


def get_service(reader: Reader, node: str, service_id: str) -> Service | None:
    return SERVICES.get(reader, fold(node), fold(service_id))


def get_check(reader: Reader, node: str, check_id: str) -> Check | None:
    return CHECKS.get(reader, fold(node), fold(check_id))


def services_of_node(reader: Reader, node: str) -> Iterator[Service]:
    return SERVICES.scan(reader, fold(node))


def instances_of(reader: Reader, name: str) -> Iterator[Service]:
    return INSTANCES.scan(reader, fold(name))


def checks_of_node(reader: Reader, node: str) -> Iterator[Check]:
    """All checks on the node, its services' too."""
    return CHECKS.scan(reader, fold(node))


def node_level_checks(reader: Reader, node: str) -> tuple[Check, ...]:
    """The checks of the node itself, which every service on it shares."""
    found = NODE_CHECKS.get(reader, fold(node))
    return () if found is None else found.checks


def checks_of_instance(reader: Reader, service: Service) -> Iterator[Check]:
    return INSTANCE_CHECKS.scan(reader, fold(service.name), fold(service.node), fold(service.id))


def service_index(name: str) -> str:
    """Name of the index that every change of a service's health raises."""
    return f"service.{fold(name)}"


#: Raised when the last instance of some service goes: what readers of unknown services wait on.
EXTINCTION_INDEX = "service_last_extinction"
