"""Whose address is this: the reverse of the catalog, asked by DNS for PTR records.

There is no index of addresses: the question is rare, and an index would cost every registration.
The tables are gone through, and only records whose bytes hold the address are decoded.
"""

from __future__ import annotations

import msgspec

from registry.state.base import Query, max_index
from registry.state.catalog_records import NODES, SERVICES
from registry.state.topics import Topic, table_topic
from registry.storage.store import Reader


class AddressOwners(msgspec.Struct, frozen=True):
    """Names of the nodes that have an address, and of the services that have it for their own."""

    nodes: list[str]
    services: list[str]


class FindAddress(Query, tag="address-owners", frozen=True, kw_only=True):
    """Who has an IP address, as it was registered: `AddressOwners`, in the order of nodes."""

    address: str

    def run(self, reader: Reader) -> tuple[int, AddressOwners]:
        wanted = self.address.encode("utf-8", "replace")
        nodes = [NODES.decode(raw) for _, raw in NODES.scan_raw(reader) if wanted in raw]
        services = [SERVICES.decode(raw) for _, raw in SERVICES.scan_raw(reader) if wanted in raw]
        return max_index(reader, "nodes", "services"), AddressOwners(
            [node.node for node in nodes if node.address == self.address],
            [service.name for service in services if service.address == self.address],
        )

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        return (table_topic("nodes"), table_topic("services"))
