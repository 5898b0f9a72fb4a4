"""Maintenance mode of a service and of the node."""

from __future__ import annotations

import pytest

from registry.agent.local.state import LocalState
from registry.errors import NotFound
from registry.testing.local_agent import service


async def test_service_maintenance(local: LocalState) -> None:
    await local.add_service(service("web", id="web-1"))
    await local.maintenance.enable_service("web-1", "because")
    check = local.checks["_service_maintenance:web-1"]
    assert (check.name, check.status, check.type_name) == (
        "Service Maintenance Mode",
        "critical",
        "maintenance",
    )
    assert (check.definition.notes, check.service_name) == ("because", "web")
    await local.maintenance.enable_service("web-1", "again")
    assert local.checks["_service_maintenance:web-1"].definition.notes == "because"
    await local.maintenance.disable_service("web-1")
    await local.maintenance.disable_service("web-1")
    assert not local.checks


async def test_node_maintenance(local: LocalState) -> None:
    await local.maintenance.enable_node()
    check = local.checks["_node_maintenance"]
    assert check.definition.notes == (
        "Maintenance mode is enabled for this node, but no reason was provided. "
        "This is a default message."
    )
    await local.maintenance.disable_node()
    await local.maintenance.disable_node()
    assert not local.checks


async def test_maintenance_of_a_service_that_is_not_there(local: LocalState) -> None:
    for change in (local.maintenance.enable_service, local.maintenance.disable_service):
        with pytest.raises(NotFound, match='No service registered with ID "none"'):
            await change("none")
