"""The difference between two configurations, and what becomes of each item."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from registry.agent.address_templates import Interface
from registry.agent.config import AgentConfig
from registry.agent.config_settling import Host
from registry.agent.config_table import KEYS
from registry.agent.loading import LoadedConfig, load_config
from registry.agent.reload import (
    RELOADABLE,
    ReloadItem,
    ReloadReport,
    plan_reload,
    reloaded_config,
)

HOST = Host("box", (Interface(name="eth0", address="10.0.0.5"),))


def load(text: str) -> LoadedConfig:
    return load_config(["-dev", "-enable-script-checks", "-hcl", text], host=HOST)


@pytest.mark.parametrize(
    ("old", "new", "items"),
    [
        pytest.param('service { name = "a" }', 'service { name = "a" }', [], id="nothing"),
        pytest.param(
            "",
            'service { name = "a" }',
            [("service", "a", "added", "applied", "")],
            id="service added",
        ),
        pytest.param(
            'service { name = "a" }',
            "",
            [("service", "a", "removed", "applied", "")],
            id="service removed",
        ),
        pytest.param(
            'service { name = "a" id = "i" port = 1 }',
            'service { name = "a" id = "i" port = 2 }',
            [("service", "i", "changed", "applied", "")],
            id="service changed",
        ),
        pytest.param(
            'service { name = "a" check { ttl = "1s" } }',
            'service { name = "a" check { ttl = "2s" } }',
            [("service", "a", "changed", "applied", "")],
            id="check of a service changed",
        ),
        pytest.param(
            'check { name = "c" ttl = "1s" }',
            'check { name = "d" ttl = "1s" }',
            [("check", "c", "removed", "applied", ""), ("check", "d", "added", "applied", "")],
            id="checks",
        ),
        pytest.param(
            'watches = [{ type = "key", key = "k", args = ["x"] }]',
            'watches = [{ type = "key", key = "k", args = ["y"] },'
            ' { type = "nodes", args = ["x"] }]',
            [
                ("watch", "key k", "changed", "applied", ""),
                ("watch", "nodes", "added", "applied", ""),
            ],
            id="watches",
        ),
        pytest.param(
            'watches = [{ type = "nodes", args = ["x"] }]',
            'watches = [{ type = "nodes", args = ["x"] }, { type = "nodes", args = ["y"] }]',
            [("watch", "nodes #2", "added", "applied", "")],
            id="watches of one kind",
        ),
        pytest.param(
            'log_level = "info"',
            'log_level = "warn"',
            [("key", "log_level", "changed", "applied", '"info" -> "warn"')],
            id="reloadable key",
        ),
        pytest.param(
            "ports { http = 1 }",
            "ports { http = 2 }",
            [("key", "ports.http", "changed", "needs restart", "1 -> 2")],
            id="key that needs a restart",
        ),
        pytest.param(
            'max_query_time = "1m"',
            'max_query_time = "2m"',
            [("key", "max_query_time", "changed", "needs restart", "1m0s -> 2m0s")],
            id="duration",
        ),
        pytest.param(
            'dns_config { service_ttl { "web" = "1s" } }',
            'dns_config { service_ttl { "web" = "2s" } node_ttl = "1s" }',
            [
                ("key", "dns_config.node_ttl", "changed", "applied", "0s -> 1s"),
                ("key", "dns_config.service_ttl.web", "changed", "applied", "1s -> 2s"),
            ],
            id="DNS",
        ),
        pytest.param(
            "",
            'node_meta { a = "b" }',
            [("key", "node_meta.a", "added", "applied", 'none -> "b"')],
            id="member of a map",
        ),
        pytest.param(
            'acl { tokens { agent = "secret" } }',
            'acl { tokens { agent = "other" } }',
            [("key", "acl.tokens.agent", "changed", "applied", "")],
            id="secrets stay out",
        ),
        pytest.param(
            "connect { enabled = false }",
            'connect { enabled = true } ae_interval = "5s" segment = "x"',
            [
                ("key", "ae_interval", "added", "ignored", ""),
                ("key", "connect.enabled", "changed", "ignored", ""),
                ("key", "segment", "added", "ignored", ""),
            ],
            id="keys without effect",
        ),
    ],
)
def test_plan(old: str, new: str, items: list[Any]) -> None:
    assert plan_reload(load(old), load(new)).items == tuple(ReloadItem(*item) for item in items)


def test_a_new_address_is_told_once() -> None:
    report = plan_reload(load('advertise_addr = "10.0.0.1"'), load('advertise_addr = "10.0.0.2"'))
    assert not [item for item in report.items if item.name.startswith("tagged_addresses")]
    assert (
        ReloadItem("key", "advertise_addr", "changed", "needs restart", '"10.0.0.1" -> "10.0.0.2"')
        in report.items
    )


def test_the_report_for_people_and_programs() -> None:
    report = ReloadReport(
        (
            ReloadItem("service", "a", "added", "applied"),
            ReloadItem("key", "ports.http", "changed", "needs restart", "1 -> 2"),
        ),
        ("careful",),
    )
    assert report.lines() == [
        "service a: added, applied",
        "key ports.http: changed, needs restart (1 -> 2)",
    ]
    assert report.summary() == "1 applied, 1 needs restart"
    assert report.plain() == {
        "Items": [
            {"Kind": "service", "Name": "a", "Change": "added", "Outcome": "applied", "Detail": ""},
            {
                "Kind": "key",
                "Name": "ports.http",
                "Change": "changed",
                "Outcome": "needs restart",
                "Detail": "1 -> 2",
            },
        ],
        "Warnings": ["careful"],
    }
    assert ReloadReport().lines() == [ReloadReport().summary()] == ["nothing has changed"]


def value_at(struct: Any, path: str) -> Any:
    for name in path.split("."):
        struct = getattr(struct, name)
    return struct


def test_only_reloadable_keys_are_taken_over() -> None:
    old = load("")
    new = load(
        'log_level = "err" node_meta { a = "b" } ports { http = 9 } recursors = ["8.8.8.8"]'
        " limits { rpc_rate = 5 http_max_conns_per_client = 7 kv_max_value_size = 9 }"
        ' telemetry { prefix_filter = ["+x"] metrics_prefix = "y" } dns_config { node_ttl = "1s" }'
        ' acl { enabled = true tokens { agent = "t" } } discard_check_output = true'
    )
    config = reloaded_config(old.config, new.config)
    for path in RELOADABLE:
        assert value_at(config, path) == value_at(new.config, path), path
    assert (config.ports.http, config.limits.kv_max_value_size) == (8500, 512 * 1024)
    assert (config.telemetry.metrics_prefix, config.acl.enabled) == ("consul", False)
    # What is left to do is just what needs a restart.
    left = plan_reload(msgspec.structs.replace(new, config=config), new)
    assert {item.outcome for item in left.items} == {"needs restart"}


def test_reloadable_keys_exist() -> None:
    assert set(RELOADABLE) <= KEYS.keys()
    assert reloaded_config(AgentConfig(), AgentConfig()) == AgentConfig()


def test_the_quick_start_s_definitions() -> None:
    directory = Path(__file__).parents[3] / "config.d"
    loaded = load_config(
        ["-dev", "-ui", "-enable-script-checks", f"-config-dir={directory}"], host=HOST
    )
    assert [service.name for service in loaded.services] == ["web", "reports"]
    assert [check.id for check in loaded.checks] == ["disk"]
    assert [watch.prefix for watch in loaded.watches] == ["web/"]
    assert not any("config.d" in warning for warning in loaded.warnings)
