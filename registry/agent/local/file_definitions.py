"""What the configuration files define, as a difference to what is there.

The difference is worked out in full (`plan`) before anything is changed (`carry_out`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from registry.agent.definition_rules import DefinitionRefused
from registry.agent.definitions import CheckDefinition, ServiceDefinition
from registry.agent.local.check_factory import CheckFactory, PreparedCheck
from registry.agent.local.installer import Installer
from registry.agent.local.records import FROM_API, FROM_FILE, LocalCheck, LocalService, Records
from registry.agent.persistence import Changes
from registry.agent.services import complete_service
from registry.errors import ConfigError, Rejected


@dataclass(frozen=True, slots=True)
class DefinitionChanges:
    """What a reload did, as `service ID` and `check ID`."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(slots=True)
class _Wanted:
    """All that the files define, complete and by id."""

    services: dict[str, ServiceDefinition] = field(default_factory=dict)
    checks: dict[str, CheckDefinition] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FilePlan:
    """What is to be put in place, and the ids of what is to be taken out."""

    services: dict[str, ServiceDefinition]
    checks: dict[str, PreparedCheck]
    gone_services: list[str]
    gone_checks: list[str]


class FileDefinitions:
    """Makes what files define that which is in place from files."""

    def __init__(self, records: Records, factory: CheckFactory, installer: Installer) -> None:
        self._records = records
        self._factory = factory
        self._installer = installer

    def plan(
        self, services: Iterable[ServiceDefinition], checks: Iterable[CheckDefinition]
    ) -> FilePlan:
        """Raises `ConfigError` when a definition can not be run."""
        wanted = self._wanted(services, checks)
        return FilePlan(
            services={
                service_id: service
                for service_id, service in wanted.services.items()
                if not self._has_service(service)
            },
            checks={
                check_id: self._prepare(check, wanted)
                for check_id, check in wanted.checks.items()
                if not self._has_check(check)
            },
            gone_services=_gone(self._records.services, wanted.services),
            gone_checks=_gone(self._records.checks, wanted.checks),
        )

    def forgotten(self, plan: FilePlan) -> Changes:
        """Stored registrations that the plan replaces, or that go with a service."""
        checks = {*plan.checks, *plan.gone_checks}
        for service_id in plan.gone_services:
            checks.update(check.check_id for check in self._records.checks_of(service_id))
        return Changes(
            drop_services=tuple(_registered_over_http(self._records.services, plan.services)),
            drop_checks=tuple(_registered_over_http(self._records.checks, checks)),
        )

    def carry_out(self, plan: FilePlan) -> DefinitionChanges:
        """Nothing waits between here and the end."""
        before = {*_named(self._records.services, self._records.checks)}
        put = _named(plan.services, plan.checks)
        for service in plan.services.values():
            self._installer.put_service(service, FROM_FILE)
        for check in plan.checks.values():
            self._installer.put_check(check, FROM_FILE)
        for check_id in plan.gone_checks:
            self._installer.drop_check(check_id)
        for service_id in plan.gone_services:
            self._installer.drop_service(service_id)
        return DefinitionChanges(
            added=tuple(item for item in put if item not in before),
            changed=tuple(item for item in put if item in before),
            removed=tuple(_named(plan.gone_services, plan.gone_checks)),
        )

    def _wanted(
        self, services: Iterable[ServiceDefinition], checks: Iterable[CheckDefinition]
    ) -> _Wanted:
        wanted = _Wanted()
        for service in services:
            complete = complete_service(service)
            wanted.services[complete.id] = complete
            wanted.checks |= {each.id: each for each in self._factory.complete_of(service)}
        wanted.checks |= {each.id: each for each in map(self._factory.complete, checks)}
        return wanted

    def _has_service(self, service: ServiceDefinition) -> bool:
        found = self._records.services.get(service.id)
        return found is not None and found.source == FROM_FILE and found.given == service

    def _has_check(self, check: CheckDefinition) -> bool:
        found = self._records.checks.get(check.id)
        return found is not None and found.source == FROM_FILE and found.definition == check

    def _prepare(self, check: CheckDefinition, wanted: _Wanted) -> PreparedCheck:
        where = f"check {check.id or check.name}"
        try:
            if check.service_id not in wanted.services:
                self._records.require_owner(check.service_id)
            return self._factory.prepare(check, FROM_FILE)
        except (Rejected, DefinitionRefused) as problem:
            raise ConfigError(str(problem), field=where) from problem


_Items = Mapping[str, LocalService] | Mapping[str, LocalCheck]


def _gone(present: _Items, wanted: Iterable[str]) -> list[str]:
    """What a file defined before and no longer does."""
    return [
        each for each, item in present.items() if item.source == FROM_FILE and each not in wanted
    ]


def _registered_over_http(present: _Items, ids: Iterable[str]) -> list[str]:
    return sorted(each for each in ids if each in present and present[each].source == FROM_API)


def _named(services: Iterable[str], checks: Iterable[str]) -> list[str]:
    return [*(f"service {each}" for each in services), *(f"check {each}" for each in checks)]
