"""Reads of checks and of services with their checks."""

from __future__ import annotations

from typing import Any

import pytest

from registry.state.base import Query
from registry.state.catalog_commands import Deregister, Register
from registry.state.catalog_records import Check, Service
from registry.state.config_entries import SetConfigEntry
from registry.state.health import (
    AllHealth,
    ChecksInState,
    IngressHealth,
    NodeChecks,
    NodeHealth,
    ServiceChecks,
    ServiceHealth,
)
from registry.state.topics import Topic
from registry.testing.state import Replica


def check(check_id: str, status: str = "passing", service_id: str = "") -> Check:
    return Check(check_id=check_id, name=check_id, status=status, service_id=service_id)


def node(name: str, *checks: Check, service: Service | None = None, **more: Any) -> Register:
    return Register(
        node=name, address="10.0.0.1", datacenter="dc1", service=service, checks=checks, **more
    )


def web(**more: Any) -> Service:
    return Service(**{"id": "s1", "name": "web", "tags": ("v1", "Blue"), **more})


@pytest.fixture
def replica() -> Replica:
    """Nodes a (all passing), b (a warning instance), c (a critical node)."""
    replica = Replica()
    replica.apply_all(
        [
            node("a", check("node"), check("own", service_id="s1"), service=web()),
            node(
                "b",
                check("node"),
                check("own", "warning", "s1"),
                service=web(tags=("v2",)),
                node_meta={"rack": "2"},
            ),
            node("c", check("node", "critical"), check("own", service_id="s1"), service=web()),
            node("c", service=Service(id="s2", name="db")),
        ]
    )
    return replica


@pytest.mark.parametrize(
    ("query", "nodes"),
    [
        pytest.param(ServiceHealth(name="web"), ["a", "b", "c"], id="all"),
        pytest.param(ServiceHealth(name="web", passing_only=True), ["a"], id="passing"),
        pytest.param(ServiceHealth(name="db", passing_only=True), [], id="node-check-counts"),
        pytest.param(ServiceHealth(name="web", tags=("v1",)), ["a", "c"], id="tag"),
        pytest.param(ServiceHealth(name="web", tags=("V1", "blue")), ["a", "c"], id="tag-case"),
        pytest.param(ServiceHealth(name="web", tags=("v1", "v2")), [], id="all-tags"),
        pytest.param(ServiceHealth(name="web", tags=("",)), [], id="empty-tag"),
        pytest.param(ServiceHealth(name="web", tags=()), ["a", "b", "c"], id="no-tag"),
        pytest.param(ServiceHealth(name="web", node_meta={"rack": "2"}), ["b"], id="node-meta"),
        pytest.param(ServiceHealth(name="web", node_meta={"rack": ""}), [], id="empty-meta"),
        pytest.param(ServiceHealth(name="none"), [], id="unknown"),
        pytest.param(ServiceHealth(name="web", connect=True), [], id="no-proxies"),
    ],
)
def test_instances(replica: Replica, query: ServiceHealth, nodes: list[str]) -> None:
    assert [each.node.node for each in replica.ask(query)] == nodes


def test_the_index_is_that_of_the_service_before_any_filter(replica: Replica) -> None:
    assert replica.index_of(ServiceHealth(name="web", tags=("none",))) == 3
    replica.apply(node("a", check("own", "warning", "s1")))
    assert replica.index_of(ServiceHealth(name="web", passing_only=True)) == 5
    assert replica.index_of(ServiceHealth(name="db")) == 4


def test_an_instance_shows_the_nodes_checks_first_and_no_others(replica: Replica) -> None:
    replica.apply(node("c", check("db-own", service_id="s2")))
    found = {each.node.node: each.checks for each in replica.ask(ServiceHealth(name="web"))}
    assert [each.check_id for each in found["c"]] == ["node", "own"]


@pytest.mark.parametrize(
    ("query", "checks"),
    [
        pytest.param(NodeChecks(node="C"), ["c/node", "c/own"], id="node"),
        pytest.param(NodeChecks(node="none"), [], id="no-node"),
        pytest.param(ServiceChecks(name="WEB"), ["a/own", "b/own", "c/own"], id="service"),
        pytest.param(ServiceChecks(name="web", node_meta={"rack": "2"}), ["b/own"], id="by-meta"),
        pytest.param(ServiceChecks(name="none"), [], id="no-service"),
        pytest.param(ChecksInState(state="critical"), ["c/node"], id="critical"),
        pytest.param(ChecksInState(state="warning"), ["b/own"], id="warning"),
        pytest.param(ChecksInState(state="odd"), [], id="odd-state"),
        pytest.param(
            ChecksInState(state="any", node_meta={"rack": "2"}),
            ["b/node", "b/own"],
            id="any-by-meta",
        ),
    ],
)
def test_checks(replica: Replica, query: Query, checks: list[str]) -> None:
    assert [f"{each.node}/{each.check_id}" for each in replica.ask(query)] == checks


def test_a_check_moves_between_states(replica: Replica) -> None:
    topics = set(ChecksInState(state="warning").topics(replica.machine.reader))
    seen: set[Topic] = set()
    replica.machine.topics.listen(seen.update)
    replica.apply(node("b", check("own", "passing", "s1")))
    assert topics <= seen, "who waits for a state hears of those that leave it"
    assert replica.ask(ChecksInState(state="warning")) == []


@pytest.mark.parametrize(
    ("query", "index"),
    [
        pytest.param(NodeChecks(node="a"), 4, id="node"),
        pytest.param(ServiceChecks(name="web"), 4, id="service"),
        pytest.param(ServiceChecks(name="web", node_meta={"rack": "2"}), 4, id="service-by-meta"),
        pytest.param(ServiceChecks(name="none", node_meta={"a": ""}), 5, id="unknown-by-meta"),
        pytest.param(ChecksInState(state="any"), 4, id="state"),
        pytest.param(ChecksInState(state="any", node_meta={"a": ""}), 5, id="state-by-meta"),
    ],
)
def test_indexes_of_check_reads(query: Query, index: int) -> None:
    replica = Replica()
    replica.apply_all(
        [node("a"), node("b"), node("a", service=web()), node("a", check("own", service_id="s1"))]
    )
    replica.apply(node("z"))
    assert replica.index_of(query) == index


def test_everything_at_once(replica: Replica) -> None:
    everything = replica.ask(AllHealth())
    assert [(each.service.name, each.node.node) for each in everything] == [
        ("db", "c"),
        ("web", "a"),
        ("web", "b"),
        ("web", "c"),
    ]
    assert [len(each.checks) for each in everything] == [1, 2, 2, 2]
    assert [each.node.node for each in replica.ask(NodeHealth())] == ["a", "b", "c"]
    [only] = replica.ask(NodeHealth(node="c"))
    assert ([each.name for each in only.services], len(only.checks)) == (["web", "db"], 2)
    assert replica.ask(NodeHealth(node="none")) == []


def test_ingress_gateways_of_a_service(replica: Replica) -> None:
    query = IngressHealth(service="web")
    assert replica.ask(query) == []
    listeners = [{"Port": 1, "Protocol": "tcp", "Services": [{"Name": "web"}]}]
    waiting = set(query.topics(replica.machine.reader))
    seen: set[Topic] = set()
    replica.machine.topics.listen(seen.update)
    replica.apply(
        SetConfigEntry(kind="ingress-gateway", name="door", settings={"Listeners": listeners})
    )
    assert waiting & seen
    replica.apply(node("a", service=Service(name="door", kind="ingress-gateway")))
    assert [each.service.name for each in replica.ask(query)] == ["door"]
    assert replica.index_of(query) == replica.index
    replica.apply(Deregister(node="a", service_id="door"))
    assert replica.ask(query) == []
