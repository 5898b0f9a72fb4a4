"""Names of a real cluster, asked of servers and of client agents, over UDP and TCP."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.reversename
import pytest
from dns.rcode import Rcode

from registry.testing.agent_cluster import AgentCluster
from registry.testing.process import AgentProcess, wait_until

CONFIG = {
    "node_meta": {"rack": "r1"},
    "log_level": "DEBUG",
    "alt_domain": "other.test",
    "telemetry": {"prometheus_retention_time": "1m"},
}
CHECK = {"id": "up", "ttl": "1h"}
WEB = {"service": {"name": "web", "port": 8080, "tags": ["v1.2"], "check": CHECK}}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentCluster]:
    root = tmp_path_factory.mktemp("cluster")
    with AgentCluster(root, servers=3, clients=1, config=CONFIG) as running:
        client = running.clients[0]
        client.write_config("web.json", WEB)
        client.client.put("/v1/agent/reload")
        client.client.put("/v1/agent/check/pass/up")
        for agent in running.agents:
            wait_until(gives(agent, 1), f"{agent.name} knows web")
        yield running


def ask(
    agent: AgentProcess, name: str, rdtype: str = "A", *, over_tcp: bool = False
) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype, use_edns=False)
    send = dns.query.tcp if over_tcp else dns.query.udp
    return send(query, agent.address, timeout=10, port=agent.ports["dns"])


def records(answer: dns.message.Message) -> list[str]:
    return [line for each in answer.answer for line in each.to_text().splitlines()]


def addresses(agent: AgentProcess, name: str = "web.service.consul") -> list[str]:
    return [line.split()[-1] for line in records(ask(agent, name))]


def gives(agent: AgentProcess, count: int, name: str = "web.service.consul") -> Callable[[], bool]:
    """Whether an agent gives so many addresses."""
    return lambda: len(addresses(agent, name)) == count


@pytest.mark.parametrize("over_tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("name", ["server1", "server2", "client1"])
def test_every_agent_knows_the_names(cluster: AgentCluster, name: str, over_tcp: bool) -> None:
    (agent,) = [each for each in cluster.agents if each.name == name]
    client = cluster.clients[0]
    target = "client1.node.dc1.consul."
    expected = {
        ("web.service.consul.", "A"): [f"IN A {client.address}"],
        ("v1.2.web.service.other.test.", "A"): [f"IN A {client.address}"],
        ("_web._tcp.service.consul.", "SRV"): [f"IN SRV 1 1 8080 {target}"],
        ("client1.node.consul.", "TXT"): ['IN TXT "consul-network-segment="', 'IN TXT "rack=r1"'],
        (dns.reversename.from_address(client.address).to_text(), "PTR"): [f"IN PTR {target}"],
    }
    for (asked, rdtype), found in expected.items():
        answer = ask(agent, asked, rdtype, over_tcp=over_tcp)
        assert records(answer) == [f"{asked} 0 {each}" for each in found]
    servers = [f"{each.name}.node.dc1.consul." for each in cluster.servers]
    told = records(ask(agent, "consul.", "NS", over_tcp=over_tcp))
    assert sorted(line.split()[-1] for line in told) == servers
    unknown = ask(agent, "none.service.consul", over_tcp=over_tcp)
    assert unknown.rcode() == Rcode.NXDOMAIN
    assert unknown.authority[0].to_text().startswith("consul. 0 IN SOA ns.consul. ")
    assert ask(agent, "example.com", over_tcp=over_tcp).rcode() == Rcode.SERVFAIL


def test_prepared_queries(cluster: AgentCluster) -> None:
    client = cluster.clients[0]
    body = {"Name": "up.web", "Service": {"Service": "web"}, "DNS": {"TTL": "7s"}}
    client.client.request("POST", "/v1/query", json_body=body)
    for agent in cluster.agents:
        known = gives(agent, 1, "up.web.query.consul")
        wait_until(known, f"{agent.name} knows the query")
        (record,) = records(ask(agent, "up.web.query.consul"))
        assert record == f"up.web.query.consul. 7 IN A {client.address}"


def test_health_and_a_reload_are_seen_at_once(cluster: AgentCluster) -> None:
    client, server = cluster.clients[0], cluster.servers[0]
    client.client.put("/v1/agent/check/fail/up")
    for agent in (client, server):
        wait_until(gives(agent, 0), "the critical one is not given")
    client.client.put("/v1/agent/check/warn/up")
    for agent in (client, server):
        wait_until(gives(agent, 1), "the warning one is given")
    given = {"only_passing": True, "node_ttl": "5s"}
    path = client.write_config("dns.json", {"dns_config": given})
    client.client.put("/v1/agent/reload")
    assert addresses(client) == []
    assert addresses(server) != []
    assert records(ask(client, "client1.node.consul"))[0].split()[1] == "5"
    path.unlink()
    client.client.put("/v1/agent/check/pass/up")
    client.client.put("/v1/agent/reload")
    wait_until(gives(client, 1), "it is given again")


@pytest.mark.skipif(shutil.which("dig") is None, reason="dig is not installed")
def test_dig(cluster: AgentCluster) -> None:
    client = cluster.clients[0]
    command = ["dig", f"@{client.address}", "-p", str(client.ports["dns"]), "+short"]
    done = subprocess.run(
        [*command, "web.service.consul", "SRV"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "1 1 8080 client1.node.dc1.consul.\n"


def test_what_is_logged_and_measured(cluster: AgentCluster) -> None:
    client = cluster.clients[0]
    ask(client, "web.service.consul")
    line = (
        "agent.dns: request served from client: name=web.service.consul. type=A class=IN latency="
    )
    wait_until(lambda: line in client.log_tail(20_000), "the line of a question")
    text = client.client.get("/v1/agent/metrics?format=prometheus").text
    assert 'consul_dns_domain_query_count{node="client1"}' in text


def test_answers_do_not_need_a_leader(cluster: AgentCluster) -> None:
    """Last: most of the cluster is killed. Names are answered from what the server has."""
    left, client = cluster.servers[0], cluster.clients[0]
    for server in cluster.servers[1:]:
        server.kill()
    wait_until(lambda: cluster_has_no_leader(left), "no leader")
    assert addresses(left) == [client.address]
    wait_until(lambda: addresses(client) == [client.address], "the client asks who is left")
    left.kill()
    assert ask(client, "web.service.consul").rcode() == Rcode.SERVFAIL


def cluster_has_no_leader(agent: AgentProcess) -> bool:
    return not agent.client.get("/v1/status/leader", timeout=5).json()
