"""Prometheus finds its targets at a real agent, and scrapes them."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from registry.testing.command_line import Stub
from registry.testing.ports import free_ports
from registry.testing.process import AgentProcess, wait_until

PACKAGE = Path(__file__).resolve().parents[2] / "plugins" / "registry-prometheus-sd"
CONFIG = """
global: {scrape_interval: 1s}
scrape_configs:
  - job_name: services
    http_sd_configs:
      - url: http://AGENT/v1/prometheus/sd?tag=metrics&passing
        refresh_interval: 1s
    relabel_configs:
      - {source_labels: [__meta_consul_service], target_label: job}
      - {source_labels: [__meta_consul_service_id], target_label: instance}
      - {source_labels: [__meta_consul_service_metadata_path], regex: (.+),
         target_label: __metrics_path__}
"""


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path, arguments=["-dev", f"-plugin-dir={PACKAGE}"]) as agent:
        yield agent


@pytest.fixture
def exporter() -> Iterator[Stub]:
    with Stub() as stub:
        stub.answers["GET /own/path"] = (200, b"answer 42\n")
        yield stub


@pytest.fixture
def prometheus(agent: AgentProcess, tmp_path: Path) -> Iterator[str]:
    """The address of the program's API."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed")
    (port,) = free_ports(1)
    config = tmp_path / "prometheus.yml"
    config.write_text(CONFIG.replace("AGENT", agent.http_address))
    command = [program, f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}"]
    with (tmp_path / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    yield f"http://127.0.0.1:{port}/api/v1/"
    process.kill()
    process.wait()


def register(agent: AgentProcess, number: int, exporter: Stub, *tags: str) -> None:
    host, _, port = exporter.address.rpartition(":")
    definition: dict[str, Any] = {
        "Name": "web",
        "ID": f"web-{number}",
        "Tags": tags,
        "Address": host,
        "Port": int(port),
        "Meta": {"path": "/own/path"},
        "Check": {"TTL": "60s", "CheckID": f"web-{number}", "Status": "passing"},
    }
    agent.client.put("/v1/agent/service/register", json_body=definition)


def found(agent: AgentProcess, query: str = "") -> list[str]:
    groups = agent.client.get(f"/v1/prometheus/sd{query}").json()
    return sorted(group["labels"]["__meta_consul_service_id"] for group in groups)


def test_targets_of_an_agent(agent: AgentProcess, exporter: Stub) -> None:
    register(agent, 1, exporter, "metrics", "v1")
    register(agent, 2, exporter, "metrics")
    register(agent, 3, exporter)
    everything = ["consul", "web-1", "web-2", "web-3"]
    wait_until(lambda: found(agent) == everything, lambda: f"all services, not {found(agent)}")
    assert found(agent, "?tag=metrics") == ["web-1", "web-2"]
    assert found(agent, "?tag=metrics&tag=v1") == ["web-1"]
    assert found(agent, "?service=web") == ["web-1", "web-2", "web-3"]
    assert found(agent, "?filter=Service.ID==%22web-3%22") == ["web-3"]
    agent.client.put("/v1/agent/check/fail/web-2")
    wait_until(lambda: found(agent, "?service=web&passing") == ["web-1", "web-3"], "a filter")
    assert found(agent, "?service=web") == ["web-1", "web-2", "web-3"]
    refused = agent.client.get("/v1/prometheus/sd?filter=%3D", accept=(400, 500))
    assert "Failed to create boolean expression evaluator" in refused.text
    documented = agent.client.get("/v1/openapi.json").json()["paths"]["/v1/prometheus/sd"]
    assert documented["get"]["summary"] == "List instances of services as targets of Prometheus"
    (plugin,) = [
        each
        for each in agent.client.get("/v1/agent/plugins").json()
        if each["Name"] == "registry_prometheus_sd"
    ]
    assert plugin["Errors"] == []


def test_prometheus_scrapes_what_it_finds(
    agent: AgentProcess, exporter: Stub, prometheus: str
) -> None:
    def scraped() -> set[str]:
        with (
            suppress(URLError, ConnectionError),
            urllib.request.urlopen(f"{prometheus}targets?state=active", timeout=10) as answer,
        ):
            targets = json.load(answer)["data"]["activeTargets"]
            return {
                each["labels"]["job"] + " " + each["labels"]["instance"]
                for each in targets
                if each["health"] == "up"
            }
        return set()

    register(agent, 1, exporter, "metrics")
    register(agent, 2, exporter, "metrics")
    register(agent, 3, exporter)
    agent.client.put("/v1/agent/check/fail/web-2")
    register(agent, 4, exporter, "metrics")
    wait_until(
        lambda: scraped() == {"web web-1", "web web-4"},
        lambda: f"the targets, not {scraped()}; {agent.log_tail()}",
    )
