"""Giving up services that stay critical (`DeregisterCriticalServiceAfter`)."""

from __future__ import annotations

import logging

from registry.agent.clock import Clock, pause
from registry.agent.definitions import SECOND
from registry.agent.local.records import LocalCheck, Records
from registry.agent.local.registrations import Registrations
from registry.agent.local.settings import SettingsInForce
from registry.errors import RegistryError

logger = logging.getLogger("registry.agent")


class Reaper:
    """Removes services whose check has been critical for longer than the check allows."""

    def __init__(
        self,
        records: Records,
        registrations: Registrations,
        *,
        settings: SettingsInForce,
        clock: Clock,
    ) -> None:
        self._records = records
        self._registrations = registrations
        self._settings = settings
        self._clock = clock

    async def run(self) -> None:
        """Look at intervals until cancelled."""
        while True:
            await pause(self._clock, self._settings().reap_interval_ns / SECOND)
            for check in self._overdue():
                await self._give_up(check)

    def _overdue(self) -> list[LocalCheck]:
        now = self._clock.monotonic()
        return [check for check in self._records.checks.values() if self._is_overdue(check, now)]

    def _is_overdue(self, check: LocalCheck, now: float) -> bool:
        after_ns = check.definition.deregister_critical_service_after_ns
        if not after_ns or not check.service_id or check.critical_since is None:
            return False
        after_s = max(after_ns, self._settings().deregister_after_min_ns) / SECOND
        return now - check.critical_since >= after_s

    async def _give_up(self, check: LocalCheck) -> None:
        try:
            removed = await self._registrations.remove_service(check.service_id)
        except RegistryError as problem:
            logger.error(
                "failed to deregister a critical service: service=%s error=%s",
                check.service_id,
                problem,
            )
            return
        if removed:
            logger.info(
                "Check for service has been critical for too long; deregistered service: "
                "service=%s check=%s",
                check.service_id,
                check.check_id,
            )
