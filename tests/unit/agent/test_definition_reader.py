"""Definitions in both spellings."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.agent.config_keys import KeyProblem
from registry.agent.definition_reader import read_check, read_service, read_watch
from registry.agent.definitions import (
    CheckDefinition,
    ServiceAddress,
    ServiceDefinition,
    WatchDefinition,
    Weights,
)
from registry.agent.durations import SECOND
from registry.errors import ConfigError

IN_FILES = {
    "name": "web",
    "id": "web-1",
    "tags": ["a", "b"],
    "address": "10.0.0.1",
    "tagged_addresses": {"wan": {"address": "1.2.3.4", "port": 80}},
    "meta": {"Key": "v"},
    "port": 8080,
    "kind": "",
    "token": "t",
    "weights": {"passing": 5},
    "enable_tag_override": True,
    "check": {"id": "c", "ttl": "10s"},
}
OVER_HTTP = {
    "Name": "web",
    "ID": "web-1",
    "Tags": ["a", "b"],
    "Address": "10.0.0.1",
    "TaggedAddresses": {"wan": {"address": "1.2.3.4", "Port": 80}},
    "Meta": {"Key": "v"},
    "Port": 8080,
    "Kind": "",
    "Token": "t",
    "Weights": {"Passing": 5, "Warning": 1},
    "EnableTagOverride": True,
    "Check": {"CheckID": "c", "TTL": "10s"},
}
SERVICE = ServiceDefinition(
    name="web",
    id="web-1",
    tags=("a", "b"),
    address="10.0.0.1",
    tagged_addresses={"wan": ServiceAddress("1.2.3.4", 80)},
    meta={"Key": "v"},
    port=8080,
    token="t",
    weights=Weights(5, 1),
    enable_tag_override=True,
    checks=(CheckDefinition(id="c", ttl_ns=10 * SECOND),),
)


@pytest.mark.parametrize(
    ("mapping", "source"),
    [
        pytest.param(IN_FILES, "file", id="files"),
        pytest.param({k.upper(): v for k, v in IN_FILES.items()}, "file", id="files, any case"),
        pytest.param(OVER_HTTP, "http", id="http"),
        pytest.param({k.lower(): v for k, v in OVER_HTTP.items()}, "http", id="http, any case"),
        pytest.param(
            {
                **{k: v for k, v in OVER_HTTP.items() if "Tag" not in k},
                "Tags": ["a", "b"],
                "tagged_addresses": OVER_HTTP["TaggedAddresses"],
                "enable_tag_override": True,
            },
            "http",
            id="http, the two names in snake case",
        ),
    ],
)
def test_both_spellings_of_a_service(mapping: dict[str, Any], source: Any) -> None:
    assert read_service(mapping, source=source) == SERVICE


@pytest.mark.parametrize(
    ("source", "order"),
    [
        pytest.param("http", ["one", "two"], id="http"),
        pytest.param("file", ["two", "one"], id="files"),
    ],
)
def test_check_and_checks_are_added_together(source: Any, order: list[str]) -> None:
    mapping = {"name": "x", "check": {"name": "one"}, "checks": [{"name": "two"}, None]}
    assert [check.name for check in read_service(mapping, source=source).checks] == order


@pytest.mark.parametrize("source", ["file", "http"])
def test_only_a_single_check_may_be_left_empty(source: Any) -> None:
    assert read_service({"name": "x", "check": {}}, source=source).checks == ()
    assert read_service({"name": "x", "checks": [{}]}, source=source).checks == (CheckDefinition(),)


CHECK = CheckDefinition(
    args=("true",),
    docker_container_id="d",
    tls_skip_verify=True,
    deregister_critical_service_after_ns=60 * SECOND,
    service_id="s",
)


@pytest.mark.parametrize(
    ("mapping", "source"),
    [
        pytest.param(
            {
                "args": ["true"],
                "docker_container_id": "d",
                "tls_skip_verify": True,
                "deregister_critical_service_after": "1m",
                "service_id": "s",
            },
            "file",
            id="files",
        ),
        pytest.param(
            {
                "ScriptArgs": ["true"],
                "DockerContainerID": "d",
                "TLSSkipVerify": True,
                "DeregisterCriticalServiceAfter": "1m",
                "ServiceID": "s",
            },
            "file",
            id="files, old names",
        ),
        pytest.param(
            {
                "Args": ["true"],
                "DockerContainerID": "d",
                "TLSSkipVerify": True,
                "DeregisterCriticalServiceAfter": "1m",
                "ServiceID": "s",
            },
            "http",
            id="http",
        ),
        pytest.param(
            {
                "script_args": ["true"],
                "docker_container_id": "d",
                "tls_skip_verify": True,
                "deregister_critical_service_after": "1m",
                "service_id": "s",
            },
            "http",
            id="http, snake case",
        ),
        pytest.param(
            {
                "ScriptArgs": ["true"],
                "DockerContainerID": "d",
                "TLSSkipVerify": True,
                "DeregisterCriticalServiceAfter": 60 * SECOND,
                "ServiceID": "s",
            },
            "http",
            id="http, nanoseconds",
        ),
    ],
)
def test_both_spellings_of_a_check(mapping: dict[str, Any], source: Any) -> None:
    assert read_check(mapping, source=source) == CHECK


@pytest.mark.parametrize(
    ("mapping", "check"),
    [
        pytest.param(
            {"HTTP": "u", "Method": "PUT", "Header": {"A": ["b", "c"]}, "Body": "x"},
            CheckDefinition(http="u", method="PUT", header={"A": ["b", "c"]}, body="x"),
            id="http",
        ),
        pytest.param(
            {"GRPC": "h:1", "GRPCUseTLS": True},
            CheckDefinition(grpc="h:1", grpc_use_tls=True),
            id="grpc",
        ),
        pytest.param(
            {"AliasNode": "n", "AliasService": "s"},
            CheckDefinition(alias_node="n", alias_service="s"),
            id="alias",
        ),
        pytest.param({"TTL": 60}, CheckDefinition(ttl_ns=60), id="a number is nanoseconds"),
        pytest.param(
            {"SuccessBeforePassing": 1, "FailuresBeforeCritical": 2, "OutputMaxSize": 3},
            CheckDefinition(
                success_before_passing=1, failures_before_critical=2, output_max_size=3
            ),
            id="thresholds",
        ),
        pytest.param({"Interval": None, "Name": None}, CheckDefinition(), id="null is nothing"),
    ],
)
def test_checks_over_http(mapping: dict[str, Any], check: CheckDefinition) -> None:
    assert read_check(mapping, source="http") == check


@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        pytest.param(
            {"name": 1},
            "'s.name' expected type 'string', got unconvertible type 'float64'",
            id="type",
        ),
        pytest.param(
            {"EnableTagOverride": True}, "invalid config key s.EnableTagOverride", id="camel case"
        ),
        pytest.param(
            {"check": {"alias_srv": "x"}}, "invalid config key s.check.alias_srv", id="unknown"
        ),
        pytest.param(
            {"check": {"AliasService": "x"}},
            "invalid config key s.check.AliasService",
            id="not an old name",
        ),
        pytest.param(
            {"check": {"CheckID": "x"}}, "invalid config key s.check.CheckID", id="the API's id"
        ),
        pytest.param(
            {"check": {"script_args": ["x"]}},
            "invalid config key s.check.script_args",
            id="old name in snake case",
        ),
        pytest.param(
            {"checks": [{"ttl": 5}]},
            "'s.checks[0].ttl' expected type 'string', got unconvertible type 'float64'",
            id="number as duration",
        ),
        pytest.param(
            {"tags": "x"},
            "'s.tags': source data must be an array or slice, got string",
            id="one tag",
        ),
        pytest.param({"proxy": {"x": 1}}, "invalid config key s.proxy.x", id="proxy"),
    ],
)
def test_problems_in_files(mapping: dict[str, Any], reason: str) -> None:
    with pytest.raises(KeyProblem) as caught:
        read_service(mapping, source="file", where="s")
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        pytest.param({"NoSuchField": 1}, 'json: unknown field "NoSuchField"', id="unknown"),
        pytest.param({"tagged_Addr": {}}, 'json: unknown field "tagged_Addr"', id="snake case"),
        pytest.param({"Namespace": "x"}, 'json: unknown field "Namespace"', id="namespace"),
        pytest.param(
            {"Port": "x"},
            "json: cannot unmarshal string into Go struct field Port of type int",
            id="type",
        ),
        pytest.param(
            {"Port": 1.5},
            "json: cannot unmarshal number into Go struct field Port of type int",
            id="fraction",
        ),
        pytest.param(
            {"Port": True},
            "json: cannot unmarshal bool into Go struct field Port of type int",
            id="bool",
        ),
        pytest.param(
            {"Tags": "x"},
            "json: cannot unmarshal string into Go struct field Tags of type []string",
            id="list",
        ),
        pytest.param(
            {"Meta": {"a": 1}},
            "json: cannot unmarshal number into Go struct field Meta of type string",
            id="map",
        ),
        pytest.param({"Check": {"ID": "x"}}, 'json: unknown field "ID"', id="id inside a service"),
        pytest.param({"Check": {"Script": "x"}}, 'json: unknown field "Script"', id="script"),
        pytest.param({"Check": {"TTL": "abc"}}, 'time: invalid duration "abc"', id="duration"),
        pytest.param(
            [],
            "json: cannot unmarshal array into Go value of type structs.ServiceDefinition",
            id="array",
        ),
        pytest.param(
            None,
            "json: cannot unmarshal null into Go value of type structs.ServiceDefinition",
            id="nothing",
        ),
    ],
)
def test_problems_over_http(mapping: Any, reason: str) -> None:
    with pytest.raises(KeyProblem) as caught:
        read_service(mapping, source="http")
    assert caught.value.reason == reason


def test_the_id_of_a_check_by_itself() -> None:
    assert read_check({"ID": "x"}, source="http").id == "x"
    with pytest.raises(KeyProblem, match="CheckID"):
        read_check({"CheckID": "x"}, source="http")


@pytest.mark.parametrize("source", ["file", "http"])
def test_mesh_parts_are_kept_in_the_spelling_of_the_api(source: Any) -> None:
    service = read_service(
        {
            "name": "x",
            "proxy": {
                "destination_service_name": "y",
                "upstreams": [{"local_bind_port": 1}],
                "config": {"a_b": 1},
            },
            "connect": {"native": True},
        },
        source=source,
    )
    assert service.proxy == {
        "DestinationServiceName": "y",
        "Upstreams": [{"LocalBindPort": 1}],
        "Config": {"a_b": 1},
    }
    assert service.connect == {"Native": True}


def test_what_the_api_passes_over() -> None:
    given = {"Name": "x", "TTL": "1s", "Timeout": True, "Interval": [], "OutputMaxSize": None}
    check = read_check(given, source="http")
    assert (check.ttl_ns, check.timeout_ns, check.interval_ns) == (SECOND, 0, 0)
    service = read_service({"Name": "x", "Connect": {"Native": True, "Odd": 1}}, source="http")
    assert service.connect == {"Native": True}


def test_a_plugin_s_check_has_its_settings() -> None:
    check = read_check(
        {"name": "x", "DNS": "a", "interval": "1s"}, source="file", check_types=["dns", "http"]
    )
    assert (check.plugin_type, check.plugin_settings) == ("dns", {"dns": "a"})
    with pytest.raises(KeyProblem):
        read_check({"name": "x", "dns": "a"}, source="file")


@pytest.mark.parametrize(
    ("mapping", "watch"),
    [
        pytest.param(
            {"type": "key", "key": "a", "args": ["x"], "stale": True},
            WatchDefinition(type="key", key="a", args=("x",), stale=True),
            id="key",
        ),
        pytest.param(
            {"type": "keyprefix", "prefix": "a/", "handler": "x"},
            WatchDefinition(type="keyprefix", prefix="a/", handler="x"),
            id="keyprefix, old handler",
        ),
        pytest.param(
            {"type": "service", "service": "w", "tag": "t", "passingonly": True, "args": ["x"]},
            WatchDefinition(
                type="service", service="w", tags=("t",), passing_only=True, args=("x",)
            ),
            id="service",
        ),
        pytest.param(
            {"type": "service", "service": "w", "tag": ["t", "u"], "args": ["x"]},
            WatchDefinition(type="service", service="w", tags=("t", "u"), args=("x",)),
            id="several tags",
        ),
        pytest.param(
            {"type": "checks", "state": "warning", "args": ["x"]},
            WatchDefinition(type="checks", state="warning", args=("x",)),
            id="checks",
        ),
        pytest.param(
            {"type": "event", "name": "e", "datacenter": "d", "token": "t", "args": ["x"]},
            WatchDefinition(type="event", name="e", datacenter="d", token="t", args=("x",)),
            id="event",
        ),
        pytest.param(
            {
                "type": "nodes",
                "handler_type": "http",
                "http_handler_config": {
                    "path": "http://x",
                    "method": "PUT",
                    "timeout": "1s",
                    "header": {"A": ["b"]},
                    "tls_skip_verify": True,
                },
            },
            WatchDefinition(
                type="nodes",
                http_path="http://x",
                http_method="PUT",
                http_timeout_ns=SECOND,
                http_header={"A": ["b"]},
                http_tls_skip_verify=True,
            ),
            id="http handler",
        ),
    ],
)
def test_watches(mapping: dict[str, Any], watch: WatchDefinition) -> None:
    assert read_watch(mapping) == watch


@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        pytest.param({"args": ["x"]}, "w: a watch needs a type", id="no type"),
        pytest.param({"type": "x", "args": ["x"]}, "w: unknown watch type 'x'", id="unknown type"),
        pytest.param(
            {"type": "key", "args": ["x"]}, "w: a watch of type key needs a key", id="no key"
        ),
        pytest.param(
            {"type": "nodes", "args": ["x"], "b": 1, "a": 1},
            "w: Invalid parameters: [a b]",
            id="unknown members",
        ),
        pytest.param(
            {"type": "event", "args": ["x"], "stale": True},
            "w: Invalid parameters: [stale]",
            id="stale event",
        ),
        pytest.param({"type": "nodes"}, "w: the watch has no handler", id="no handler"),
        pytest.param(
            {"type": "nodes", "args": ["x"], "handler": "y"},
            "w: the watch has several handlers",
            id="two handlers",
        ),
        pytest.param({"type": "nodes", "args": []}, "w.args must not be empty", id="empty handler"),
        pytest.param(
            {"type": "nodes", "args": "x"},
            "'w.args': source data must be an array or slice, got string",
            id="handler type",
        ),
        pytest.param(
            {"type": "nodes", "handler_type": "http", "args": ["x"]},
            "w: handler_type http needs http_handler_config",
            id="other handler",
        ),
        pytest.param(
            {"type": "nodes", "http_handler_config": {}},
            "w.http_handler_config: needs a path",
            id="no path",
        ),
        pytest.param(
            {"type": "nodes", "http_handler_config": {"x": 1}},
            "invalid config key w.http_handler_config.x",
            id="handler member",
        ),
        pytest.param(
            {"type": "checks", "service": "a", "state": "any", "args": ["x"]},
            "w: a watch of checks takes a service or a state, not both",
            id="two subjects",
        ),
    ],
)
def test_watch_problems(mapping: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_watch(mapping, where="w")
    assert caught.value.reason.startswith(reason)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
members = st.sampled_from(
    [*OVER_HTTP, *IN_FILES, "Checks", "proxy", "connect", "type", "args", "interval"]
)


@given(st.dictionaries(members, anything, max_size=4) | anything, st.sampled_from(["file", "http"]))
def test_anything_is_read_or_refused(mapping: Any, source: Any) -> None:
    for read in (read_service, read_check, read_watch):
        with contextlib.suppress(ConfigError):
            read(mapping, source=source)
