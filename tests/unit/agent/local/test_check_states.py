"""States of checks: reports of applications, results of runs."""

from __future__ import annotations

from typing import Any

import pytest

from registry.agent.definitions import CheckDefinition
from registry.agent.local.settings import LocalSettings
from registry.agent.local.state import LocalState
from registry.errors import Rejected
from registry.testing.local_agent import SECOND, make_local, running, state_of, ttl
from registry.testing.manual_clock import ManualClock


def script(check_id: str, **fields: Any) -> CheckDefinition:
    return CheckDefinition(
        id=check_id, name=check_id, args=("true",), interval_ns=10 * SECOND, **fields
    )


async def test_ttl_expires_and_tells_the_output_before(
    local: LocalState, clock: ManualClock
) -> None:
    await local.add_check(ttl("a", 10))
    await local.add_check(ttl("b", 10, status="passing"))
    local.update_ttl("a", "passing", "was fine")
    async with running(local):
        await clock.advance(9)
        assert (state_of(local, "a")[0], state_of(local, "b")[0]) == ("passing", "passing")
        await clock.advance(1)
        assert state_of(local, "a") == (
            "critical",
            "TTL expired (last output before timeout follows): was fine",
        )
        assert state_of(local, "b") == ("critical", "TTL expired")
        local.update_ttl("a", "warning", "back")
        await clock.advance(9)
        assert state_of(local, "a") == ("warning", "back")
        await clock.advance(1)
        assert state_of(local, "a")[0] == "critical"


async def test_reports_keep_a_ttl_check_alive(local: LocalState, clock: ManualClock) -> None:
    await local.add_check(ttl("a", 10))
    async with running(local):
        for _ in range(10):
            local.update_ttl("a", "passing", "")
            await clock.advance(7)
        assert state_of(local, "a") == ("passing", "")


async def test_a_ttl_of_nanoseconds_expires_at_once(local: LocalState, clock: ManualClock) -> None:
    await local.add_check(CheckDefinition(id="a", name="a", ttl_ns=60))
    async with running(local):
        await clock.advance(0.001)
        assert state_of(local, "a") == ("critical", "TTL expired")


async def test_only_ttl_checks_take_reports(local: LocalState) -> None:
    await local.add_check(CheckDefinition(id="t", name="t", tcp="h:1", interval_ns=SECOND))
    for check_id in ("t", "none", ""):
        text = f'CheckID "{check_id}" does not have associated TTL'
        with pytest.raises(Rejected, match=text):
            local.update_ttl(check_id, "passing", "")


async def test_long_reports_are_cut(local: LocalState) -> None:
    await local.add_check(ttl("a"))
    local.update_ttl("a", "passing", "é" * 5000)
    output = state_of(local, "a")[1]
    assert output == "é" * 2048 + " ... (captured 4096 of 10000 bytes)"
    await local.add_check(ttl("b", output_max_size=3))
    local.update_ttl("b", "passing", "abcdef")
    assert state_of(local, "b")[1] == "abc ... (captured 3 of 6 bytes)"


async def test_output_can_be_discarded(clock: ManualClock) -> None:
    local = make_local(clock)
    await local.add_check(ttl("a"))
    local.update_ttl("a", "passing", "words")
    local.reconfigure(LocalSettings(discard_output=True))
    assert state_of(local, "a") == ("passing", "")
    local.update_ttl("a", "warning", "words")
    assert state_of(local, "a") == ("warning", "")


async def test_results_of_a_replaced_check_are_dropped(
    local: LocalState, clock: ManualClock
) -> None:
    await local.add_check(script("c", status="warning"))
    old = local.checks["c"]
    await local.add_check(script("c", notes="new"))
    assert local.checks["c"] is not old
    assert state_of(local, "c")[0] == "warning"
