"""Writing checks: records, indexes, and the end of the sessions that a check held."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from registry.state import sessions
from registry.state.base import Refused, Transaction
from registry.state.catalog_records import (
    CHECKS,
    CHECKS_BY_SERVICE,
    CHECKS_BY_STATE,
    CRITICAL,
    INSTANCE_CHECKS,
    NODE_CHECKS,
    Check,
    NodeChecksOf,
    Pointer,
    fold,
    get_check,
    get_node,
    get_service,
    node_level_checks,
)
from registry.state.catalog_rules import MISSING_NODE, MISSING_SERVICE
from registry.state.catalog_topics import (
    node_checks_topic,
    service_checks_topic,
    state_checks_topic,
)
from registry.state.catalog_writes import index_matches, is_same, names_on, raise_service, stamped
from registry.state.topics import table_topic


def set_check(tx: Transaction, check: Check) -> Refused | None:
    """Create or replace a check of a registered node. A critical one ends the sessions it holds."""
    existing = get_check(tx, check.node, check.check_id)
    check = msgspec.structs.replace(check, status=check.status or CRITICAL)
    if get_node(tx, check.node) is None:
        return MISSING_NODE
    if not check.check_id:
        return Refused("failed inserting check: object missing primary index")
    if check.service_id:
        service = get_service(tx, check.node, check.service_id)
        if service is None:
            return MISSING_SERVICE
        check = msgspec.structs.replace(check, service_name=service.name, service_tags=service.tags)
    if existing is None or not is_same(check, existing):
        _store_check(tx, stamped(tx, check, existing), existing)
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
        for name in names_on(tx, check.node):
            raise_service(tx, name)
        return
    service = get_service(tx, check.node, check.service_id)
    raise_service(tx, check.service_name if service is None else service.name)


def cas_check(tx: Transaction, check: Check) -> bool | Refused:
    if not index_matches(get_check(tx, check.node, check.check_id), check.modify_index):
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
