"""Commands that concern several agents: a server and a client agent, as processes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.testing.process import AgentProcess, wait_until

SERVICE = {"service": {"name": "web", "tags": ["blue"]}}


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AgentProcess, AgentProcess]]:
    """A server "one" and a client agent "two" with a service; both take part in `exec`."""
    root = tmp_path_factory.mktemp("agents")
    on: dict[str, object] = {"disable_remote_exec": False}
    with AgentProcess(
        root / "one", arguments=("-dev",), config={**on, "data_dir": ""}, name="one"
    ) as server:
        first = f"127.0.0.1:{server.ports['serf_lan']}"
        config = {**on, **SERVICE, "start_join": [first]}
        with AgentProcess(root / "two", arguments=(), config=config, name="two") as client:
            yield server, client


def finished(output: str) -> set[str]:
    return set(re.findall(r"==> (\w+): finished with exit code 0", output))


@pytest.mark.parametrize("asked", [0, 1], ids=["server", "client"])
@pytest.mark.parametrize(
    ("filters", "nodes"),
    [
        pytest.param([], {"one", "two"}, id="all"),
        pytest.param(["-node=^one$"], {"one"}, id="by-node"),
        pytest.param(["-service=web", "-tag=blue"], {"two"}, id="by-service-and-tag"),
        pytest.param(["-service=web", "-tag=red"], set(), id="no-such-tag"),
    ],
)
def test_exec_on_many_nodes(
    agents: tuple[AgentProcess, AgentProcess], asked: int, filters: list[str], nodes: set[str]
) -> None:
    output = agents[asked].run("exec", "-wait=2s", *filters, "echo hello")
    assert finished(output) == nodes
    assert set(re.findall(r"    (\w+): hello", output)) == nodes
    assert f"{len(nodes)} / {len(nodes)} node(s) completed" in output


def test_an_event_reaches_all_whom_it_concerns(agents: tuple[AgentProcess, AgentProcess]) -> None:
    def seen(agent: AgentProcess, name: str) -> bool:
        return bool(agent.client.get("/v1/event/list", {"name": name}).json())

    one, two = agents
    one.run("event", "-name=filtered", "-service=web")
    one.run("event", "-name=everybody")
    wait_until(lambda: all(seen(agent, "everybody") for agent in agents), "the event everywhere")
    wait_until(lambda: seen(two, "filtered"), "the event at the node with the service")
    assert not seen(one, "filtered")


def test_the_time_between_two_nodes(agents: tuple[AgentProcess, AgentProcess]) -> None:
    def known() -> set[str]:
        found = agents[1].client.get("/v1/coordinate/nodes").json()
        return {entry["Node"] for entry in found}

    wait_until(lambda: known() == {"one", "two"}, "coordinates of both", seconds=60)
    shape = r"Estimated one <-> two rtt: \d+\.\d{3} ms \(using LAN coordinates\)\n"
    for agent in agents:
        assert re.fullmatch(shape, agent.run("rtt", "one", "two"))


def test_a_client_agent_passes_on_what_servers_do(
    agents: tuple[AgentProcess, AgentProcess], tmp_path: Path
) -> None:
    server, client = agents
    assert client.run("lock", "-n=2", "places", "echo held") == "held\n"
    assert client.run("operator", "raft", "list-peers") == server.run(
        "operator", "raft", "list-peers"
    )
    file = str(tmp_path / "back.snap")
    client.run("kv", "put", "before", "1")
    assert client.run("snapshot", "save", file).startswith("Saved and verified snapshot")
    client.run("kv", "put", "before", "2")
    assert client.run("snapshot", "restore", file) == "Restored snapshot\n"
    assert client.run("kv", "get", "before") == "1\n"
