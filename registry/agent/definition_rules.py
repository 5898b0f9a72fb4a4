"""What a service or check definition must satisfy, whether it came from a file or over HTTP.

Reasons are the API's texts (surface 1.5, 4.6, 4.7). `DefinitionRefused.status` is the HTTP status
that goes with each; files put the file and key in front.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Literal

import msgspec

from registry.agent.definitions import (
    CheckDefinition,
    ServiceAddress,
    ServiceDefinition,
    Weights,
)
from registry.agent.durations import MINUTE, SECOND, format_duration
from registry.errors import ConfigError
from registry.state.mesh_rules import mesh_problem

META_PAIRS_MAX = 64
META_KEY_LENGTH_MAX = 128
META_VALUE_LENGTH_MAX = 512
META_RESERVED_PREFIX = "consul-"
WEIGHT_MAX = 65535
DNS_LABEL_LENGTH_MAX = 63
CHECK_INTERVAL_NS_MIN = SECOND
DEREGISTER_AFTER_NS_MIN = MINUTE

STATUSES = ("passing", "warning", "critical")

_DNS_LABEL = re.compile(r"[A-Za-z0-9-]+")
_META_KEY = re.compile(r"[A-Za-z0-9_-]+")


class DefinitionRefused(ConfigError):
    """The definition was understood and makes no sense; `status` is its HTTP status."""

    def __init__(self, reason: str, *, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


def validate_service(service: ServiceDefinition) -> None:
    """Raise `DefinitionRefused` for the first thing that is wrong, in the API's order."""
    if not service.name:
        raise DefinitionRefused("Missing service name")
    if _is_unspecified(service.address):
        raise DefinitionRefused("Invalid service address")
    if reason := _weights_problem(service.weights):
        raise DefinitionRefused(f"Invalid Weights: {reason}")
    if reason := metadata_problem(service.meta):
        raise DefinitionRefused(f"Invalid Service Meta: {reason}")
    if reason := mesh_problem(service.kind, service.port, service.proxy, service.connect):
        raise DefinitionRefused(reason)
    for check in service.checks:
        if reason := check_problem(check):
            raise DefinitionRefused(f"Invalid check: {reason}")
    if any(check.status and check.status not in STATUSES for check in service.checks):
        raise DefinitionRefused("Status for checks must 'passing', 'warning', 'critical'")
    if reason := _tagged_addresses_problem(service.tagged_addresses):
        raise DefinitionRefused(reason, status=500)


def validate_check(check: CheckDefinition) -> None:
    """Raise `DefinitionRefused` for a check that stands by itself (`/v1/agent/check/register`)."""
    if not check.name:
        raise DefinitionRefused("Missing check name")
    if check.status and check.status not in STATUSES:
        raise DefinitionRefused("Bad check status")
    if reason := check_problem(check):
        raise DefinitionRefused(f"Invalid check: {reason}")


def check_problem(check: CheckDefinition) -> str:
    """Why the kind and the timing of `check` do not fit together, or ""."""
    is_alias = bool(check.alias_node or check.alias_service)
    runs = bool(check.args or check.http or check.tcp or check.grpc or check.plugin_type)
    if check.interval_ns > 0 and check.ttl_ns > 0:
        return "Interval and TTL cannot both be specified"
    if runs and check.interval_ns <= 0:
        return "Interval must be > 0 for Script, HTTP, or TCP checks"
    if runs and is_alias:
        return "Interval cannot be set for Alias checks"
    if is_alias and check.ttl_ns > 0:
        return "TTL must be not be set for Alias checks"
    if not runs and not is_alias and check.ttl_ns <= 0:
        return "TTL must be > 0 for TTL checks"
    if check.output_max_size < 0:
        return "MaxOutputMaxSize must be positive"
    return ""


def metadata_problem(pairs: Mapping[str, str], *, allow_reserved: bool = False) -> str:
    """Why `pairs` can not be the metadata of a service or node, or ""."""
    if len(pairs) > META_PAIRS_MAX:
        return f"Node metadata cannot contain more than {META_PAIRS_MAX} key/value pairs"
    for key, value in pairs.items():
        if reason := _metadata_pair_problem(key, value, allow_reserved):
            return f"Couldn't load metadata pair ('{key}', '{value}'): {reason}"
    return ""


def refuse_scripts(
    check: CheckDefinition,
    *,
    source: Literal["file", "http"],
    enable_script_checks: bool,
    enable_local_script_checks: bool,
) -> None:
    """Raise `DefinitionRefused` for a check that runs a program where that is not allowed."""
    if not check.args:
        return
    if source == "file" and not (enable_script_checks or enable_local_script_checks):
        raise DefinitionRefused(
            "Scripts are disabled on this agent; to enable, configure 'enable_script_checks' or"
            " 'enable_local_script_checks' to true",
            status=500,
        )
    if source == "http" and not enable_script_checks:
        raise DefinitionRefused(
            "Scripts are disabled on this agent from remote calls; to enable, configure"
            " 'enable_script_checks' to true",
            status=500,
        )


def with_minimums(
    check: CheckDefinition,
    name: str = "",
    *,
    deregister_after_ns_min: int = DEREGISTER_AFTER_NS_MIN,
) -> tuple[CheckDefinition, list[str]]:
    """`check` with its times raised to the smallest allowed, and a warning for each one raised.

    `name` is what the warnings call it; by default its id or name.
    """
    name = name or f"check {check.id or check.name!r}"
    raised: dict[str, int] = {}
    warnings = []
    for field, key, least in (
        ("interval_ns", "interval", CHECK_INTERVAL_NS_MIN),
        (
            "deregister_critical_service_after_ns",
            "deregister_critical_service_after",
            deregister_after_ns_min,
        ),
    ):
        given: int = getattr(check, field)
        if 0 < given < least:
            raised[field] = least
            warnings.append(
                f"{name}: {key} {format_duration(given)} is raised"
                f" to the minimum of {format_duration(least)}"
            )
    return (msgspec.structs.replace(check, **raised) if raised else check), warnings


def service_warnings(service: ServiceDefinition) -> list[str]:
    """What works, but not in DNS: names and tags with other characters, or too long."""
    lines = []
    for what, text in (("service name", service.name), *(("tag", tag) for tag in service.tags)):
        if _DNS_LABEL.fullmatch(text) is None:
            lines.append(
                f"{what} {text!r} can not be found in DNS: it has characters other than letters,"
                " digits and dashes"
            )
        elif len(text) > DNS_LABEL_LENGTH_MAX:
            lines.append(
                f"{what} {text!r} can not be found in DNS: it is longer than"
                f" {DNS_LABEL_LENGTH_MAX} characters"
            )
    return lines


def _weights_problem(weights: Weights | None) -> str:
    if weights is None:
        return ""
    if weights.passing < 1:
        return "Passing must be greater than 0"
    if weights.warning < 0:
        return "Warning must be greater or equal than 0"
    if max(weights.passing, weights.warning) > WEIGHT_MAX:
        return f"DNS Weight must be between 0 and {WEIGHT_MAX}"
    return ""


def _metadata_pair_problem(key: str, value: str, allow_reserved: bool) -> str:
    if not key:
        return "Key cannot be blank"
    if _META_KEY.fullmatch(key) is None:
        return "Key contains invalid characters"
    if len(key) > META_KEY_LENGTH_MAX:
        return f"Key is too long (limit: {META_KEY_LENGTH_MAX} characters)"
    if key.startswith(META_RESERVED_PREFIX) and not allow_reserved:
        return f"Key prefix '{META_RESERVED_PREFIX}' is reserved for internal use"
    if len(value.encode(errors="replace")) > META_VALUE_LENGTH_MAX:
        return f"Value is too long (limit: {META_VALUE_LENGTH_MAX} characters)"
    return ""


def _is_unspecified(address: str) -> bool:
    """0.0.0.0 or ::, in any spelling; a host name is not."""
    try:
        return ipaddress.ip_address(address.strip("[]")).is_unspecified
    except ValueError:
        return False


def _tagged_addresses_problem(addresses: Mapping[str, ServiceAddress]) -> str:
    # Not "wan_ipv6": agents never looked at it, and services rely on what they get away with.
    for name in ("lan_ipv4", "wan_ipv4", "lan_ipv6"):
        family = name[-4:]
        if name in addresses and _family(addresses[name].address) != family:
            return f'Service tagged address "{name}" must be a valid {family} address'
    return ""


def _family(address: str) -> str:
    try:
        return f"ipv{ipaddress.ip_address(address).version}"
    except ValueError:
        return ""
