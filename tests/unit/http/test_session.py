"""`/v1/session/`: bodies in all their forms, and what is answered."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from registry.agent.config import AgentConfig
from registry.http import session
from registry.state.catalog_commands import Register
from registry.state.catalog_records import Check
from registry.testing.handlers import Handlers, header
from registry.testing.serving import make_facade

UNKNOWN = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
async def api() -> Handlers:
    """An agent "node1" that is in the catalog with `serfHealth` and a check "c"."""
    api = Handlers(make_facade(), session.routes)
    checks = tuple(Check(check_id=name, status="passing") for name in ("serfHealth", "c"))
    await api.facade.write(Register(node="node1", address="127.0.0.1", checks=checks))
    return api


async def create(api: Handlers, body: Any = None) -> dict[str, Any]:
    """Make a session; the session as it is shown."""
    raw = b"" if body is None else msgspec.json.encode(body)
    answer = await api.json("PUT", "/v1/session/create", raw)
    (shown,) = await api.json("GET", f"/v1/session/info/{answer['ID']}")
    return dict(shown)


@pytest.mark.parametrize(
    "raw", [pytest.param(b, id=repr(b)) for b in (b"", b"{}", b"null", b'{"NoSuchField": 1}')]
)
async def test_defaults(api: Handlers, raw: bytes) -> None:
    answer = await api.json("PUT", "/v1/session/create", raw)
    (shown,) = await api.json("GET", f"/v1/session/info/{answer['ID']}")
    assert shown == {
        "ID": answer["ID"],
        "Name": "",
        "Node": "node1",
        "LockDelay": 15_000_000_000,
        "Behavior": "release",
        "TTL": "",
        "NodeChecks": ["serfHealth"],
        "ServiceChecks": None,
        "CreateIndex": 2,
        "ModifyIndex": 2,
    }


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param({"LockDelay": "5s"}, {"LockDelay": 5_000_000_000}, id="delay as text"),
        pytest.param({"LockDelay": 7}, {"LockDelay": 7_000_000_000}, id="delay in seconds"),
        pytest.param({"LockDelay": 3_000_000_000}, {"LockDelay": 3_000_000_000}, id="delay in ns"),
        pytest.param({"LockDelay": 0}, {"LockDelay": 0}, id="no delay"),
        pytest.param({"LockDelay": "90s"}, {"LockDelay": 90_000_000_000}, id="a long delay"),
        pytest.param({"TTL": "24h"}, {"TTL": "24h"}, id="the longest TTL"),
        pytest.param({"TTL": "0s"}, {"TTL": "0s"}, id="a TTL of nothing"),
        pytest.param({"Behavior": ""}, {"Behavior": "release"}, id="empty behavior"),
        pytest.param({"behavior": "delete", "NAME": "x"}, {"Name": "x"}, id="any letter case"),
        pytest.param({"Node": None, "Name": None}, {"Node": "node1", "Name": ""}, id="nulls"),
        pytest.param({"ID": UNKNOWN}, {}, id="the client's id"),
        pytest.param({"NodeChecks": []}, {"NodeChecks": []}, id="no node checks"),
        pytest.param({"nodechecks": None}, {"NodeChecks": None}, id="null node checks"),
        pytest.param({"Checks": []}, {"NodeChecks": []}, id="no checks, old spelling"),
        pytest.param(
            {"Checks": [], "NodeChecks": ["c"]}, {"NodeChecks": []}, id="nor in the new one then"
        ),
        pytest.param(
            {"Checks": None, "NodeChecks": None}, {"NodeChecks": []}, id="null, old spelling"
        ),
        pytest.param(
            {"Checks": ["c"]}, {"NodeChecks": ["serfHealth"], "Checks": ["c"]}, id="old spelling"
        ),
        pytest.param(
            {"ServiceChecks": [{"ID": "c"}]},
            {"ServiceChecks": [{"ID": "c", "Namespace": ""}]},
            id="service checks",
        ),
    ],
)
async def test_forms_of_a_body(api: Handlers, body: Any, expected: dict[str, Any]) -> None:
    shown = await create(api, body)
    assert shown["ID"] != UNKNOWN
    assert {name: shown[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("body", "node_checks"),
    [
        pytest.param({"Checks": []}, [], id="none"),
        pytest.param({"Checks": ["serfHealth"]}, ["serfHealth"], id="the default"),
        pytest.param({"Checks": ["serfHealth"], "NodeChecks": ["c"]}, ["c"], id="and others"),
        pytest.param({"Checks": ["c"], "NodeChecks": []}, [], id="but none in the new spelling"),
        pytest.param({"Checks": ["c"], "NodeChecks": None}, None, id="or null"),
    ],
)
async def test_what_the_old_spelling_leaves_unsaid(
    api: Handlers, body: Any, node_checks: list[str] | None
) -> None:
    shown = await create(api, body)
    assert shown["NodeChecks"] == node_checks
    assert "Checks" not in shown


TTL_LIMITS = "must be between [10s=24h0m0s]"


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"{", 400, "Request decode failed: "),
        (b"[]", 400, "Request decode failed: "),
        (b"5", 400, "Request decode failed: "),
        (b" \n", 400, "Request decode failed: EOF"),
        (b'{"Name": 5}', 400, "Request decode failed: "),
        (b'{"NodeChecks": "c"}', 400, "Request decode failed: "),
        (b'{"NodeChecks": [1]}', 400, "Request decode failed: "),
        (b'{"LockDelay": "soon"}', 400, 'Request decode failed: time: invalid duration "soon"'),
        (b'{"TTL": "9s"}', 500, f"Invalid Session TTL '9000000000', {TTL_LIMITS}"),
        (b'{"TTL": "86401s"}', 500, f"Invalid Session TTL '86401000000000', {TTL_LIMITS}"),
        (b'{"TTL": "-1s"}', 500, f"Invalid Session TTL '-1000000000', {TTL_LIMITS}"),
        (b'{"TTL": "abc"}', 500, "Session TTL 'abc' invalid: time: invalid duration"),
        (b'{"TTL": "10"}', 500, "Session TTL '10' invalid: time: missing unit"),
        (b'{"Behavior": "explode"}', 500, "Invalid Behavior setting 'explode'"),
        (b'{"Node": ""}', 500, "Must provide Node"),
        (b'{"Node": "none"}', 500, "Missing node registration"),
        (b'{"Checks": ["x"]}', 500, "Missing check 'x' registration"),
    ],
)
async def test_what_is_refused(api: Handlers, body: bytes, status: int, text: str) -> None:
    response = await api.request("PUT", "/v1/session/create", body)
    assert response.status == status
    assert response.body.decode().startswith(text)
    assert await api.json("GET", "/v1/session/list") == []


async def test_the_least_ttl_is_a_setting() -> None:
    config = AgentConfig(node_name="node1", session_ttl_min_ns=1_500_000_000)
    api = Handlers(make_facade(config=config), session.routes)
    response = await api.request("PUT", "/v1/session/create", b'{"TTL": "1s"}')
    assert response.body == (b"Invalid Session TTL '1000000000', must be between [1.5s=24h0m0s]")


@pytest.mark.parametrize(
    ("method", "url", "status", "text"),
    [
        ("GET", "/v1/session/info/", 400, "Missing session"),
        ("PUT", "/v1/session/destroy/", 400, "Missing session"),
        ("PUT", "/v1/session/renew/", 400, "Missing session"),
        ("GET", "/v1/session/node/", 400, "Missing node name"),
        (
            "GET",
            "/v1/session/info/abc",
            500,
            "failed session lookup: index error: UUID must be 36 characters",
        ),
        (
            "PUT",
            "/v1/session/renew/abc",
            500,
            "failed session lookup: index error: UUID must be 36 characters",
        ),
        ("PUT", f"/v1/session/renew/{UNKNOWN}", 404, f"Session id '{UNKNOWN}' not found"),
        ("PUT", f"/v1/session/renew/{UNKNOWN}?index=x", 400, "Invalid index"),
        ("PUT", f"/v1/session/renew/{UNKNOWN}?dc=nowhere", 500, "No path to datacenter"),
        ("PUT", "/v1/session/create?dc=nowhere", 500, "No path to datacenter"),
        ("PUT", f"/v1/session/destroy/{UNKNOWN}?dc=nowhere", 500, "No path to datacenter"),
        ("GET", "/v1/session/list?dc=nowhere", 500, "No path to datacenter"),
    ],
)
async def test_what_else_is_refused(
    api: Handlers, method: str, url: str, status: int, text: str
) -> None:
    response = await api.request(method, url)
    assert (response.status, response.body.decode()) == (status, text)
    # A refusal that a server makes comes with an index for those who read it first.
    has_index = header(response, "X-Consul-Index") is not None
    assert has_index is (method == "GET" and status == 500)


async def test_listing_and_ending(api: Handlers) -> None:
    first, second = await create(api, {"Name": "1"}), await create(api, {"Name": "2"})
    for url in ("/v1/session/list", "/v1/session/node/node1"):
        listed = await api.json("GET", url)
        assert sorted(each["Name"] for each in listed) == ["1", "2"]
    assert await api.json("GET", "/v1/session/node/none") == []
    for _ in range(2):
        assert await api.json("PUT", f"/v1/session/destroy/{first['ID']}") is True
    assert await api.json("GET", f"/v1/session/info/{first['ID']}") == []
    assert await api.json("PUT", f"/v1/session/renew/{second['ID']}") == [second]


async def test_a_blocked_read_of_one_session_wakes_on_its_end(api: Handlers) -> None:
    shown, other = await create(api), await create(api)
    url = f"/v1/session/info/{shown['ID']}?index=3&wait=60s"
    async with asyncio.TaskGroup() as group:
        reader = group.create_task(api.request("GET", url))
        await asyncio.sleep(0)
        await api.json("PUT", f"/v1/session/renew/{other['ID']}")
        await asyncio.sleep(0)
        assert not reader.done()
        await api.json("PUT", f"/v1/session/destroy/{shown['ID']}")
    assert reader.result().body == b"[]"
    assert header(reader.result(), "X-Consul-Index") == "5"
