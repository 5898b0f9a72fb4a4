"""What a check is judged by, and how it gets its runner."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from msgspec.structs import replace

from registry.agent.definition_rules import DefinitionRefused
from registry.agent.definitions import CheckDefinition
from registry.agent.local.settings import LocalSettings
from registry.agent.local.state import LocalState
from registry.hooks import CheckResult, CheckType
from registry.testing.local_agent import SECOND, make_local, running, service, state_of
from registry.testing.manual_clock import ManualClock


def script(check_id: str, **fields: Any) -> CheckDefinition:
    return CheckDefinition(
        id=check_id, name=check_id, args=("true",), interval_ns=10 * SECOND, **fields
    )


@pytest.mark.parametrize(
    ("settings", "source", "text"),
    [
        (LocalSettings(), "file", "Scripts are disabled on this agent; to enable, configure"),
        (LocalSettings(), "api", "Scripts are disabled on this agent from remote calls"),
        (LocalSettings(scripts_from_files=True), "api", "from remote calls; to enable"),
        (LocalSettings(scripts_from_files=True), "file", ""),
        (LocalSettings(scripts_from_api=True, scripts_from_files=True), "api", ""),
    ],
)
async def test_scripts_need_permission(
    clock: ManualClock, settings: LocalSettings, source: str, text: str
) -> None:
    local = make_local(clock, settings=settings)
    if not text:
        await local.add_check(script("c"), source=source)
        assert local.checks["c"].type_name == "script"
        return
    with pytest.raises(DefinitionRefused, match=text):
        await local.add_check(script("c"), source=source)
    with pytest.raises(DefinitionRefused, match=text):
        await local.add_service(service("web", script("c")), source=source)
    assert (dict(local.services), dict(local.checks)) == ({}, {})


async def test_kinds_come_from_the_hook(clock: ManualClock) -> None:
    class Runner:
        async def run(self) -> CheckResult:
            return CheckResult("passing", "checked")

    def create(definition: CheckDefinition) -> Runner:
        if definition.plugin_settings.get("bad"):
            raise ValueError("bad is not good")
        return Runner()

    kinds = {"mine": CheckType(key="mine", type_name="my-type", create=create)}
    local = LocalState(node_name="n1", check_types=kinds.get, clock=clock)
    check = CheckDefinition(id="c", name="c", plugin_type="mine", interval_ns=SECOND)
    await local.add_check(check)
    async with running(local):
        await clock.advance(2)
    assert local.checks["c"].type_name == "my-type"
    assert state_of(local, "c") == ("passing", "checked")
    with pytest.raises(DefinitionRefused, match="Check is not valid: bad is not good"):
        await local.add_check(replace(check, plugin_settings={"bad": True}))
    with pytest.raises(DefinitionRefused, match='there is no check type "other"'):
        await local.add_check(replace(check, plugin_type="other"))
    assert local.checks["c"].definition == check


async def test_short_times_are_raised_with_a_warning(
    local: LocalState, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "registry.agent"):
        await local.add_check(
            CheckDefinition(
                id="c",
                name="c",
                tcp="h:1",
                interval_ns=1,
                deregister_critical_service_after_ns=SECOND,
            )
        )
    definition = local.checks["c"].definition
    assert definition.interval_ns == SECOND
    assert definition.deregister_critical_service_after_ns == 60 * SECOND
    assert len(caplog.records) == 2
