"""Putting services and checks in place and taking them out, with all that hangs on it.

Nothing here waits, so nobody sees half of a change; and nothing fails, so that what was written to
the data directory before is what is then in place.
"""

from __future__ import annotations

from registry.agent.checks.base import CRITICAL
from registry.agent.checks.ttl import TtlRunner
from registry.agent.definitions import ServiceDefinition
from registry.agent.local.check_factory import PreparedCheck
from registry.agent.local.check_runs import CheckRuns
from registry.agent.local.check_states import CheckStates
from registry.agent.local.keeping import Keeper
from registry.agent.local.records import FROM_FILE, LocalCheck, LocalService, Records
from registry.agent.local.sync_marks import SyncMarks


class Installer:
    """Keeps records, marks, runners and kept TTL states in step."""

    def __init__(
        self,
        records: Records,
        marks: SyncMarks,
        states: CheckStates,
        runs: CheckRuns,
        keeper: Keeper,
    ) -> None:
        self._records = records
        self._marks = marks
        self._states = states
        self._runs = runs
        self._keeper = keeper

    def put_service(self, definition: ServiceDefinition, source: str) -> None:
        version = self._records.next_version()
        service = LocalService(definition, definition, source, version)
        self._records.put_service(service)
        if source == FROM_FILE:
            # A file tells of all checks; whoever registers only of those that come along, and
            # the others go on showing what they were registered with.
            for check in self._records.checks_of(definition.id):
                check.service_name, check.service_tags = definition.name, definition.tags
        self._marks.put_service(service)
        self._marks.changed(("service", definition.id))

    def put_check(self, prepared: PreparedCheck, source: str) -> None:
        """A check in the place of another takes over its state."""
        check = self._record_of(prepared, source)
        self._states.begin(check, self._records.checks.get(check.check_id))
        self._records.put_check(check)
        self._marks.put_check(check)
        self._runs.start(check)
        self._marks.changed(("checks", check.service_id))

    def _record_of(self, prepared: PreparedCheck, source: str) -> LocalCheck:
        definition = prepared.definition
        service = self._records.services.get(definition.service_id)
        return LocalCheck(
            definition=definition,
            type_name=prepared.type_name,
            source=source,
            runner=prepared.runner,
            status=definition.status or CRITICAL,
            output="",
            service_name=service.definition.name if service else "",
            service_tags=service.definition.tags if service else (),
            version=self._records.next_version(),
        )

    def drop_service(self, service_id: str) -> None:
        """With its checks."""
        for check in self._records.checks_of(service_id):
            self.drop_check(check.check_id)
        self._records.drop_service(service_id)
        self._marks.drop_service(service_id)
        self._marks.changed(("service", service_id))

    def drop_check(self, check_id: str) -> None:
        check = self._records.drop_check(check_id)
        if check is None:
            return
        self._runs.stop(check_id)
        self._marks.drop_check(check)
        if isinstance(check.runner, TtlRunner):
            self._keeper.drop_state(check_id)
        self._marks.changed(("checks", check.service_id))
