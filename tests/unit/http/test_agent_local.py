"""The agent's services, checks and maintenance mode over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from registry.agent.local.state import LocalState
from registry.http.server import HttpServer
from registry.plugins import Plugins
from registry.testing.consensus import InstantBackend
from registry.testing.local_agent import make_local, make_sync
from registry.testing.manual_clock import ManualClock

Serve = Callable[..., Awaitable[HttpServer]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def backend() -> InstantBackend:
    return InstantBackend()


@pytest.fixture
async def local(clock: ManualClock, backend: InstantBackend) -> LocalState:
    made = make_local(clock, backend=backend)
    make_sync(made, backend, clock)
    return made


@pytest.fixture
async def api(
    serve: Serve, local: LocalState, backend: InstantBackend
) -> AsyncIterator[httpx.AsyncClient]:
    plugins = Plugins.load()
    server = await serve(local=local, plugins=plugins, backend=backend)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}/v1") as client:
        yield client


async def put(api: httpx.AsyncClient, path: str, body: Any = None) -> tuple[int, str]:
    answer = await api.put(path, json=body) if body is not None else await api.put(path)
    return answer.status_code, answer.text


OK = (200, "")


async def test_a_registered_service_is_in_the_catalog(api: httpx.AsyncClient) -> None:
    body = {"Name": "web", "ID": "web-1", "Port": 80, "Check": {"TTL": "60s", "Status": "passing"}}
    assert await put(api, "/agent/service/register", body) == OK
    found = (await api.get("/health/service/web?passing")).json()
    assert [each["Service"]["Port"] for each in found] == [80]
    assert await put(api, "/agent/service/deregister/web-1") == OK
    assert (await api.get("/catalog/service/web")).json() == []


async def test_shape_of_a_service(api: httpx.AsyncClient) -> None:
    body = {
        "Name": "web",
        "Address": "10.0.0.1",
        "Port": 1,
        "Kind": "connect-proxy",
        "Proxy": {
            "DestinationServiceName": "db",
            "Upstreams": [{"DestinationName": "mq", "LocalBindPort": 2}],
            "Expose": {"Port": 9, "Paths": [{"Path": "/", "ListenerPort": 3}]},
        },
    }
    assert await put(api, "/agent/service/register", body) == OK
    answer = await api.get("/agent/service/web")
    found = answer.json()
    content_hash = found.pop("ContentHash")
    assert answer.headers["X-Consul-ContentHash"] == content_hash
    assert "X-Consul-Index" not in answer.headers
    assert found == {
        "Kind": "connect-proxy",
        "ID": "web",
        "Service": "web",
        "Tags": [],
        "Meta": {},
        "Port": 1,
        "Address": "10.0.0.1",
        "TaggedAddresses": {
            "lan_ipv4": {"Address": "10.0.0.1", "Port": 1},
            "wan_ipv4": {"Address": "10.0.0.1", "Port": 1},
        },
        "Weights": {"Passing": 1, "Warning": 1},
        "EnableTagOverride": False,
        "Proxy": {
            "DestinationServiceName": "db",
            "Upstreams": [
                {
                    "DestinationType": "service",
                    "DestinationName": "mq",
                    "LocalBindPort": 2,
                    "MeshGateway": {},
                }
            ],
            "MeshGateway": {},
            "Expose": {"Paths": [{"ListenerPort": 3, "Path": "/", "ParsedFromCheck": False}]},
        },
    }
    assert (await api.get("/agent/services")).json() == {"web": found}
    [listed] = (await api.get("/catalog/service/web")).json()
    assert listed["ServiceProxy"]["Upstreams"][0]["Datacenter"] == ""
    again = {"Name": found.pop("Service"), **found}
    for shown in ("Weights", "TaggedAddresses"):
        del again[shown]
    assert await put(api, "/agent/service/register", again) == OK, "what is shown can be sent"


async def test_a_native_service(api: httpx.AsyncClient) -> None:
    body = {"Name": "web", "Connect": {"Native": True}}
    assert await put(api, "/agent/service/register", body) == OK
    assert (await api.get("/agent/service/web")).json()["Connect"] == {"Native": True}


async def test_a_service_blocks_on_its_hash(api: httpx.AsyncClient) -> None:
    await put(api, "/agent/service/register", {"Name": "web", "Port": 1})
    known = (await api.get("/agent/service/web")).json()["ContentHash"]
    unchanged = await api.get(f"/agent/service/web?hash={known}&wait=20ms")
    assert unchanged.json()["ContentHash"] == known
    assert (await api.get("/agent/service/web?hash=other&wait=1m")).status_code == 200
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        waiting = group.create_task(api.get(f"/agent/service/web?hash={known}&wait=1m"))
        await put(api, "/agent/check/register", {"Name": "c", "TTL": "1m", "ServiceID": "web"})
        await put(api, "/agent/service/register", {"Name": "web", "Port": 2})
    assert waiting.result().json()["Port"] == 2
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        known = waiting.result().json()["ContentHash"]
        waiting = group.create_task(api.get(f"/agent/service/web?hash={known}&wait=1m"))
        await put(api, "/agent/service/deregister/web")
    assert (waiting.result().status_code, waiting.result().text) == (404, "unknown service ID: web")


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("service/register", {}, 400, "Missing service name"),
        ("service/register", {"Name": "w", "Address": "0.0.0.0"}, 400, "Invalid service address"),
        (
            "service/register",
            {"Name": "w", "Check": {"Status": "odd", "TTL": "1s"}},
            400,
            "Status for checks must 'passing', 'warning', 'critical'",
        ),
        (
            "service/register",
            {"Name": "w", "Nope": 1},
            400,
            'Request decode failed: json: unknown field "Nope"',
        ),
        ("check/register", {}, 400, "Missing check name"),
        ("check/register", {"Name": "c", "TTL": "1s", "Status": "odd"}, 400, "Bad check status"),
        (
            "check/register",
            {"Name": "c"},
            400,
            "Invalid check: TTL must be > 0 for TTL checks",
        ),
        (
            "check/register",
            {"Name": "c", "TTL": "1s", "ServiceID": "none"},
            500,
            'ServiceID "none" does not exist',
        ),
        ("check/update/none", {"Status": "odd"}, 400, "Invalid check status: 'odd'"),
        (
            "check/update/none",
            {"status": "passing"},
            500,
            'CheckID "none" does not have associated TTL',
        ),
        (
            "check/update/none",
            {"State": "passing"},
            400,
            'Request decode failed: json: unknown field "State"',
        ),
        (
            "check/update/none",
            {"Status": "passing", "Namespace": "x"},
            400,
            'Request decode failed: json: unknown field "Namespace"',
        ),
        ("check/pass/c%22q", None, 500, 'CheckID "c\\"q" does not have associated TTL'),
        (
            "check/register",
            {"Name": "c", "TTL": "1s", "ServiceID": 'a"b\n'},
            500,
            'ServiceID "a\\"b\\n" does not exist',
        ),
        (
            "service/register",
            {"Name": "w", "Kind": "connect-proxy", "Proxy": {"DestinationServiceName": "x"}},
            400,
            "1 error occurred:\n\t* Port must be set for a Connect proxy\n\n",
        ),
        ("check/deregister/", None, 500, "CheckID missing"),
        ("service/deregister/", None, 500, "ServiceID missing"),
        ("service/register", None, 400, "Request decode failed: EOF"),
        ("check/update/none", None, 400, "Request decode failed: EOF"),
        ("service/maintenance/w", None, 400, "Missing value for enable"),
        ("service/maintenance/?enable=1", None, 400, "Missing service ID"),
        ("service/maintenance/w?enable=x", None, 400, 'Invalid value for enable: "x"'),
        ("service/maintenance/w?enable=%22", None, 400, 'Invalid value for enable: "\\""'),
        ("service/maintenance/w?enable=1", None, 404, 'No service registered with ID "w"'),
        ("maintenance?enable=", None, 400, 'Invalid value for enable: ""'),
    ],
)
async def test_refusals(
    api: httpx.AsyncClient, local: LocalState, path: str, body: Any, status: int, text: str
) -> None:
    assert await put(api, f"/agent/{path}", body) == (status, text)
    assert (dict(local.services), dict(local.checks)) == ({}, {})


@pytest.mark.parametrize("body", ["{", "[]", '"x"', "7"])
@pytest.mark.parametrize("path", ["service/register", "check/register", "check/update/c"])
async def test_bodies_that_are_no_object(api: httpx.AsyncClient, path: str, body: str) -> None:
    answer = await api.put(f"/agent/{path}", content=body)
    assert answer.status_code == 400
    assert answer.text.startswith("Request decode failed: ")


async def test_scripts_are_refused_unless_enabled(serve: Serve, clock: ManualClock) -> None:
    from registry.agent.local.settings import LocalSettings

    local = make_local(clock, settings=LocalSettings(scripts_from_files=True))
    plugins = Plugins()
    server = await serve(local=local, plugins=plugins)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}/v1") as api:
        body = {"Name": "c", "Args": ["true"], "Interval": "10s"}
        assert await put(api, "/agent/check/register", body) == (
            500,
            "Scripts are disabled on this agent from remote calls; to enable, configure "
            "'enable_script_checks' to true",
        )


async def test_reports_of_ttl_checks(api: httpx.AsyncClient, local: LocalState) -> None:
    await put(api, "/agent/check/register", {"Name": "c", "TTL": "60s"})
    for path, body, state in (
        ("pass/c?note=one", None, ("passing", "one")),
        ("warn/c?note=two%20words", None, ("warning", "two words")),
        ("fail/c", None, ("critical", "")),
        ("update/c", {"Status": "warning", "Output": "three"}, ("warning", "three")),
        ("update/c", {"STATUS": "passing", "output": None}, ("passing", "")),
    ):
        assert await put(api, f"/agent/check/{path}", body) == OK
        check = (await api.get("/agent/checks")).json()["c"]
        assert (check["Status"], check["Output"]) == state
        found = (await api.get("/health/node/n1")).json()
        assert [each["Status"] for each in found] == [state[0]]


@pytest.mark.parametrize(
    ("query", "kept"),
    [("", ["a"]), ("=true", ["a"]), ("=false", ["a", "b"]), ("=yes", ["a", "b"])],
)
async def test_replacing_checks(
    api: httpx.AsyncClient, local: LocalState, query: str, kept: list[str]
) -> None:
    checks = [{"CheckID": name, "TTL": "1m"} for name in ("a", "b")]
    await put(api, "/agent/service/register", {"Name": "web", "Checks": checks})
    again = {"Name": "web", "Checks": checks[:1]}
    path = f"/agent/service/register?replace-existing-checks{query}"
    assert await put(api, path, again) == OK
    assert list(local.checks) == kept


@pytest.mark.parametrize(
    ("states", "node", "status", "code"),
    [
        ((), (), "passing", 200),
        (("pass", "pass"), (), "passing", 200),
        (("pass", "warn"), (), "warning", 429),
        (("fail", "warn"), (), "critical", 503),
        (("pass",), ("fail",), "critical", 503),
    ],
)
async def test_local_health(
    api: httpx.AsyncClient, states: tuple[str, ...], node: tuple[str, ...], status: str, code: int
) -> None:
    await put(api, "/agent/service/register", {"Name": "web", "ID": "web-1"})
    for number, state in enumerate(states):
        body = {"Name": f"c{number}", "TTL": "1m", "ServiceID": "web-1"}
        await put(api, "/agent/check/register", body)
        await put(api, f"/agent/check/{state}/c{number}")
    for state in node:
        await put(api, "/agent/check/register", {"Name": "node", "TTL": "1m"})
        await put(api, f"/agent/check/{state}/node")
    for path, count in (("id/web-1", 1), ("name/web", 1)):
        answer = await api.get(f"/agent/health/service/{path}")
        assert answer.status_code == code
        assert answer.headers["X-Consul-Reason"] == status
        body = answer.json() if isinstance(answer.json(), list) else [answer.json()]
        assert len(body) == count
        assert body[0]["AggregatedStatus"] == status
        assert len(body[0]["Checks"]) == len(states) + len(node)
        text = await api.get(f"/agent/health/service/{path}?format=text")
        assert (text.status_code, text.text) == (code, status)
        assert text.headers["Content-Type"] == "text/plain"
        accepting = {"Accept": "text/plain"}
        assert (await api.get(f"/agent/health/service/{path}", headers=accepting)).text == status


async def test_the_worst_instance_is_the_names_health(api: httpx.AsyncClient) -> None:
    for number, state in enumerate(("passing", "warning")):
        check = {"CheckID": f"c{number}", "TTL": "1m", "Status": state}
        body = {"Name": "web", "ID": f"web-{number}", "Check": check}
        await put(api, "/agent/service/register", body)
    answer = await api.get("/agent/health/service/name/web")
    assert answer.status_code == 429
    assert [each["AggregatedStatus"] for each in answer.json()] == ["passing", "warning"]


async def test_maintenance_shows_in_local_health(api: httpx.AsyncClient) -> None:
    await put(api, "/agent/service/register", {"Name": "web"})
    for path in ("service/maintenance/web", "maintenance"):
        assert await put(api, f"/agent/{path}?enable=true&reason=upgrade") == OK
        answer = await api.get("/agent/health/service/id/web?format=text")
        assert (answer.status_code, answer.text) == (503, "maintenance")
        assert await put(api, f"/agent/{path}?enable=0") == OK
        answer = await api.get("/agent/health/service/id/web?format=text")
        assert (answer.status_code, answer.text) == (200, "passing")


async def test_health_of_what_is_not_there(api: httpx.AsyncClient) -> None:
    by_id = await api.get("/agent/health/service/id/none")
    assert (by_id.status_code, by_id.json()) == (
        404,
        {"AggregatedStatus": "critical", "Service": None, "Checks": None},
    )
    as_text = await api.get("/agent/health/service/id/none?format=text")
    assert (as_text.status_code, as_text.json()) == (404, "ServiceId none not found")
    by_name = await api.get("/agent/health/service/name/none")
    assert (by_name.status_code, by_name.json()) == (404, [])
    as_text = await api.get("/agent/health/service/name/none?format=text")
    assert (as_text.status_code, as_text.text) == (404, "ServiceName none Not Found")


async def test_filters(api: httpx.AsyncClient) -> None:
    for name, port in (("a", 1), ("b", 2)):
        await put(api, "/agent/service/register", {"Name": name, "Port": port, "Meta": {"k": name}})
        await put(api, "/agent/check/register", {"Name": name, "TTL": "1m"})
    found = await api.get("/agent/services", params={"filter": "Port == 2 and Meta.k == b"})
    assert list(found.json()) == ["b"]
    found = await api.get("/agent/checks", params={"filter": "Name != a"})
    assert list(found.json()) == ["b"]
    for path in ("services", "checks"):
        refused = await api.get(f"/agent/{path}", params={"filter": "Nope == x"})
        assert refused.status_code == 500
        assert refused.text == (
            'Failed to create boolean expression evaluator: Selector "Nope" is not valid'
        )


async def test_namespaces_are_refused(api: httpx.AsyncClient) -> None:
    for path in ("service/register", "check/register", "maintenance", "check/pass/c"):
        status, text = await put(api, f"/agent/{path}?ns=x", {})
        assert (status, text.startswith("Bad request: Invalid query parameter")) == (400, True)
