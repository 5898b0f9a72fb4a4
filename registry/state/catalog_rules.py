"""What must hold before anything is written into the catalog, and what is filled in where it was
left out. The texts of refusals are part of the API.
"""

from __future__ import annotations

import re

import msgspec

from registry.state.base import Refused
from registry.state.catalog_records import Check, CheckSpec, Service, Weights
from registry.state.mesh_rules import mesh_problem
from registry.state.uuids import strict_flaw

#: Limits of service metadata (surface, section 9).
_META_PAIRS_MAX, _META_KEY_MAX, _META_VALUE_MAX = 64, 128, 512
_META_KEY = re.compile(r"[A-Za-z0-9_-]+")
_WEIGHT_MAX = 65535

MISSING_NODE = Refused("Missing node registration")
MISSING_SERVICE = Refused("Missing service registration")


def node_problem(node: str, node_id: str) -> Refused | None:
    """Why this is no node that could be registered, or None."""
    if not node:
        return Refused("Must provide node")
    if node_id and (flaw := strict_flaw(node_id)):
        return Refused(f"Bad node ID: {flaw}")
    return None


def prepare_service(service: Service) -> Service | Refused:
    """The service with its id defaulted to its name, or why it can not be registered."""
    if flaws := mesh_problem(service.kind, service.port, service.proxy, service.connect):
        return Refused(flaws)
    if service.name and not service.id:
        service = msgspec.structs.replace(service, id=service.name)
    if service.id and not service.name:
        return Refused("Must provide service name with ID")
    if service.address in ("0.0.0.0", "::", "[::]"):
        return Refused("Invalid service address")
    return service


def prepare_check(check: Check, node: str) -> Check:
    """The check with id, node and type filled in from its name, the request and its definition."""
    return msgspec.structs.replace(
        check,
        check_id=check.check_id or check.name,
        node=check.node or node,
        type=check.type or _check_type(check.definition),
    )


def _check_type(spec: CheckSpec) -> str:
    """Which kind of check a definition describes; the first that fits."""
    timed = spec.interval_ns > 0
    kinds = (
        ("grpc", bool(spec.grpc) and timed),
        ("http", bool(spec.http) and timed),
        ("ttl", spec.ttl_ns > 0),
        ("tcp", bool(spec.tcp) and timed),
        ("alias", bool(spec.alias_node or spec.alias_service)),
        ("docker", bool(spec.script_args and spec.docker_container_id) and timed),
        ("script", bool(spec.script_args)),
    )
    return next((kind for kind, fits in kinds if fits), "")


def meta_flaw(meta: dict[str, str]) -> str:
    """Why a service can not have this metadata; "" if it can."""
    if len(meta) > _META_PAIRS_MAX:
        return f"Node metadata cannot contain more than {_META_PAIRS_MAX} key/value pairs"
    for key in sorted(meta):
        if flaw := _meta_pair_flaw(key, meta[key]):
            return f"Couldn't load metadata pair ('{key}', '{meta[key]}'): {flaw}"
    return ""


def _meta_pair_flaw(key: str, value: str) -> str:
    if not key:
        return "Key cannot be blank"
    if not _META_KEY.fullmatch(key):
        return "Key contains invalid characters"
    if len(key) > _META_KEY_MAX:
        return f"Key is too long (limit: {_META_KEY_MAX} characters)"
    if key.startswith("consul-"):
        return "Key prefix 'consul-' is reserved for internal use"
    if len(value.encode()) > _META_VALUE_MAX:
        return f"Value is too long (limit: {_META_VALUE_MAX} characters)"
    return ""


def valid_weights(weights: Weights | None) -> Weights:
    """Weights out of range are quietly the default ones in the catalog (the agent refuses them)."""
    if weights is None or weights.passing < 1 or weights.warning < 0:
        return Weights()
    return Weights() if max(weights.passing, weights.warning) > _WEIGHT_MAX else weights
