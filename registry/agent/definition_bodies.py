"""Definitions of services and checks respelt as bodies of the HTTP API."""

from __future__ import annotations

from typing import Any

from registry.agent.definitions import CheckDefinition, ServiceDefinition

#: Fields of a check whose API name is not the field's own words joined.
_CHECK_NAMES = {
    "id": "CheckID",
    "service_id": "ServiceID",
    "http": "HTTP",
    "tcp": "TCP",
    "grpc": "GRPC",
    "grpc_use_tls": "GRPCUseTLS",
    "ttl_ns": "TTL",
    "docker_container_id": "DockerContainerID",
    "tls_skip_verify": "TLSSkipVerify",
}


def service_body(service: ServiceDefinition) -> dict[str, Any]:
    """What the API takes for this service; fields at their defaults are left out."""
    body: dict[str, Any] = {
        "ID": service.id,
        "Name": service.name,
        "Kind": service.kind,
        "Tags": list(service.tags),
        "Address": service.address,
        "Port": service.port,
        "Meta": service.meta,
        "TaggedAddresses": {
            tag: {"Address": each.address, "Port": each.port}
            for tag, each in service.tagged_addresses.items()
        },
        "EnableTagOverride": service.enable_tag_override,
        "Checks": [check_body(check) for check in service.checks],
        "Proxy": service.proxy,
        "Connect": service.connect,
    }
    if service.weights is not None:
        body["Weights"] = {"Passing": service.weights.passing, "Warning": service.weights.warning}
    return {name: value for name, value in body.items() if value}


def check_body(check: CheckDefinition) -> dict[str, Any]:
    """What the API takes for this check; durations as text with a unit."""
    body: dict[str, Any] = {}
    for field in check.__struct_fields__:
        value = getattr(check, field)
        if not value or field.startswith("plugin_"):
            continue
        name = _CHECK_NAMES.get(field) or _joined(field.removesuffix("_ns"))
        body[name] = f"{value}ns" if field.endswith("_ns") else value
    if check.plugin_type:
        body[check.plugin_type] = check.plugin_settings
    return body


def _joined(field: str) -> str:
    return "".join(word.capitalize() for word in field.split("_"))
