"""What configuration entries may say."""

from __future__ import annotations

from typing import Any

import pytest

from registry.state.config_rules import flaw_of


def route(match: dict[str, Any] | None = None, **destination: Any) -> dict[str, Any]:
    http = {} if match is None else {"Match": {"HTTP": match}}
    return {"Routes": [{**http, **({"Destination": destination} if destination else {})}]}


@pytest.mark.parametrize(
    ("match", "flaw"),
    [
        pytest.param({"PathExact": "/a"}, "", id="sound"),
        pytest.param(
            {"PathExact": "a"}, "Route[0] PathExact doesn't start with '/': \"a\"", id="exact"
        ),
        pytest.param(
            {"PathPrefix": "a"}, "Route[0] PathPrefix doesn't start with '/': \"a\"", id="prefix"
        ),
        pytest.param(
            {"PathExact": "/", "PathRegex": "/"},
            "Route[0] should only contain at most one of PathExact, PathPrefix, or PathRegex",
            id="two-paths",
        ),
        pytest.param(
            {"Header": [{"Name": ""}]},
            "Route[0] Header[0] missing required Name field",
            id="header-name",
        ),
        pytest.param(
            {"Header": [{"Name": "x"}]},
            "Route[0] Header[0] should only contain one of "
            "Present, Exact, Prefix, Suffix, or Regex",
            id="header-way",
        ),
        pytest.param(
            {"QueryParam": [{"Name": "x", "Present": True, "Exact": "y"}]},
            "Route[0] QueryParam[0] should only contain one of Present, Exact, or Regex",
            id="parameter-ways",
        ),
        pytest.param(
            {"Methods": ["GET", "GET"]},
            'Route[0] Methods contains "GET" more than once',
            id="methods",
        ),
    ],
)
def test_routes(match: dict[str, Any], flaw: str) -> None:
    assert flaw_of("service-router", "web", route(match)) == flaw


def test_prefixes_are_rewritten_only_where_there_is_a_path() -> None:
    assert flaw_of("service-router", "web", route({"PathPrefix": "/"}, PrefixRewrite="/x")) == ""
    for match in (None, {}, {"PathRegex": "/"}):
        assert flaw_of("service-router", "web", route(match, PrefixRewrite="/x")) == (
            "Route[0] cannot make use of PrefixRewrite "
            "without configuring either PathExact or PathPrefix"
        )


@pytest.mark.parametrize(
    ("splits", "flaw"),
    [
        pytest.param([{"Weight": 100}], "", id="sound"),
        pytest.param([{"Weight": 0.01}, {"Weight": 99.99, "Service": "b"}], "", id="smallest"),
        pytest.param(None, "no splits configured", id="none"),
        pytest.param([], "no splits configured", id="empty"),
        pytest.param(
            [{"Weight": 50}, {"Weight": 50, "Service": "web"}],
            'split destination occurs more than once: service="web", subset="", namespace=""',
            id="twice",
        ),
        pytest.param(
            [{"Weight": 90.5}],
            "the sum of all split weights must be 100, not 90.500000",
            id="sum",
        ),
    ],
)
def test_splits(splits: Any, flaw: str) -> None:
    assert flaw_of("service-splitter", "web", {"Splits": splits}) == flaw


LABEL = (
    "must be 63 characters or fewer, begin or end with lower case alphanumeric characters, "
    "and contain lower case alphanumeric characters or '-' in between"
)


@pytest.mark.parametrize(
    ("settings", "flaw"),
    [
        pytest.param({}, "", id="empty"),
        pytest.param({"Subsets": {"v1": {}}, "DefaultSubset": "v1"}, "", id="sound"),
        pytest.param({"Subsets": {"": {}}}, "Subset defined with empty name", id="no-name"),
        pytest.param({"Subsets": {"V1": {}}}, f'Subset "V1" is invalid: {LABEL}', id="label"),
        pytest.param(
            {"Subsets": {"a" * 64: {}}},
            f'Subset "{"a" * 64}" is invalid: must be non-empty and 63 characters or fewer',
            id="long-label",
        ),
        pytest.param(
            {"DefaultSubset": "v1"}, 'DefaultSubset "v1" is not a valid subset', id="default"
        ),
        pytest.param(
            {"Redirect": {"Service": "x"}, "Failover": {"*": {"Service": "y"}}},
            "Redirect and Failover cannot both be set",
            id="both",
        ),
        pytest.param({"Redirect": {}}, "Redirect is empty", id="empty-redirect"),
        pytest.param(
            {"Redirect": {"ServiceSubset": "x"}},
            "Redirect.ServiceSubset defined without Redirect.Service",
            id="subset-without-service",
        ),
        pytest.param(
            {"Redirect": {"Service": "web", "ServiceSubset": "x"}},
            'Redirect.ServiceSubset "x" is not a valid subset of "web"',
            id="redirect-subset",
        ),
        pytest.param(
            {"Failover": {"v1": {"Service": "x"}}},
            'Bad Failover["v1"]: not a valid subset',
            id="failover-of",
        ),
        pytest.param(
            {"Failover": {"*": {}}},
            'Bad Failover["*"] one of Service, ServiceSubset, Namespace, or Datacenters '
            "is required",
            id="empty-failover",
        ),
        pytest.param(
            {"Failover": {"*": {"ServiceSubset": "v1"}}},
            'Bad Failover["*"].ServiceSubset "v1" is not a valid subset of ""',
            id="failover-subset",
        ),
        pytest.param(
            {"Failover": {"*": {"Datacenters": ["dc2", ""]}}},
            'Bad Failover["*"].Datacenters: found empty datacenter',
            id="failover-datacenter",
        ),
        pytest.param(
            {"ConnectTimeout": "-1s"}, "Bad ConnectTimeout '-1s', must be >= 0", id="timeout"
        ),
    ],
)
def test_resolvers(settings: dict[str, Any], flaw: str) -> None:
    assert flaw_of("service-resolver", "web", settings) == flaw


def service(name: str, *hosts: str) -> dict[str, Any]:
    return {"Name": name, "Hosts": list(hosts) or None}


def listener(*services: dict[str, Any], protocol: str = "http") -> dict[str, Any]:
    return {"Port": 80, "Protocol": protocol, "Services": list(services)}


@pytest.mark.parametrize(
    ("listeners", "flaw"),
    [
        pytest.param([listener(service("*"))], "", id="all"),
        pytest.param(
            [
                listener(service("a", "*.x.com", "x.com")),
            ],
            "",
            id="hosts",
        ),
        pytest.param(
            [listener(service("a")), listener(service("b"))],
            "port 80 declared on two listeners",
            id="ports",
        ),
        pytest.param(
            [listener(service("a"), protocol="udp")],
            "protocol must be 'tcp', 'http', 'http2', or 'grpc'. 'udp' is an unsupported protocol",
            id="protocol",
        ),
        pytest.param([listener()], "No service declared for listener with port 80", id="none"),
        pytest.param(
            [listener(service("a"), service("b"), protocol="tcp")],
            "Multiple services per listener are only supported for protocol = 'http' "
            "(listener on port 80)",
            id="many",
        ),
        pytest.param(
            [listener(service("*"), protocol="tcp")],
            "Wildcard service name is only valid for protocol = 'http' (listener on port 80)",
            id="all-of-tcp",
        ),
        pytest.param(
            [listener(service("a", "x"), protocol="tcp")],
            "Associating hosts to a service is not supported for the tcp protocol "
            "(listener on port 80)",
            id="tcp-hosts",
        ),
        pytest.param(
            [listener(service(""))],
            "Service name cannot be blank (listener on port 80)",
            id="blank",
        ),
        pytest.param(
            [listener(service("*", "x"))],
            "Associating hosts to a wildcard service is not supported (listener on port 80)",
            id="hosts-of-all",
        ),
        pytest.param(
            [listener(service("a"), service("a"))],
            "Service a cannot be added multiple times (listener on port 80)",
            id="twice",
        ),
        pytest.param(
            [listener(service("a", "x"), service("b", "x"))],
            "Hosts must be unique within a specific listener (listener on port 80)",
            id="host-twice",
        ),
        pytest.param(
            [listener(service("a", "x..y"))],
            'Host "x..y" must be a valid DNS hostname',
            id="host",
        ),
        pytest.param(
            [listener(service("a", "x.*.y"))],
            'Host "x.*.y" is not valid, a wildcard specifier is only allowed as the leftmost label',
            id="wildcard",
        ),
    ],
)
def test_ingress_gateways(listeners: list[dict[str, Any]], flaw: str) -> None:
    assert flaw_of("ingress-gateway", "web", {"Listeners": listeners}) == flaw


def test_tls_needs_names() -> None:
    settings = {"TLS": {"Enabled": True}, "Listeners": [listener(service("a", "*"))]}
    assert flaw_of("ingress-gateway", "web", settings).startswith("Host '*' is not allowed when")
    assert flaw_of("ingress-gateway", "web", {**settings, "TLS": {"Enabled": False}}) == ""


@pytest.mark.parametrize(
    ("services", "flaw"),
    [
        pytest.param([{"Name": "a", "CAFile": "x"}], "", id="sound"),
        pytest.param([{}], "Service name cannot be blank.", id="blank"),
        pytest.param(
            [{"Name": "a"}, {"Name": "a"}],
            'Service "a" was specified more than once within a namespace',
            id="twice",
        ),
        pytest.param(
            [{"Name": "a", "CertFile": "x", "KeyFile": "y"}],
            'Service "a" must have a CertFile, CAFile, and KeyFile specified for TLS origination',
            id="files",
        ),
    ],
)
def test_terminating_gateways(services: list[dict[str, Any]], flaw: str) -> None:
    assert flaw_of("terminating-gateway", "web", {"Services": services}) == flaw
