"""The definition of a check in the catalog as JSON: how it is read, and how it is shown."""

from __future__ import annotations

from typing import Any

from registry.agent.durations import format_duration
from registry.http.body_readers import (
    Field,
    Reader,
    duration,
    flag,
    many,
    mapping,
    struct,
    text,
    texts,
    unsigned,
)
from registry.state.catalog_records import CheckSpec

#: Field of `CheckSpec`, its name in the API, and whether it is a duration shown as text.
_SPEC_FIELDS = (
    ("interval_ns", "Interval", True),
    ("output_max_size", "OutputMaxSize", False),
    ("timeout_ns", "Timeout", True),
    ("deregister_critical_service_after_ns", "DeregisterCriticalServiceAfter", True),
    ("http", "HTTP", False),
    ("tls_skip_verify", "TLSSkipVerify", False),
    ("header", "Header", False),
    ("method", "Method", False),
    ("body", "Body", False),
    ("tcp", "TCP", False),
    ("script_args", "ScriptArgs", False),
    ("docker_container_id", "DockerContainerID", False),
    ("shell", "Shell", False),
    ("grpc", "GRPC", False),
    ("grpc_use_tls", "GRPCUseTLS", False),
    ("alias_node", "AliasNode", False),
    ("alias_service", "AliasService", False),
    ("ttl_ns", "TTL", False),
)

_NO_SPEC = CheckSpec()


def definition_view(spec: CheckSpec) -> dict[str, Any]:
    """What is set of a check's definition."""
    if spec == _NO_SPEC:
        return {}
    values = ((name, getattr(spec, field), timed) for field, name, timed in _SPEC_FIELDS)
    return {
        name: format_duration(value) if timed else value for name, value, timed in values if value
    }


_SPEC_READERS: dict[str, Reader] = {
    "output_max_size": unsigned,
    "tls_skip_verify": flag,
    "grpc_use_tls": flag,
    "header": mapping(many(text)),
    "script_args": texts,
}
_SPEC_TABLE = {
    name.lower(): Field(
        field, duration if field.endswith("_ns") else _SPEC_READERS.get(field, text), name
    )
    for field, name, _ in _SPEC_FIELDS
}

read_definition = struct(CheckSpec, _SPEC_TABLE, lenient=True)
