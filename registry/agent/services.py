"""A definition made complete: the ids, names and addresses that follow from what was written.

Pure functions over `registry.agent.definitions`; `registry.agent.local` keeps what they return.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from msgspec.structs import replace

from registry.agent.definitions import CheckDefinition, ServiceAddress, ServiceDefinition

NODE_MAINTENANCE_ID = "_node_maintenance"
SERVICE_MAINTENANCE_PREFIX = "_service_maintenance:"
#: Made from gossip by the servers; no agent registers or removes it.
SERF_CHECK_ID = "serfHealth"
#: The servers' own service; the leader keeps it in the catalog.
SERVERS_SERVICE_ID = "consul"

DEFAULT_REASON = (
    "Maintenance mode is enabled for this {}, but no reason was provided. "
    "This is a default message."
)


def complete_service(definition: ServiceDefinition) -> ServiceDefinition:
    """With its id and tagged addresses, and without its checks, which live by themselves."""
    return replace(
        definition,
        id=definition.id or definition.name,
        tagged_addresses=_tagged_addresses(definition),
        checks=(),
        proxy=_proxy(definition.proxy),
    )


def _proxy(proxy: dict[str, Any] | None) -> dict[str, Any] | None:
    """Its upstreams are services unless they say otherwise."""
    if proxy is None or not proxy.get("Upstreams"):
        return proxy
    return {
        **proxy,
        "Upstreams": [
            {**each, "DestinationType": each.get("DestinationType") or "service"}
            for each in proxy["Upstreams"]
        ],
    }


def _tagged_addresses(definition: ServiceDefinition) -> dict[str, ServiceAddress]:
    """The given ones, and the address itself under the names of its family where those are free."""
    try:
        family = ipaddress.ip_address(definition.address).version
    except ValueError:
        return definition.tagged_addresses
    own = ServiceAddress(definition.address, definition.port)
    return {f"lan_ipv{family}": own, f"wan_ipv{family}": own, **definition.tagged_addresses}


def complete_service_checks(definition: ServiceDefinition) -> list[CheckDefinition]:
    """The service's checks, with ids `service:ID` or `service:ID:N` where none is given."""
    service_id = definition.id or definition.name
    several = len(definition.checks) > 1
    return [
        replace(
            check,
            id=check.id or f"service:{service_id}" + (f":{number}" if several else ""),
            name=check.name or f"Service '{definition.name}' check",
            service_id=service_id,
            token=check.token or definition.token,
        )
        for number, check in enumerate(definition.checks, 1)
    ]


def complete_check(definition: CheckDefinition) -> CheckDefinition:
    """A check that was defined by itself: its id is its name unless given."""
    return replace(definition, id=definition.id or definition.name)


def check_key(definition: CheckDefinition) -> str:
    """The key under which the check's kind is registered (`hooks.CheckType.key`)."""
    if definition.plugin_type:
        return definition.plugin_type
    for key, chosen in (
        ("grpc", definition.grpc),
        ("http", definition.http),
        ("ttl", definition.ttl_ns),
        ("tcp", definition.tcp),
        ("alias_service", definition.alias_node or definition.alias_service),
        ("docker_container_id", definition.docker_container_id),
        ("args", definition.args),
    ):
        if chosen:
            return key
    return "ttl"


def node_maintenance_check(reason: str) -> CheckDefinition:
    return CheckDefinition(
        id=NODE_MAINTENANCE_ID,
        name="Node Maintenance Mode",
        notes=reason or DEFAULT_REASON.format("node"),
        status="critical",
    )


def service_maintenance_check(service_id: str, reason: str) -> CheckDefinition:
    return CheckDefinition(
        id=SERVICE_MAINTENANCE_PREFIX + service_id,
        name="Service Maintenance Mode",
        notes=reason or DEFAULT_REASON.format("service"),
        service_id=service_id,
        status="critical",
    )


def is_maintenance_id(check_id: str) -> bool:
    return check_id == NODE_MAINTENANCE_ID or check_id.startswith(SERVICE_MAINTENANCE_PREFIX)
