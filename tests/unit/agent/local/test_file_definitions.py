"""Definitions from files, and what a reload of them changes."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from registry.agent.definitions import CheckDefinition
from registry.agent.local.file_definitions import DefinitionChanges
from registry.agent.local.state import LocalState
from registry.errors import ConfigError
from registry.testing.local_agent import SECOND, service, state_of, ttl


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


async def test_a_files_tags_show_in_its_checks(local: LocalState) -> None:
    await local.start([service("web", ttl("a"), tags=("v1",))])
    await local.apply_definitions([service("web", ttl("a"), tags=("v2",))], [])
    assert local.checks["a"].service_tags == ("v2",)
