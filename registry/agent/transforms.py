"""Definitions of services as plugins change them before they are registered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from registry.agent.definition_bodies import service_body
from registry.agent.definition_reader import read_service
from registry.agent.definition_rules import DefinitionRefused, validate_service
from registry.agent.definitions import ServiceDefinition
from registry.errors import ConfigError
from registry.plugins.guards import GuardedTransform


def transformed_now(
    transforms: Iterable[GuardedTransform],
    service: ServiceDefinition,
    source: str,
    check_types: Sequence[str],
) -> ServiceDefinition:
    """What all transforms make of a service, where it is no harm to wait."""
    for each in transforms:
        changed = each.now(service_body(service), source)
        service = _read(each, service, changed, check_types)
    return service


async def transformed(
    transforms: Iterable[GuardedTransform],
    service: ServiceDefinition,
    source: str,
    check_types: Sequence[str],
) -> ServiceDefinition:
    """The same on the agent's loop."""
    for each in transforms:
        changed = await each.soon(service_body(service), source)
        service = _read(each, service, changed, check_types)
    return service


def _read(
    transform: GuardedTransform,
    before: ServiceDefinition,
    changed: dict[str, Any],
    check_types: Sequence[str],
) -> ServiceDefinition:
    if changed == service_body(before):
        return before  # what a body does not tell is kept
    try:
        service = read_service(changed, source="http", check_types=check_types)
        validate_service(service)
    except (ConfigError, DefinitionRefused) as problem:
        transform.refuse(problem)
        return before
    return service
