"""The catalog follows the local state: partial and full syncs, failures, what others changed."""

from __future__ import annotations

from typing import Any

import pytest

from registry.agent.anti_entropy import AntiEntropy, NodeFacts, scale_factor
from registry.agent.definitions import CheckDefinition, ServiceAddress, Weights
from registry.agent.local.settings import LocalSettings
from registry.agent.local.state import LocalState
from registry.errors import NoLeader, RegistryError, Rejected
from registry.state.base import Command, ReadOptions, Refused
from registry.state.catalog_commands import Deregister, Register
from registry.state.catalog_queries import NodeServices
from registry.state.catalog_records import Check, Node, Service
from registry.state.health import NodeChecks
from registry.testing.consensus import InstantBackend
from registry.testing.local_agent import (
    FACTS,
    SECOND,
    make_local,
    make_sync,
    running,
    service,
    state_of,
    ttl,
)
from registry.testing.manual_clock import ManualClock


class Catalog(InstantBackend):
    """The real state machine, with a note of each write, that can be without a leader."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[Command] = []
        self.tries = 0
        self.down = False
        self.refuse: str = ""

    async def write(self, command: Command) -> Any:
        self.tries += 1
        if self.down:
            raise NoLeader
        if self.refuse and self.refuse in repr(command):
            return Refused("no such luck")
        self.writes.append(command)
        return await super().write(command)

    async def read(self, query: Any, options: ReadOptions) -> Any:
        if self.down:
            self.tries += 1
            raise NoLeader
        return await super().read(query, options)

    async def services(self) -> dict[str, Service]:
        found = await super().read(NodeServices(node="n1"), ReadOptions())
        return {} if found.value is None else {each.id: each for each in found.value.services}

    async def node(self) -> Node:
        found = await super().read(NodeServices(node="n1"), ReadOptions())
        node: Node = found.value.node
        return node

    async def checks(self) -> dict[str, Check]:
        found = await super().read(NodeChecks(node="n1"), ReadOptions())
        return {each.check_id: each for each in found.value}

    def taken(self) -> list[Command]:
        writes, self.writes = self.writes, []
        return writes


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def catalog() -> Catalog:
    return Catalog()


@pytest.fixture
def local(clock: ManualClock, catalog: Catalog) -> LocalState:
    return make_local(clock, backend=catalog)


@pytest.fixture
def sync(local: LocalState, catalog: Catalog, clock: ManualClock) -> AntiEntropy:
    return make_sync(local, catalog, clock)


async def test_everything_of_a_service_reaches_the_catalog(
    local: LocalState, sync: AntiEntropy, catalog: Catalog
) -> None:
    await local.add_service(
        service(
            "web",
            ttl("c", status="warning", notes="n"),
            id="web-1",
            tags=("b", "a"),
            address="10.0.0.9",
            port=80,
            meta={"k": "v"},
            weights=Weights(10, 3),
            tagged_addresses={"lan": ServiceAddress("10.0.0.9", 81)},
            kind="connect-proxy",
            proxy={"DestinationServiceName": "db"},
        )
    )
    await local.flush()
    found = (await catalog.services())["web-1"]
    assert (found.name, found.tags, found.port, found.meta) == ("web", ("b", "a"), 80, {"k": "v"})
    assert found.tagged_addresses is not None
    assert sorted(found.tagged_addresses) == ["lan", "lan_ipv4", "wan_ipv4"]
    assert found.proxy == {"DestinationServiceName": "db"}
    check = (await catalog.checks())["c"]
    assert (check.status, check.notes, check.type, check.service_name) == (
        "warning", "n", "ttl", "web",
    )  # fmt: skip
    assert check.create_index == found.create_index  # one write for a service with its checks
    assert (await catalog.node()).meta == FACTS.meta


async def test_tags_that_were_never_given_are_none_in_the_catalog(
    local: LocalState, sync: AntiEntropy, catalog: Catalog
) -> None:
    await local.add_service(service("web", ttl("c")))
    await local.flush()
    found, check = (await catalog.services())["web"], (await catalog.checks())["c"]
    assert (found.tags, check.service_tags) == (None, None)


async def test_a_sync_writes_what_changed_and_nothing_else(
    local: LocalState, sync: AntiEntropy, catalog: Catalog
) -> None:
    for name in ("a", "b"):
        await local.add_service(service(name, ttl(f"{name}-c")))
    await local.flush()
    catalog.taken()
    await local.flush()
    assert catalog.taken() == []
    local.update_ttl("a-c", "passing", "")
    await local.flush()
    (write,) = catalog.taken()
    assert isinstance(write, Register)
    assert (write.service, [each.check_id for each in write.checks]) == (None, ["a-c"])
    local.update_ttl("a-c", "passing", "")
    await local.flush()
    assert catalog.taken() == []


async def test_removals(local: LocalState, sync: AntiEntropy, catalog: Catalog) -> None:
    await local.add_service(service("web", ttl("a"), ttl("b")))
    await local.add_check(ttl("node"))
    await local.flush()
    catalog.taken()
    await local.remove_check("a")
    await local.flush()
    assert catalog.taken() == [Deregister(node="n1", check_id="a")]
    await local.remove_service("web")
    await local.flush()
    assert catalog.taken() == [Deregister(node="n1", service_id="web")]
    assert (list(await catalog.services()), list(await catalog.checks())) == ([], ["node"])
    await local.flush()
    assert catalog.taken() == []


async def test_a_service_that_comes_back_before_its_removal_was_synced(
    local: LocalState, sync: AntiEntropy, catalog: Catalog
) -> None:
    await local.add_service(service("web", ttl("a"), ttl("b")))
    await local.flush()
    await local.remove_service("web")
    await local.add_service(service("web", ttl("b")))
    await local.flush()
    assert list(await catalog.services()) == ["web"]
    assert list(await catalog.checks()) == ["b"]


async def test_status_is_written_at_once_and_output_later(
    clock: ManualClock, catalog: Catalog
) -> None:
    local = make_local(clock, settings=LocalSettings(update_interval_ns=60 * SECOND))
    sync = make_sync(local, catalog, clock)
    await local.add_check(ttl("c", 10_000))
    async with running(local, sync):
        await clock.advance(1)
        local.update_ttl("c", "passing", "one")
        await clock.settle()
        assert (await catalog.checks())["c"].output == "one"
        for number in range(25):
            local.update_ttl("c", "passing", f"later {number}")
            await clock.advance(1)
        assert (await catalog.checks())["c"].output == "one"
        assert state_of(local, "c")[1] == "later 24"
        await clock.advance(66)
        assert (await catalog.checks())["c"].output == "later 24"
        local.update_ttl("c", "passing", "newest")
        local.update_ttl("c", "critical", "down")
        await clock.settle()
        assert (await catalog.checks())["c"].output == "down"


async def test_output_is_written_at_once_without_an_update_interval(
    clock: ManualClock, catalog: Catalog
) -> None:
    local = make_local(clock, settings=LocalSettings(update_interval_ns=0))
    make_sync(local, catalog, clock)
    await local.add_check(ttl("c"))
    for output in ("one", "two"):
        local.update_ttl("c", "passing", output)
        await local.flush()
        assert (await catalog.checks())["c"].output == output


async def test_a_full_sync_does_not_write_output_that_is_held_back(
    local: LocalState, sync: AntiEntropy, catalog: Catalog
) -> None:
    await local.add_check(ttl("c"))
    local.update_ttl("c", "passing", "one")
    await local.flush()
    local.update_ttl("c", "passing", "two")
    catalog.taken()
    await sync.sync_full()
    assert catalog.taken() == []


async def test_a_full_sync_heals_what_others_changed(
    local: LocalState, sync: AntiEntropy, catalog: Catalog
) -> None:
    await local.add_service(service("web", ttl("w"), port=80))
    await local.add_service(service("db", ttl("d")))
    await local.flush()
    await catalog.write(Deregister(node="n1", service_id="web"))
    await catalog.write(
        Register(
            node="n1",
            address="10.9.9.9",
            service=Service(id="db", name="db", port=1),
            checks=(
                Check(check_id="d", name="d", status="passing", service_id="db"),
                Check(check_id="alien", name="alien"),
            ),
        )
    )
    await catalog.write(
        Register(node="n1", skip_node_update=True, service=Service(id="alien", name="alien"))
    )
    await sync.sync_full()
    services, checks = await catalog.services(), await catalog.checks()
    assert sorted(services) == ["db", "web"]
    assert (services["db"].port, services["web"].port) == (0, 80)
    assert {name: check.status for name, check in checks.items()} == {
        "w": "critical",
        "d": "critical",
    }
    node = await catalog.node()
    assert (node.address, node.id, node.meta) == (FACTS.address, FACTS.id, FACTS.meta)
    catalog.taken()
    await sync.sync_full()
    assert catalog.taken() == []


async def test_what_the_leader_keeps_is_left_alone(
    local: LocalState, sync: AntiEntropy, catalog: Catalog
) -> None:
    await catalog.write(
        Register(
            node="n1",
            address="10.0.0.1",
            service=Service(id="consul", name="consul", port=8300),
            checks=(Check(check_id="serfHealth", name="Serf Health Status", status="passing"),),
        )
    )
    await sync.sync_full()
    assert (list(await catalog.services()), list(await catalog.checks())) == (
        ["consul"],
        ["serfHealth"],
    )


@pytest.mark.parametrize("override", [True, False])
async def test_tags_in_the_catalog(
    local: LocalState, sync: AntiEntropy, catalog: Catalog, override: bool
) -> None:
    given = service("web", ttl("c"), tags=("ours",), enable_tag_override=override)
    await local.start([given])
    await local.flush()
    there = (await catalog.services())["web"]
    changed = Service(
        id="web", name="web", tags=("theirs",), port=99, enable_tag_override=override,
        weights=there.weights,
    )  # fmt: skip
    await catalog.write(Register(node="n1", skip_node_update=True, service=changed))
    await sync.sync_full()
    expected = ("theirs",) if override else ("ours",)
    found = (await catalog.services())["web"]
    assert (found.tags, found.port) == (expected, 0)
    assert local.services["web"].definition.tags == expected
    assert local.checks["c"].service_tags == expected
    # A reload of the same file is no change and does not bring the old tags back.
    await local.apply_definitions([given], [])
    assert local.services["web"].definition.tags == expected


async def test_changes_are_synced_without_being_asked(
    local: LocalState, sync: AntiEntropy, catalog: Catalog, clock: ManualClock
) -> None:
    async with running(local, sync):
        await clock.settle()
        await local.add_service(service("web", ttl("c", 10, status="passing")))
        await clock.settle()
        assert (await catalog.checks())["c"].status == "passing"
        await clock.advance(10)
        assert (await catalog.checks())["c"].output == "TTL expired"
        await local.remove_service("web")
        await clock.settle()
        assert await catalog.services() == {}


async def test_a_full_sync_comes_by_itself(
    local: LocalState, sync: AntiEntropy, catalog: Catalog, clock: ManualClock
) -> None:
    await local.add_service(service("web"))
    async with running(local, sync):
        await clock.settle()
        await catalog.write(Deregister(node="n1", service_id="web"))
        await clock.advance(59)
        assert await catalog.services() == {}
        await clock.advance(61)
        assert list(await catalog.services()) == ["web"]
        await catalog.write(Deregister(node="n1", service_id="web"))
        sync.trigger_full()
        await clock.settle()
        assert list(await catalog.services()) == ["web"]


async def test_failures_are_tried_again_less_and_less_often(
    local: LocalState, sync: AntiEntropy, catalog: Catalog, clock: ManualClock
) -> None:
    catalog.down = True
    await local.add_service(service("web"))
    async with running(local, sync):
        await clock.advance(2)
        assert 2 <= catalog.tries <= 5
        await clock.advance(300)
        before = catalog.tries
        await clock.advance(60)
        assert 2 <= catalog.tries - before <= 4
        catalog.down = False
        await clock.advance(31)
        assert list(await catalog.services()) == ["web"]


async def test_registering_without_a_leader_is_no_failure(
    local: LocalState, sync: AntiEntropy, catalog: Catalog
) -> None:
    catalog.down = True
    await local.add_service(service("web"))
    await local.flush()
    with pytest.raises(NoLeader):
        await sync.sync_changes()
    catalog.down = False
    await local.flush()
    assert list(await catalog.services()) == ["web"]


async def test_one_refusal_does_not_hold_up_the_rest(
    local: LocalState, sync: AntiEntropy, catalog: Catalog
) -> None:
    catalog.refuse = "bad"
    for name in ("a", "bad", "c"):
        await local.add_service(service(name))
    with pytest.raises(Rejected, match="no such luck"):
        await sync.sync_changes()
    assert sorted(await catalog.services()) == ["a", "c"]


async def test_a_check_whose_service_was_taken_from_the_catalog_brings_it_back(
    local: LocalState, sync: AntiEntropy, catalog: Catalog, clock: ManualClock
) -> None:
    async with running(local, sync):
        await local.add_service(service("web", ttl("c", 10_000)))
        await clock.settle()
        await catalog.write(Deregister(node="n1", service_id="web"))
        local.update_ttl("c", "passing", "")
        await clock.advance(1)
        assert list(await catalog.services()) == ["web"]
        assert (await catalog.checks())["c"].status == "passing"


async def test_a_change_during_a_write_is_written_next(
    local: LocalState, sync: AntiEntropy, catalog: Catalog
) -> None:
    await local.add_check(ttl("c"))
    plain = catalog.write

    async def write(command: Command) -> Any:
        if local.checks["c"].status == "critical":
            local.update_ttl("c", "passing", "meanwhile")
        return await plain(command)

    catalog.write = write  # type: ignore[method-assign]
    await sync.sync_changes()
    await sync.sync_changes()
    assert (await catalog.checks())["c"].output == "meanwhile"
    assert local.checks["c"].in_sync


async def test_new_facts_are_written(
    local: LocalState, sync: AntiEntropy, catalog: Catalog
) -> None:
    await sync.sync_full()
    sync.set_facts(NodeFacts("n1", FACTS.id, FACTS.address, "dc1", {}, {"rack": "r2"}))
    await sync.sync_changes()
    assert (await catalog.node()).meta == {"rack": "r2"}


@pytest.mark.parametrize(
    ("nodes", "factor"), [(1, 1), (128, 1), (129, 2), (256, 2), (257, 3), (1024, 4)]
)
def test_the_interval_grows_with_the_pool(nodes: int, factor: int) -> None:
    assert scale_factor(nodes) == factor


async def test_an_alias_of_another_node_follows_the_catalog(
    local: LocalState, sync: AntiEntropy, catalog: Catalog, clock: ManualClock
) -> None:
    async def put(status: str, output: str = "") -> None:
        node_check = Check(check_id="nc", name="n", status=status, output=output)
        await catalog.write(
            Register(
                node="n2",
                address="10.0.0.2",
                service=Service(id="db", name="db"),
                checks=(node_check,),
            )
        )

    await put("passing")
    await local.add_check(CheckDefinition(id="al", name="al", alias_node="n2", alias_service="db"))
    async with running(local):
        await clock.settle()
        assert state_of(local, "al") == ("passing", "All checks passing.")
        await put("critical", "down")
        await clock.settle()
        assert state_of(local, "al") == ("critical", 'Aliased check "n" failing: down')
        await put("passing")
        await catalog.write(Deregister(node="n2", service_id="db"))
        await put_only_node_check(catalog)
        await clock.settle()
        assert state_of(local, "al") == ("critical", "Service db could not be found on node n2")


async def put_only_node_check(catalog: Catalog) -> None:
    check = Check(check_id="nc", name="n", status="passing", output="nudge")
    await catalog.write(Register(node="n2", skip_node_update=True, checks=(check,)))


async def test_an_alias_without_servers_says_so(
    local: LocalState, catalog: Catalog, clock: ManualClock
) -> None:
    catalog.down = True
    await local.add_check(CheckDefinition(id="al", name="al", alias_node="n2"))
    async with running(local):
        await clock.settle()
        text = "Failure checking aliased node or service: No cluster leader"
        assert state_of(local, "al") == ("critical", text)
        catalog.down = False
        await clock.advance(1)
        assert state_of(local, "al") == ("passing", "No checks found.")
    assert issubclass(NoLeader, RegistryError)
