"""Status and output of checks: what a result changes, and when the catalog is to know."""

from __future__ import annotations

from registry.agent.checks.base import CRITICAL
from registry.agent.checks.ttl import TtlRunner
from registry.agent.clock import Clock
from registry.agent.definitions import CheckDefinition
from registry.agent.local.deferred_outputs import DeferredOutputs
from registry.agent.local.keeping import Keeper
from registry.agent.local.records import LocalCheck, Records
from registry.agent.local.settings import SettingsInForce
from registry.agent.local.sync_marks import SyncMarks
from registry.errors import Rejected
from registry.hooks import CheckResult
from registry.state.quote import quote

#: Room for a kind's own words around the output that is limited.
_WORDS_BYTES_MAX = 1024


class CheckStates:
    """Takes the results of runs and the reports of applications."""

    def __init__(
        self,
        records: Records,
        marks: SyncMarks,
        outputs: DeferredOutputs,
        keeper: Keeper,
        *,
        settings: SettingsInForce,
        clock: Clock,
    ) -> None:
        self._records = records
        self._marks = marks
        self._outputs = outputs
        self._keeper = keeper
        self._settings = settings
        self._clock = clock

    def begin(self, check: LocalCheck, before: LocalCheck | None) -> None:
        """Give a new record the state of the one it replaces, or a TTL check's from before a
        restart; without either it stays as its definition has it."""
        if before is not None:
            check.status, check.output = before.status, before.output
            check.critical_since = before.critical_since
        elif (state := self._keeper.stored_state(check.check_id)) and check.definition.ttl_ns:
            check.status, check.output = state.status, state.output
        self._note_critical(check)

    def take_result(self, check: LocalCheck, result: CheckResult) -> None:
        """A run has ended. It counts unless the check was changed or taken out meanwhile."""
        if self._records.checks.get(check.check_id) is check:
            limit = self.output_bytes_max(check.definition) + _WORDS_BYTES_MAX
            self._set(check, result.status, _capped(result.output, limit))

    def update_ttl(self, check_id: str, status: str, output: str) -> None:
        """The application reports. Raises `Rejected` when the check has no TTL."""
        check = self._records.checks.get(check_id)
        if check is None or not isinstance(check.runner, TtlRunner):
            raise Rejected(f"CheckID {quote(check_id)} does not have associated TTL")
        output = _capped(output, self.output_bytes_max(check.definition))
        check.runner.refresh(output)
        self._set(check, status, output)
        self._keeper.note_report(check.definition, status, output)

    def discard_outputs(self) -> None:
        for check in self._records.checks.values():
            self._set(check, check.status, "")

    def output_bytes_max(self, definition: CheckDefinition) -> int:
        limit = self._settings().output_bytes_max
        return min(definition.output_max_size or limit, limit)

    def _set(self, check: LocalCheck, status: str, output: str) -> None:
        """Changed output alone reaches the catalog only after a while."""
        settings = self._settings()
        if settings.discard_output:
            output = ""
        output_only = check.status == status
        if output_only and check.output == output:
            return
        check.status, check.output = status, output
        self._note_critical(check)
        check.version = self._records.next_version()
        if output_only and check.in_sync and settings.update_interval_ns > 0:
            self._outputs.defer(check, settings.update_interval_ns)
        else:
            check.output_due = None
            self._marks.mark_check(check)
            self._marks.changed(("checks", check.service_id))

    def _note_critical(self, check: LocalCheck) -> None:
        """Since when it is critical, for the reaper."""
        if check.status != CRITICAL:
            check.critical_since = None
        elif check.critical_since is None:
            check.critical_since = self._clock.monotonic()


def _capped(output: str, limit: int) -> str:
    """The beginning of an output that is over the limit, saying so."""
    raw = output.encode("utf-8", "replace")
    if len(raw) <= limit:
        return output
    beginning = raw[:limit].decode("utf-8", "ignore")
    return f"{beginning} ... (captured {limit} of {len(raw)} bytes)"
