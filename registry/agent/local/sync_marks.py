"""What the catalog does not have yet: marked here, brought there by anti-entropy.

A mark goes once the catalog has the record as it was at some `version` and it still is as it was
then. A record that changed meanwhile keeps its mark, so that nothing is lost between two writes.
"""

from __future__ import annotations

import logging
from typing import Protocol

from msgspec.structs import replace

from registry.agent.local.records import LocalCheck, LocalService, Records
from registry.errors import RegistryError
from registry.state.topics import Topic

logger = logging.getLogger("registry.agent")


class Synchroniser(Protocol):
    """Brings changes to the catalog."""

    def wake(self) -> None:
        """Something changed; must not wait."""
        ...

    async def sync_changes(self) -> None:
        """Bring all changes there now. Raises `RegistryError`."""
        ...


class SyncMarks:
    """The marks, and whom to wake because of them."""

    def __init__(self, records: Records) -> None:
        self._records = records
        #: Taken out here, and perhaps still in the catalog; a check with its service's id.
        self.removed_services: set[str] = set()
        self.removed_checks: dict[str, str] = {}
        # In order: a sync costs what changed, not what is.
        self._services: dict[str, None] = {}
        self._checks: dict[str, None] = {}
        self._synchroniser: Synchroniser | None = None

    # The synchroniser

    def attach(self, synchroniser: Synchroniser) -> None:
        """From now on this one is told of changes."""
        self._synchroniser = synchroniser

    def wake(self) -> None:
        if self._synchroniser is not None:
            self._synchroniser.wake()

    def changed(self, topic: Topic) -> None:
        """Wake the synchroniser, and who waits for the topic."""
        self._records.publish(topic)
        self.wake()

    async def flush(self) -> None:
        """Have changes brought there now; a failure is logged, as there will be another try."""
        if self._synchroniser is None:
            return
        try:
            await self._synchroniser.sync_changes()
        except RegistryError as problem:
            logger.error("failed to sync changes: error=%s", problem)

    # What happened here

    def put_service(self, service: LocalService) -> None:
        self.removed_services.discard(service.definition.id)
        self._mark_service(service)

    def put_check(self, check: LocalCheck) -> None:
        self.removed_checks.pop(check.check_id, None)
        self.mark_check(check)

    def drop_service(self, service_id: str) -> None:
        self._services.pop(service_id, None)
        self.removed_services.add(service_id)

    def drop_check(self, check: LocalCheck) -> None:
        self._checks.pop(check.check_id, None)
        self.removed_checks[check.check_id] = check.service_id

    def mark_check(self, check: LocalCheck) -> None:
        check.in_sync = False
        self._checks[check.check_id] = None

    def _mark_service(self, service: LocalService) -> None:
        service.in_sync = False
        self._services[service.definition.id] = None

    # What anti-entropy asks and tells

    def unsynced_services(self) -> list[LocalService]:
        return [self._records.services[each] for each in self._services]

    def unsynced_checks(self) -> list[LocalCheck]:
        return [self._records.checks[each] for each in self._checks]

    def service_synced(self, service_id: str, version: int) -> None:
        """The catalog has the service as it was at `version`."""
        service = self._records.services.get(service_id)
        if service is not None and service.version == version:
            service.in_sync = True
            self._services.pop(service_id, None)

    def check_synced(self, check_id: str, version: int) -> None:
        check = self._records.checks.get(check_id)
        if check is not None and check.version == version:
            check.in_sync = True
            check.output_due = None
            self._checks.pop(check_id, None)

    def service_differs(self, service_id: str) -> None:
        """The catalog does not have it, or has something else."""
        if (service := self._records.services.get(service_id)) is not None:
            self._mark_service(service)

    def check_differs(self, check_id: str) -> None:
        if (check := self._records.checks.get(check_id)) is not None:
            self.mark_check(check)

    def take_tags(self, service_id: str, tags: tuple[str, ...]) -> None:
        """The catalog's tags win over the agent's, for a service with EnableTagOverride."""
        service = self._records.services.get(service_id)
        if service is not None and service.definition.tags != tags:
            service.definition = replace(service.definition, tags=tags)
            for check in self._records.checks_of(service_id):
                check.service_tags = tags
            self._records.publish(("service", service_id))
