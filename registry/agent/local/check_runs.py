"""The runners of checks: started and stopped with their records, and lent what they need."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from registry.agent.checks.base import CheckContext, LocalView, NeedsContext
from registry.agent.checks.scheduler import CheckScheduler, run_check
from registry.agent.checks.ttl import TtlRunner
from registry.agent.clock import Clock
from registry.agent.definitions import CheckDefinition
from registry.agent.http_clients import HttpClients
from registry.agent.local.check_states import CheckStates
from registry.agent.local.records import LocalCheck
from registry.hooks import CheckResult

if TYPE_CHECKING:
    from registry.agent.facade import Backend


class CheckRuns:
    """Runs the checks that are in place; `states` takes the results."""

    def __init__(
        self,
        states: CheckStates,
        *,
        node_name: str,
        local: LocalView,
        backend: Backend | None,
        http: HttpClients,
        clock: Clock,
        chance: random.Random,
    ) -> None:
        self._states = states
        self._node_name = node_name
        self._local = local
        self._backend = backend
        self._http = http
        self._clock = clock
        self._chance = chance
        self._scheduler = CheckScheduler()

    def start(self, check: LocalCheck) -> None:
        """Run the check, in place of the one that has its id."""
        runner, definition = check.runner, check.definition
        if runner is None:
            self.stop(check.check_id)
            return
        if isinstance(runner, NeedsContext):
            runner.bind(self._context(definition))
        if isinstance(runner, TtlRunner):
            runner.remember(check.output)

        def report(result: CheckResult) -> None:
            self._states.take_result(check, result)

        self._scheduler.start(
            check.check_id,
            lambda: run_check(runner, definition, report, clock=self._clock, chance=self._chance),
        )

    def stop(self, check_id: str) -> None:
        self._scheduler.stop(check_id)

    async def run(self) -> None:
        """Have the checks run until cancelled."""
        await self._scheduler.run()

    def _context(self, definition: CheckDefinition) -> CheckContext:
        return CheckContext(
            check_id=definition.id,
            node_name=self._node_name,
            output_bytes_max=self._states.output_bytes_max(definition),
            local=self._local,
            backend=self._backend,
            clock=self._clock,
            http=self._http,
        )
