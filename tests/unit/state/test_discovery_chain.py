"""Whether entries fit together: chains that are refused, and what a change is refused for."""

from __future__ import annotations

from typing import Any

import pytest

from registry.state.base import Refused
from registry.state.config_entries import DeleteConfigEntry, SetConfigEntry
from registry.state.discovery_chain import ChainError, Settings, require_chain
from registry.testing.state import Replica

Entries = dict[str, Settings]

HTTP: Entries = {"proxy-defaults/global": {"Config": {"protocol": "HTTP"}}}


def splits(*services: str) -> Settings:
    return {"Splits": [{"Weight": 1, "Service": each} for each in services]}


def routes(*services: str) -> Settings:
    return {"Routes": [{"Destination": {"Service": each}} for each in services]}


def flaw_of(entries: Entries, service: str = "a") -> str:
    try:
        require_chain(lambda kind, name: entries.get(f"{kind}/{name}"), service)
    except ChainError as problem:
        return str(problem)
    return ""


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"service-defaults/a": {"Protocol": "grpc"}}, id="defaults"),
        pytest.param({**HTTP, "service-router/a": routes("b", "a")}, id="router"),
        pytest.param({**HTTP, "service-router/a": {"Routes": [{}]}}, id="route-without-anything"),
        pytest.param(
            {
                **HTTP,
                "service-router/a": routes("b"),
                "service-splitter/a": splits("a", "b"),
                "service-splitter/b": splits("c", "d"),
                "service-splitter/c": splits("d", "b2"),
            },
            id="splitters-that-meet",
        ),
        pytest.param({"service-resolver/a": {"Redirect": {"Service": "b"}}}, id="redirect"),
        pytest.param(
            {
                "service-resolver/a": {
                    "Subsets": {"v1": {}},
                    "DefaultSubset": "v1",
                    "Failover": {"*": {"Datacenters": ["dc1", "dc2"]}, "v1": {"Service": "b"}},
                },
            },
            id="failover",
        ),
        pytest.param(
            {
                **HTTP,
                "service-splitter/a": {"Splits": [{"Weight": 1, "ServiceSubset": "v1"}]},
                "service-resolver/a": {"Subsets": {"v1": {}}},
            },
            id="subsets",
        ),
        pytest.param(
            {
                "service-resolver/a": {"Redirect": "b", "Failover": 5, "Subsets": [1]},
                "service-defaults/a": {"Protocol": ["http"]},
            },
            id="what-earlier-versions-kept",
        ),
    ],
)
def test_chains(entries: Entries) -> None:
    assert flaw_of(entries) == ""


@pytest.mark.parametrize(
    ("entries", "flaw"),
    [
        pytest.param(
            {"service-splitter/a": splits("a", "b"), "service-defaults/a": {"Protocol": "tcp"}},
            'discovery chain "a" uses a protocol "tcp" '
            "that does not permit advanced routing or splitting behavior",
            id="splitting-tcp",
        ),
        pytest.param(
            {**HTTP, "service-router/a": routes("b"), "service-defaults/b": {"Protocol": "grpc"}},
            'discovery chain "a" uses inconsistent protocols; '
            'service "b" has "grpc" which is not "http"',
            id="protocols",
        ),
        pytest.param(
            {
                "service-resolver/a": {"Redirect": {"Service": "b"}},
                "service-resolver/b": {"Redirect": {"Service": "a"}},
            },
            "detected circular resolver redirect: "
            "[a.default.dc1 -> b.default.dc1 -> a.default.dc1]",
            id="redirects",
        ),
        pytest.param(
            {**HTTP, "service-splitter/a": splits("b"), "service-splitter/b": splits("a")},
            "detected circular reference: "
            "[splitter:a.default -> splitter:b.default -> splitter:a.default]",
            id="splitters",
        ),
        pytest.param(
            {
                **HTTP,
                "service-router/a": {"Routes": [{"Destination": {"ServiceSubset": "v1"}}]},
            },
            'service "a" does not have a subset named "v1"',
            id="subset-of-route",
        ),
        pytest.param(
            {"service-resolver/a": {"Failover": {"*": {"Service": "b", "ServiceSubset": "x"}}}},
            'service "b" does not have a subset named "x"',
            id="subset-of-failover",
        ),
        *(
            pytest.param(
                {
                    "service-defaults/a": {"ExternalSNI": "a.example.com"},
                    "service-resolver/a": {field: value},
                },
                f'service "a" has an external SNI set; cannot define {what} for external services',
                id=f"external-{what}",
            )
            for field, value, what in (
                ("Redirect", {"Datacenter": "dc1"}, "redirects"),
                ("Subsets", {"v1": {}}, "subsets"),
                ("Failover", {"*": {"Service": "b"}}, "failover"),
            )
        ),
    ],
)
def test_chains_that_are_refused(entries: Entries, flaw: str) -> None:
    assert flaw_of(entries) == flaw


def test_no_service_has_no_chain() -> None:
    assert flaw_of({}, "") == "serviceName is required"


def test_a_chain_may_be_as_long_as_there_are_services() -> None:
    entries: Entries = dict(HTTP)
    for at in range(5000):
        entries[f"service-splitter/{at}"] = splits(str(at + 1), str(at + 2))
    assert flaw_of(entries, "0") == ""
    entries["service-splitter/5001"] = splits("0")
    assert flaw_of(entries, "0").startswith("detected circular reference: [splitter:0.default -> ")


# Changes


@pytest.fixture
def replica() -> Replica:
    return Replica()


def put(replica: Replica, key: str, settings: Settings, *, must_fit: bool = True) -> Any:
    kind, _, name = key.partition("/")
    command = SetConfigEntry(kind=kind, name=name, settings=dict(settings), must_fit=must_fit)
    return replica.apply(command)


def delete(replica: Replica, key: str) -> Any:
    kind, _, name = key.partition("/")
    return replica.apply(DeleteConfigEntry(kind=kind, name=name, must_fit=True))


def test_a_change_must_not_break_what_leads_to_it(replica: Replica) -> None:
    for service in "ab":
        put(replica, f"service-defaults/{service}", {"Protocol": "http"})
    assert put(replica, "service-router/a", routes("b")) is True
    refused = put(replica, "service-defaults/b", {"Protocol": "grpc"})
    assert refused == Refused(
        'discovery chain "a" uses inconsistent protocols; '
        'service "b" has "grpc" which is not "http"'
    )
    assert isinstance(delete(replica, "service-defaults/B"), Refused)
    assert delete(replica, "service-router/a") is True
    assert delete(replica, "service-defaults/b") is True
    assert delete(replica, "service-defaults/b") is True


def test_the_defaults_of_all_concern_every_chain(replica: Replica) -> None:
    put(replica, "proxy-defaults/global", HTTP["proxy-defaults/global"])
    put(replica, "service-splitter/a", splits("a", "b"))
    assert isinstance(delete(replica, "proxy-defaults/global"), Refused)
    assert isinstance(put(replica, "proxy-defaults/global", {"Config": None}), Refused)
    assert put(replica, "proxy-defaults/global", {"Config": {"protocol": "grpc"}}) is True


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("ingress-gateway", "terminating-gateway"),
        ("terminating-gateway", "ingress-gateway"),
    ],
)
def test_a_gateway_is_of_one_kind(replica: Replica, kind: str, other: str) -> None:
    put(replica, f"{other}/x", {})
    assert put(replica, f"{kind}/x", {}) == Refused(
        f'cannot create a "{kind}" config entry with name "x", '
        f'a "{other}" config entry with that name already exists'
    )


def test_listeners_speak_what_their_services_do(replica: Replica) -> None:
    services = [{"Name": "*"}, {"Name": "a"}]
    settings = {"Listeners": [{"Port": 80, "Protocol": "http", "Services": services}]}
    assert put(replica, "ingress-gateway/x", settings) == Refused(
        'service "a" has protocol "tcp", which does not match defined listener protocol "http"'
    )
    put(replica, "service-defaults/a", {"Protocol": "http"})
    assert put(replica, "ingress-gateway/x", settings) is True
    assert delete(replica, "ingress-gateway/x") is True


def test_commands_from_before_there_was_a_check_keep_their_meaning(replica: Replica) -> None:
    assert put(replica, "service-splitter/a", splits("b"), must_fit=False) is True
    assert replica.apply(DeleteConfigEntry(kind="service-splitter", name="a")) is True
