"""The table of keys, and the checking of one file against it."""

import itertools
from collections import Counter
from typing import Any

import msgspec
import pytest

from registry.agent.config import DEV, AgentConfig
from registry.agent.config_keys import KeyProblem, decode
from registry.agent.config_merge import flattened
from registry.agent.config_table import KEYS, REFUSED


def test_the_table_is_complete() -> None:
    assert len(KEYS) == 325
    assert Counter(key.use for key in KEYS.values()) == {
        "core": 215,
        "mesh": 48,
        "ent": 27,
        "own": 24,
        "old": 11,
    }


def fields_of(struct: type[msgspec.Struct], above: str = "") -> dict[str, Any]:
    """Path and default of every value in a configuration struct."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(struct):
        default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory
        path = f"{above}{field.name}"
        if isinstance(default, msgspec.Struct):
            found |= fields_of(type(default), f"{path}.")
        else:
            found[path] = default
    return found


DEFINITIONS = ("definition", "definitions", "open", "object")


def test_every_key_of_the_core_has_a_value() -> None:
    """A duration's field says its unit; nothing is in the table that nobody can ask for."""
    fields = fields_of(AgentConfig)
    for key in KEYS.values():
        if key.use == "core" and key.kind not in DEFINITIONS:
            unit = "_ns" if key.kind in ("duration", "durations") else ""
            assert key.path + unit in fields, key.path


def test_every_value_has_a_key() -> None:
    ours = {"dev_mode", "storage_engine", "plugin_dirs"}
    for path in fields_of(AgentConfig).keys() - ours:
        assert path.removesuffix("_ns") in KEYS, path


def test_the_mode_for_development_uses_known_keys() -> None:
    assert flattened(decode(DEV).values) == flattened(DEV)


@pytest.mark.parametrize(
    ("mapping", "values"),
    [
        pytest.param({"Datacenter": "a"}, {"datacenter": "a"}, id="letter case does not count"),
        pytest.param({"PORTS": {"Http": 1}}, {"ports": {"http": 1}}, id="nested letter case"),
        pytest.param({"ports": [{"http": 1}]}, {"ports": {"http": 1}}, id="a block of HCL"),
        pytest.param({"ports": {"http": 1.0}}, {"ports": {"http": 1}}, id="a whole float"),
        pytest.param({"ports": {}}, {}, id="an empty object says nothing"),
        pytest.param({"node_name": None}, {}, id="null says nothing"),
        pytest.param(
            {"node_meta": {"A": "b"}}, {"node_meta": {"A": "b"}}, id="maps keep their case"
        ),
        pytest.param(
            {"limits": {"rpc_rate": 2}}, {"limits": {"rpc_rate": 2.0}}, id="whole number as float"
        ),
        pytest.param({"max_query_time": "1m"}, {"max_query_time": "1m"}, id="durations stay text"),
        pytest.param({"acl_ttl": "1s"}, {"acl_ttl": "1s"}, id="a former name is kept for now"),
        pytest.param(
            {"storage_engine": "memory"}, {"storage_engine": "memory"}, id="a key of ours"
        ),
    ],
)
def test_values(mapping: dict[str, Any], values: dict[str, Any]) -> None:
    assert decode(mapping).values == values


@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        pytest.param({"foo": 1}, "invalid config key foo", id="unknown"),
        pytest.param({"ports": {"foo": 1}}, "invalid config key ports.foo", id="unknown member"),
        pytest.param(
            {"dns_config": {"soa": {"x": 1}}}, "invalid config key dns_config.soa.x", id="deep"
        ),
        pytest.param({"segments": [{"x": 1}]}, "invalid config key segments[0].x", id="in a list"),
        pytest.param(
            {"audit": {"sink": {"f": {"x": 1}}}},
            "invalid config key audit.sink[f].x",
            id="in a map",
        ),
        pytest.param({"DataDir": "x"}, "invalid config key DataDir", id="underscores count"),
        pytest.param(
            {REFUSED: "::1"}, f"invalid config key {REFUSED}", id="refused by the original"
        ),
        pytest.param(
            {"server": "true"},
            "'server' expected type 'bool', got unconvertible type 'string'",
            id="bool",
        ),
        pytest.param(
            {"ports": {"http": "1"}},
            "'ports.http' expected type 'int', got unconvertible type 'string'",
            id="int",
        ),
        pytest.param(
            {"ports": {"http": 1.5}},
            "'ports.http' expected type 'int', got unconvertible type 'float64'",
            id="fraction",
        ),
        pytest.param(
            {"ports": {"http": True}},
            "'ports.http' expected type 'int', got unconvertible type 'bool'",
            id="bool for int",
        ),
        pytest.param(
            {"ports": {"http": 1e300}}, "'ports.http' is out of range: 1e+300", id="too large"
        ),
        pytest.param(
            {"limits": {"kv_max_value_size": -1}},
            "cannot parse 'limits.kv_max_value_size', -1 overflows uint",
            id="negative",
        ),
        pytest.param(
            {"node_name": 1},
            "'node_name' expected type 'string', got unconvertible type 'float64'",
            id="string",
        ),
        pytest.param(
            {"retry_join": "a"},
            "'retry_join': source data must be an array or slice, got string",
            id="one for a list",
        ),
        pytest.param(
            {"retry_join": ["a", 1]},
            "'retry_join[1]' expected type 'string', got unconvertible type 'float64'",
            id="element",
        ),
        pytest.param(
            {"node_meta": {"a": 1}},
            "'node_meta[a]' expected type 'string', got unconvertible type 'float64'",
            id="map value",
        ),
        pytest.param({"ports": "x"}, "'ports' expected a map, got 'string'", id="object"),
        pytest.param(
            {"ports": [{}, {}]},
            "'ports' expected a map, got 'slice'",
            id="two blocks for one object",
        ),
        pytest.param(
            {"max_query_time": 5},
            "'max_query_time' expected type 'string', got unconvertible type 'float64'",
            id="number for a duration",
        ),
        pytest.param(
            {"max_query_time": "5"},
            'max_query_time: invalid duration: "5": time: missing unit in duration "5"',
            id="no unit",
        ),
        pytest.param(
            {"dns_config": {"service_ttl": {"*": "x"}}},
            'dns_config.service_ttl[*]: invalid duration: "x": time: invalid duration "x"',
            id="map of durations",
        ),
        pytest.param(
            {"services": {}},
            "'services': source data must be an array or slice, got map",
            id="services",
        ),
        pytest.param({"service": [{}, {}]}, "'service' expected a map, got 'slice'", id="service"),
        pytest.param({"checks": [1]}, "'checks[0]' expected a map, got 'float64'", id="check"),
        pytest.param(
            {"connect": {"enabled": 1}},
            "'connect.enabled' expected type 'bool', got unconvertible type 'float64'",
            id="mesh keys are typed, too",
        ),
    ],
)
def test_problems(mapping: dict[str, Any], reason: str) -> None:
    with pytest.raises(KeyProblem) as caught:
        decode(mapping)
    assert str(caught.value) == reason


def test_definitions_are_collected_with_their_places() -> None:
    decoded = decode({"service": {"name": "a"}, "services": [{"name": "b"}], "Check": {"id": "c"}})
    assert decoded.definitions == {
        "services": [("service", {"name": "a"}), ("services[0]", {"name": "b"})],
        "checks": [("check", {"id": "c"})],
        "watches": [],
    }
    assert decoded.values == {}


def test_mesh_keys_are_ignored_and_named() -> None:
    decoded = decode(
        {"connect": {"enabled": True, "ca_config": {"a": [{"b": 1}]}}, "ports": {"grpc": 1}}
    )
    assert decoded.values == {}
    assert decoded.ignored == {
        "connect.enabled": True,
        "connect.ca_config": {"a": {"b": 1}},
        "ports.grpc": 1,
    }
    (line,) = decoded.warnings()
    assert line.endswith("ignored: connect.ca_config, connect.enabled, ports.grpc")


def test_keys_of_the_commercial_edition_are_named_by_their_topmost_object() -> None:
    mapping = {"audit": {"enabled": True, "sink": {"f": {"name": "x"}}}, "segment": "s"}
    assert decode(mapping).warnings() == [
        f'"{key}" is a Consul Enterprise configuration and will have no effect'
        for key in ("audit", "segment")
    ]


def test_constants_can_be_named_but_not_changed() -> None:
    decoded = decode({"ae_interval": "1s", "consul": {"raft": {"election_timeout": "1s"}}})
    assert decoded.values == {}
    assert list(itertools.chain(decoded.ignored)) == ["ae_interval", "consul.raft.election_timeout"]
    assert decoded.warnings() == []
