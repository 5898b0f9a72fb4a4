"""Configuration entries: mesh settings that are kept, listed and shown back, by kind and name.

What they say is not acted upon here, but for which gateways stand in front of which services.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from registry.state.base import Command, Query, Transaction, max_index
from registry.state.catalog_records import fold
from registry.state.tables import Table
from registry.state.topics import Topic, table_topic
from registry.storage.store import Reader

_INDEX = "config-entries"

#: The only name of a `proxy-defaults` entry.
GLOBAL_NAME = "global"


class ConfigEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`settings` is the entry in the API's spelling, without kind, name and indexes."""

    kind: str
    name: str
    settings: dict[str, Any]
    create_index: int = 0
    modify_index: int = 0


ENTRIES: Table[ConfigEntry] = Table("config-entries", ConfigEntry)


def entry_topic(kind: str, name: str) -> Topic:
    return ("config-entry", kind, fold(name))


class SetConfigEntry(Command, tag="config-set", frozen=True, kw_only=True):
    """Create or replace an entry; True, or False when `cas_index` is not its ModifyIndex (0: when
    there is one already). None sets it whatever is there."""

    kind: str
    name: str
    settings: dict[str, Any]
    cas_index: int | None = None

    def apply(self, tx: Transaction) -> bool:
        existing = ENTRIES.get(tx, self.kind, fold(self.name))
        current = 0 if existing is None else existing.modify_index
        if self.cas_index is not None and self.cas_index != current:
            return False
        entry = ConfigEntry(
            kind=self.kind,
            name=self.name,
            settings=self.settings,
            create_index=tx.index if existing is None else existing.create_index,
            modify_index=tx.index,
        )
        ENTRIES.put(tx, entry, self.kind, fold(self.name))
        _changed(tx, self.kind, self.name)
        return True


class DeleteConfigEntry(Command, tag="config-delete", frozen=True, kw_only=True):
    """Remove an entry; True, also when there is none."""

    kind: str
    name: str

    def apply(self, tx: Transaction) -> bool:
        if ENTRIES.get(tx, self.kind, fold(self.name)) is not None:
            ENTRIES.delete(tx, self.kind, fold(self.name))
            _changed(tx, self.kind, self.name)
        return True


def _changed(tx: Transaction, kind: str, name: str) -> None:
    tx.raise_index(_INDEX)
    tx.touch(entry_topic(kind, name), table_topic("config-entries"))


class GetConfigEntry(Query, tag="config-get", frozen=True, kw_only=True):
    """`ConfigEntry | None`."""

    kind: str
    name: str

    def run(self, reader: Reader) -> tuple[int, ConfigEntry | None]:
        return max_index(reader, _INDEX), ENTRIES.get(reader, self.kind, fold(self.name))

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        return (entry_topic(self.kind, self.name),)


class ListConfigEntries(Query, tag="config-list", frozen=True, kw_only=True):
    """The entries of a kind: `list[ConfigEntry]`, by name."""

    kind: str

    def run(self, reader: Reader) -> tuple[int, list[ConfigEntry]]:
        return max_index(reader, _INDEX), list(ENTRIES.scan(reader, self.kind))

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        return (table_topic("config-entries"),)


class GatewayService(msgspec.Struct, frozen=True, kw_only=True):
    """A service that a gateway stands in front of, and how the gateway's entry names it."""

    gateway: str
    service: str
    gateway_kind: str
    port: int = 0
    protocol: str = ""
    hosts: tuple[str, ...] = ()
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    sni: str = ""


class GatewayServices(Query, tag="config-gateway-services", frozen=True, kw_only=True):
    """The services behind a gateway: `list[GatewayService]`, in the order of its entry."""

    gateway: str

    def run(self, reader: Reader) -> tuple[int, list[GatewayService]]:
        return max_index(reader, _INDEX), list(services_of_gateway(reader, self.gateway))

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        return (table_topic("config-entries"),)


def ingress_gateways_of(reader: Reader, service: str) -> list[str]:
    """The names of the ingress gateways in front of a service."""
    return [
        entry.name
        for entry in ENTRIES.scan(reader, "ingress-gateway")
        if any(fold(each.service) == fold(service) for each in _ingress(entry))
    ]


def services_of_gateway(reader: Reader, gateway: str) -> Iterator[GatewayService]:
    if (entry := ENTRIES.get(reader, "terminating-gateway", fold(gateway))) is not None:
        yield from _terminating(entry)
    if (entry := ENTRIES.get(reader, "ingress-gateway", fold(gateway))) is not None:
        yield from _ingress(entry)


def _terminating(entry: ConfigEntry) -> Iterator[GatewayService]:
    for service in _objects(entry.settings.get("Services")):
        yield GatewayService(
            gateway=entry.name,
            service=str(service.get("Name", "")),
            gateway_kind=entry.kind,
            ca_file=str(service.get("CAFile", "")),
            cert_file=str(service.get("CertFile", "")),
            key_file=str(service.get("KeyFile", "")),
            sni=str(service.get("SNI", "")),
        )


def _ingress(entry: ConfigEntry) -> Iterator[GatewayService]:
    for listener in _objects(entry.settings.get("Listeners")):
        port = listener.get("Port", 0)
        for service in _objects(listener.get("Services")):
            hosts = service.get("Hosts")
            yield GatewayService(
                gateway=entry.name,
                service=str(service.get("Name", "")),
                gateway_kind=entry.kind,
                port=port if isinstance(port, int) else 0,
                protocol=str(listener.get("Protocol", "")),
                hosts=tuple(map(str, hosts)) if isinstance(hosts, list) else (),
            )


def _objects(value: Any) -> list[dict[str, Any]]:
    """The objects in what should be a list of them."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
