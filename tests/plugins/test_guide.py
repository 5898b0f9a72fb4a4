"""The guide for authors tells of every hook and every package, and its first example works."""

from __future__ import annotations

import re
from pathlib import Path

from registry import hooks
from registry.testing.process import wait_until
from registry.testing.pytest_plugin import StartAgent

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
GUIDE = (PLUGINS / "README.md").read_text()


def test_every_hook_is_told_of() -> None:
    table = GUIDE.partition("## The hooks")[2].partition("\n## ")[0]
    told = re.findall(r"`(registry_\w+)`", table)
    assert sorted(told) == sorted(name for name in vars(hooks) if name.startswith("registry_"))


def test_every_package_is_told_of() -> None:
    told = re.findall(r"^\| \[`(registry-[\w-]+)`\]\(\1\) \|", GUIDE, re.MULTILINE)
    assert sorted(told) == sorted(path.parent.name for path in PLUGINS.glob("*/pyproject.toml"))


def test_the_first_example(registry_agent: StartAgent, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(# uptime_check\.py\n.*?)```", GUIDE, re.DOTALL)
    (tmp_path / "uptime_check.py").write_text(code)
    check = {"check": {"name": "fresh boot?", "interval": "10s", "min_uptime": 300}}
    assert '{"check": {"name": "fresh boot?", "interval": "10s", "min_uptime": 300}}' in GUIDE
    agent = registry_agent(arguments=("-dev", f"-plugin-dir={tmp_path}"), config=check)

    def has_run() -> bool:
        found = agent.client.get("/v1/agent/checks").json().values()
        return any("up for" in each["Output"] for each in found)

    wait_until(has_run, "a run of the check")
