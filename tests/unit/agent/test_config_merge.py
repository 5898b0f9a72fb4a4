"""Merging and typing."""

from typing import Any

import pytest

from registry.agent.config import AgentConfig, Ports
from registry.agent.config_merge import flattened, merged, overlaid
from registry.agent.durations import MINUTE, SECOND


@pytest.mark.parametrize(
    ("earlier", "later", "result"),
    [
        pytest.param({"a": 1}, {"a": 2}, {"a": 2}, id="scalar: the later"),
        pytest.param({"a": 1}, {"b": 2}, {"a": 1, "b": 2}, id="different keys"),
        pytest.param({"a": ["x"]}, {"a": ["y", "x"]}, {"a": ["x", "y", "x"]}, id="lists grow"),
        pytest.param(
            {"a": {"b": 1}}, {"a": {"c": 2}}, {"a": {"b": 1, "c": 2}}, id="objects by member"
        ),
        pytest.param(
            {"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}, {"a": {"b": {"c": 2}}}, id="deep"
        ),
        pytest.param({"a": True}, {"a": False}, {"a": False}, id="false counts"),
        pytest.param({"a": "x"}, {"a": ""}, {"a": ""}, id="empty text counts"),
    ],
)
def test_merged(earlier: dict[str, Any], later: dict[str, Any], result: dict[str, Any]) -> None:
    before = repr((earlier, later))
    assert merged(earlier, later) == result
    assert repr((earlier, later)) == before


def test_flattened() -> None:
    assert flattened({"a": {"b": 1, "c": {"d": [2]}}, "e": {}}) == {"a.b": 1, "a.c.d": [2], "e": {}}


def test_overlaid_takes_what_the_struct_has() -> None:
    values = {
        "ports": {"http": 1, "proxy_min_port": 2},
        "max_query_time": "1m",
        "dns_config": {"service_ttl": {"web": "10s"}, "soa": {"retry": 3}},
        "retry_join": ["a"],
        "service": {"name": "x"},
    }
    config = overlaid(AgentConfig(), values)
    assert config.ports == Ports(http=1)
    assert config.max_query_time_ns == MINUTE
    assert config.dns_config.service_ttl_ns == {"web": 10 * SECOND}
    assert (config.dns_config.soa.retry, config.dns_config.soa.expire) == (3, 86400)
    assert config.retry_join == ("a",)
    assert overlaid(AgentConfig(), {}) == AgentConfig()
