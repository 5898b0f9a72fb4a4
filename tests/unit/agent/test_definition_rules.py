"""What a definition must satisfy, in the API's words."""

from typing import Any

import pytest

from registry.agent.definition_rules import (
    DefinitionRefused,
    check_problem,
    metadata_problem,
    refuse_scripts,
    service_warnings,
    validate_check,
    validate_service,
    with_minimums,
)
from registry.agent.definitions import (
    CheckDefinition,
    ServiceAddress,
    ServiceDefinition,
    Weights,
)
from registry.agent.durations import MINUTE, SECOND

TTL = CheckDefinition(name="x", ttl_ns=SECOND)


def service(**details: Any) -> ServiceDefinition:
    return ServiceDefinition(**({"name": "web"} | details))


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        pytest.param(service(name=""), "Missing service name", id="name"),
        pytest.param(service(address="0.0.0.0"), "Invalid service address", id="any IPv4"),
        pytest.param(service(address="[::]"), "Invalid service address", id="any IPv6"),
        pytest.param(
            service(weights=Weights(0, 1)),
            "Invalid Weights: Passing must be greater than 0",
            id="no weight",
        ),
        pytest.param(
            service(weights=Weights(1, -1)),
            "Invalid Weights: Warning must be greater or equal than 0",
            id="negative weight",
        ),
        pytest.param(
            service(weights=Weights(70000, 1)),
            "Invalid Weights: DNS Weight must be between 0 and 65535",
            id="large weight",
        ),
        pytest.param(
            service(meta={"": "x"}),
            "Invalid Service Meta: Couldn't load metadata pair ('', 'x'): Key cannot be blank",
            id="meta",
        ),
        pytest.param(
            service(checks=(CheckDefinition(interval_ns=SECOND),)),
            "Invalid check: TTL must be > 0 for TTL checks",
            id="check",
        ),
        pytest.param(
            service(checks=(CheckDefinition(ttl_ns=1, status="odd"),)),
            "Status for checks must 'passing', 'warning', 'critical'",
            id="status",
        ),
        pytest.param(
            service(tagged_addresses={"lan_ipv4": ServiceAddress("::1")}),
            'Service tagged address "lan_ipv4" must be a valid ipv4 address',
            id="family",
        ),
        pytest.param(
            service(kind="connect-proxy", port=1),
            "1 error occurred:\n\t* Proxy.DestinationServiceName must be non-empty for Connect"
            " proxy services\n\n",
            id="proxy",
        ),
    ],
)
def test_refused_services(definition: ServiceDefinition, reason: str) -> None:
    with pytest.raises(DefinitionRefused) as caught:
        validate_service(definition)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "definition",
    [
        pytest.param(service(), id="minimal"),
        pytest.param(service(address="host.example", kind="odd"), id="host name and any kind"),
        pytest.param(service(name="with space", weights=Weights(1, 0), checks=(TTL,)), id="more"),
        pytest.param(
            service(
                tagged_addresses={"wan_ipv6": ServiceAddress("::1"), "own": ServiceAddress("x")}
            ),
            id="addresses",
        ),
        pytest.param(
            service(tagged_addresses={"wan_ipv6": ServiceAddress("10.0.0.1")}), id="unjudged"
        ),
    ],
)
def test_good_services(definition: ServiceDefinition) -> None:
    validate_service(definition)


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        pytest.param(CheckDefinition(), "Missing check name", id="name"),
        pytest.param(
            CheckDefinition(name="x", ttl_ns=1, status="odd"), "Bad check status", id="status"
        ),
        pytest.param(
            CheckDefinition(name="x"), "Invalid check: TTL must be > 0 for TTL checks", id="nothing"
        ),
    ],
)
def test_refused_checks(definition: CheckDefinition, reason: str) -> None:
    with pytest.raises(DefinitionRefused) as caught:
        validate_check(definition)
    assert (caught.value.reason, caught.value.status) == (reason, 400)


INTERVAL = "Interval must be > 0 for Script, HTTP, or TCP checks"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        pytest.param({"ttl_ns": 1}, "", id="ttl"),
        pytest.param({"http": "x", "interval_ns": 1}, "", id="http"),
        pytest.param({"plugin_type": "x", "interval_ns": 1}, "", id="plugin"),
        pytest.param({"alias_service": "x"}, "", id="alias"),
        pytest.param({"http": "x"}, INTERVAL, id="http without interval"),
        pytest.param({"tcp": "x"}, INTERVAL, id="tcp without interval"),
        pytest.param({"grpc": "x"}, INTERVAL, id="grpc without interval"),
        pytest.param({"plugin_type": "x"}, INTERVAL, id="plugin without interval"),
        pytest.param({"args": ("x",), "interval_ns": -1}, INTERVAL, id="negative interval"),
        pytest.param(
            {"ttl_ns": 1, "interval_ns": 1}, "Interval and TTL cannot both be specified", id="both"
        ),
        pytest.param(
            {"alias_node": "x", "http": "y", "interval_ns": 1},
            "Interval cannot be set for Alias checks",
            id="alias that runs",
        ),
        pytest.param(
            {"alias_node": "x", "ttl_ns": 1},
            "TTL must be not be set for Alias checks",
            id="alias with a TTL",
        ),
        pytest.param(
            {"docker_container_id": "x", "interval_ns": 1},
            "TTL must be > 0 for TTL checks",
            id="docker without args",
        ),
        pytest.param(
            {"ttl_ns": 1, "output_max_size": -1}, "MaxOutputMaxSize must be positive", id="output"
        ),
    ],
)
def test_kinds_and_times(settings: dict[str, Any], reason: str) -> None:
    assert check_problem(CheckDefinition(**settings)) == reason


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        pytest.param({"a-b_C": ""}, "", id="good"),
        pytest.param(
            {f"k{n}": "" for n in range(65)},
            "Node metadata cannot contain more than 64 key/value pairs",
            id="pairs",
        ),
        pytest.param(
            {"a b": "x"},
            "Couldn't load metadata pair ('a b', 'x'): Key contains invalid characters",
            id="characters",
        ),
        pytest.param(
            {"k" * 129: "x"},
            f"Couldn't load metadata pair ('{'k' * 129}', 'x'):"
            " Key is too long (limit: 128 characters)",
            id="key length",
        ),
        pytest.param(
            {"consul-x": "y"},
            "Couldn't load metadata pair ('consul-x', 'y'):"
            " Key prefix 'consul-' is reserved for internal use",
            id="reserved",
        ),
        pytest.param(
            {"k": "v" * 513},
            f"Couldn't load metadata pair ('k', '{'v' * 513}'):"
            " Value is too long (limit: 512 characters)",
            id="value length",
        ),
    ],
)
def test_metadata(pairs: dict[str, str], reason: str) -> None:
    assert metadata_problem(pairs) == reason


def test_reserved_metadata_may_be_allowed() -> None:
    assert metadata_problem({"consul-network-segment": ""}, allow_reserved=True) == ""


@pytest.mark.parametrize(
    ("source", "everywhere", "local", "refused"),
    [
        pytest.param("file", False, False, True, id="file, off"),
        pytest.param("file", False, True, False, id="file, local"),
        pytest.param("file", True, False, False, id="file, everywhere"),
        pytest.param("http", False, True, True, id="http, local"),
        pytest.param("http", True, True, False, id="http, everywhere"),
    ],
)
def test_scripts(source: Any, everywhere: bool, local: bool, refused: bool) -> None:
    switches: Any = {
        "source": source,
        "enable_script_checks": everywhere,
        "enable_local_script_checks": local,
    }
    refuse_scripts(TTL, **switches)
    script = CheckDefinition(args=("true",))
    if not refused:
        refuse_scripts(script, **switches)
        return
    with pytest.raises(DefinitionRefused, match="Scripts are disabled on this agent"):
        refuse_scripts(script, **switches)


def test_times_are_raised_to_the_least() -> None:
    check = CheckDefinition(id="c", tcp="x", interval_ns=1, deregister_critical_service_after_ns=1)
    raised, warnings = with_minimums(check)
    assert (raised.interval_ns, raised.deregister_critical_service_after_ns) == (SECOND, MINUTE)
    assert warnings[0] == "check 'c': interval 1ns is raised to the minimum of 1s"
    assert len(warnings) == 2
    assert with_minimums(raised) == (raised, [])
    assert with_minimums(TTL) == (TTL, [])


@pytest.mark.parametrize(
    ("definition", "count"),
    [
        pytest.param(service(tags=("v1",)), 0, id="good"),
        pytest.param(service(name="a_b"), 1, id="name"),
        pytest.param(service(name="a" * 64), 1, id="long name"),
        pytest.param(service(tags=("ü", "a.b")), 2, id="tags"),
    ],
)
def test_what_dns_can_not_find(definition: ServiceDefinition, count: int) -> None:
    assert len(service_warnings(definition)) == count
