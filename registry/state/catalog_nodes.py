"""Writing nodes: who may have a name, and all that goes with a node that is removed."""

from __future__ import annotations

from registry.state import coordinates, sessions
from registry.state.base import Refused, Transaction
from registry.state.catalog_checks import delete_check
from registry.state.catalog_records import (
    CRITICAL,
    NODE_IDS,
    NODES,
    SERF_CHECK_ID,
    Node,
    NodeName,
    checks_of_node,
    fold,
    get_check,
    get_node,
    get_node_by_id,
    services_of_node,
)
from registry.state.catalog_services import delete_service
from registry.state.catalog_topics import node_topic
from registry.state.catalog_writes import index_matches, is_same, names_on, raise_instances, stamped
from registry.state.topics import table_topic


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
    if existing is not None and is_same(node, existing):
        return None
    _store_node(tx, stamped(tx, node, existing))
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
    for name in names_on(tx, node.node):
        raise_instances(tx, name)


def cas_node(tx: Transaction, node: Node) -> bool | Refused:
    """Set the node if its ModifyIndex is `node.modify_index` (0: if there is none)."""
    if not index_matches(get_node(tx, node.node), node.modify_index):
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
