"""Whole agents as one cluster: what is wired between gossip, consensus, the API and commands.

Three servers and two client agents that encrypt their gossip. The last test takes the cluster
apart; the others leave it as it was.
"""

from __future__ import annotations

import json
import re
import stat
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.client import AgentUnreachable, ApiError
from registry.testing.agent_cluster import AgentCluster, loopback_address, rpc_address
from registry.testing.process import AgentProcess, wait_until

KEY, OTHER_KEY, WRONG_KEY = (b64encode(bytes([byte]) * 32).decode() for byte in b"kow")

#: Gossip that notices a failure within about a second. It is sent as often as usual in a LAN: how
#: long answers to a query are waited for depends on that.
QUICK = {
    "gossip_interval": "200ms",
    "probe_interval": "200ms",
    "probe_timeout": "100ms",
    "suspicion_mult": 2,
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentCluster]:
    root = tmp_path_factory.mktemp("cluster")
    config = {
        "encrypt": KEY,
        "gossip_lan": QUICK,
        "gossip_wan": QUICK,
        "performance": {"raft_multiplier": 1, "leave_drain_time": "200ms"},
        "telemetry": {"prometheus_retention_time": "1h"},
        "autopilot": {"server_stabilization_time": "1s"},
    }
    made = AgentCluster(root, servers=3, clients=2, config=config)
    heard = ["sh", "-c", f"cat >> {root / 'heard'}"]
    made.clients[0].write_config(
        "20-own.json",
        {
            "service": {"name": "web", "tags": ["blue"]},
            "watches": [{"type": "event", "name": "deploy", "args": heard}],
            "enable_script_checks": True,
        },
    )
    with made:
        yield made


def statuses(agent: AgentProcess) -> dict[str, str]:
    """What `members` prints of each member."""
    rows = (line.split() for line in agent.run("members").splitlines()[1:])
    return {row[0]: row[2] for row in rows}


def peers(agent: AgentProcess) -> dict[str, tuple[str, str]]:
    """State and vote of each server, as `operator raft list-peers` prints them."""
    rows = agent.run("operator", "raft", "list-peers").splitlines()[1:]
    return {row[0]: (row[3], row[4]) for row in map(str.split, rows)}


def serf_health(agent: AgentProcess, node: str) -> str:
    """Of a node of the catalog; "" when there is none."""
    checks = agent.client.get(f"/v1/health/node/{node}").json()
    found = [check["Status"] for check in checks if check["CheckID"] == "serfHealth"]
    return str(found[0]) if found else ""


def node_id(agent: AgentProcess) -> str:
    return str(agent.client.get("/v1/agent/self").json()["Config"]["NodeID"])


def keys(agent: AgentProcess) -> dict[str, dict[str, int]]:
    """The keys of each pool, and how many nodes have each."""
    pools = agent.client.get("/v1/operator/keyring").json()
    return {"WAN" if pool["WAN"] else "LAN": pool["Keys"] for pool in pools}


# Encryption


def test_keys_are_kept_in_files_of_the_owner(cluster: AgentCluster) -> None:
    server, client = cluster.servers[0], cluster.clients[0]
    files = {path.name for path in (server.data_dir / "serf").glob("*.keyring")}
    assert files == {"local.keyring", "remote.keyring"}
    assert [path.name for path in (client.data_dir / "serf").glob("*.keyring")] == ["local.keyring"]
    ring = client.data_dir / "serf" / "local.keyring"
    assert json.loads(ring.read_text()) == [KEY]
    assert stat.S_IMODE(ring.stat().st_mode) == 0o600


def test_the_key_is_changed_while_events_and_writes_go_on(cluster: AgentCluster) -> None:
    server, client = cluster.servers[0], cluster.clients[0]
    done = threading.Event()
    problems: list[Exception] = []
    sent = 0

    def traffic() -> None:
        nonlocal sent
        while not done.is_set():
            try:
                assert client.client.kv_put(f"traffic/{sent}", b"")
                client.client.put("/v1/event/fire/traffic")
            except (ApiError, AgentUnreachable, AssertionError) as problem:
                problems.append(problem)
            sent += 1

    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        assert "Installing new gossip" in server.run(
            "keyring", f"-install={OTHER_KEY}", "-relay-factor=2"
        )
        assert keys(server) == {"WAN": {KEY: 3, OTHER_KEY: 3}, "LAN": {KEY: 5, OTHER_KEY: 5}}
        server.run("keyring", f"-use={OTHER_KEY}")
        refused = server.run("keyring", f"-remove={OTHER_KEY}", status=1)
        assert "5/5 nodes reported failure" in refused
        assert "Removing the primary key is not allowed" in refused
        server.run("keyring", f"-remove={KEY}")
        listed = client.run("keyring", "-list")
        pools = ["WAN:", f"  {OTHER_KEY} [3/3]", "", "dc1 (LAN):", f"  {OTHER_KEY} [5/5]"]
        assert listed.splitlines()[2:] == pools
    finally:
        # Back, so that every test finds the key of the configuration.
        for step in (f"-install={KEY}", f"-use={KEY}", f"-remove={OTHER_KEY}"):
            server.run("keyring", step)
        done.set()
        thread.join()
    assert keys(server) == {"WAN": {KEY: 3}, "LAN": {KEY: 5}}
    assert (sent > 0, problems) == (True, [])
    assert set(statuses(server).values()) == {"alive"}


@pytest.mark.parametrize(
    ("method", "query", "body", "status", "text"),
    [
        pytest.param("GET", "relay-factor=6", None, 400, "Relay factor must be", id="too many"),
        pytest.param("PUT", "", {"Key": WRONG_KEY}, 500, "is not in the keyring", id="not there"),
        pytest.param("POST", "", {"Key": "c2hvcnQ="}, 500, "key size must be", id="too short"),
        pytest.param("POST", "local-only=1", {"Key": KEY}, 400, "local-only", id="local change"),
    ],
)
def test_what_the_keyring_refuses(
    cluster: AgentCluster, method: str, query: str, body: Any, status: int, text: str
) -> None:
    with pytest.raises(ApiError, match=text) as caught:
        cluster.clients[0].client.request(method, f"/v1/operator/keyring?{query}", json_body=body)
    assert caught.value.status == status


def test_an_agent_with_another_key_is_refused(cluster: AgentCluster, tmp_path: Path) -> None:
    target = cluster.servers[0]
    stranger = AgentProcess(
        tmp_path,
        name="stranger",
        address=loopback_address(),
        arguments=("-retry-max=1", "-retry-interval=100ms", f"-encrypt={WRONG_KEY}"),
        config={"retry_join": [f"{target.address}:{target.ports['serf_lan']}"]},
    )
    stranger.start(wait=False)
    assert stranger.process is not None
    assert stranger.process.wait(30) == 1
    line = stranger.log_tail().splitlines()[-1]
    assert "max join retry exhausted, exiting" in line
    assert "stranger" not in statuses(target)


def test_an_agent_that_was_told_the_key_once_keeps_it(cluster: AgentCluster) -> None:
    agent = cluster.clients[1]
    agent.kill()
    path = agent.config_dir / "10-cluster.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "encrypt": ""}))
    agent.start()
    wait_until(lambda: set(statuses(agent).values()) == {"alive"}, "it is back in the pool")
    assert len(statuses(agent)) == 5
    assert agent.client.get("/v1/agent/self").json()["Stats"]["serf_lan"]["encrypted"] == "true"
    path.write_text(json.dumps(told))


# What agents say of themselves and of others


def test_statistics_are_those_of_the_agent(cluster: AgentCluster) -> None:
    leader, follower, client = cluster.leader(), cluster.followers()[0], cluster.clients[0]
    known: dict[str, dict[str, Any]] = {
        agent.name: agent.client.get("/v1/agent/self").json()["Stats"]
        for agent in (leader, follower, client)
    }
    for agent, state, leads in ((leader, "Leader", "true"), (follower, "Follower", "false")):
        stats = known[agent.name]
        assert (stats["raft"]["state"], stats["raft"]["num_peers"]) == (state, "2")
        assert rpc_address(follower) in stats["raft"]["latest_configuration"]
        assert (stats["consul"]["leader"], stats["consul"]["bootstrap"]) == (leads, "false")
        assert stats["consul"]["leader_addr"] == rpc_address(leader)
        assert (stats["serf_lan"]["members"], stats["serf_wan"]["members"]) == ("5", "3")
    stats = known[client.name]
    assert (stats["consul"]["known_servers"], stats["consul"]["server"]) == ("3", "false")
    assert not {"raft", "serf_wan"} & stats.keys()
    assert "known_servers = 3\n" in client.run("info")


def test_calls_among_agents_are_measured(cluster: AgentCluster) -> None:
    leader, follower, client = cluster.leader(), cluster.followers()[0], cluster.clients[0]
    for agent in (client, follower):
        agent.client.kv_put("counted", b"")
        agent.client.kv_get("counted")

    def measured(agent: AgentProcess) -> dict[str, float]:
        text = agent.client.get("/v1/agent/metrics?format=prometheus").text
        return {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.M)}

    assert measured(client)["consul_client_rpc"] >= 2
    found = measured(leader)
    assert found["consul_rpc_accept_conn"] >= 2
    assert found["consul_rpc_request"] >= found["consul_rpc_query"] > 0
    gauges = {re.sub(rf"^consul_{leader.name}_", "", name): each for name, each in found.items()}
    assert gauges["raft_applied_index"] == gauges["raft_last_index"] > 0
    assert gauges["autopilot_failure_tolerance"] in (0, 1)
    assert {"rpc_queries_blocking", "autopilot_healthy"} <= gauges.keys()


def test_where_an_agent_is_becomes_known(cluster: AgentCluster) -> None:
    client = cluster.clients[0]

    def moved() -> bool:
        coordinate = client.client.get("/v1/agent/self").json()["Coord"]
        return any(coordinate["Vec"]) or coordinate["Height"] != 1e-05

    wait_until(moved, "its coordinate left the origin")
    near = client.client.get("/v1/catalog/nodes?near=_agent").json()
    assert len(near) == 5
    shape = r"Estimated server1 <-> client1 rtt: \d+\.\d{3} ms \(using LAN coordinates\)\n"
    wait_until(lambda: len(client.client.get("/v1/coordinate/nodes").json()) == 5, "all are placed")
    assert re.fullmatch(shape, client.run("rtt", "server1"))


def test_events_reach_those_whom_they_concern(cluster: AgentCluster) -> None:
    server, client, other = cluster.servers[0], *cluster.clients

    def listed(agent: AgentProcess, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = agent.client.get(f"/v1/event/list?name={name}").json()
        return found

    before = other.client.get("/v1/event/list").index
    server.run("event", "-name=deploy", "-service=^web$", "-tag=blue", "payload")
    wait_until(lambda: bool(listed(client, "deploy")), "the event where the service is")
    heard = client.root.parent / "heard"
    wait_until(lambda: heard.exists() and "deploy" in heard.read_text(), "its watch has run")
    client.run("event", "-name=local", "-node=^client2$")
    changed = other.client.get(f"/v1/event/list?index={before}&wait=10s")
    assert changed.json()[-1]["Name"] == "local"
    assert changed.index != before
    client.run("event", "-name=last")
    wait_until(lambda: bool(listed(server, "last")), "an event for all")
    assert listed(other, "deploy") == listed(server, "local") == []


def test_autopilot_is_set_for_the_whole_cluster(cluster: AgentCluster) -> None:
    client, follower = cluster.clients[0], cluster.followers()[0]
    client.run("operator", "autopilot", "set-config", "-max-trailing-logs=500")
    assert "MaxTrailingLogs = 500\n" in follower.run("operator", "autopilot", "get-config")
    for agent in (client, follower):
        found = agent.client.request("GET", "/v1/operator/autopilot/health", accept=(200, 429))
        health = found.json()
        shown = {each["Name"]: (each["Leader"], each["Voter"]) for each in health["Servers"]}
        leads = cluster.leader().name
        assert shown == {each.name: (each.name == leads, True) for each in cluster.servers}
        assert all(each["SerfStatus"] == "alive" for each in health["Servers"])

    def is_healthy() -> bool:
        found = client.client.request("GET", "/v1/operator/autopilot/health", accept=(200, 429))
        return found.status == 200 and found.json()["FailureTolerance"] == 1

    wait_until(is_healthy, "all servers are well")


# Taking it apart


def test_servers_and_agents_come_and_go(cluster: AgentCluster, tmp_path: Path) -> None:
    client, lost = cluster.clients
    cluster.clients[0].client.kv_put("kept", b"here")
    # An agent that dies is critical, and gone once an operator says so.
    lost.kill()
    wait_until(lambda: statuses(client)["client2"] == "failed", "its death is noticed")
    wait_until(lambda: serf_health(client, "client2") == "critical", "so the catalog says")
    client.run("force-leave", "client2")
    wait_until(lambda: statuses(client)["client2"] == "left", "it is said to have left")
    wait_until(lambda: serf_health(client, "client2") == "", "it is out of the catalog")
    client.run("force-leave", "-prune", "client2")
    wait_until(lambda: "client2" not in statuses(client), "it is forgotten")
    gone = client.run("force-leave", "client2", status=1)
    assert "No node found with name 'client2'" in gone

    # A server that dies is put out once another one has taken its place.
    dead = cluster.followers()[0]
    dead.kill()
    wait_until(lambda: statuses(client)[dead.name] == "failed", "its death is noticed")
    fourth = AgentProcess(
        tmp_path / "server4", name="server4", address=loopback_address(), arguments=("-server",)
    )
    fourth.write_config("10-cluster.json", (dead.config_dir / "10-cluster.json").read_text())
    fourth.start(wait=False)
    try:
        voting = {each.name for each in cluster.servers} - {dead.name} | {"server4"}
        wait_until(
            lambda: {name for name, (_, vote) in peers(client).items() if vote == "true"} == voting,
            lambda: f"server4 instead of {dead.name}: {peers(client)}",
            seconds=60,
        )
        assert set(peers(client)) == voting
        wait_until(lambda: statuses(client)[dead.name] == "left", "the dead one is given up")

        # Two of three are lost, one for good: an operator has the others begin anew.
        rest = [each for each in cluster.servers if each is not dead]
        fourth.kill()
        listed = [{"id": node_id(each), "address": rpc_address(each)} for each in rest]
        for server in rest:
            server.kill()
            (server.data_dir / "raft" / "peers.json").write_text(json.dumps(listed))
            server.start(wait=False)
        for server in rest:
            wait_until(server.is_ready, lambda: f"both lead on: {rest[0].log_tail()}")
        wait_until(lambda: len(peers(client)) == 2, "they are the cluster")
        assert client.client.kv_get("kept") == b"here"

        # A leader that leaves hands over, and is out when its command ends, though of two servers
        # both have to agree to that.
        leader = cluster.leader()
        (last,) = (each for each in rest if each is not leader)
        leaving = threading.Thread(target=leader.run, args=("leave",))
        leaving.start()
        assert client.stop() == 0
        leaving.join()
        assert leader.process is not None
        assert leader.process.wait(20) == 0
        assert "this server is out of the raft configuration" in leader.log_path.read_text()
        assert peers(last) == {last.name: ("leader", "true")}
        assert statuses(last)[leader.name] == statuses(last)["client1"] == "left"
        wait_until(lambda: serf_health(last, leader.name) == "", "it is out of the catalog")
        assert serf_health(last, "client1") == ""
        assert last.client.kv_get("kept") == b"here"
    finally:
        fourth.kill()
