"""YAML and TOML read as their JSON would be, and refused with file and line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

# The package stands beside its tests and need not be installed to be tested.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from registry_yaml import registry_definition_sources
from registry_yaml.readers import load_toml, load_yaml

from registry.agent.loading import load_config
from registry.errors import ConfigError
from registry.plugins import Plugins

YAML = """
# two services
services:
  - name: web
    port: 8080
    tags: [on, "no", v1.5]
    checks:
      - {http: "http://localhost:8080/health", interval: 10s}
  - name: db
    port: 5432
    meta: &meta {since: 2024-01-01}
"""

TOML = """
[[services]]
name = "web"
port = 8080
meta = { since = 2024-01-01 }

[[services.checks]]
http = "http://localhost:8080/health"
interval = "10s"
"""


def test_yaml() -> None:
    read = load_yaml(Path("a.yaml"), YAML)
    web, db = read["services"]
    assert web["port"] == 8080
    assert web["tags"] == ["on", "no", "v1.5"]
    assert db["meta"] == {"since": "2024-01-01"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("# nothing\n", {}),
        ("a: true\nb: yes\n", {"a": True, "b": "yes"}),
        ("a: 0x10\nb: null\nc: ~\n", {"a": 16, "b": None, "c": None}),
        ("1: one\n", {"1": "one"}),
        ("a: &x {k: 1}\nb: {<<: *x, l: 2}\n", {"a": {"k": 1}, "b": {"k": 1, "l": 2}}),
    ],
)
def test_yaml_without_traps(text: str, expected: Mapping[str, Any]) -> None:
    assert load_yaml(Path("a.yaml"), text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\nb: [1, 2\n", "a.yaml:3: "),
        ("a: 1\na: 2\n", "a.yaml:2: the key 'a' is there twice"),
        ("- a\n- b\n", "a.yaml: expected a mapping of keys at the top"),
        (
            "a: !!python/object/apply:os.system [ls]\n",
            "a.yaml:1: could not determine a",
        ),
        ("a: 1\n---\nb: 2\n", "a.yaml:"),
    ],
    ids=["syntax", "twice", "list", "code", "two documents"],
)
def test_yaml_that_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_yaml(Path("a.yaml"), text)
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)


def test_toml() -> None:
    (web,) = load_toml(Path("a.toml"), TOML)["services"]
    assert (web["port"], web["meta"]) == (8080, {"since": "2024-01-01"})


def test_toml_that_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        load_toml(Path("a.toml"), 'a = 1\nb = "x\n')
    assert str(caught.value).startswith("a.toml:2: ")


def test_the_agent_reads_them_beside_json(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(YAML)
    (tmp_path / "b.toml").write_text(TOML.replace('"web"', '"api"'))
    (tmp_path / "c.json").write_text('{"service": {"name": "cache"}}')
    plugins = Plugins.load()
    plugins.add("yaml", sys.modules[registry_definition_sources.__module__])
    loaded = load_config(["-dev", f"-config-dir={tmp_path}"], plugins)
    assert [service.name for service in loaded.services] == ["web", "db", "api", "cache"]
    (tmp_path / "d.yaml").write_text("service:\n  name: x\n  prot: 80\n")
    with pytest.raises(ConfigError, match=r"d\.yaml"):
        load_config(["-dev", f"-config-dir={tmp_path}"], plugins)
    plugins.close()
