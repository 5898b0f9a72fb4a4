"""Configuration entries: mesh settings that are kept, listed and shown back, by kind and name.

What they say is not acted upon here, but for which gateways stand in front of which services. Only
such as fit together are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from registry.state.base import Command, Query, Refused, Transaction, max_index
from registry.state.catalog_records import fold
from registry.state.discovery_chain import (
    ChainError,
    Lookup,
    Settings,
    parts_of,
    protocol_of,
    related_services,
    require_chain,
    text_of,
)
from registry.state.quote import quote
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
    there is one already). None sets it whatever is there.

    `Refused` if it does not fit to the others, where `must_fit`: commands from before there was
    such a check keep their meaning.
    """

    kind: str
    name: str
    settings: dict[str, Any]
    cas_index: int | None = None
    must_fit: bool = False

    def apply(self, tx: Transaction) -> bool | Refused:
        existing = ENTRIES.get(tx, self.kind, fold(self.name))
        current = 0 if existing is None else existing.modify_index
        if self.cas_index is not None and self.cas_index != current:
            return False
        if self.must_fit and (flaw := _misfit(tx, self.kind, self.name, self.settings)):
            return Refused(flaw)
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
    """Remove an entry; True, also when there is none. `Refused` if the others do not fit together
    without it, where `must_fit`, as in `SetConfigEntry`."""

    kind: str
    name: str
    must_fit: bool = False

    def apply(self, tx: Transaction) -> bool | Refused:
        if ENTRIES.get(tx, self.kind, fold(self.name)) is None:
            return True
        if self.must_fit and (flaw := _misfit(tx, self.kind, self.name, None)):
            return Refused(flaw)
        ENTRIES.delete(tx, self.kind, fold(self.name))
        _changed(tx, self.kind, self.name)
        return True


_CHAIN_KINDS = ("service-router", "service-splitter", "service-resolver")
_OTHER_GATEWAY = {
    "ingress-gateway": "terminating-gateway",
    "terminating-gateway": "ingress-gateway",
}


def _misfit(reader: Reader, kind: str, name: str, settings: Settings | None) -> str:
    """Why the entries would not fit together with this one, or without it (None); "" if they do."""

    def lookup(wanted_kind: str, wanted_name: str) -> Settings | None:
        if (wanted_kind, fold(wanted_name)) == (kind, fold(name)):
            return settings
        found = ENTRIES.get(reader, wanted_kind, fold(wanted_name))
        return None if found is None else found.settings

    try:
        if kind in _OTHER_GATEWAY:
            _require_own_gateway(lookup, kind, name)
        if kind == "ingress-gateway":
            _require_listeners_protocols(lookup, settings or {})
        for service in _affected(reader, kind, name):
            require_chain(lookup, service)
    except ChainError as problem:
        return str(problem)
    return ""


def _require_own_gateway(lookup: Lookup, kind: str, name: str) -> None:
    other = _OTHER_GATEWAY[kind]
    if lookup(other, name) is not None:
        raise ChainError(
            f"cannot create a {quote(kind)} config entry with name {quote(name)}, "
            f"a {quote(other)} config entry with that name already exists"
        )


def _require_listeners_protocols(lookup: Lookup, settings: Settings) -> None:
    for listener in parts_of(settings, "Listeners"):
        wanted = text_of(listener, "Protocol")
        for name in (text_of(service, "Name") for service in parts_of(listener, "Services")):
            spoken = protocol_of(lookup, name)
            if name != "*" and spoken != wanted:
                raise ChainError(
                    f"service {quote(name)} has protocol {quote(spoken)}, "
                    f"which does not match defined listener protocol {quote(wanted)}"
                )


def _affected(reader: Reader, kind: str, name: str) -> list[str]:
    """The services whose chains an entry may be part of: its own, and those that lead to it; for
    the defaults of all proxies any that has a chain."""
    is_global = kind == "proxy-defaults"
    others = {
        entry.name
        for each in _CHAIN_KINDS
        for entry in ENTRIES.scan(reader, each)
        if is_global or fold(name) in map(fold, related_services(each, entry.name, entry.settings))
    }
    return sorted(others) if is_global else [name, *sorted(others - {name})]


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
    for service in parts_of(entry.settings, "Services"):
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
    for listener in parts_of(entry.settings, "Listeners"):
        port = listener.get("Port", 0)
        for service in parts_of(listener, "Services"):
            hosts = service.get("Hosts")
            yield GatewayService(
                gateway=entry.name,
                service=str(service.get("Name", "")),
                gateway_kind=entry.kind,
                port=port if isinstance(port, int) else 0,
                protocol=str(listener.get("Protocol", "")),
                hosts=tuple(map(str, hosts)) if isinstance(hosts, list) else (),
            )
