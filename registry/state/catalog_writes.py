"""What the writes of nodes, services and checks share: what is a change, which indexes it raises.

Indexes (what `X-Consul-Index` says):

    nodes, services, checks    any change of that table
    service.<name>             any change of the health of that service: an instance, its checks,
                               its node, the node's checks. Dropped with the last instance
    service_last_extinction    the last time a service lost its last instance: what readers of
                               unknown services are told; before it, the latest of the tables

Writing what is there already changes nothing, no index and no topic.
"""

from __future__ import annotations

from typing import Any

import msgspec

from registry.state.base import Transaction
from registry.state.catalog_records import (
    Check,
    Node,
    Service,
    fold,
    service_index,
    services_of_node,
)
from registry.state.catalog_topics import instances_topic, service_topic


def is_same(new: Any, old: Any) -> bool:
    """Whether writing `new` over `old` would change nothing but the indexes."""
    indexes = {"create_index": old.create_index, "modify_index": old.modify_index}
    return bool(msgspec.structs.replace(new, **indexes) == old)


def stamped(tx: Transaction, new: Any, old: Any) -> Any:
    """`new` with the indexes of this write; it keeps the CreateIndex of what it replaces."""
    created = tx.index if old is None else old.create_index
    return msgspec.structs.replace(new, create_index=created, modify_index=tx.index)


def index_matches(existing: Node | Service | Check | None, index: int) -> bool:
    """Compare-and-set: 0 wants nothing to be there, a number wants just that ModifyIndex."""
    if existing is None:
        return index == 0
    return index != 0 and index == existing.modify_index


def raise_service(tx: Transaction, name: str) -> None:
    """Tell those who read the health of a service that it changed."""
    tx.raise_index(service_index(name))
    tx.touch(service_topic(name))


def raise_instances(tx: Transaction, name: str) -> None:
    """Tell also those who list its instances: one of them, or the node of one, changed."""
    raise_service(tx, name)
    tx.touch(instances_topic(name))


def names_on(tx: Transaction, node: str) -> list[str]:
    """The services that the node, or a check of it, shows in."""
    return sorted({fold(service.name) for service in services_of_node(tx, node)})
