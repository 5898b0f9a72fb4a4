"""Prometheus finds its targets in the catalog by its own discovery, and scrapes the agent.

Debian's prometheus is built without `consul_sd_configs`, so that part of Prometheus runs beside it,
unmodified, in the small program of prometheus/main.go, and hands over what it finds by file.
"""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from registry.testing.command_line import Stub
from registry.testing.ports import free_ports
from registry.testing.process import AgentProcess, wait_until

# `metrics` asks for what is tagged so on nodes of rack r1; `chosen` for a service by name.
CONSUL_SD_CONFIGS = {
    "metrics": """
- server: ADDRESS
  refresh_interval: 100ms
  tags: [metrics]
  node_meta: {rack: r1}
""",
    "chosen": """
- {server: ADDRESS, refresh_interval: 100ms, services: [registry-http], allow_stale: false}
""",
}
CONFIG = """
global: {scrape_interval: 1s}
scrape_configs:
  - job_name: metrics
    file_sd_configs: [files: [ROOT/metrics.json]]
    relabel_configs:
      - {source_labels: [__meta_consul_health], regex: passing, action: keep}
      - {source_labels: [__meta_consul_service], target_label: job}
      - {source_labels: [__meta_consul_service_id], target_label: instance}
      - {source_labels: [__meta_consul_node, __meta_consul_dc], separator: ., target_label: node}
      - {source_labels: [__meta_consul_metadata_rack], target_label: rack}
      - {source_labels: [__meta_consul_tags], regex: '.*,(v[0-9]+),.*', target_label: version}
      - {source_labels: [__meta_consul_service_metadata_path], regex: (.+),
         target_label: __metrics_path__}
  - job_name: chosen
    params: {format: [prometheus]}
    metrics_path: /v1/agent/metrics
    file_sd_configs: [files: [ROOT/chosen.json]]
"""


class Discovery:
    """The discovery of one scrape job; `found` is what it handed over last."""

    def __init__(self, program: Path, root: Path, job: str, agent_address: str) -> None:
        self._path = root / f"{job}.json"
        config = root / f"{job}.yml"
        config.write_text(CONSUL_SD_CONFIGS[job].replace("ADDRESS", agent_address))
        self.process = start(root / f"{job}.log", str(program), str(config), str(self._path))

    def found(self) -> dict[str, dict[str, str]]:
        """The labels of the targets by the id of their service."""
        if not self._path.exists():
            return {}
        entries = json.loads(self._path.read_bytes())
        return {
            entry["labels"]["__meta_consul_service_id"]: {
                "address": entry["targets"][0],
                **entry["labels"],
            }
            for entry in entries
        }


class Prometheus:
    """The program, and questions to its API."""

    def __init__(self, program: str, root: Path) -> None:
        [port] = free_ports(1)
        self._url = f"http://127.0.0.1:{port}/api/v1/"
        self._log_path = root / "prometheus.log"
        (root / "config.yml").write_text(CONFIG.replace("ROOT", str(root)))
        self.process = start(
            self._log_path,
            program,
            f"--config.file={root / 'config.yml'}",
            f"--storage.tsdb.path={root / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        )

    def ask(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self._url}{path}?{query}", timeout=10) as answer:
            return json.load(answer)["data"]

    def targets(self, job: str) -> dict[str, dict[str, Any]]:
        """The active targets of a scrape job by their `instance`; empty while it starts."""
        assert self.process.poll() is None, self.log()
        with suppress(URLError, ConnectionError):
            return {
                target["labels"]["instance"]: target
                for target in self.ask("targets", state="active")["activeTargets"]
                if target["scrapePool"] == job
            }
        return {}

    def scraped(self, job: str) -> set[str]:
        targets = self.targets(job)
        return {instance for instance, each in targets.items() if each["health"] == "up"}

    def log(self) -> str:
        return self._log_path.read_text(errors="replace")[-3000:]


def start(log_path: Path, *command: str) -> subprocess.Popen[bytes]:
    with log_path.open("wb") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


Discover = Callable[[str], Discovery]


@pytest.fixture
def discover(agent: AgentProcess, prometheus_discovery: Path, tmp_path: Path) -> Iterator[Discover]:
    started: list[Discovery] = []

    def discover(job: str) -> Discovery:
        address = f"127.0.0.1:{agent.ports['http']}"
        started.append(Discovery(prometheus_discovery, tmp_path, job, address))
        return started[-1]

    yield discover
    for each in started:
        end(each.process)


@pytest.fixture
def prometheus(prometheus_program: str, tmp_path: Path) -> Iterator[Prometheus]:
    prometheus = Prometheus(prometheus_program, tmp_path)
    yield prometheus
    end(prometheus.process)


@pytest.fixture
def exporter() -> Iterator[Stub]:
    with Stub() as stub:
        stub.answers["GET /metrics"] = stub.answers["GET /own/path"] = (200, b"answer 42\n")
        yield stub


@pytest.fixture
def register(agent: AgentProcess, exporter: Stub) -> Iterator[Callable[..., None]]:
    """Registers an instance of a service, gone after the test."""
    host, _, port = exporter.address.rpartition(":")
    registered = set()

    def register(service: str, number: int, *tags: str, **more: Any) -> None:
        service_id = f"{service}-{number}"
        definition = {"Name": service, "ID": service_id, "Tags": tags, **more}
        address = {"Address": host, "Port": int(port)}
        agent.client.put("/v1/agent/service/register", json_body={**address, **definition})
        registered.add(service_id)

    yield register
    for service_id in registered & agent.client.get("/v1/agent/services").json().keys():
        deregister(agent, service_id)


def deregister(agent: AgentProcess, service_id: str) -> None:
    agent.client.put(f"/v1/agent/service/deregister/{service_id}")


def test_targets_come_and_go_with_the_services(
    agent: AgentProcess, discover: Discover, register: Callable[..., None], exporter: Stub
) -> None:
    discovery = discover("metrics")

    def wait_for(*instances: str) -> None:
        wait_until(
            lambda: set(discovery.found()) == set(instances),
            lambda: f"{instances}, not {discovery.found()}",
        )

    register("web", 1, "metrics", "v1", Meta={"path": "/own/path"}, Port=1)
    register("web", 2, "metrics", "v2")
    register("db", 1, "v1")  # without the tag that is looked for
    wait_for("web-1", "web-2")
    labels = discovery.found()["web-1"]
    assert labels == {
        "address": f"{exporter.address.rpartition(':')[0]}:1",
        "__meta_consul_address": "127.0.0.1",
        "__meta_consul_dc": "dc1",
        "__meta_consul_health": "passing",
        "__meta_consul_metadata_consul_network_segment": "",
        "__meta_consul_metadata_rack": "r1",
        "__meta_consul_namespace": "",
        "__meta_consul_node": "n1",
        "__meta_consul_partition": "",
        "__meta_consul_service": "web",
        "__meta_consul_service_address": "127.0.0.1",
        "__meta_consul_service_id": "web-1",
        "__meta_consul_service_metadata_path": "/own/path",
        "__meta_consul_service_port": "1",
        "__meta_consul_tagged_address_lan": "127.0.0.1",
        "__meta_consul_tagged_address_lan_ipv4": "127.0.0.1",
        "__meta_consul_tagged_address_wan": "127.0.0.1",
        "__meta_consul_tagged_address_wan_ipv4": "127.0.0.1",
        "__meta_consul_tags": ",metrics,v1,",
    }

    def health() -> str:
        return discovery.found()["web-2"]["__meta_consul_health"]

    register("web", 2, "metrics", "v2", Check={"TTL": "60s", "CheckID": "web-2"})
    wait_until(lambda: health() == "critical", "the check's state")
    agent.client.put("/v1/agent/check/pass/web-2")
    wait_until(lambda: health() == "passing", "the check's new state")
    register("cache", 1, "metrics")
    wait_for("web-1", "web-2", "cache-1")
    deregister(agent, "web-1")
    wait_for("web-2", "cache-1")
    deregister(agent, "cache-1")
    wait_for("web-2")
    register("web", 2, "v2")
    wait_for()


def test_targets_are_scraped(
    agent: AgentProcess,
    discover: Discover,
    prometheus: Prometheus,
    register: Callable[..., None],
    exporter: Stub,
) -> None:
    """Prometheus takes up changes every 5 s, so that there are two rounds of them here."""
    host, _, port = exporter.address.rpartition(":")
    register("web", 1, "metrics", "v1", Meta={"path": "/own/path"})
    register("web", 2, "metrics", "v2", Check={"TTL": "60s", "CheckID": "web-2"})
    register("cache", 1, "metrics")
    # Without an address of its own the service is at its node's.
    agent.client.put(
        "/v1/catalog/register",
        json_body={
            "Node": "outside",
            "Address": host,
            "NodeMeta": {"rack": "r1"},
            "Service": {"Service": "external", "Tags": ["metrics"], "Port": int(port)},
        },
    )
    # What the agent says with `format=prometheus` is read by the program that the format is of.
    register("registry-http", 1, Address="127.0.0.1", Port=agent.ports["http"])
    discover("metrics")
    discover("chosen")

    def wait_for(*instances: str) -> None:
        wait_until(
            lambda: prometheus.scraped("metrics") == set(instances),
            lambda: f"{instances}, not {prometheus.targets('metrics')}; {prometheus.log()}",
        )

    wait_for("web-1", "cache-1", "external")
    targets = prometheus.targets("metrics")
    assert targets["web-1"]["labels"] == {
        "job": "web",
        "instance": "web-1",
        "node": "n1.dc1",
        "rack": "r1",
        "version": "v1",
    }
    assert targets["web-1"]["scrapeUrl"] == f"http://{exporter.address}/own/path"
    assert targets["external"]["scrapeUrl"] == f"http://{exporter.address}/metrics"
    wait_until(
        lambda: len(prometheus.ask("query", query="answer == 42")["result"]) == 3, "the values"
    )
    own = f"127.0.0.1:{agent.ports['http']}"
    wait_until(
        lambda: prometheus.scraped("chosen") == {own}, lambda: str(prometheus.targets("chosen"))
    )
    names = prometheus.ask("label/__name__/values")
    assert [name for name in names if name.startswith("consul_")], names

    agent.client.put("/v1/agent/check/pass/web-2")
    agent.client.put("/v1/catalog/deregister", json_body={"Node": "outside"})
    deregister(agent, "web-1")
    deregister(agent, "registry-http-1")
    wait_for("web-2", "cache-1")
    wait_until(lambda: not prometheus.targets("chosen"), "the agent gone")
