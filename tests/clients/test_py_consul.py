"""`py-consul`, unmodified, against an agent: the calls that a program written with it makes."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import consul
import pytest
from consul.exceptions import BadRequest, ClientError, ConsulException, NotFound

from registry.testing.command_line import Stub
from registry.testing.process import AgentProcess, wait_until

NODE = "n1"


@pytest.fixture
def connect(agent: AgentProcess) -> Iterator[Callable[[], consul.Consul]]:
    """Makes clients, closed at the end: what waits needs one of its own."""
    made: list[consul.Consul] = []

    def connect() -> consul.Consul:
        made.append(consul.Consul(host="127.0.0.1", port=agent.ports["http"]))
        return made[-1]

    yield connect
    for client in made:
        client.http.session.close()


@pytest.fixture
def client(connect: Callable[[], consul.Consul]) -> consul.Consul:
    return connect()


@pytest.fixture
def web() -> Iterator[str]:
    """The address of something that answers 200 to `GET /health`."""
    with Stub() as stub:
        stub.answers["GET /health"] = (200, b"fine")
        yield stub.address


def in_background(call: Callable[[], Any]) -> Callable[[], Any]:
    """Start a call; the returned function waits for its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(20)
        assert results, "the call did not come back"
        return results[0]

    return result


def names(entries: list[dict[str, Any]], field: str = "Key") -> list[str]:
    return [entry[field] for entry in entries]


# --- kv -----------------------------------------------------------------------------------------


def test_kv_values_keys_and_trees(client: consul.Consul) -> None:
    assert client.kv.get("kv/none")[1] is None
    assert client.kv.put("kv/a", "text") is True
    assert client.kv.put("kv/b", b"\x00\xff", flags=2**63) is True
    assert client.kv.put("kv/sub/c", "") is True
    assert client.kv.put("kv/ä ö/?&#%", "odd key") is True
    index, entry = client.kv.get("kv/b")
    assert (entry["Key"], entry["Value"], entry["Flags"]) == ("kv/b", b"\x00\xff", 2**63)
    assert entry["CreateIndex"] == entry["ModifyIndex"] == int(index)
    assert entry["LockIndex"] == 0
    assert "Session" not in entry
    assert client.kv.get("kv/sub/c")[1]["Value"] is None
    assert client.kv.get("kv/ä ö/?&#%")[1]["Value"] == b"odd key"
    everything = ["kv/a", "kv/b", "kv/sub/c", "kv/ä ö/?&#%"]
    assert names(client.kv.get("kv/", recurse=True)[1]) == everything
    assert client.kv.get("kv/", keys=True)[1] == everything
    assert client.kv.get("kv/", keys=True, separator="/")[1] == [
        "kv/a",
        "kv/b",
        "kv/sub/",
        "kv/ä ö/",
    ]
    for consistency in ("default", "consistent", "stale"):
        assert client.kv.get("kv/a", consistency=consistency)[1]["Value"] == b"text"
    assert client.kv.delete("kv/a") is True
    assert client.kv.get("kv/a")[1] is None
    assert client.kv.delete("kv/", recurse=True) is True
    assert client.kv.get("kv/", recurse=True)[1] is None


def test_kv_check_and_set(client: consul.Consul) -> None:
    assert client.kv.put("cas/k", "first", cas=0) is True
    assert client.kv.put("cas/k", "again", cas=0) is False
    index = client.kv.get("cas/k")[1]["ModifyIndex"]
    assert client.kv.put("cas/k", "second", cas=index) is True
    assert client.kv.put("cas/k", "late", cas=index) is False
    assert client.kv.get("cas/k")[1]["Value"] == b"second"
    assert client.kv.delete("cas/k", cas=index) is False
    index = client.kv.get("cas/k")[1]["ModifyIndex"]
    assert client.kv.delete("cas/k", cas=index) is True
    assert client.kv.get("cas/k")[1] is None


def test_watching_a_key_and_a_tree(
    client: consul.Consul, connect: Callable[[], consul.Consul]
) -> None:
    client.kv.put("watch/k", "1")
    index, _ = client.kv.get("watch/k")
    changed = in_background(lambda: connect().kv.get("watch/k", index=index, wait="20s"))
    client.kv.put("elsewhere", "x")
    client.kv.put("watch/k", "2")
    index, entry = changed()
    assert entry["Value"] == b"2"
    grown = in_background(lambda: connect().kv.get("watch/", recurse=True, index=index, wait="20s"))
    client.kv.put("watch/l", "3")
    assert [each["Value"] for each in grown()[1]] == [b"2", b"3"]
    index, _ = client.kv.get("watch/l")
    assert client.kv.get("watch/l", index=index, wait="50ms")[0] == index


def test_refusals_are_the_clients_own_exceptions(client: consul.Consul) -> None:
    with pytest.raises(BadRequest, match="Invalid wait time"):
        client.kv.get("k", index=1, wait="soon")
    with pytest.raises(BadRequest, match="Missing key name"):
        client.kv.put("", "value")
    with pytest.raises(ClientError, match="413"):
        client.kv.put("large", b"x" * (512 * 1024 + 1))
    with pytest.raises(NotFound, match="Session id"):
        client.session.renew("11111111-2222-3333-4444-555555555555")
    with pytest.raises(ConsulException, match="invalid session"):
        client.kv.put("k", "v", acquire="11111111-2222-3333-4444-555555555555")


def test_txn(client: consul.Consul) -> None:
    answer = client.txn.put(
        [
            {"KV": {"Verb": "set", "Key": "txn/a", "Value": "YQ==", "Flags": 7}},
            {"KV": {"Verb": "get", "Key": "txn/a"}},
        ]
    )
    assert answer["Errors"] is None
    assert [each["KV"]["Value"] for each in answer["Results"]] == [None, "YQ=="]
    with pytest.raises(ClientError, match=r"409.*txn/none"):
        client.txn.put(
            [
                {"KV": {"Verb": "delete", "Key": "txn/a"}},
                {"KV": {"Verb": "get", "Key": "txn/none"}},
            ]
        )
    assert client.kv.get("txn/a")[1]["Flags"] == 7


# --- sessions and locks -------------------------------------------------------------------------


def test_a_lock_passes_from_one_session_to_the_next(client: consul.Consul) -> None:
    first = client.session.create(name="first", ttl=10, lock_delay=0)
    second = client.session.create(name="second", ttl=10, lock_delay=0)
    assert client.kv.put("lock/k", "first", acquire=first) is True
    assert client.kv.put("lock/k", "again", acquire=first) is True
    assert client.kv.put("lock/k", "second", acquire=second) is False
    entry = client.kv.get("lock/k")[1]
    assert (entry["Session"], entry["LockIndex"], entry["Value"]) == (first, 1, b"again")
    assert client.kv.put("lock/k", "second", release=second) is False
    assert client.kv.put("lock/k", "done", release=first) is True
    assert client.kv.put("lock/k", "second", acquire=second) is True
    assert client.kv.get("lock/k")[1]["LockIndex"] == 2
    assert client.session.destroy(second) is True
    assert "Session" not in client.kv.get("lock/k")[1]
    assert client.session.destroy(first) is True


def test_a_destroyed_session_deletes_its_keys_and_wakes_who_waits(
    client: consul.Consul, connect: Callable[[], consul.Consul]
) -> None:
    session = client.session.create(behavior="delete", lock_delay=0)
    client.kv.put("lock/gone", "mine", acquire=session)
    index, _ = client.kv.get("lock/gone")
    waiting = in_background(lambda: connect().kv.get("lock/gone", index=index, wait="20s"))
    client.session.destroy(session)
    assert waiting()[1] is None


def test_the_lock_delay_follows_a_lost_lock(client: consul.Consul) -> None:
    session = client.session.create(lock_delay=1)
    other = client.session.create()
    client.kv.put("lock/delayed", "", acquire=session)
    client.session.destroy(session)
    assert client.kv.put("lock/delayed", "", acquire=other) is False
    wait_until(lambda: client.kv.put("lock/delayed", "", acquire=other), "the lock after its delay")
    client.session.destroy(other)


def test_session_lists(client: consul.Consul, connect: Callable[[], consul.Consul]) -> None:
    index, _ = client.session.list()
    grown = in_background(lambda: connect().session.list(index=index, wait="20s"))
    session = client.session.create(name="listed", ttl=3600, behavior="delete", lock_delay=5)
    assert session in names(grown()[1], "ID")
    _, found = client.session.info(session)
    assert {
        "ID": session,
        "Name": "listed",
        "Node": NODE,
        "TTL": "3600s",
        "Behavior": "delete",
        "LockDelay": 5_000_000_000,
        "NodeChecks": ["serfHealth"],
    }.items() <= found.items()
    assert session in names(client.session.node(NODE)[1], "ID")
    assert client.session.renew(session)["ID"] == session
    client.session.destroy(session)
    assert client.session.info(session)[1] is None
    with pytest.raises(ConsulException, match="Missing node registration"):
        client.session.create(node="nowhere")


def test_a_failing_check_ends_the_session(client: consul.Consul) -> None:
    client.agent.check.register("alive", consul.Check.ttl("60s"))
    client.agent.check.ttl_pass("alive")
    wait_until(
        lambda: "alive" in names(client.health.state("passing")[1], "CheckID"),
        "the check in the catalog",
    )
    session = client.session.create(checks=["serfHealth", "alive"])
    client.agent.check.ttl_fail("alive", "dead")
    wait_until(lambda: client.session.info(session)[1] is None, "the session's end")
    client.agent.check.deregister("alive")


# --- the agent ----------------------------------------------------------------------------------


def test_a_service_is_registered_found_and_gone(client: consul.Consul) -> None:
    assert client.agent.service.register(
        "db",
        service_id="db-1",
        address="10.1.2.3",
        port=5432,
        tags=["primary", "v1"],
        meta={"shard": "7"},
        weights={"Passing": 3, "Warning": 1},
        tagged_addresses={"wan": {"Address": "198.51.100.7", "Port": 6432}},
        check=consul.Check.ttl("60s"),
        extra_checks=[{"Name": "second", "TTL": "60s", "Status": "passing"}],
    )
    local = client.agent.services()["db-1"]
    assert (local["Service"], local["Port"], local["Meta"]) == ("db", 5432, {"shard": "7"})
    assert local["TaggedAddresses"]["wan"] == {"Address": "198.51.100.7", "Port": 6432}
    assert list(client.agent.services(filter_expr='Service == "db"')) == ["db-1"]
    assert client.agent.services(filter_expr='Service == "none"') == {}
    assert client.agent.service_definition("db-1")["Weights"] == {"Passing": 3, "Warning": 1}
    checks = client.agent.checks(filter_expr='ServiceID == "db-1"')
    assert {key: each["Status"] for key, each in checks.items()} == {
        "service:db-1:1": "critical",
        "service:db-1:2": "passing",
    }
    wait_until(lambda: len(client.catalog.service("db")[1]) == 1, "the service in the catalog")
    assert client.health.service("db", passing=True)[1] == []
    assert client.agent.check.ttl_pass("service:db-1:1", "all well") is True
    wait_until(
        lambda: len(client.health.service("db", passing=True)[1]) == 1, "the service passing"
    )
    [found] = client.health.service("db", tag="primary", node_meta={"rack": "r1"})[1]
    assert found["Node"]["Node"] == NODE
    assert found["Service"]["Tags"] == ["primary", "v1"]
    assert {check["CheckID"]: check["Output"] for check in found["Checks"]} == {
        "serfHealth": "Agent alive and reachable",
        "service:db-1:1": "all well",
        "service:db-1:2": "",
    }
    assert client.health.service("db", filter_expr="Service.Meta.shard == 8")[1] == []
    assert client.agent.service.deregister("db-1") is True
    wait_until(lambda: client.catalog.service("db")[1] == [], "the service gone")
    assert client.agent.service_definition("db-1") is None


def test_ttl_checks(client: consul.Consul) -> None:
    client.agent.check.register("beat", consul.Check.ttl("60s"), check_id="b", notes="a heart")

    def state() -> tuple[str, str]:
        check = client.agent.checks()["b"]
        return check["Status"], check["Output"]

    assert client.agent.checks()["b"]["Notes"] == "a heart"
    for call, status in (
        (client.agent.check.ttl_pass, "passing"),
        (client.agent.check.ttl_warn, "warning"),
        (client.agent.check.ttl_fail, "critical"),
    ):
        assert call("b", notes=f"now {status}") is True
        assert state() == (status, f"now {status}")
    assert client.agent.check.deregister("b") is True
    assert "b" not in client.agent.checks()
    client.agent.check.register("short", consul.Check.ttl("100ms"))
    client.agent.check.ttl_pass("short")
    wait_until(
        lambda: client.agent.checks()["short"]["Status"] == "critical", "the time to live over"
    )
    client.agent.check.deregister("short")


def test_checks_that_the_agent_runs(client: consul.Consul, web: str) -> None:
    host, _, port = web.partition(":")
    client.agent.service.register(
        "checked",
        check=consul.Check.http(f"http://{web}/health", "1s", timeout="2s", header={"X-A": ["b"]}),
        extra_checks=[
            consul.Check.tcp(host, int(port), "1s", timeout="2s", deregister="90m"),
            consul.Check.script(["sh", "-c", "echo from a script; exit 1"], "1s"),
        ],
    )

    def states() -> list[str]:
        return [each["Status"] for each in client.health.checks("checked")[1]]

    wait_until(lambda: states() == ["passing", "passing", "warning"], lambda: str(states()))
    outputs = [each["Output"] for each in client.health.checks("checked")[1]]
    assert "200 OK Output: fine" in outputs[0]
    assert "Success" in outputs[1]
    assert outputs[2] == "from a script\n"
    assert [each["Type"] for each in client.health.checks("checked")[1]] == [
        "http",
        "tcp",
        "script",
    ]
    client.agent.service.register(
        "checked", check=consul.Check.ttl("60s"), extra_checks=[], replace_existing_checks=True
    )
    assert list(client.agent.checks(filter_expr='ServiceName == "checked"')) == ["service:checked"]
    client.agent.service.deregister("checked")


def test_maintenance(client: consul.Consul) -> None:
    client.agent.service.register("maintained")
    assert client.agent.service.maintenance("maintained", "true", "upgrade") is True
    check = client.agent.checks()["_service_maintenance:maintained"]
    assert (check["Status"], check["Notes"]) == ("critical", "upgrade")
    assert client.agent.service.maintenance("maintained", "false") is True
    assert client.agent.maintenance("true", "new disk") is True
    assert client.agent.checks()["_node_maintenance"]["Notes"] == "new disk"
    assert client.agent.maintenance("false") is True
    assert not [each for each in client.agent.checks() if "maintenance" in each]
    client.agent.service.deregister("maintained")


def test_the_agent_itself(agent: AgentProcess, client: consul.Consul) -> None:
    own = client.agent.self()
    assert (own["Config"]["NodeName"], own["Config"]["Datacenter"]) == (NODE, "dc1")
    assert own["Member"]["Name"] == NODE
    assert own["Meta"]["rack"] == "r1"
    assert names(client.agent.members(), "Name") == [NODE]
    assert names(client.agent.members(wan=True), "Name") == [f"{NODE}.dc1"]
    assert "Gauges" in client.agent.metrics()
    assert "# TYPE" in client.agent.metrics(format_prometheus=True)
    assert client.agent.join(f"127.0.0.1:{agent.ports['serf_lan']}") is True
    with pytest.raises(ConsulException, match=r"127\.0\.0\.1"):
        client.agent.join("127.0.0.1:1")
    agent.write_config("50-added.json", {"service": {"name": "from-a-file"}})
    assert client.agent.reload() is True
    assert "from-a-file" in client.agent.services()
    assert client.status.leader() == f"127.0.0.1:{agent.ports['server']}"
    assert client.status.peers() == [f"127.0.0.1:{agent.ports['server']}"]


# --- catalog and health -------------------------------------------------------------------------


def test_a_node_outside_in_the_catalog(client: consul.Consul) -> None:
    assert client.catalog.register(
        "outside",
        "10.9.9.9",
        service={"Service": "redis", "ID": "r1", "Port": 6379, "Tags": ["cache"]},
        check={
            "Name": "ping",
            "CheckID": "service:r1",
            "ServiceID": "r1",
            "Status": "warning",
            "Output": "slow",
        },
        tagged_addresses={"lan": "10.9.9.9"},
    )
    assert client.catalog.datacenters() == ["dc1"]
    assert names(client.catalog.nodes()[1], "Node") == [NODE, "outside"]
    assert names(client.catalog.nodes(near=NODE)[1], "Node")[0] == NODE
    assert names(client.catalog.nodes(node_meta={"rack": "r1"})[1], "Node") == [NODE]
    assert names(client.catalog.nodes(filter_expr="Meta is empty")[1], "Node") == ["outside"]
    assert client.catalog.services()[1]["redis"] == ["cache"]
    assert "redis" not in client.catalog.services(node_meta={"rack": "r1"})[1]
    node = client.catalog.node("outside")[1]
    assert node["Node"]["Address"] == "10.9.9.9"
    assert node["Services"]["r1"]["Port"] == 6379
    [service] = client.catalog.service("redis", tag="cache")[1]
    assert (service["Node"], service["ServiceID"]) == ("outside", "r1")
    assert client.catalog.connect("redis")[1] == []
    assert names(client.health.node("outside")[1], "CheckID") == ["service:r1"]
    assert names(client.health.checks("redis")[1], "Output") == ["slow"]
    assert names(client.health.state("warning")[1], "Node") == ["outside"]
    assert client.health.state("any", filter_expr='Node == "none"')[1] == []
    assert client.health.connect("redis")[1] == []
    assert client.health.service("redis", passing=True)[1] == []
    assert client.catalog.deregister("outside", check_id="service:r1") is True
    assert len(client.health.service("redis", passing=True)[1]) == 1
    assert client.catalog.deregister("outside", service_id="r1") is True
    assert client.catalog.service("redis")[1] == []
    assert client.catalog.deregister("outside") is True
    assert client.catalog.node("outside")[1] is None


def test_watching_a_service(client: consul.Consul, connect: Callable[[], consul.Consul]) -> None:
    index, entries = client.health.service("watched")
    assert entries == []
    waiting = [
        in_background(lambda: connect().health.service("watched", index=index, wait="20s")),
        in_background(lambda: connect().catalog.service("watched", index=index, wait="20s")),
    ]
    client.agent.service.register("watched", port=1)
    assert [len(each()[1]) for each in waiting] == [1, 1]
    index, _ = client.health.service("watched")
    waiting = [in_background(lambda: connect().health.service("watched", index=index))]
    client.agent.service.deregister("watched")
    assert waiting[0]()[1] == []


# --- the rest -----------------------------------------------------------------------------------


def test_events(client: consul.Consul, connect: Callable[[], consul.Consul]) -> None:
    index, _ = client.event.list()
    waiting = in_background(lambda: connect().event.list(index=index, wait="20s"))
    fired = client.event.fire("deploy", b"\x00v2", node=NODE)
    assert (fired["Name"], fired["NodeFilter"]) == ("deploy", NODE)
    [event] = waiting()[1]
    assert (event["ID"], event["Payload"]) == (fired["ID"], b"\x00v2")
    client.event.fire("other")
    wait_until(lambda: len(client.event.list()[1]) == 2, "both events")
    assert names(client.event.list(name="deploy")[1], "ID") == [fired["ID"]]


def test_prepared_queries(client: consul.Consul) -> None:
    client.agent.service.register("q", port=80, tags=["blue"])
    wait_until(lambda: len(client.health.service("q")[1]) == 1, "the service")
    query = client.query.create("q", name="find-q", tags=["blue"], onlypassing=True, ttl="10s")
    assert [each["Name"] for each in client.query.list()] == ["find-q"]
    [found] = client.query.get(query["ID"])
    assert found["Service"]["Tags"] == ["blue"]
    answer = client.query.execute("find-q", near=NODE, limit=1)
    assert answer["Nodes"][0]["Service"]["Port"] == 80
    # This client makes every query a template, and those are explained by name only.
    assert client.query.explain("find-q")["Query"]["Service"]["Service"] == "q"
    with pytest.raises(ConsulException, match="by name, not by ID"):
        client.query.explain(query["ID"])
    assert client.query.update(query["ID"], service="q", name="find-q", tags=["green"]) is True
    assert client.query.execute("find-q")["Nodes"] == []
    template = client.query.create("${match(1)}", name="geo-", regexp="^geo-(.*)$")
    assert client.query.explain("geo-q")["Query"]["Service"]["Service"] == "q"
    for each in (query, template):
        assert client.query.delete(each["ID"]) is True
    assert client.query.list() == []
    client.agent.service.deregister("q")


def test_coordinates(client: consul.Consul) -> None:
    [datacenter] = client.coordinate.datacenters()
    assert (datacenter["Datacenter"], datacenter["AreaID"]) == ("dc1", "wan")
    vector = {"Vec": [0.5] * 8, "Error": 1.5, "Adjustment": 0, "Height": 1e-5}
    assert client.coordinate.update(NODE, vector) is True
    wait_until(
        lambda: (
            bool(client.coordinate.node(NODE)[1])
            and client.coordinate.node(NODE)[1][0]["Coord"]["Vec"][0] == 0.5
        ),
        "the coordinate",
    )
    assert NODE in names(client.coordinate.nodes()[1], "Node")


def test_config_entries(client: consul.Consul) -> None:
    assert client.config.set("service-defaults", "web", {"Protocol": "http"}) is True
    entry = client.config.get("service-defaults", "web")
    assert (entry["Kind"], entry["Name"], entry["Protocol"]) == ("service-defaults", "web", "http")
    index = entry["ModifyIndex"]
    assert client.config.set("service-defaults", "web", {"Protocol": "grpc"}, cas=1) is False
    assert client.config.set("service-defaults", "web", {"Protocol": "grpc"}, cas=index) is True
    assert names(client.config.list("service-defaults"), "Protocol") == ["grpc"]
    assert client.config.delete("service-defaults", "web") is True
    assert client.config.get("service-defaults", "web") is None


def test_operating(agent: AgentProcess, client: consul.Consul) -> None:
    [server] = client.operator.raft_config()["Servers"]
    assert (server["Node"], server["Leader"], server["Voter"]) == (NODE, True, True)
    assert server["Address"] == f"127.0.0.1:{agent.ports['server']}"
    settings = client.operator.autopilot_configuration()
    assert settings["CleanupDeadServers"] is True
    # As the client does: a missing field means its default, and `cas` the index it was read at.
    assert client.operator.update_autopilot_configuration(max_trailing_logs=300) is True
    assert client.operator.autopilot_configuration()["MaxTrailingLogs"] == 300
    wait_until(lambda: bool(client.operator.autopilot_health()["Healthy"]), "a healthy cluster")


def test_a_snapshot_saved_and_restored(client: consul.Consul) -> None:
    client.kv.put("snapshot/k", "before")
    saved = client.snapshot.save()
    assert saved[:2] == b"\x1f\x8b"
    client.kv.put("snapshot/k", "after")
    assert client.snapshot.restore(saved) is True
    wait_until(
        lambda: client.kv.get("snapshot/k")[1]["Value"] == b"before", "the state of the snapshot"
    )


def test_the_log_is_followed(agent: AgentProcess) -> None:
    """`monitor` of this client collects lines until none comes for its time-out."""
    client = consul.Consul(host="127.0.0.1", port=agent.ports["http"], connections_timeout=0.5)
    started = time.monotonic()
    with pytest.raises(consul.std.requests.RequestException, match=r"[Tt]imed out"):
        client.agent.monitor(loglevel="debug")
    assert time.monotonic() - started < 20
    client.http.session.close()


def test_keys_of_encrypted_gossip_and_a_leave(tmp_path: Path) -> None:
    first, second = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
    with AgentProcess(tmp_path, config={"encrypt": first}, name=NODE) as agent:
        client = consul.Consul(host="127.0.0.1", port=agent.ports["http"])

        def keys() -> list[dict[str, int]]:
            return [each["Keys"] for each in client.operator.keyring_list()]

        assert keys() == [{first: 1}, {first: 1}]  # of the wide area's pool and of this one
        assert client.operator.keyring_install(second) is True
        assert client.operator.keyring_use(second) is True
        with pytest.raises(ConsulException, match="primary"):
            client.operator.keyring_remove(second)
        assert client.operator.keyring_remove(first) is True
        assert keys() == [{second: 1}, {second: 1}]
        with pytest.raises(ConsulException, match="not found"):
            client.operator.raft_remove_peer(address="127.0.0.1:1")
        assert client.agent.leave() is True
        assert agent.process is not None
        assert agent.process.wait(20) == 0
        client.http.session.close()
