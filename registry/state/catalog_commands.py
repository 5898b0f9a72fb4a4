"""The catalog's commands: whole registrations, as agents that sync and external tools make them.

The operations of a transaction (`txn`) write single records instead; both end in the functions
of `catalog_nodes`, `catalog_services` and `catalog_checks`.
"""

from __future__ import annotations

from registry.state.base import Command, Refused, Transaction
from registry.state.catalog_checks import delete_check, set_check
from registry.state.catalog_nodes import delete_node, set_node
from registry.state.catalog_records import Check, Node, Service, get_node
from registry.state.catalog_rules import node_problem, prepare_check, prepare_service
from registry.state.catalog_services import delete_service, set_service
from registry.state.catalog_writes import is_same


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
        if existing is not None and (self.skip_node_update or is_same(node, existing)):
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
