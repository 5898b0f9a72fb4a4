"""Registering and deregistering: judged, kept on disk, put in place.

One change at a time, as each waits for the disk between reading and changing what is registered.
A change that is refused or can not be kept has changed nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from registry.agent.definitions import CheckDefinition, ServiceDefinition
from registry.agent.local.check_factory import CheckFactory, PreparedCheck
from registry.agent.local.file_definitions import DefinitionChanges, FileDefinitions
from registry.agent.local.installer import Installer
from registry.agent.local.keeping import Keeper
from registry.agent.local.records import FROM_API, Records
from registry.agent.persistence import Changes, StoredCheck, StoredService
from registry.agent.services import complete_service, is_maintenance_id
from registry.errors import Rejected

logger = logging.getLogger("registry.agent")

MAINTENANCE = "maintenance"


class Registrations:
    """Changes what is registered; `LocalState` tells the contracts."""

    def __init__(
        self, records: Records, factory: CheckFactory, installer: Installer, keeper: Keeper
    ) -> None:
        self._records = records
        self._factory = factory
        self._installer = installer
        self._keeper = keeper
        self._files = FileDefinitions(records, factory, installer)
        self._changing = asyncio.Lock()

    async def add_service(
        self, definition: ServiceDefinition, source: str, *, replace_checks: bool
    ) -> None:
        service = complete_service(definition)
        async with self._changing:
            prepared = [
                self._factory.prepare(check, source)
                for check in self._factory.complete_of(definition)
            ]
            stale = self._stale_checks(service.id, prepared) if replace_checks else ()
            await self._keeper.store(
                Changes(
                    save_services=(StoredService(service=service),),
                    save_checks=tuple(StoredCheck(check=check.definition) for check in prepared),
                    drop_checks=stale,
                ),
                source,
            )
            self._installer.put_service(service, source)
            for check_id in stale:
                self._installer.drop_check(check_id)
            for check in prepared:
                self._installer.put_check(check, source)

    def _stale_checks(self, service_id: str, new: Iterable[PreparedCheck]) -> tuple[str, ...]:
        """Checks of the service that are not among the new ones; maintenance mode stays."""
        new_ids = {check.definition.id for check in new}
        return tuple(
            check.check_id
            for check in self._records.checks_of(service_id)
            if check.check_id not in new_ids and not is_maintenance_id(check.check_id)
        )

    async def remove_service(self, service_id: str) -> bool:
        if not service_id:
            raise Rejected("ServiceID missing")
        async with self._changing:
            if service_id not in self._records.services:
                logger.warning(
                    "Failed to deregister service, it is not there: service=%s", service_id
                )
                return False
            check_ids = tuple(check.check_id for check in self._records.checks_of(service_id))
            await self._keeper.store(Changes(drop_services=(service_id,), drop_checks=check_ids))
            self._installer.drop_service(service_id)
        return True

    async def add_check(self, definition: CheckDefinition, source: str) -> None:
        async with self._changing:
            prepared = self._factory.prepare(self._factory.complete(definition), source)
            self._records.require_owner(prepared.definition.service_id)
            stored = StoredCheck(check=prepared.definition)
            await self._keeper.store(Changes(save_checks=(stored,)), source)
            self._installer.put_check(prepared, source)

    async def remove_check(self, check_id: str) -> bool:
        if not check_id:
            raise Rejected("CheckID missing")
        async with self._changing:
            if check_id not in self._records.checks:
                return False
            await self._keeper.store(Changes(drop_checks=(check_id,)))
            self._installer.drop_check(check_id)
        return True

    async def add_maintenance(self, definition: CheckDefinition) -> None:
        """A check that is never run. Raises `NotFound` when its service is not there."""
        async with self._changing:
            if definition.service_id:
                self._records.require_service(definition.service_id)
            stored = StoredCheck(check=definition, type=MAINTENANCE)
            await self._keeper.store(Changes(save_checks=(stored,)))
            self._installer.put_check(PreparedCheck(definition, MAINTENANCE, None), FROM_API)

    async def apply_definitions(
        self, services: Iterable[ServiceDefinition], checks: Iterable[CheckDefinition]
    ) -> DefinitionChanges:
        async with self._changing:
            plan = self._files.plan(services, checks)
            forgotten = self._files.forgotten(plan)
            if forgotten != Changes():
                await self._keeper.store(forgotten)
            return self._files.carry_out(plan)
