"""How agents find each other again, that a cluster is founded once, and what makes them forget."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from registry.testing.agent_cluster import alive_seen_by, loopback_address
from registry.testing.process import AgentProcess, wait_until

Make = Callable[..., AgentProcess]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with ExitStack() as stack:

        def one(name: str, *arguments: str, **config: object) -> AgentProcess:
            agent = AgentProcess(
                tmp_path / name,
                name=name,
                arguments=arguments,
                config=config,
                address=loopback_address(),
            )
            stack.callback(agent.kill)
            return agent

        yield one


def restarted(agent: AgentProcess, config: dict[str, object]) -> None:
    """Start it again with this instead of its own configuration."""
    agent.write_config("20-own.json", config)
    agent.start(wait=False)


def test_agents_find_their_way_back(make: Make) -> None:
    gossip = loopback_address()
    server = make("server", "-server", "-bootstrap", f"-serf-lan-bind={gossip}")
    server.write_config("20-own.json", {"advertise_addr": gossip, "advertise_addr_wan": "10.9.8.7"})
    server.write_config("20-rpc.json", {"bind_addr": "0.0.0.0"})
    server.start()
    seen = {each["Name"]: each for each in server.client.get("/v1/agent/members").json()}
    assert (seen["server"]["Addr"], seen["server"]["Status"]) == (gossip, 1)
    (wan,) = server.client.get("/v1/agent/members?wan=1").json()
    assert wan["Addr"] == "10.9.8.7"

    joining = {"start_join": [f"{gossip}:{server.ports['serf_lan']}"]}
    client = make("client", "-rejoin")
    client.write_config("20-own.json", joining)
    client.start()
    both = {"server", "client"}
    assert alive_seen_by(client) == both
    snapshot = client.data_dir / "serf" / "local.snapshot"
    wait_until(
        lambda: snapshot.exists() and "alive: server " in snapshot.read_text(),
        "it has noted whom it knows",
    )
    # Killed, and told of nobody: it remembers whom it knew.
    client.kill()
    restarted(client, {"start_join": []})
    wait_until(lambda: alive_seen_by(client) == both, "it is back after a crash")
    assert client.client.kv_put("a", b"")
    # Left, but configured to come back all the same.
    client.client.put("/v1/agent/leave")
    assert client.process is not None
    assert client.process.wait(20) == 0
    wait_until(lambda: alive_seen_by(server) == {"server"}, "it is seen to have left")
    client.start(wait=False)
    wait_until(lambda: alive_seen_by(client) == both, "it is back after a leave")


def test_a_cluster_is_founded_once(make: Make) -> None:
    first = make("first", "-server", "-bootstrap-expect=1")
    first.start()
    assert first.client.kv_put("kept", b"here")
    first.kill()
    restarted(first, {"bootstrap_expect": 1})
    wait_until(first.is_ready, "it leads again")
    lan = f"{first.address}:{first.ports['serf_lan']}"
    later = [make(f"later{number}", "-server", "-bootstrap-expect=2") for number in range(2)]
    for server in later:
        server.write_config("20-own.json", {"start_join": [lan]})
        server.start(wait=False)
    for server in later:
        wait_until(server.is_ready, "it knows the leader")
        assert server.client.kv_get("kept") == b"here"
    peers = first.client.get("/v1/operator/raft/configuration").json()["Servers"]
    assert sorted(peer["Node"] for peer in peers) == ["first", "later0", "later1"]
    assert [peer["Node"] for peer in peers if peer["Leader"]] == ["first"]
    assert not any("founded a cluster" in server.log_path.read_text() for server in later)


def test_servers_that_expect_different_numbers_wait(make: Make) -> None:
    two = make("two", "-server", "-bootstrap-expect=2")
    two.start(wait=False)
    three = make("three", "-server", "-bootstrap-expect=3")
    three.write_config("20-own.json", {"retry_join": [f"{two.address}:{two.ports['serf_lan']}"]})
    three.write_config("20-when.json", {"retry_interval": "200ms"})
    three.start(wait=False)

    def told(server: AgentProcess, line: str) -> bool:
        return line in server.log_tail()

    wait_until(lambda: told(two, "three expects 3 servers, and this server 2"), two.log_tail)
    wait_until(lambda: told(three, "two expects 2 servers, and this server 3"), three.log_tail)
    for server in (two, three):
        assert server.client.get("/v1/status/leader").json() == ""


def test_a_key_that_is_not_written_down_is_forgotten(make: Make) -> None:
    configured, installed = (b64encode(bytes([byte]) * 16).decode() for byte in b"ci")
    agent = make("agent", "-server", "-bootstrap", "-disable-keyring-file", encrypt=configured)
    agent.start()
    agent.run("keyring", f"-install={installed}")
    agent.run("keyring", f"-use={installed}")
    assert f"{installed} [1/1]" in agent.run("keyring", "-list")
    assert list((agent.data_dir / "serf").glob("*.keyring")) == []
    agent.kill()
    agent.start()
    listed = agent.run("keyring", "-list")
    assert f"{configured} [1/1]" in listed
    assert installed not in listed


def test_an_operator_puts_a_dead_server_out(make: Make) -> None:
    """Where autopilot does not: by its address, or by its id."""
    quick = {"probe_interval": "200ms", "probe_timeout": "100ms", "suspicion_mult": 2}
    settings = {"autopilot": {"cleanup_dead_servers": False}, "gossip_lan": quick}
    expect = "-bootstrap-expect=4"
    servers = [make(f"s{number}", "-server", expect, **settings) for number in "1234"]
    lan = f"{servers[0].address}:{servers[0].ports['serf_lan']}"
    for server in servers:
        server.write_config("20-own.json", {"retry_join": [lan], "retry_interval": "200ms"})
        server.start(wait=False)
    for server in servers:
        wait_until(server.is_ready, f"{server.name} is ready")
    by_address, by_id, *rest = servers
    shown = rest[0].client.get("/v1/operator/raft/configuration").json()["Servers"]
    found = {each["Node"]: each for each in shown}
    for server, option in ((by_address, "Address"), (by_id, "ID")):
        server.kill()
        # As long as it is taken for alive, the leader would have it back.
        wait_until(lambda name=server.name: name not in alive_seen_by(rest[0]), "it has failed")
        wanted = f"-{option.lower()}={found[server.name][option]}"
        done = rest[0].run("operator", "raft", "remove-peer", wanted)
        assert done == f'Removed peer with {option.lower()} "{found[server.name][option]}"\n'
        assert server.name not in rest[1].run("operator", "raft", "list-peers")
        again = rest[1].run("operator", "raft", "remove-peer", wanted, status=1)
        assert "was not found in the Raft configuration" in again
    assert rest[0].client.kv_put("still", b"here")
