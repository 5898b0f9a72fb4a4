"""Services that stay critical are given up."""

from __future__ import annotations

from registry.agent.local.state import LocalState
from registry.testing.local_agent import SECOND, running, service, ttl
from registry.testing.manual_clock import ManualClock


async def test_a_service_that_stays_critical_is_removed(
    local: LocalState, clock: ManualClock
) -> None:
    await local.add_service(
        service("web", ttl("c", 1000, deregister_critical_service_after_ns=90 * SECOND))
    )
    await local.add_check(ttl("node", 1000, deregister_critical_service_after_ns=90 * SECOND))
    async with running(local):
        await clock.advance(80)
        local.update_ttl("c", "passing", "")
        await clock.advance(60)
        local.update_ttl("c", "critical", "")
        await clock.advance(85)
        local.update_ttl("c", "critical", "still")
        assert "web" in local.services
        await clock.advance(35)
        assert "web" not in local.services
    assert "node" in local.checks  # belongs to no service


async def test_giving_up_takes_at_least_a_minute(local: LocalState, clock: ManualClock) -> None:
    await local.add_service(
        service("web", ttl("c", 1000, deregister_critical_service_after_ns=SECOND))
    )
    async with running(local):
        await clock.advance(59)
        assert "web" in local.services
        await clock.advance(31)
        assert "web" not in local.services
