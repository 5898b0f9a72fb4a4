"""Endpoints about the agent, its operators, events and the state as a whole."""

import asyncio
import io
import logging
import sys
import tarfile
from typing import Annotated, Any

import httpx
import msgspec
import pytest

from registry.agent.config import (
    Acl,
    AgentConfig,
    HttpConfig,
    PluginsSection,
    Telemetry,
    Tokens,
)
from registry.agent.events import UserEvent
from registry.agent.reload import ReloadReport
from registry.errors import ConfigError
from registry.hooks import Secret, hookimpl
from registry.http.agent_info import shown_config
from registry.http.caching import AnswerCache
from registry.http.limits import Deadlines
from registry.http.server import HttpServer
from registry.plugins import Plugins
from registry.server.autopilot import AutopilotReport, ServerHealth
from registry.state.coordinates import Coordinate
from registry.testing.consensus import InstantBackend
from registry.testing.serving import OneMember
from registry.testing.wire import connect, until
from registry.watch_views import event_index


def session_of(server: HttpServer) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}")


# The agent


async def test_self_tells_who_the_agent_is(client: httpx.AsyncClient) -> None:
    body = (await client.get("/v1/agent/self")).json()
    assert body["Config"]["NodeName"] == "node1"
    assert body["Member"]["Name"] == "node1"
    blocks = {"agent", "build", "consul", "runtime", "serf_lan"}
    assert set(body["Stats"]) == blocks  # an agent without data is in no more
    assert all(isinstance(v, str) for block in body["Stats"].values() for v in block.values())
    assert body["DebugConfig"]["DefaultQueryTime"] == "5m0s"
    assert body["DebugConfig"]["Ports"]["HTTP"] == 8500


async def test_self_tells_where_the_node_is_in_the_network(serve: Any) -> None:
    class Placed(OneMember):
        def coordinate(self) -> Coordinate:
            return Coordinate(vec=(0.25, *([0.0] * 7)), error=0.5, adjustment=-0.125, height=0.001)

    async def shown(**more: bool) -> Any:
        config: dict[str, Any] = {"node_name": "node1", **more}
        server = await serve(membership=Placed(), config=AgentConfig(**config))
        async with session_of(server) as session:
            return (await session.get("/v1/agent/self")).json()["Coord"]

    vector = [0.25, 0, 0, 0, 0, 0, 0, 0]
    assert await shown() == {"Vec": vector, "Error": 0.5, "Adjustment": -0.125, "Height": 0.001}
    assert await shown(disable_coordinates=True) is None


def test_secrets_are_not_shown() -> None:
    tokens = Tokens(master="m", agent="a", default="d", replication="r", agent_master="am")
    config = AgentConfig(
        acl=Acl(tokens=tokens),
        encrypt="k",
        telemetry=Telemetry(circonus_api_token="t"),
        key_file="/k",
    )
    shown = shown_config(config)
    assert set(shown["ACL"]["Tokens"].values()) == {"hidden"}
    assert shown["Encrypt"] == "hidden"
    assert shown["Telemetry"]["CirconusApiToken"] == "hidden"
    assert shown["KeyFile"] == "/k"
    assert shown["ACL"]["EnableTokenReplication"] is False


class Keys(msgspec.Struct, frozen=True):
    code: Annotated[str, Secret]
    count: int = 3


class WithSettings:
    @hookimpl
    def registry_settings(self) -> type[Keys]:
        return Keys


async def test_settings_of_plugins_are_shown_without_secrets(serve: Any) -> None:
    plugins = Plugins()
    plugins.add("mine", WithSettings())
    given = {"mine": {"code": "1234"}, "gone": {"token": "5678", "n": 1}}
    plugins.configure(plugins.judged_settings({"mine": given["mine"]}))
    section = PluginsSection(settings=given)
    config = AgentConfig(node_name="node1", plugins=section)
    async with session_of(await serve(config=config, plugins=plugins)) as session:
        shown = (await session.get("/v1/agent/self")).json()
        (report,) = (await session.get("/v1/agent/plugins")).json()
    assert shown["DebugConfig"]["Plugins"]["Settings"] == {
        "mine": {"code": "hidden", "count": 3},
        "gone": {"token": "hidden", "n": 1},
    }
    assert report["Settings"] == {"code": "hidden", "count": 3}


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("segment=none", 500, "Network segments are not supported in this version of Consul"),
        ("wan=1&segment=x", 400, "Cannot provide a segment with wan=true"),
        ("segment=_all", 200, None),
    ],
)
async def test_members(
    client: httpx.AsyncClient, query: str, status: int, text: str | None
) -> None:
    answer = await client.get(f"/v1/agent/members?{query}")
    assert answer.status_code == status
    if text is None:
        assert [member["Name"] for member in answer.json()] == ["node1"]
    else:
        assert answer.text == text


async def test_joining_and_forcing_out_name_the_reason(client: httpx.AsyncClient) -> None:
    answer = await client.put("/v1/agent/join/127.0.0.1:9")
    assert answer.status_code == 500
    assert answer.text.startswith("1 error occurred:\n\t* Failed to join 127.0.0.1")
    answer = await client.put("/v1/agent/join/no%20host")
    assert answer.text.startswith("1 error occurred:\n\t* Failed to resolve no host: ")
    answer = await client.put("/v1/agent/join/localhost")
    assert answer.text == (
        "2 errors occurred:\n\t* Failed to join ::1: refused\n"
        "\t* Failed to join 127.0.0.1: refused\n\n"
    )
    answer = await client.put("/v1/agent/join/127.0.0.1:9?wan=1")
    assert (answer.status_code, answer.text) == (500, "Must be a server to join WAN cluster")
    answer = await client.put("/v1/agent/force-leave/x")
    assert (answer.status_code, answer.text) == (500, "agent: No node found with name 'x'")


async def test_reload_and_leave_do_what_the_agent_does(serve: Any) -> None:
    called: list[str] = []

    async def leave() -> None:
        called.append("leave")

    async def reload() -> ReloadReport:
        called.append("reload")
        if len(called) > 1:
            raise ConfigError("expected a number", file="web.json", field="port")
        return ReloadReport()

    async with session_of(await serve(leave=leave, reload=reload)) as session:
        assert (await session.put("/v1/agent/reload")).content == b""
        answer = await session.put("/v1/agent/reload")
        assert (answer.status_code, answer.text) == (500, "web.json: port: expected a number")
        assert (await session.put("/v1/agent/leave")).status_code == 200
    assert called == ["reload", "reload", "leave"]


async def test_plugins_are_reported(serve: Any) -> None:
    plugins = Plugins.load()
    async with session_of(await serve(plugins=plugins)) as session:
        (reported,) = (await session.get("/v1/agent/plugins")).json()
    assert (reported["Name"], reported["Source"]) == ("builtin", "builtin")


async def test_host_tells_about_the_machine(client: httpx.AsyncClient) -> None:
    body = (await client.get("/v1/agent/host")).json()
    assert body["Memory"]["total"] > 0
    assert len(body["CPU"]) > 0
    assert body["Disk"]["total"] >= body["Disk"]["free"]
    assert body["Errors"] is None


async def test_metrics_count_requests(client: httpx.AsyncClient) -> None:
    await client.get("/v1/status/leader")
    body = (await client.get("/v1/agent/metrics")).json()
    assert set(body) == {"Timestamp", "Gauges", "Points", "Counters", "Samples"}
    answer = await client.get("/v1/agent/metrics?format=prometheus")
    assert answer.status_code == 415
    assert answer.text == "Prometheus is not enabled since its retention time is not positive"


async def test_prometheus_text(serve: Any) -> None:
    config = AgentConfig(telemetry=Telemetry(prometheus_retention_time_ns=1))
    async with session_of(await serve(config=config)) as session:
        await session.get("/v1/kv/a")
        answer = await session.get("/v1/agent/metrics?format=prometheus")
        assert "# TYPE consul_http_GET_v1_kv__ summary\n" in answer.text
        assert "\nconsul_http_GET_v1_kv___count 1\n" in answer.text
        headers = {"Accept": "application/openmetrics-text; version=0.0.1,*/*;q=0.1"}
        assert "_count" in (await session.get("/v1/agent/metrics", headers=headers)).text


async def test_monitor_streams_lines_of_its_level_until_the_client_goes(
    server: HttpServer,
) -> None:
    logger = logging.getLogger("registry.agent.test")
    async with connect(server.port) as wire:
        await wire.send(b"GET /v1/agent/monitor?loglevel=debug HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await wire.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        chunks = wire.chunks()
        await until(lambda: logger.isEnabledFor(logging.DEBUG))
        logger.debug("Synced service: service=%s", "web")
        async with asyncio.timeout(5):
            async for chunk in chunks:
                if b"Synced" in chunk:
                    assert chunk.endswith(b"[DEBUG] agent.test: Synced service: service=web\n")
                    break
    await until(lambda: not logger.isEnabledFor(logging.DEBUG))


async def test_monitor_refuses_a_level_that_does_not_exist(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/agent/monitor?loglevel=nonsense")
    assert (answer.status_code, answer.text) == (400, "Bad request: Unknown log level: nonsense")


# Events


async def test_events_are_kept_in_order_and_listed_by_name(client: httpx.AsyncClient) -> None:
    for name, payload in (("a", b"1"), ("b", b"2"), ("a", b"3")):
        fired = (await client.put(f"/v1/event/fire/{name}", content=payload)).json()
        assert (fired["Name"], fired["LTime"], fired["Version"]) == (name, 0, 1)
    answer = await client.get("/v1/event/list?name=a")
    assert [event["Payload"] for event in answer.json()] == ["MQ==", "Mw=="]
    assert [event["LTime"] for event in answer.json()] == [1, 3]
    assert answer.headers["X-Consul-Index"] == str(event_index(fired["ID"]))


async def test_a_list_blocks_only_on_its_own_index(client: httpx.AsyncClient) -> None:
    await client.put("/v1/event/fire/a", content=b"1")
    index = (await client.get("/v1/event/list")).headers["X-Consul-Index"]
    assert (await client.get("/v1/event/list?index=5&wait=60s")).status_code == 200
    waiting = asyncio.Event()

    async def listed() -> httpx.Response:
        waiting.set()
        return await client.get(f"/v1/event/list?index={index}&wait=60s")

    async with asyncio.TaskGroup() as group, asyncio.timeout(10):
        blocked = group.create_task(listed())
        await waiting.wait()
        await client.put("/v1/event/fire/b", content=b"2")
    assert [event["Name"] for event in blocked.result().json()] == ["a", "b"]


def test_the_index_of_an_event_is_one_half_of_its_id_xor_the_other() -> None:
    assert event_index("00000000-0000-0001-0000-000000000003") == 2


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("", b"", 400, "Missing name"),
        ("x?tag=t", b"", 500, "Cannot provide tag filter without service filter"),
        ("x?node=*", b"", 500, "Invalid node filter: "),
        ("x?service=(a", b"", 500, "Invalid service filter: "),
        ("x?service=a&tag=(b", b"", 500, "Invalid tag filter: "),
        (
            "x",
            b"x" * 1000,
            500,
            '1 error occurred:\n\t* error broadcasting event to segment "": '
            "user event exceeds configured limit of 512 bytes before encoding\n\n",
        ),
    ],
)
async def test_events_that_are_refused(
    client: httpx.AsyncClient, path: str, body: bytes, status: int, text: str
) -> None:
    answer = await client.put(f"/v1/event/fire/{path}", content=body)
    assert answer.status_code == status
    assert answer.text.startswith(text)
    assert (await client.get("/v1/event/list")).json() == []


async def test_a_payload_that_just_fits(client: httpx.AsyncClient) -> None:
    answer = await client.put("/v1/event/fire/deploy", content=b"x" * 430)
    assert answer.status_code == 200


# Operators


async def test_autopilot_settings_are_those_of_the_configuration_until_set(
    client: httpx.AsyncClient,
) -> None:
    path = "/v1/operator/autopilot/configuration"
    before = (await client.get(path)).json()
    assert before["LastContactThreshold"] == "200ms"
    assert before["CleanupDeadServers"] is True
    body = {"maxtrailinglogs": 99, "ServerStabilizationTime": "1m", "LastContactThreshold": 5}
    assert (await client.put(path, json=body)).json() is True
    after = (await client.get(path)).json()
    assert after["MaxTrailingLogs"] == 99
    assert after["ServerStabilizationTime"] == "1m0s"
    assert after["LastContactThreshold"] == "5ns"
    assert after["CleanupDeadServers"] is False


async def test_autopilot_settings_of_null_are_those_of_an_empty_object(
    client: httpx.AsyncClient,
) -> None:
    path = "/v1/operator/autopilot/configuration"
    assert (await client.put(path, content=b" null ")).json() is True
    assert (await client.get(path)).json()["MaxTrailingLogs"] == 0


async def test_autopilot_settings_can_be_set_if_unchanged(client: httpx.AsyncClient) -> None:
    path = "/v1/operator/autopilot/configuration"
    assert (await client.put(f"{path}?cas=7", json={})).json() is False
    assert (await client.put(f"{path}?cas=0", json={"MinQuorum": 3})).json() is False
    shown = (await client.get(path)).json()["ModifyIndex"]
    assert (await client.put(f"{path}?cas={shown}", json={"MinQuorum": 3})).json() is True
    index = (await client.get(path)).json()["ModifyIndex"]
    assert (await client.put(f"{path}?cas={index}", json={"MinQuorum": 5})).json() is True
    assert (await client.put(f"{path}?cas={index}", json={"MinQuorum": 7})).json() is False
    assert (await client.get(path)).json()["MinQuorum"] == 5


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b"[]",
        b'{"LastContactThreshold": "abc"}',
        b'{"NoSuchField": 1}',
        b'{"MaxTrailingLogs": -1}',
        b'{"CleanupDeadServers": "yes"}',
        b'{"MinQuorum": 1.5}',
    ],
)
async def test_bad_autopilot_settings(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.put("/v1/operator/autopilot/configuration", content=body)
    assert answer.status_code == 400
    assert answer.text.startswith("Bad request: Error parsing autopilot config: ")


class Watched(InstantBackend):
    """A cluster as its leader's autopilot sees it."""

    def __init__(self, report: AutopilotReport) -> None:
        super().__init__()
        self._report = report

    async def autopilot_health(self) -> AutopilotReport:
        return self._report


WELL = ServerHealth(
    id="id1",
    name="node1",
    address="10.0.0.1:8300",
    serf_status="alive",
    version="1.8.4",
    leader=True,
    last_contact_ms=0,
    last_term=3,
    last_index=70,
    healthy=True,
    voter=True,
    stable_since_ms=1_600_000_000_123,
)


async def test_autopilot_shows_the_health_of_every_server(serve: Any) -> None:
    silent = msgspec.structs.replace(
        WELL, id="id2", serf_status="failed", leader=False, healthy=False, last_contact_ms=250
    )
    unknown = msgspec.structs.replace(silent, id="id3", serf_status="none", last_contact_ms=-1)
    backend = Watched(AutopilotReport(False, 1, (WELL, silent, unknown)))
    async with session_of(await serve(backend=backend)) as session:
        answer = await session.get("/v1/operator/autopilot/health")
    assert answer.status_code == 429
    body = answer.json()
    assert (body["Healthy"], body["FailureTolerance"]) == (False, 1)
    assert body["Servers"][0] == {
        "ID": "id1",
        "Name": "node1",
        "Address": "10.0.0.1:8300",
        "SerfStatus": "alive",
        "Version": "1.8.4",
        "Leader": True,
        "LastContact": "0s",
        "LastTerm": 3,
        "LastIndex": 70,
        "Healthy": True,
        "Voter": True,
        "StableSince": "2020-09-13T12:26:40Z",
    }
    assert [server["LastContact"] for server in body["Servers"]] == ["0s", "250ms", "-1ns"]


async def test_autopilot_says_ok_when_all_are_well(serve: Any) -> None:
    backend = Watched(AutopilotReport(True, 0, (WELL,)))
    async with session_of(await serve(backend=backend)) as session:
        answer = await session.get("/v1/operator/autopilot/health")
    assert answer.status_code == 200
    assert answer.json()["Healthy"] is True


class OneServer(InstantBackend):
    """Raft as a single server shows it."""

    async def raft_configuration(self) -> tuple[int, list[dict[str, Any]]]:
        server = {"ID": "id1", "Node": "node1", "Address": "127.0.0.1:8300", "Leader": True}
        return 3, [{**server, "ProtocolVersion": "3", "Voter": True}]


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("", 400, "Bad request: Must specify either ?id with the server's ID or "),
        ("id=x&address=y", 400, "Bad request: Must specify only one of ?id or ?address"),
        ("id=x", 500, 'id "x" was not found in the Raft configuration'),
        ("address=y", 500, 'address "y" was not found in the Raft configuration'),
        ("id=id1", 500, "id1 is the last voter; promote another server first"),
    ],
)
async def test_removing_peers(serve: Any, query: str, status: int, text: str) -> None:
    async with session_of(await serve(backend=OneServer())) as session:
        answer = await session.delete(f"/v1/operator/raft/peer?{query}")
        assert answer.status_code == status
        assert answer.text.startswith(text)
        assert (await session.get("/v1/operator/raft/configuration")).json()["Index"] == 3


@pytest.mark.parametrize(
    ("method", "query", "body", "status", "text"),
    [
        ("GET", "", b"", 500, "no gossip encryption is in use on this agent"),
        ("GET", "relay-factor=9", b"", 400, "Bad request: Invalid relay-factor: Relay factor"),
        ("GET", "relay-factor=x", b"", 400, "Bad request: Error parsing relay factor: "),
        ("GET", "local-only=x", b"", 400, "Bad request: Error parsing local-only: "),
        ("POST", "", b"{", 400, "Bad request: Request decode failed: "),
        ("POST", "local-only=true", b'{"Key":"x"}', 400, "Bad request: Invalid use of local-only"),
        ("PUT", "", b'{"key":5}', 400, "Bad request: Request decode failed: "),
        ("DELETE", "", b'{"Key":"x"}', 500, "no gossip encryption is in use on this agent"),
    ],
)
async def test_keyring(
    client: httpx.AsyncClient, method: str, query: str, body: bytes, status: int, text: str
) -> None:
    answer = await client.request(method, f"/v1/operator/keyring?{query}", content=body)
    assert answer.status_code == status
    assert answer.text.startswith(text)


# Consensus


@pytest.mark.parametrize("path", ["leader", "peers"])
@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("index=x", 400, "Invalid index"),
        ("wait=1", 400, "Invalid wait time"),
        (
            "stale&consistent",
            400,
            "Cannot specify ?stale with ?consistent, conflicting semantics.",
        ),
        ("dc=nowhere", 500, "No path to datacenter"),
    ],
)
async def test_the_status_looks_at_all_that_a_read_takes(
    client: httpx.AsyncClient, path: str, query: str, status: int, text: str
) -> None:
    answer = await client.get(f"/v1/status/{path}?{query}")
    assert (answer.status_code, answer.text) == (status, text)


# Snapshots


async def test_a_snapshot_brings_back_what_was_there(client: httpx.AsyncClient) -> None:
    for number in range(50):
        await client.put(f"/v1/kv/before/{number}", content=b"x" * 20_000)
    saved = await client.get("/v1/snapshot")
    assert saved.headers["Content-Type"] == "application/x-gzip"
    assert saved.headers["X-Consul-Index"] == "50"
    await client.put("/v1/kv/after", content=b"2")
    await client.put("/v1/kv/before/1", content=b"changed")
    answer = await client.put("/v1/snapshot", content=saved.content)
    assert (answer.status_code, answer.content) == (200, b"")
    assert (await client.get("/v1/kv/after")).status_code == 404
    assert (await client.get("/v1/kv/before/1?raw")).content == b"x" * 20_000
    assert (await client.put("/v1/kv/later", content=b"3")).json() is True
    later = (await client.get("/v1/kv/later")).json()[0]
    assert later["CreateIndex"] > 52


async def test_a_restore_is_the_leaders_alone(client: httpx.AsyncClient) -> None:
    await client.put("/v1/kv/a", content=b"1")
    saved = await client.get("/v1/snapshot?stale")
    assert saved.status_code == 200
    await client.put("/v1/kv/a", content=b"2")
    answer = await client.put("/v1/snapshot?stale", content=saved.content)
    assert (answer.status_code, answer.text) == (500, "stale not allowed for restore")
    assert (await client.get("/v1/kv/a?raw")).content == b"2"


async def test_a_restore_ends_blocking_reads(serve: Any) -> None:
    backend = InstantBackend()
    async with session_of(await serve(backend=backend)) as session:
        await session.put("/v1/kv/a", content=b"1")
        saved = await session.get("/v1/snapshot")
        generation = backend.machine.generation
        await session.put("/v1/snapshot", content=saved.content)
        assert backend.machine.generation == generation + 1


def _archive(**members: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name.replace("_", "."))
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "failed to decompress snapshot"),
        (b"not a snapshot", "failed to decompress snapshot"),
        (_archive(meta_json=b"{}"), "the snapshot has no state.bin"),
        (_archive(meta_json=b"{}", state_bin=b"", SHA256SUMS=b""), "hash check failed"),
        (_archive(passwd=b"x"), 'unexpected file "passwd"'),
    ],
    # Archives hold the time they were made at, which must not get into a test's name.
    ids=["empty", "text", "no-state", "no-sums", "odd-file"],
)
async def test_what_is_no_snapshot_is_refused_and_harms_nothing(
    client: httpx.AsyncClient, body: bytes, reason: str
) -> None:
    await client.put("/v1/kv/a", content=b"1")
    answer = await client.put("/v1/snapshot", content=body)
    assert answer.status_code == 500
    assert reason in answer.text
    assert (await client.get("/v1/kv/a?raw")).content == b"1"


async def test_a_damaged_snapshot_is_refused(client: httpx.AsyncClient) -> None:
    await client.put("/v1/kv/a", content=b"1")
    saved = (await client.get("/v1/snapshot")).content
    with tarfile.open(fileobj=io.BytesIO(saved), mode="r:gz") as tar:
        parts = {entry.name: tar.extractfile(entry) for entry in tar}
        content = {name: part.read() for name, part in parts.items() if part}
    content["state.bin"] = content["state.bin"][:-1] + b"?"
    spelt = {name.replace(".", "_"): body for name, body in content.items()}
    answer = await client.put("/v1/snapshot", content=_archive(**spelt))
    assert answer.status_code == 500
    assert 'hash check failed for "state.bin"' in answer.text


# Cached reads


async def test_a_cached_read_is_a_miss_then_a_hit_and_never_old(serve: Any) -> None:
    async with session_of(await serve()) as session:
        path = "/v1/health/service/web?cached"
        first = await session.get(path)
        assert (first.headers["X-Cache"], "Age" in first.headers) == ("MISS", False)
        second = await session.get(path)
        assert (second.headers["X-Cache"], second.headers["Age"]) == ("HIT", "0")
        body = {"Node": "n", "Address": "10.0.0.1", "Service": {"Service": "web"}}
        assert (await session.put("/v1/catalog/register", json=body)).json() is True
        third = await session.get(path)
        assert [entry["Node"]["Node"] for entry in third.json()] == ["n"]
        fresh = await session.get(path, headers={"Cache-Control": "max-age=0"})
        assert fresh.headers["X-Cache"] == "HIT"  # it is fresh anyway
        filtered = await session.get(path, params={"cached": "", "filter": "Node.Node == n"})
        assert filtered.headers["X-Cache"] == "MISS"
        assert "X-Cache" not in (await session.get("/v1/kv/a?cached")).headers


async def test_a_cached_read_that_waits_for_a_change_is_a_miss(serve: Any) -> None:
    async with session_of(await serve()) as session:
        path = "/v1/health/service/web?cached"
        body: dict[str, Any] = {"Node": "n", "Address": "10.0.0.1"}
        await session.put("/v1/catalog/register", json=body)
        index = (await session.get(path)).headers["X-Consul-Index"]
        late = await session.get(f"{path}&index={index}&wait=1ms")
        assert (late.headers["X-Cache"], "Age" in late.headers) == ("MISS", False)
        service = {"Service": {"Service": "web"}}
        await session.put("/v1/catalog/register", json=body | service)
        early = await session.get(f"{path}&index={index}&wait=60s")
        assert (early.headers["X-Cache"], len(early.json())) == ("HIT", 1)


async def test_what_no_refresh_keeps_fresh_is_as_old_as_its_last_miss(serve: Any) -> None:
    now_s = 1000.0
    server = await serve()
    server.rim.cache = AnswerCache(lambda: now_s)
    async with session_of(server) as session:

        async def ask(control: str = "") -> tuple[str, str | None]:
            headers = {"Cache-Control": control} if control else {}
            answer = await session.get("/v1/catalog/datacenters?cached", headers=headers)
            return answer.headers["X-Cache"], answer.headers.get("Age")

        assert await ask("max-age=60") == ("MISS", None)
        now_s += 8.6
        assert await ask() == ("HIT", "9")
        assert await ask("max-age=9") == ("HIT", "9")
        assert await ask("max-age=8") == ("MISS", None)
        assert await ask("max-age=-1") == ("HIT", "0")
        assert await ask("must-revalidate") == ("MISS", None)
        assert await ask("max-age=0") == ("MISS", None)
        now_s += 3 * 86_400
        assert await ask() == ("MISS", None)


async def test_cached_reads_can_be_turned_off(serve: Any) -> None:
    config = AgentConfig(http_config=HttpConfig(use_cache=False))
    async with session_of(await serve(config=config)) as session:
        answer = await session.get("/v1/health/service/web?cached")
        assert "X-Cache" not in answer.headers


def test_defaults_of_the_deadlines_leave_time_for_pooled_connections() -> None:
    assert Deadlines().idle_s > 90


def test_an_event_without_filters_shows_empty_ones() -> None:
    shown = UserEvent(id="i", name="n").to_api()
    assert (shown["NodeFilter"], shown["Payload"]) == ("", None)


@pytest.mark.parametrize(
    ("debug", "profile", "status", "text"),
    [
        pytest.param(False, "", 401, "ACL support disabled", id="off"),
        pytest.param(False, "cmdline", 401, "ACL support disabled", id="off, known"),
        pytest.param(True, "heap", 404, "Unknown profile", id="unknown"),
        pytest.param(True, "cmdline", 200, "\0".join(sys.argv), id="command line"),
    ],
)
async def test_profiles(serve: Any, debug: bool, profile: str, status: int, text: str) -> None:
    config = AgentConfig(node_name="node1", enable_debug=debug)
    async with session_of(await serve(config=config)) as session:
        answer = await session.get(f"/debug/pprof/{profile}")
    assert (answer.status_code, answer.text) == (status, text)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_the_root_answers_who_watches_the_port(
    client: httpx.AsyncClient, method: str
) -> None:
    answer = await client.request(method, "/")
    assert (answer.status_code, answer.text) == (200, "" if method == "HEAD" else "Consul Agent")
