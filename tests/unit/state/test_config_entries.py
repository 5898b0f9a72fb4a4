"""Configuration entries: kept by kind and name, compared and set."""

from __future__ import annotations

import pytest

from registry.state.config_entries import (
    DeleteConfigEntry,
    GatewayServices,
    GetConfigEntry,
    ListConfigEntries,
    SetConfigEntry,
)
from registry.state.topics import Topic
from registry.testing.state import Replica

KIND = "service-defaults"


def put(replica: Replica, name: str, cas_index: int | None = None, **settings: object) -> object:
    command = SetConfigEntry(kind=KIND, name=name, settings=settings, cas_index=cas_index)
    return replica.apply(command)


@pytest.fixture
def replica() -> Replica:
    return Replica()


def test_an_entry_keeps_its_create_index(replica: Replica) -> None:
    put(replica, "web", Protocol="http")
    put(replica, "web", Protocol="tcp")
    found = replica.ask(GetConfigEntry(kind=KIND, name="WEB"))
    assert (found.create_index, found.modify_index) == (1, 2)
    assert found.settings == {"Protocol": "tcp"}


@pytest.mark.parametrize(
    ("cas_index", "done"),
    [
        pytest.param(None, True, id="unconditional"),
        pytest.param(0, False, id="only-if-absent"),
        pytest.param(1, True, id="right-index"),
        pytest.param(7, False, id="stale-index"),
    ],
)
def test_compare_and_set(replica: Replica, cas_index: int | None, done: bool) -> None:
    put(replica, "web")
    assert put(replica, "web", cas_index, Protocol="http") is done
    assert replica.index_of(ListConfigEntries(kind=KIND)) == (2 if done else 1)


def test_compare_and_set_of_what_is_absent(replica: Replica) -> None:
    assert put(replica, "web", 3) is False
    assert put(replica, "web", 0) is True


def test_listing_and_deleting(replica: Replica) -> None:
    put(replica, "b")
    put(replica, "a")
    assert [each.name for each in replica.ask(ListConfigEntries(kind=KIND))] == ["a", "b"]
    assert replica.ask(ListConfigEntries(kind="proxy-defaults")) == []
    topics = set(GetConfigEntry(kind=KIND, name="a").topics(replica.machine.reader))
    seen: set[Topic] = set()
    replica.machine.topics.listen(seen.update)
    assert replica.apply(DeleteConfigEntry(kind=KIND, name="b")) is True
    assert not topics & seen
    assert replica.apply(DeleteConfigEntry(kind=KIND, name="a")) is True
    assert topics & seen
    assert replica.apply(DeleteConfigEntry(kind=KIND, name="a")) is True
    assert replica.index_of(ListConfigEntries(kind=KIND)) == 4


def test_services_behind_gateways(replica: Replica) -> None:
    replica.apply(
        SetConfigEntry(
            kind="terminating-gateway",
            name="out",
            settings={"Services": [{"Name": "legacy", "SNI": "x"}, "nonsense"]},
        )
    )
    replica.apply(
        SetConfigEntry(
            kind="ingress-gateway",
            name="in",
            settings={"Listeners": [{"Port": 80, "Services": [{"Name": "web", "Hosts": ["h"]}]}]},
        )
    )
    [legacy] = replica.ask(GatewayServices(gateway="out"))
    assert (legacy.service, legacy.gateway_kind, legacy.sni) == (
        "legacy",
        "terminating-gateway",
        "x",
    )
    [web] = replica.ask(GatewayServices(gateway="in"))
    assert (web.service, web.port, web.hosts) == ("web", 80, ("h",))
    assert replica.ask(GatewayServices(gateway="none")) == []
