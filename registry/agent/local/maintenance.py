"""Maintenance mode: a service or the node out of service, by a check that is always critical."""

from __future__ import annotations

import logging

from registry.agent.local.records import Records
from registry.agent.local.registrations import Registrations
from registry.agent.services import (
    NODE_MAINTENANCE_ID,
    SERVICE_MAINTENANCE_PREFIX,
    node_maintenance_check,
    service_maintenance_check,
)

logger = logging.getLogger("registry.agent")


class Maintenance:
    """Enables and disables maintenance mode; both may be asked for twice."""

    def __init__(self, records: Records, registrations: Registrations) -> None:
        self._records = records
        self._registrations = registrations

    async def enable_service(self, service_id: str, reason: str = "") -> None:
        """Raises `NotFound`. Asked for twice, the first reason stays."""
        self._records.require_service(service_id)
        if SERVICE_MAINTENANCE_PREFIX + service_id not in self._records.checks:
            definition = service_maintenance_check(service_id, reason)
            await self._registrations.add_maintenance(definition)
            logger.info("Service entered maintenance mode: service=%s", service_id)

    async def disable_service(self, service_id: str) -> None:
        """Raises `NotFound`."""
        self._records.require_service(service_id)
        if await self._registrations.remove_check(SERVICE_MAINTENANCE_PREFIX + service_id):
            logger.info("Service left maintenance mode: service=%s", service_id)

    async def enable_node(self, reason: str = "") -> None:
        if NODE_MAINTENANCE_ID not in self._records.checks:
            await self._registrations.add_maintenance(node_maintenance_check(reason))
            logger.info("Node entered maintenance mode")

    async def disable_node(self) -> None:
        if await self._registrations.remove_check(NODE_MAINTENANCE_ID):
            logger.info("Node left maintenance mode")
