"""The example plugin as a user would have it: installed, or in a directory named by a flag."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from registry.testing.process import AgentProcess, wait_until

PACKAGE = Path(__file__).resolve().parents[2] / "plugins" / "registry-dns-check"
CHECK = {
    "check": {
        "id": "resolves",
        "name": "localhost resolves",
        "interval": "1s",
        "dns": {"name": "localhost", "family": "ipv4", "expect": ["127.0.0.1"]},
    }
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that the package is installed into, as pip does it, without a network."""
    target = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "package"
    # Building leaves files beside the sources: a copy keeps the repository clean.
    subprocess.run(["cp", "-r", str(PACKAGE), str(source)], check=True)
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def check_runs(agent: AgentProcess) -> None:
    def passing() -> bool:
        check = agent.client.get("/v1/agent/checks").json()["resolves"]
        assert check["Type"] == "dns"
        return bool(check["Output"] == "localhost resolves to 127.0.0.1") and (
            check["Status"] == "passing"
        )

    wait_until(passing, lambda: f"a passing check; log:\n{agent.log_tail()}")


def reported(agent: AgentProcess, name: str) -> dict[str, object]:
    found: list[dict[str, object]] = agent.client.get("/v1/agent/plugins").json()
    (plugin,) = [entry for entry in found if entry["Name"] == name]
    return plugin


def test_installed_package_is_found_by_its_entry_point(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(installed))
    agent = AgentProcess(tmp_path, arguments=["-dev"])
    agent.write_config("check.json", CHECK)
    with agent:
        check_runs(agent)
        plugin = reported(agent, "dns-check")
        assert plugin["Version"] == "0.1.0"
        assert plugin["Source"] == "entry point"
        assert plugin["Hooks"] == ["registry_check_types"]
        assert plugin["Errors"] == []
        listed = subprocess.run(
            [sys.executable, "-m", "registry", "plugins", "list"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "REGISTRY_HTTP_ADDR": f"127.0.0.1:{agent.ports['http']}"},
        )
        assert "dns-check" in listed.stdout


def test_directory_of_the_package_is_enough(tmp_path: Path) -> None:
    agent = AgentProcess(tmp_path, arguments=["-dev", f"-plugin-dir={PACKAGE}"])
    agent.write_config("check.json", CHECK)
    with agent:
        check_runs(agent)
        plugin = reported(agent, "registry_dns_check")
        assert plugin["Source"] == str(PACKAGE / "registry_dns_check" / "__init__.py")
        assert plugin["Errors"] == []


def test_check_over_http_and_a_refused_definition(tmp_path: Path) -> None:
    agent = AgentProcess(tmp_path, arguments=["-dev", f"-plugin-dir={PACKAGE}"])
    with agent:
        registered = {"ID": "resolves", "Name": "n", "Interval": "1s", "dns": "localhost"}
        wrong = {**registered, "dns": {"nome": "localhost"}}
        agent.client.put("/v1/agent/check/register", json_body=registered)
        wait_until(
            lambda: agent.client.get("/v1/agent/checks").json()["resolves"]["Status"] == "passing",
            "a passing check",
        )
        refused = agent.client.put("/v1/agent/check/register", json_body=wrong, accept=(400, 500))
        assert "dns: unknown key 'nome'; known are name, expect, family" in refused.text


def test_without_the_plugin_its_key_is_refused(tmp_path: Path) -> None:
    agent = AgentProcess(tmp_path, arguments=["-dev"])
    agent.write_config("check.json", CHECK)
    agent.start(wait=False)
    assert agent.process is not None
    try:
        assert agent.process.wait(20) == 1
    finally:
        agent.kill()
    assert "check.json" in agent.log_tail()
    assert "dns" in agent.log_tail()
    assert "Traceback" not in agent.log_tail()
