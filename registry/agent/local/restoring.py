"""The beginning: what files define, then what was registered over HTTP before a restart."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from msgspec.structs import replace

from registry.agent.definition_rules import DefinitionRefused
from registry.agent.definitions import CheckDefinition, ServiceDefinition
from registry.agent.local.check_factory import CheckFactory, PreparedCheck
from registry.agent.local.installer import Installer
from registry.agent.local.keeping import Keeper
from registry.agent.local.records import FROM_API, Records
from registry.agent.local.registrations import Registrations
from registry.agent.persistence import Changes, StoredCheck
from registry.errors import Rejected

logger = logging.getLogger("registry.agent")


class Restorer:
    """Puts everything in place once, when the agent starts."""

    def __init__(
        self,
        records: Records,
        factory: CheckFactory,
        installer: Installer,
        keeper: Keeper,
        registrations: Registrations,
    ) -> None:
        self._records = records
        self._factory = factory
        self._installer = installer
        self._keeper = keeper
        self._registrations = registrations

    async def restore(
        self, services: Iterable[ServiceDefinition], checks: Iterable[CheckDefinition]
    ) -> None:
        """Services that were kept come before the files, whose checks may belong to them; checks
        that were kept come after, as theirs may be services from files. Raises `ConfigError`."""
        stored = await self._keeper.load()
        for service in stored.services:
            self._installer.put_service(service.service, FROM_API)
        await self._registrations.apply_definitions(services, checks)
        await self._restore_checks(stored.checks)
        for check_id in stored.states.keys() - self._records.checks.keys():
            self._keeper.drop_state(check_id)
        self._keeper.forget_stored_states()

    async def _restore_checks(self, stored: Iterable[StoredCheck]) -> None:
        overridden: list[str] = []
        for item in stored:
            if item.check.id in self._records.checks:
                overridden.append(item.check.id)
            else:
                self._restore_check(item)
        if overridden:
            logger.info("files define checks that were registered over HTTP: checks=%s", overridden)
            await self._keeper.store(Changes(drop_checks=tuple(overridden)))

    def _restore_check(self, stored: StoredCheck) -> None:
        """Critical until its first run: what it was before the restart may long be untrue."""
        definition = replace(stored.check, status="")
        try:
            self._records.require_owner(definition.service_id)
            if stored.type:
                prepared = PreparedCheck(definition, stored.type, None)
            else:
                prepared = self._factory.prepare(definition, FROM_API)
        except (Rejected, DefinitionRefused) as problem:
            logger.error(
                "cannot restore a check, it is skipped and kept on disk: check=%s error=%s",
                definition.id,
                problem,
            )
            return
        self._installer.put_check(prepared, FROM_API)
