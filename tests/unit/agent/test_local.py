"""The node's own services and checks: registration, states, maintenance, reloads."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from msgspec.structs import replace

from registry.agent.definition_rules import DefinitionRefused
from registry.agent.definitions import CheckDefinition, ServiceAddress
from registry.agent.local import DefinitionChanges, LocalSettings, LocalState
from registry.errors import ConfigError, NotFound, Rejected
from registry.hooks import CheckResult, CheckType
from registry.testing.local_agent import (
    SECOND,
    make_local,
    running,
    service,
    state_of,
    ttl,
)
from registry.testing.manual_clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def local(clock: ManualClock) -> LocalState:
    return make_local(clock)


def script(check_id: str, **fields: Any) -> CheckDefinition:
    return CheckDefinition(
        id=check_id, name=check_id, args=("true",), interval_ns=10 * SECOND, **fields
    )


def alias(check_id: str, service_id: str) -> CheckDefinition:
    return CheckDefinition(id=check_id, name="alias", alias_service=service_id)


# Registering


async def test_a_service_is_completed(local: LocalState) -> None:
    await local.add_service(service("web"))
    found = local.services["web"]
    assert (found.definition.id, found.source, found.in_sync) == ("web", "api", False)


@pytest.mark.parametrize(
    ("address", "given", "expected"),
    [
        ("", {}, {}),
        ("host.example", {}, {}),
        ("10.0.0.1", {}, {"lan_ipv4": "10.0.0.1", "wan_ipv4": "10.0.0.1"}),
        ("fd00::1", {}, {"lan_ipv6": "fd00::1", "wan_ipv6": "fd00::1"}),
        (
            "10.0.0.1",
            {"wan_ipv4": "198.51.100.1", "lan": "10.0.0.2"},
            {"lan_ipv4": "10.0.0.1", "wan_ipv4": "198.51.100.1", "lan": "10.0.0.2"},
        ),
    ],
)
async def test_tagged_addresses_follow_the_address(
    local: LocalState, address: str, given: dict[str, str], expected: dict[str, str]
) -> None:
    addresses = {name: ServiceAddress(each, 80) for name, each in given.items()}
    await local.add_service(service("web", address=address, port=80, tagged_addresses=addresses))
    found = local.services["web"].definition.tagged_addresses
    assert found == {name: ServiceAddress(each, 80) for name, each in expected.items()}


async def test_ids_and_names_of_a_services_checks(local: LocalState) -> None:
    await local.add_service(service("one", ttl(), id="one-1"))
    await local.add_service(service("two", ttl(), ttl("own", name="mine"), ttl(status="warning")))
    assert [(c.check_id, c.name, c.status) for c in local.checks.values()] == [
        ("service:one-1", "Service 'one' check", "critical"),
        ("service:two:1", "Service 'two' check", "critical"),
        ("own", "mine", "critical"),
        ("service:two:3", "Service 'two' check", "warning"),
    ]
    assert {c.service_id for c in local.checks_of("one-1")} == {"one-1"}


async def test_registering_again_keeps_state_and_other_checks(local: LocalState) -> None:
    await local.add_service(service("web", ttl("a")))
    local.update_ttl("a", "passing", "fine")
    await local.add_service(service("web", ttl("a"), ttl("b"), tags=("v2",)))
    assert state_of(local, "a") == ("passing", "fine")
    await local.add_service(service("web", ttl("c")))
    assert list(local.checks) == ["a", "b", "c"]
    assert local.checks["a"].service_tags == ("v2",), "only checks that come along are changed"
    assert local.checks["c"].service_tags == ()


async def test_a_files_tags_show_in_its_checks(local: LocalState) -> None:
    await local.start([service("web", ttl("a"), tags=("v1",))])
    await local.apply_definitions([service("web", ttl("a"), tags=("v2",))], [])
    assert local.checks["a"].service_tags == ("v2",)


async def test_replacing_checks_keeps_maintenance(local: LocalState) -> None:
    await local.add_service(service("web", ttl("a"), ttl("b")))
    await local.enable_service_maintenance("web")
    await local.add_service(service("web", ttl("b"), ttl("c")), replace_checks=True)
    assert sorted(local.checks) == ["_service_maintenance:web", "b", "c"]


async def test_removing_a_service_takes_its_checks(local: LocalState) -> None:
    await local.add_service(service("web", ttl("a")))
    await local.add_check(ttl("b", service_id="web"))
    await local.add_check(ttl("node"))
    assert await local.remove_service("web") is True
    assert (list(local.services), list(local.checks)) == ([], ["node"])
    assert await local.remove_service("web") is False
    with pytest.raises(Rejected, match="ServiceID missing"):
        await local.remove_service("")


async def test_a_check_of_a_service(local: LocalState) -> None:
    await local.add_service(service("web", id="web-1", tags=("t",)))
    await local.add_check(ttl("c", service_id="web-1"))
    check = local.checks["c"]
    assert (check.service_name, check.service_tags, check.type_name) == ("web", ("t",), "ttl")
    with pytest.raises(Rejected, match='ServiceID "none" does not exist'):
        await local.add_check(ttl("d", service_id="none"))
    assert "d" not in local.checks


async def test_removing_checks(local: LocalState) -> None:
    await local.add_check(ttl("c"))
    assert await local.remove_check("c") is True
    assert await local.remove_check("c") is False
    with pytest.raises(Rejected, match="CheckID missing"):
        await local.remove_check("")


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


# TTL


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


# Alias


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


# Runs of interval checks


async def test_results_of_a_replaced_check_are_dropped(
    local: LocalState, clock: ManualClock
) -> None:
    await local.add_check(script("c", status="warning"))
    old = local.checks["c"]
    await local.add_check(script("c", notes="new"))
    assert local.checks["c"] is not old
    assert state_of(local, "c")[0] == "warning"


# Maintenance


async def test_service_maintenance(local: LocalState) -> None:
    await local.add_service(service("web", id="web-1"))
    await local.enable_service_maintenance("web-1", "because")
    check = local.checks["_service_maintenance:web-1"]
    assert (check.name, check.status, check.type_name) == (
        "Service Maintenance Mode",
        "critical",
        "maintenance",
    )
    assert (check.definition.notes, check.service_name) == ("because", "web")
    await local.enable_service_maintenance("web-1", "again")
    assert local.checks["_service_maintenance:web-1"].definition.notes == "because"
    await local.disable_service_maintenance("web-1")
    await local.disable_service_maintenance("web-1")
    assert not local.checks


async def test_node_maintenance(local: LocalState) -> None:
    await local.enable_node_maintenance()
    check = local.checks["_node_maintenance"]
    assert check.definition.notes == (
        "Maintenance mode is enabled for this node, but no reason was provided. "
        "This is a default message."
    )
    await local.disable_node_maintenance()
    await local.disable_node_maintenance()
    assert not local.checks


async def test_maintenance_of_a_service_that_is_not_there(local: LocalState) -> None:
    for change in (local.enable_service_maintenance, local.disable_service_maintenance):
        with pytest.raises(NotFound, match='No service registered with ID "none"'):
            await change("none")


# Giving up services


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


# Files


async def test_a_reload_is_a_difference(local: LocalState) -> None:
    web, db = service("web", ttl("w")), service("db", ttl("d"))
    node = ttl("node")
    await local.start([web, db], [node])
    for check_id in ("w", "d", "node"):
        local.update_ttl(check_id, "passing", check_id)
    before = dict(local.checks)
    changes = await local.apply_definitions(
        [web, replace(db, port=5), service("new")], [replace(node, notes="n")]
    )
    assert changes == DefinitionChanges(
        added=("service new",), changed=("service db", "check node"), removed=()
    )
    assert local.checks["w"] is before["w"]
    assert local.checks["d"] is before["d"]
    assert local.checks["node"] is not before["node"]
    assert state_of(local, "node") == ("passing", "node")
    changes = await local.apply_definitions([web], [])
    assert changes.removed == ("service db", "service new", "check d", "check node")
    assert (list(local.services), list(local.checks)) == (["web"], ["w"])
    assert await local.apply_definitions([web], []) == DefinitionChanges()


async def test_a_reload_brings_back_what_was_removed_over_http(local: LocalState) -> None:
    web = service("web", ttl("w"))
    await local.start([web])
    await local.remove_check("w")
    assert (await local.apply_definitions([web], [])).added == ("check w",)
    await local.remove_service("web")
    assert (await local.apply_definitions([web], [])).added == ("service web", "check w")


async def test_a_reload_leaves_registrations_alone(local: LocalState) -> None:
    await local.start([service("web")])
    await local.add_service(service("api", ttl("a")))
    await local.add_check(ttl("extra", service_id="web"))
    await local.apply_definitions([service("web", port=1)], [])
    assert sorted(local.services) == ["api", "web"]
    assert sorted(local.checks) == ["a", "extra"]
    await local.apply_definitions([service("api", port=9)], [])
    assert local.services["api"].source == "file"
    assert sorted(local.checks) == ["a"]


@pytest.mark.parametrize(
    ("definition", "text"),
    [
        (CheckDefinition(id="x", name="x", ttl_ns=1, service_id="none"), "does not exist"),
        (CheckDefinition(id="x", name="x", plugin_type="odd", interval_ns=SECOND), 'type "odd"'),
        (CheckDefinition(id="x", name="x", http="http://h"), "Interval must be > 0"),
        (CheckDefinition(ttl_ns=1), "CheckID missing"),
    ],
)
async def test_a_bad_reload_changes_nothing(
    local: LocalState, definition: CheckDefinition, text: str
) -> None:
    await local.start([service("web", ttl("w"))])
    with pytest.raises(ConfigError, match=text):
        await local.apply_definitions([service("other")], [definition])
    assert (list(local.services), list(local.checks)) == (["web"], ["w"])


async def test_a_file_may_define_a_check_for_its_service(local: LocalState) -> None:
    await local.start([service("web")], [ttl("w", service_id="web")])
    assert local.checks["w"].service_name == "web"
