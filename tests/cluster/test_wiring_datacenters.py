"""Two datacenters joined by their servers, as users set them up and use them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rcode
import pytest

from registry.client import ApiError, Client
from registry.testing.agent_cluster import loopback_address
from registry.testing.process import AgentProcess, wait_until


@dataclass(frozen=True)
class World:
    """One server in each datacenter, and an agent without data in the first."""

    one: AgentProcess
    client: AgentProcess
    two: AgentProcess

    @property
    def asked(self) -> dict[str, AgentProcess]:
        """Agents of dc1, by what they are."""
        return {"server": self.one, "client": self.client}


def wan_of(agent: AgentProcess) -> str:
    return f"{agent.address}:{agent.ports['serf_wan']}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("world")
    with ExitStack() as stack:

        def start(name: str, datacenter: str, *arguments: str, **config: object) -> AgentProcess:
            made = AgentProcess(
                root / name,
                name=name,
                arguments=arguments,
                config={"datacenter": datacenter, **config},
                address=loopback_address(),
            )
            stack.callback(made.kill)
            return made.start(wait=False)

        quick = {"gossip_wan": {"gossip_interval": "100ms", "probe_interval": "500ms"}}
        one = start("one", "dc1", "-server", "-bootstrap", **quick)
        lan = f"{one.address}:{one.ports['serf_lan']}"
        two = start(
            "two",
            "dc2",
            "-server",
            "-bootstrap",
            f"-retry-join-wan={wan_of(one)}",
            "-retry-interval-wan=1s",
            **quick,
        )
        client = start("client", "dc1", f"-retry-join={lan}", "-retry-interval=1s")
        found = World(one, client, two)
        for agent in (one, two, client):
            wait_until(agent.is_ready, f"{agent.name} is ready")
        wait_until(lambda: datacenters(client.client) == ["dc1", "dc2"], "dc2 is known in dc1")
        wait_until(lambda: datacenters(two.client) == ["dc2", "dc1"], "dc1 is known in dc2")
        yield found


def datacenters(client: Client) -> list[str]:
    found: list[str] = client.get("/v1/catalog/datacenters").json()
    return found


def test_servers_meet_in_the_wan_pool(world: World) -> None:
    rows = [line.split() for line in world.two.run("members", "-wan").splitlines()]
    assert [(row[0], row[2], row[3], row[6]) for row in rows[1:]] == [
        ("one.dc1", "alive", "server", "dc1"),
        ("two.dc2", "alive", "server", "dc2"),
    ]
    names = {row["Name"] for row in world.one.client.get("/v1/agent/members?wan=1").json()}
    assert names == {"one.dc1", "two.dc2"}
    assert world.client.client.get("/v1/agent/members?wan=1").json() is None
    assert world.one.run("catalog", "datacenters").split() == ["dc1", "dc2"]
    assert "known_datacenters = 2\n" in world.one.run("info")
    joined = world.one.run("join", "-wan", wan_of(world.two))
    assert joined == "Successfully joined cluster by contacting 1 nodes.\n"


@pytest.mark.parametrize(
    ("pool", "member"), [("lan", "client {client.address}"), ("wan", "two.dc2 {two.address}")]
)
def test_the_log_tells_once_who_joins_which_pool(world: World, pool: str, member: str) -> None:
    told = "serf: EventMemberJoin: " + member.format(client=world.client, two=world.two)
    lines = [line for line in world.one.log_path.read_text().splitlines() if told in line]
    assert len(lines) == 1
    assert f"[INFO]  agent.server.serf.{pool}: {told}" in lines[0]


def test_places_in_the_network_between_datacenters(world: World) -> None:
    areas = world.client.client.get("/v1/coordinate/datacenters").json()
    nodes = [(area["Datacenter"], [each["Node"] for each in area["Coordinates"]]) for area in areas]
    assert nodes == [("dc1", ["one"]), ("dc2", ["two"])]
    shape = r"Estimated one\.dc1 <-> two\.dc2 rtt: \d+\.\d{3} ms \(using WAN coordinates\)\n"
    assert re.fullmatch(shape, world.one.run("rtt", "-wan", "one.dc1", "two.dc2"))


@pytest.mark.parametrize("asked", ["server", "client"])
def test_requests_for_the_other_datacenter_are_answered_there(world: World, asked: str) -> None:
    here, there = world.asked[asked].client, world.two.client
    key, dc2 = f"from-{asked}", {"dc": "dc2"}
    assert here.put(f"/v1/kv/{key}", dc2, body=b"1").json() is True
    assert there.kv_get(key) == b"1"
    assert here.kv_get(key) is None
    found = here.get(f"/v1/kv/{key}", {**dc2, "raw": ""})
    assert found.body == b"1"
    assert found.index > 1
    nodes = here.get("/v1/catalog/nodes", dc2).json()
    assert [(node["Node"], node["Datacenter"]) for node in nodes] == [("two", "dc2")]
    assert here.get("/v1/health/service/consul", dc2).json()[0]["Node"]["Node"] == "two"
    assert here.get("/v1/status/leader", dc2).json() == there.get("/v1/status/leader").json()
    registration: dict[str, Any] = {"Node": f"ext-{asked}", "Address": "10.9.9.9"}
    assert here.put("/v1/catalog/register", json_body={**registration, "Datacenter": "dc2"}).json()
    shown = there.get(f"/v1/catalog/node/ext-{asked}").json()["Node"]
    assert shown["Datacenter"] == "dc2"
    gone = {"Node": f"ext-{asked}", "Datacenter": "dc2"}
    assert here.put("/v1/catalog/deregister", json_body=gone).json() is True
    assert there.get(f"/v1/catalog/node/ext-{asked}").json() is None
    session = here.put("/v1/session/create", dc2, json_body={"Node": "two"}).json()["ID"]
    assert there.get(f"/v1/session/info/{session}").json()[0]["Node"] == "two"


@pytest.mark.parametrize("asked", ["server", "client"])
def test_commands_take_the_other_datacenter(world: World, asked: str, tmp_path: Path) -> None:
    agent = world.asked[asked]
    put = agent.run("kv", "put", "-datacenter=dc2", f"command-{asked}", "x")
    assert put == f"Success! Data written to: command-{asked}\n"
    assert world.two.run("kv", "get", f"command-{asked}") == "x\n"
    assert agent.run("operator", "raft", "list-peers", "-datacenter=dc2") == world.two.run(
        "operator", "raft", "list-peers"
    )
    file = str(tmp_path / "dc2.snap")
    agent.run("snapshot", "save", "-datacenter=dc2", file)
    assert "ID" in agent.run("snapshot", "inspect", file)


@pytest.mark.parametrize("asked", ["server", "client"])
def test_a_blocking_read_waits_at_the_other_datacenter(world: World, asked: str) -> None:
    key = f"watched-{asked}"
    there = world.two.client
    there.kv_put(key, b"1")
    here = world.asked[asked].client
    index = here.get(f"/v1/kv/{key}", {"dc": "dc2"}).index
    waiting = {"dc": "dc2", "raw": True, "index": index, "wait": "30s"}
    with ThreadPoolExecutor() as threads:
        found = threads.submit(here.get, f"/v1/kv/{key}", waiting)
        there.kv_put(key, b"2")
        assert found.result(20).body == b"2"


@pytest.mark.parametrize("asked", ["server", "client"])
def test_events_of_the_other_datacenter(world: World, asked: str) -> None:
    name = f"news-{asked}"
    world.asked[asked].client.put(f"/v1/event/fire/{name}", {"dc": "dc2"}, body=b"payload")

    def seen(agent: AgentProcess) -> bool:
        return bool(agent.client.get("/v1/event/list", {"name": name}).json())

    wait_until(lambda: seen(world.two), "the event is there")
    assert not any(map(seen, world.asked.values()))


@pytest.mark.parametrize("asked", ["server", "client"])
def test_names_of_the_other_datacenter(world: World, asked: str) -> None:
    body = {
        "Node": "far",
        "Address": "10.2.0.1",
        "Service": {"Service": "named", "Port": 80},
    }
    world.two.client.request("PUT", "/v1/catalog/register", json_body=body)
    agent = world.asked[asked]

    def answer(name: str, rdtype: str) -> str:
        query = dns.message.make_query(name, rdtype)
        answer = dns.query.udp(query, agent.address, timeout=10, port=agent.ports["dns"])
        found = " ".join(each.to_text() for each in answer.answer)
        return found or dns.rcode.to_text(answer.rcode())

    name = "named.service.dc2.consul."
    assert answer(name, "A") == f"{name} 0 IN A 10.2.0.1"
    assert answer(name, "SRV") == f"{name} 0 IN SRV 1 1 80 far.node.dc2.consul."
    assert answer("far.node.dc2.consul.", "A") == "far.node.dc2.consul. 0 IN A 10.2.0.1"
    for unknown in ("named.service.dc3.consul.", "named.service.consul."):
        assert answer(unknown, "A") == "NXDOMAIN"
    world.two.client.put("/v1/catalog/deregister", json_body={"Node": "far"})
    assert answer(name, "A") == "NXDOMAIN"


@pytest.mark.parametrize("asked", ["server", "client"])
@pytest.mark.parametrize(
    ("failover", "datacenter", "failovers", "nodes"),
    [
        pytest.param({}, "dc1", 0, [], id="none"),
        pytest.param({"NearestN": 3}, "dc2", 1, ["far"], id="nearest"),
        pytest.param({"Datacenters": ["dc9", "DC2"]}, "dc2", 1, ["far"], id="named"),
        pytest.param({"NearestN": 1, "Datacenters": ["dc2"]}, "dc2", 1, ["far"], id="named-twice"),
        pytest.param({"Datacenters": ["dc9"]}, "dc1", 0, [], id="unknown"),
    ],
)
def test_a_query_whose_service_is_only_elsewhere(
    world: World,
    asked: str,
    failover: dict[str, Any],
    datacenter: str,
    failovers: int,
    nodes: list[str],
) -> None:
    here = world.asked[asked].client
    service = {"Service": "remote", "Port": 80}
    far = {"Node": "far", "Address": "10.1.1.1", "Datacenter": "dc2", "Service": service}
    assert here.put("/v1/catalog/register", json_body=far).json() is True
    wanted = {"Service": "${name.suffix}", "Failover": failover}
    template = {"Name": "to-", "Template": {"Type": "name_prefix_match"}, "Service": wanted}
    made = here.request("POST", "/v1/query", json_body=template).json()["ID"]
    found = here.get("/v1/query/to-remote/execute").json()
    here.delete(f"/v1/query/{made}")
    assert (found["Datacenter"], found["Failovers"]) == (datacenter, failovers)
    assert [each["Node"]["Node"] for each in found["Nodes"]] == nodes


@pytest.mark.parametrize("asked", ["server", "client"])
@pytest.mark.parametrize("path", ["kv/a", "catalog/nodes", "health/state/any", "status/leader"])
def test_a_datacenter_that_nobody_knows(world: World, asked: str, path: str) -> None:
    with pytest.raises(ApiError) as caught:
        world.asked[asked].client.get(f"/v1/{path}", {"dc": "dc9"})
    assert (caught.value.status, str(caught.value.text)) == (500, "No path to datacenter")


def test_a_datacenter_that_is_down(world: World) -> None:
    """The last test: it ends the other datacenter."""
    world.two.kill()
    with pytest.raises(ApiError) as caught:
        world.one.client.get("/v1/kv/a", {"dc": "dc2"})
    assert caught.value.status == 500
    assert "cannot reach" in str(caught.value)
    assert world.one.client.kv_put("still", b"here")
    wanted = {"Service": "nowhere", "Failover": {"NearestN": 1, "Datacenters": ["dc2"]}}
    world.one.client.request("POST", "/v1/query", json_body={"Name": "lost", "Service": wanted})
    found = world.one.client.get("/v1/query/lost/execute").json()
    assert (found["Datacenter"], found["Failovers"], found["Nodes"]) == ("dc1", 1, [])
