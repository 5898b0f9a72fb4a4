"""Service, check and watch definitions in the one form that the rest of the agent works with.

Two spellings lead here: configuration files (snake_case) and HTTP bodies (CamelCase and friends).
Reading them is `registry.agent.definition_reader`'s work; these are only the values. All durations
are integers of nanoseconds, as in the API's own JSON.
"""

from __future__ import annotations

import msgspec

NANOSECOND, MILLISECOND, SECOND, MINUTE = 1, 1_000_000, 1_000_000_000, 60_000_000_000


class CheckDefinition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What to check and how often (surface 4.7). Exactly one kind is set once it is validated."""

    id: str = ""  # "" in a definition: derived from the name or the service
    name: str = ""
    notes: str = ""
    service_id: str = ""
    token: str = ""
    status: str = ""  # "" means critical, until the first run
    args: tuple[str, ...] = ()
    http: str = ""
    method: str = ""
    header: dict[str, list[str]] = msgspec.field(default_factory=dict)
    body: str = ""
    tcp: str = ""
    grpc: str = ""
    grpc_use_tls: bool = False
    docker_container_id: str = ""
    shell: str = ""
    alias_node: str = ""
    alias_service: str = ""
    ttl_ns: int = 0
    interval_ns: int = 0
    timeout_ns: int = 0
    tls_skip_verify: bool = False
    output_max_size: int = 0  # bytes; 0 = the agent's check_output_max_size
    success_before_passing: int = 0
    failures_before_critical: int = 0
    deregister_critical_service_after_ns: int = 0
    #: Fields of plugins' check types: the type's name and its own settings.
    plugin_type: str = ""
    plugin_settings: dict[str, object] = msgspec.field(default_factory=dict)


class Weights(msgspec.Struct, frozen=True):
    passing: int = 1
    warning: int = 1


class ServiceAddress(msgspec.Struct, frozen=True):
    address: str
    port: int = 0


class ServiceDefinition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One service instance on this node (surface 4.6)."""

    id: str = ""  # "" in a definition: the name
    name: str
    tags: tuple[str, ...] = ()
    address: str = ""
    tagged_addresses: dict[str, ServiceAddress] = msgspec.field(default_factory=dict)
    meta: dict[str, str] = msgspec.field(default_factory=dict)
    port: int = 0
    kind: str = ""
    weights: Weights | None = None
    enable_tag_override: bool = False
    token: str = ""
    checks: tuple[CheckDefinition, ...] = ()
    #: Mesh parts are kept as given (API spelling) and shown back, nothing more.
    proxy: dict[str, object] | None = None
    connect: dict[str, object] | None = None


class WatchDefinition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What to watch and whom to tell (surface 4.8)."""

    type: str
    datacenter: str = ""
    token: str = ""
    key: str = ""
    prefix: str = ""
    service: str = ""
    tags: tuple[str, ...] = ()
    passing_only: bool = False
    state: str = ""
    name: str = ""
    service_id: str = ""
    stale: bool = False
    handler: str = ""  # old form, run by a shell
    args: tuple[str, ...] = ()
    http_path: str = ""
    http_method: str = "POST"
    http_header: dict[str, list[str]] = msgspec.field(default_factory=dict)
    http_timeout_ns: int = 10 * SECOND
    http_tls_skip_verify: bool = False
    #: A plugin's handler: its name and settings.
    plugin_handler: str = ""
    plugin_settings: dict[str, object] = msgspec.field(default_factory=dict)
