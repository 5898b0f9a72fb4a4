"""Transactions: up to 64 operations on keys, nodes, services and checks, all or nothing.

Every failed operation is reported, with its place; one is enough for nothing to be changed. What
can be told from an operation alone (a missing name, a lock delay) is examined for all of them
first, and only if nothing is wrong are they carried out, in order, each seeing those before it.

The verbs of a kind are one table, from the verb's name to the function that carries it out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from registry.state import (
    catalog_checks,
    catalog_nodes,
    catalog_rules,
    catalog_services,
    kv,
    locks,
)
from registry.state.base import Command, Query, Refused, Transaction
from registry.state.catalog_records import (
    Check,
    Node,
    Service,
    get_check,
    get_node,
    get_node_by_id,
    get_service,
)
from registry.state.kv import KvEntry
from registry.state.quote import quote
from registry.state.topics import Topic
from registry.state.uuids import strict_flaw
from registry.storage.store import Reader

#: Verbs that change nothing. A transaction of only these is a read.
KV_READS: Final = frozenset({"get", "get-tree", "check-index", "check-session", "check-not-exists"})
_KV_WRITES: Final = frozenset(
    {"set", "cas", "lock", "unlock", "delete", "delete-tree", "delete-cas"}
)


class KvOperation(msgspec.Struct, frozen=True, kw_only=True, tag="kv", omit_defaults=True):
    """`index` is what cas and the like compare with."""

    verb: str
    key: bytes
    value: bytes = b""
    flags: int = 0
    index: int = 0
    session: str = ""


class NodeOperation(msgspec.Struct, frozen=True, kw_only=True, tag="node", omit_defaults=True):
    """`node.modify_index` is what cas and delete-cas compare with; likewise below."""

    verb: str
    node: Node


class ServiceOperation(
    msgspec.Struct, frozen=True, kw_only=True, tag="service", omit_defaults=True
):
    verb: str
    node: str
    service: Service


class CheckOperation(msgspec.Struct, frozen=True, kw_only=True, tag="check", omit_defaults=True):
    verb: str
    check: Check


Operation = KvOperation | NodeOperation | ServiceOperation | CheckOperation


class KvResult(msgspec.Struct, frozen=True):
    """An entry and its key; the value is empty unless the verb was a read of it."""

    key: bytes
    entry: KvEntry


Result = KvResult | Node | Service | Check


class TxnError(msgspec.Struct, frozen=True):
    """Why the operation at `op_index` failed."""

    op_index: int
    what: str


class TxnOutcome(msgspec.Struct, frozen=True):
    """Either results, in the order of the operations, or errors; with errors nothing changed."""

    results: tuple[Any, ...] = ()
    errors: tuple[TxnError, ...] = ()


def is_write(operation: Operation) -> bool:
    """Whether a transaction with this operation has to go through the log. An unknown KV verb does
    not, one of the other kinds does: both only fail (observed)."""
    if isinstance(operation, KvOperation):
        return operation.verb in _KV_WRITES
    return operation.verb != "get"


class Txn(Command, tag="txn", frozen=True, kw_only=True):
    """Carry out all operations, or none; a `TxnOutcome`."""

    operations: tuple[Operation, ...]

    def apply(self, tx: Transaction) -> TxnOutcome:
        outcome = _run(tx, self.operations)
        if outcome.errors:
            tx.undo()
        return outcome


class TxnRead(Query, tag="txn-read", frozen=True, kw_only=True):
    """Operations that only read; a `TxnOutcome`. Has no index: transactions do not block."""

    operations: tuple[Operation, ...]

    def run(self, reader: Reader) -> tuple[int, TxnOutcome]:
        return 0, _run(Transaction(reader), self.operations)

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        return ()


def _run(tx: Transaction, operations: Sequence[Operation]) -> TxnOutcome:
    operations, errors = _examined(tx, operations)
    if errors:
        return TxnOutcome(errors=errors)
    results: list[Result] = []
    failed: list[TxnError] = []
    for place, operation in enumerate(operations):
        result = _carry_out(tx, operation)
        if isinstance(result, Refused):
            failed.append(TxnError(place, result.reason))
        else:
            results += result
    return TxnOutcome(errors=tuple(failed)) if failed else TxnOutcome(results=tuple(results))


def _examined(
    tx: Transaction, operations: Sequence[Operation]
) -> tuple[list[Operation], tuple[TxnError, ...]]:
    """The operations with their defaults filled in, and what is wrong with them on their own."""
    prepared: list[Operation] = []
    errors: list[TxnError] = []
    for place, operation in enumerate(operations):
        found = _prepare(tx, operation)
        if isinstance(found, Refused):
            errors.append(TxnError(place, found.reason))
        else:
            prepared.append(found)
    return prepared, tuple(errors)


def _prepare(tx: Transaction, operation: Operation) -> Operation | Refused:
    if isinstance(operation, KvOperation):
        return _prepare_kv(tx, operation)
    if operation.verb == "get":
        return operation
    if isinstance(operation, NodeOperation):
        return catalog_rules.node_problem(operation.node.node, operation.node.id) or operation
    if isinstance(operation, ServiceOperation):
        service = catalog_rules.prepare_service(operation.service)
        if isinstance(service, Refused):
            return service
        return msgspec.structs.replace(operation, service=service)
    check = operation.check
    named = msgspec.structs.replace(check, check_id=check.check_id or check.name)
    return msgspec.structs.replace(operation, check=named)


def _prepare_kv(tx: Transaction, operation: KvOperation) -> Operation | Refused:
    if not operation.key and operation.verb != "delete-tree":
        return Refused("Must provide key")
    if operation.verb == "lock" and kv.is_lock_delayed(tx, operation.key, tx.now_ms):
        return Refused(f"failed to lock key {quote(operation.key)} due to lock delay")
    return operation


_Outcome = Sequence[Result] | Refused


def _carry_out(tx: Transaction, operation: Operation) -> _Outcome:
    if isinstance(operation, KvOperation):
        return _dispatch("KV", _KV_VERBS, tx, operation)
    if isinstance(operation, NodeOperation):
        return _dispatch("Node", _NODE_VERBS, tx, operation)
    if isinstance(operation, ServiceOperation):
        return _dispatch("Service", _SERVICE_VERBS, tx, operation)
    return _dispatch("Check", _CHECK_VERBS, tx, operation)


def _dispatch(
    kind: str, verbs: dict[str, Callable[[Transaction, Any], _Outcome]], tx: Transaction, op: Any
) -> _Outcome:
    verb = verbs.get(op.verb)
    return verb(tx, op) if verb else Refused(f"unknown {kind} verb {quote(op.verb)}")


# Keys


def _without_value(key: bytes, entry: KvEntry) -> list[Result]:
    return [KvResult(key, msgspec.structs.replace(entry, value=b""))]


def _kv_set(tx: Transaction, op: KvOperation) -> _Outcome:
    return _without_value(op.key, kv.set_key(tx, op.key, op.value, op.flags))


def _kv_cas(tx: Transaction, op: KvOperation) -> _Outcome:
    entry = kv.cas_key(tx, op.key, op.value, op.flags, op.index)
    if entry is None:
        return Refused(f"failed to set key {quote(op.key)}, index is stale")
    return _without_value(op.key, entry)


def _kv_lock(tx: Transaction, op: KvOperation) -> _Outcome:
    entry = locks.lock_key(tx, op.key, op.value, op.flags, op.session)
    if entry is None:
        return Refused(f"failed to lock key {quote(op.key)}, lock is already held")
    return entry if isinstance(entry, Refused) else _without_value(op.key, entry)


def _kv_unlock(tx: Transaction, op: KvOperation) -> _Outcome:
    entry = locks.unlock_key(tx, op.key, op.value, op.flags, op.session)
    if entry is None:
        return Refused(
            f"failed to unlock key {quote(op.key)}, lock isn't held, or is held by another session"
        )
    return entry if isinstance(entry, Refused) else _without_value(op.key, entry)


def _kv_delete(tx: Transaction, op: KvOperation) -> _Outcome:
    kv.delete_key(tx, op.key)
    return []


def _kv_delete_tree(tx: Transaction, op: KvOperation) -> _Outcome:
    kv.delete_tree(tx, op.key)
    return []


def _kv_delete_cas(tx: Transaction, op: KvOperation) -> _Outcome:
    if not kv.delete_key_cas(tx, op.key, op.index):
        return Refused(f"failed to delete key {quote(op.key)}, index is stale")
    return []


def _kv_get(tx: Transaction, op: KvOperation) -> _Outcome:
    entry = kv.get_entry(tx, op.key)
    if entry is None:
        return Refused(f"key {quote(op.key)} doesn't exist")
    return [KvResult(op.key, entry)]


def _kv_get_tree(tx: Transaction, op: KvOperation) -> _Outcome:
    return [KvResult(key, entry) for key, entry in kv.list_entries(tx, op.key)]


def _kv_check_index(tx: Transaction, op: KvOperation) -> _Outcome:
    entry = kv.get_entry(tx, op.key)
    if entry is None:
        return Refused(f"failed to check index, key {quote(op.key)} doesn't exist")
    if entry.modify_index != op.index:
        return Refused(
            f"failed index check for key {quote(op.key)}, "
            f"current modify index {entry.modify_index} != {op.index}"
        )
    return _without_value(op.key, entry)


def _kv_check_session(tx: Transaction, op: KvOperation) -> _Outcome:
    entry = kv.get_entry(tx, op.key)
    if entry is None:
        return Refused(f"failed to check session, key {quote(op.key)} doesn't exist")
    if entry.session != op.session:
        return Refused(
            f"failed session check for key {quote(op.key)}, "
            f"current session {quote(entry.session)} != {quote(op.session)}"
        )
    return _without_value(op.key, entry)


def _kv_check_not_exists(tx: Transaction, op: KvOperation) -> _Outcome:
    if kv.get_entry(tx, op.key) is not None:
        return Refused(f"key {quote(op.key)} exists")
    return []


_KV_VERBS: Final[dict[str, Callable[[Transaction, KvOperation], _Outcome]]] = {
    "set": _kv_set,
    "cas": _kv_cas,
    "lock": _kv_lock,
    "unlock": _kv_unlock,
    "delete": _kv_delete,
    "delete-tree": _kv_delete_tree,
    "delete-cas": _kv_delete_cas,
    "get": _kv_get,
    "get-tree": _kv_get_tree,
    "check-index": _kv_check_index,
    "check-session": _kv_check_session,
    "check-not-exists": _kv_check_not_exists,
}


# Nodes


def _node_get(tx: Transaction, op: NodeOperation) -> _Outcome:
    if op.node.id and (flaw := strict_flaw(op.node.id)):
        return Refused(f"node lookup by ID failed, wrong UUID: {flaw} for '{op.node.id}'")
    node = get_node_by_id(tx, op.node.id) if op.node.id else get_node(tx, op.node.node)
    return [node] if node is not None else Refused(f"node {quote(op.node.node)} doesn't exist")


def _node_set(tx: Transaction, op: NodeOperation) -> _Outcome:
    return catalog_nodes.set_node(tx, op.node) or _node_get(tx, op)


def _node_cas(tx: Transaction, op: NodeOperation) -> _Outcome:
    done = catalog_nodes.cas_node(tx, op.node)
    if done is False:
        return Refused(f"failed to set node {quote(op.node.node)}, index is stale")
    return done if isinstance(done, Refused) else _node_get(tx, op)


def _node_delete(tx: Transaction, op: NodeOperation) -> _Outcome:
    catalog_nodes.delete_node(tx, op.node.node)
    return []


def _node_delete_cas(tx: Transaction, op: NodeOperation) -> _Outcome:
    if not catalog_nodes.delete_node_cas(tx, op.node.node, op.node.modify_index):
        return Refused(f"failed to delete node {quote(op.node.node)}, index is stale")
    return []


_NODE_VERBS: Final[dict[str, Callable[[Transaction, NodeOperation], _Outcome]]] = {
    "get": _node_get,
    "set": _node_set,
    "cas": _node_cas,
    "delete": _node_delete,
    "delete-cas": _node_delete_cas,
}


# Services


def _service_name(op: ServiceOperation) -> str:
    return f"service {quote(op.service.id)} on node {quote(op.node)}"


def _service_get(tx: Transaction, op: ServiceOperation) -> _Outcome:
    service = get_service(tx, op.node, op.service.id)
    return [service] if service is not None else Refused(f"{_service_name(op)} doesn't exist")


def _service_set(tx: Transaction, op: ServiceOperation) -> _Outcome:
    return catalog_services.set_service(tx, op.node, op.service) or _service_get(tx, op)


def _service_cas(tx: Transaction, op: ServiceOperation) -> _Outcome:
    done = catalog_services.cas_service(tx, op.node, op.service)
    if done is False:
        return Refused(f"failed to set {_service_name(op)}, index is stale")
    return done if isinstance(done, Refused) else _service_get(tx, op)


def _service_delete(tx: Transaction, op: ServiceOperation) -> _Outcome:
    catalog_services.delete_service(tx, op.node, op.service.id)
    return []


def _service_delete_cas(tx: Transaction, op: ServiceOperation) -> _Outcome:
    index = op.service.modify_index
    if not catalog_services.delete_service_cas(tx, op.node, op.service.id, index):
        return Refused(f"failed to delete {_service_name(op)}, index is stale")
    return []


_SERVICE_VERBS: Final[dict[str, Callable[[Transaction, ServiceOperation], _Outcome]]] = {
    "get": _service_get,
    "set": _service_set,
    "cas": _service_cas,
    "delete": _service_delete,
    "delete-cas": _service_delete_cas,
}


# Checks


def _check_name(op: CheckOperation) -> str:
    return f"check {quote(op.check.check_id)} on node {quote(op.check.node)}"


def _check_get(tx: Transaction, op: CheckOperation) -> _Outcome:
    check = get_check(tx, op.check.node, op.check.check_id)
    return [check] if check is not None else Refused(f"{_check_name(op)} doesn't exist")


def _check_set(tx: Transaction, op: CheckOperation) -> _Outcome:
    return catalog_checks.set_check(tx, op.check) or _check_get(tx, op)


def _check_cas(tx: Transaction, op: CheckOperation) -> _Outcome:
    done = catalog_checks.cas_check(tx, op.check)
    if done is False:
        return Refused(f"failed to set {_check_name(op)}, index is stale")
    return done if isinstance(done, Refused) else _check_get(tx, op)


def _check_delete(tx: Transaction, op: CheckOperation) -> _Outcome:
    catalog_checks.delete_check(tx, op.check.node, op.check.check_id)
    return []


def _check_delete_cas(tx: Transaction, op: CheckOperation) -> _Outcome:
    index = op.check.modify_index
    if not catalog_checks.delete_check_cas(tx, op.check.node, op.check.check_id, index):
        return Refused(f"failed to delete {_check_name(op)}, index is stale")
    return []


_CHECK_VERBS: Final[dict[str, Callable[[Transaction, CheckOperation], _Outcome]]] = {
    "get": _check_get,
    "set": _check_set,
    "cas": _check_cas,
    "delete": _check_delete,
    "delete-cas": _check_delete_cas,
}
