"""Alias checks: the worst state of another service or node, without probing it again.

A service of this agent is followed in the local state and needs no server. Anything else is
followed by blocking reads of the catalog. The checks of the node itself count as well: a service
is as healthy as the node below it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from registry.agent.checks.base import CRITICAL, PASSING, WARNING, CheckContext, CheckView, Report
from registry.agent.clock import pause
from registry.agent.definitions import CheckDefinition
from registry.agent.facade import Backend
from registry.errors import RegistryError
from registry.hooks import CheckResult, CheckType
from registry.state.base import ReadOptions
from registry.state.catalog_queries import NodeServices
from registry.state.health import NodeChecks

#: One blocking read; a change ends it earlier.
WAIT_MS = 60_000
#: Pause after the first failed read; doubled with each further one, up to the longest.
RETRY_SECONDS, RETRY_SECONDS_MAX = 1.0, 60.0


class AliasRunner:
    """Reports whenever what it follows changes."""

    def __init__(self, definition: CheckDefinition) -> None:
        self._node = definition.alias_node
        self._service_id = definition.alias_service
        self._context: CheckContext | None = None

    def bind(self, context: CheckContext) -> None:
        self._context = context

    async def run(self) -> CheckResult:
        """The present state, of a local service or of what the catalog says."""
        context = self._bound()
        if self._is_local:
            return self._local_result(context)
        assert context.backend is not None, "an alias of another node needs servers"
        return (await self._remote_result(context.backend, 0))[1]

    async def follow(self, report: Report) -> None:
        if self._is_local:
            await self._follow_local(report)
        else:
            await self._follow_catalog(report)

    @property
    def _is_local(self) -> bool:
        return not self._node and bool(self._service_id)

    def _bound(self) -> CheckContext:
        assert self._context is not None, "bind comes first"
        return self._context

    async def _follow_local(self, report: Report) -> None:
        context = self._bound()
        while True:
            with context.local.waiting(self._service_id) as waiter:
                report(self._local_result(context))
                await waiter.event.wait()

    def _local_result(self, context: CheckContext) -> CheckResult:
        # An alias that belongs to no service is itself a check of the node; counting itself, it
        # would stay critical for ever.
        others = [
            check
            for check in context.local.check_views().values()
            if check.check_id != context.check_id and check.service_id in ("", self._service_id)
        ]
        if not context.local.has_service(self._service_id):
            return self._missing()
        return worst(others)

    async def _follow_catalog(self, report: Report) -> None:
        context = self._bound()
        if context.backend is None:
            report(self._failure("this agent knows no servers"))
            await asyncio.Event().wait()
            return
        index, failures = 0, 0
        while True:
            try:
                index, result = await self._remote_result(context.backend, index)
                failures = 0
                report(result)
            except RegistryError as problem:
                report(self._failure(str(problem)))
                index = 0
                await pause(context.clock, min(RETRY_SECONDS * 2**failures, RETRY_SECONDS_MAX))
                failures += 1

    async def _remote_result(self, backend: Backend, index: int) -> tuple[int, CheckResult]:
        """The state once it is newer than `index`, and its own index."""
        node = self._node or self._bound().node_name
        options = ReadOptions(min_index=index, wait_ms=WAIT_MS, mode="stale")
        answer = await backend.read(NodeChecks(node=node), options)
        checks = [check for check in answer.value if check.service_id in ("", self._service_id)]
        own = self._bound().check_id
        if node == self._bound().node_name:
            checks = [check for check in checks if check.check_id != own]
        if self._service_id and not any(check.service_id for check in checks):
            services = await backend.read(NodeServices(node=node), ReadOptions(mode="stale"))
            found = services.value.services if services.value is not None else ()
            if all(service.id != self._service_id for service in found):
                return answer.index, self._missing()
        return answer.index, worst(checks)

    def _missing(self) -> CheckResult:
        text = f"Service {self._service_id} could not be found on node {self._node}"
        return CheckResult(CRITICAL, text)

    def _failure(self, reason: str) -> CheckResult:
        return CheckResult(CRITICAL, f"Failure checking aliased node or service: {reason}")


def worst(checks: Iterable[CheckView]) -> CheckResult:
    """The first critical check, or else the last one with a warning; passing when there is none."""
    found, warning = False, None
    for check in checks:
        found = True
        if check.status == CRITICAL:
            return _failing(check)
        if check.status == WARNING:
            warning = check
    if warning is not None:
        return _failing(warning)
    return CheckResult(PASSING, "All checks passing." if found else "No checks found.")


def _failing(check: CheckView) -> CheckResult:
    return CheckResult(check.status, f'Aliased check "{check.name}" failing: {check.output}')


def create(definition: CheckDefinition) -> AliasRunner:
    return AliasRunner(definition)


CHECK_TYPE = CheckType(key="alias_service", type_name="alias", create=create)
