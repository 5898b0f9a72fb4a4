"""Writing service instances: the records, their indexes by name and by mesh destination, and the
checks that move or go with an instance.
"""

from __future__ import annotations

import msgspec

from registry.state.base import Refused, Transaction
from registry.state.catalog_checks import delete_check
from registry.state.catalog_records import (
    CONNECT,
    EXTINCTION_INDEX,
    INSTANCE_CHECKS,
    INSTANCES,
    SERVICES,
    Pointer,
    Service,
    checks_of_instance,
    fold,
    get_node,
    get_service,
    service_index,
)
from registry.state.catalog_rules import MISSING_NODE, meta_flaw, valid_weights
from registry.state.catalog_topics import (
    connect_topic,
    instances_topic,
    node_services_topic,
    service_topic,
)
from registry.state.catalog_writes import index_matches, is_same, raise_instances, stamped
from registry.state.topics import table_topic


def set_service(tx: Transaction, node: str, service: Service) -> Refused | None:
    """Create or replace an instance on a registered node."""
    existing = get_service(tx, node, service.id)
    if flaw := meta_flaw(service.meta or {}):
        return Refused(f"Invalid Service Meta for node {node} and serviceID {service.id}: {flaw}")
    if get_node(tx, node) is None:
        return MISSING_NODE
    if not service.id:
        return Refused("failed inserting service: object missing primary index")
    service = msgspec.structs.replace(service, node=node, weights=valid_weights(service.weights))
    if existing is not None and is_same(service, existing):
        return None
    _store_service(tx, stamped(tx, service, existing), existing)
    return None


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
    raise_instances(tx, service.name)


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
    if not index_matches(get_service(tx, node, service.id), service.modify_index):
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
        raise_instances(tx, name)
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
