"""Checks that follow other checks of this node."""

from __future__ import annotations

from registry.agent.definitions import CheckDefinition
from registry.agent.local.state import LocalState
from registry.testing.local_agent import running, service, state_of, ttl
from registry.testing.manual_clock import ManualClock


def alias(check_id: str, service_id: str) -> CheckDefinition:
    return CheckDefinition(id=check_id, name="alias", alias_service=service_id)


async def test_an_alias_follows_a_local_service(local: LocalState, clock: ManualClock) -> None:
    await local.add_service(service("b", alias("al", "a")))
    async with running(local):
        await clock.settle()
        assert state_of(local, "al") == ("critical", "Service a could not be found on node ")
        await local.add_service(service("a"))
        await clock.settle()
        assert state_of(local, "al") == ("passing", "No checks found.")
        await local.add_service(service("a", ttl("c", status="passing", name="c's name")))
        await clock.settle()
        assert state_of(local, "al") == ("passing", "All checks passing.")
        local.update_ttl("c", "critical", "bad")
        await clock.settle()
        assert state_of(local, "al") == ("critical", 'Aliased check "c\'s name" failing: bad')
        local.update_ttl("c", "warning", "")
        await clock.settle()
        assert state_of(local, "al") == ("warning", 'Aliased check "c\'s name" failing: ')
        await local.add_check(ttl("node", status="passing"))
        local.update_ttl("c", "passing", "")
        local.update_ttl("node", "critical", "disk full")
        await clock.settle()
        assert state_of(local, "al") == ("critical", 'Aliased check "node" failing: disk full')
        await local.remove_service("a")
        await clock.settle()
        assert state_of(local, "al")[1] == "Service a could not be found on node "


async def test_an_alias_of_the_node_does_not_count_itself(
    local: LocalState, clock: ManualClock
) -> None:
    await local.add_service(service("a", ttl("c", status="passing")))
    await local.add_check(alias("al", "a"))
    async with running(local):
        await clock.settle()
        assert state_of(local, "al") == ("passing", "All checks passing.")
