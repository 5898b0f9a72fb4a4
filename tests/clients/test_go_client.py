"""The Go client, unmodified, against an agent: the calls are in go/calls_test.go."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from registry.testing.process import AgentProcess, wait_until

#: What these look at is the one server that the others have.
OF_A_LONE_SERVER = {"TestAgentItself", "TestCatalogAndHealth", "TestOperator"}


def run(program: Path, agent: AgentProcess, *arguments: str) -> str:
    ended = subprocess.run(
        [str(program), *arguments],
        env={
            **os.environ,
            "CONSUL_HTTP_ADDR": f"127.0.0.1:{agent.ports['http']}",
            "AGENT_SERF_ADDR": f"127.0.0.1:{agent.ports['serf_lan']}",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def names_of(program: Path, agent: AgentProcess) -> set[str]:
    return {line for line in run(program, agent, "-test.list=.").split() if line[:4] == "Test"}


def test_calls(agent: AgentProcess, go_calls: Path) -> None:
    said = run(go_calls, agent, "-test.v")
    assert said.count("\n--- PASS") == len(names_of(go_calls, agent)), said


def test_calls_through_a_client_agent(tmp_path: Path, go_calls: Path) -> None:
    with AgentProcess(tmp_path / "server", name="server") as server:
        config: dict[str, object] = {
            "node_meta": {"rack": "r1"},
            "retry_join": [f"127.0.0.1:{server.ports['serf_lan']}"],
        }
        client = AgentProcess(
            tmp_path / "client", arguments=("-enable-script-checks",), config=config, name="n1"
        )
        with client:
            wait_until(
                lambda: "n1" in server.client.get("/v1/catalog/nodes").text, "it in the catalog"
            )
            names = names_of(go_calls, client) - OF_A_LONE_SERVER
            said = run(go_calls, client, "-test.v", f"-test.run=^({'|'.join(sorted(names))})$")
            assert said.count("\n--- PASS") == len(names), said
