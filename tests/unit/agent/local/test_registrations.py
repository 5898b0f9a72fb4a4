"""Services and checks registered, changed and taken out."""

from __future__ import annotations

import pytest

from registry.agent.definitions import ServiceAddress
from registry.agent.local.state import LocalState
from registry.errors import Rejected
from registry.testing.local_agent import service, state_of, ttl


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


async def test_replacing_checks_keeps_maintenance(local: LocalState) -> None:
    await local.add_service(service("web", ttl("a"), ttl("b")))
    await local.maintenance.enable_service("web")
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
