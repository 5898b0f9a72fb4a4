"""The endpoints of prepared queries."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest

from registry.http import catalog, query
from registry.state.base import Query, ReadOptions, ReadResult
from registry.testing.consensus import InstantBackend
from registry.testing.handlers import Handlers, header
from registry.testing.serving import make_facade

DEFINITION = {"Name": "q", "Service": {"Service": "web"}}
UNKNOWN = "adf4238a-882b-9ddc-4a9d-5b6758e4159e"


@pytest.fixture
def api() -> Handlers:
    return Handlers(make_facade(), catalog.routes, query.routes)


async def create(api: Handlers, **body: Any) -> str:
    made = await api.json("POST", "/v1/query", json={**DEFINITION, **body})
    identifier: str = made["ID"]
    return identifier


async def three_instances(api: Handlers) -> None:
    for name in ("a", "b", "c"):
        body = {"Node": name, "Address": "10.0.0.1", "Service": {"Service": "web"}}
        await api.json("PUT", "/v1/catalog/register", json=body)


async def test_a_definition_is_shown_whole(api: Handlers) -> None:
    made = await create(api, service={"Service": "web", "ignorecheckids": ["x"], "Tags": []})
    response = await api.request("GET", f"/v1/query/{made}")
    assert response.body.decode() == (
        f'[{{"ID":"{made}","Name":"q","Session":"","Token":"",'
        '"Template":{"Type":"","Regexp":"","RemoveEmptyTags":false},'
        '"Service":{"Service":"web","Failover":{"NearestN":0,"Datacenters":null},'
        '"OnlyPassing":false,"IgnoreCheckIDs":["x"],"Near":"","Tags":[],"NodeMeta":null,'
        '"ServiceMeta":null,"Connect":false},"DNS":{"TTL":""},"CreateIndex":1,"ModifyIndex":1}]'
    )
    response = await api.request("PUT", f"/v1/query/{made}", json=DEFINITION)
    assert (response.status, response.body) == (200, b"")
    [shown] = await api.json("GET", "/v1/query")
    assert (shown["ModifyIndex"], shown["Service"]["Tags"]) == (2, None)
    response = await api.request("DELETE", f"/v1/query/{made}")
    assert (response.status, response.body) == (200, b"")
    assert (await api.request("GET", f"/v1/query/{made}")).status == 404


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        pytest.param(
            {"ID": "x"}, 500, "ID must be empty when creating a new prepared query", id="id"
        ),
        pytest.param(
            {"Service": {}},
            500,
            "Invalid prepared query: Must provide a Service name to query",
            id="service",
        ),
        pytest.param(
            {"Service": {"Service": "x", "NodeMeta": {"consul-x": "y", "": "z"}}},
            500,
            "Invalid prepared query: Couldn't load metadata pair ('', 'z'): Key cannot be blank",
            id="node-meta",
        ),
        pytest.param(
            {"DNS": {"Odd": 1}},
            400,
            'Request decode failed: json: unknown field "Odd"',
            id="unknown-field",
        ),
        pytest.param(
            {"Service": {"Service": "x", "Failover": {"NearestN": "1"}}},
            400,
            "Request decode failed: json: cannot unmarshal string into Go struct field "
            "PreparedQuery.Service.Failover.NearestN of type int",
            id="wrong-type",
        ),
    ],
)
async def test_bad_definitions(api: Handlers, body: Any, status: int, text: str) -> None:
    response = await api.request("POST", "/v1/query", json={**DEFINITION, **body})
    assert (response.status, response.body.decode()) == (status, text)


@pytest.mark.parametrize(
    ("query_id", "text"),
    [
        pytest.param(
            "x",
            "Prepared Query lookup failed: "
            "failed prepared query lookup: index error: UUID must be 36 characters",
            id="no-id",
        ),
        pytest.param(
            UNKNOWN, f"Cannot modify non-existent prepared query: '{UNKNOWN}'", id="unknown"
        ),
        pytest.param("", "Invalid prepared query: Must be bound to a session", id="known"),
    ],
)
async def test_what_is_not_there_comes_before_what_is_unfit(
    api: Handlers, query_id: str, text: str
) -> None:
    path = f"/v1/query/{query_id or await create(api)}"
    response = await api.request("PUT", path, json={"Service": {"Service": "web"}})
    assert (response.status, response.body.decode()) == (500, text)


@pytest.mark.parametrize(
    ("limit", "count"),
    [
        pytest.param("", 3, id="none"),
        pytest.param("limit=0", 3, id="zero"),
        pytest.param("limit=2", 2, id="two"),
        pytest.param("limit=9", 3, id="more-than-there-are"),
        pytest.param("limit=-1", 3, id="negative"),
        pytest.param("limit=1&index=99&wait=1m", 1, id="never-waits"),
    ],
)
async def test_running_with_a_limit(api: Handlers, limit: str, count: int) -> None:
    await three_instances(api)
    await create(api, DNS={"TTL": "10s"})
    result = await api.json("GET", f"/v1/query/q/execute?{limit}")
    assert len(result["Nodes"]) == count
    assert (result["Service"], result["DNS"]) == ("web", {"TTL": "10s"})
    assert (result["Datacenter"], result["ConsistencyLevel"]) == ("dc1", "leader")


async def test_instances_are_shown_as_they_are_kept(api: Handlers) -> None:
    await create(api)
    bare = {"Node": "a", "Address": "10.0.0.1", "Service": {"Service": "web"}}
    await api.json("PUT", "/v1/catalog/register", json=bare)
    [found] = (await api.json("GET", "/v1/query/q/execute"))["Nodes"]
    assert (found["Service"]["Tags"], found["Checks"]) == (None, None)
    check = {"Name": "c", "Status": "passing"}
    full = {**bare, "Service": {"Service": "web", "Tags": []}, "Check": check}
    await api.json("PUT", "/v1/catalog/register", json=full)
    [found] = (await api.json("GET", "/v1/query/q/execute"))["Nodes"]
    assert found["Service"]["Tags"] == []
    assert [check["ServiceTags"] for check in found["Checks"]] == [None]


async def test_instances_come_in_any_order_unless_sorted(api: Handlers) -> None:
    await three_instances(api)
    await create(api)
    first = {
        (await api.json("GET", "/v1/query/q/execute?limit=1"))["Nodes"][0]["Node"]["Node"]
        for _ in range(100)
    }
    assert first == {"a", "b", "c"}, "a one in 10^17 chance of failing"
    result = await api.json("GET", "/v1/query/q/execute?near=_agent")
    assert [each["Node"]["Node"] for each in result["Nodes"]] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/v1/query/x", "GET,PUT,DELETE"),
        ("PUT", "/v1/query/x/execute", "GET"),
        ("DELETE", "/v1/query/x/explain", "GET"),
    ],
)
async def test_methods_below_a_query(api: Handlers, method: str, path: str, allow: str) -> None:
    response = await api.request(method, path, json=DEFINITION)
    assert (response.status, response.body.decode()) == (405, f"method {method} not allowed")
    assert header(response, "Allow") == allow


@pytest.mark.parametrize(
    ("path", "allow"),
    [("/v1/query/x", "OPTIONS,GET,PUT,DELETE"), ("/v1/query/x/execute", "OPTIONS,GET")],
)
async def test_options(api: Handlers, path: str, allow: str) -> None:
    response = await api.request("OPTIONS", path)
    assert (response.status, response.body) == (200, b"{}")
    assert header(response, "Allow") == allow


async def test_what_is_not_there(api: Handlers) -> None:
    for path in ("/v1/query/none/execute", "/v1/query/none/explain"):
        response = await api.request("GET", path)
        assert (response.status, response.body) == (404, b"Query not found")
    response = await api.request("GET", "/v1/query/none/execute?limit=abc")
    assert response.body == b'Bad limit: strconv.Atoi: parsing "abc": invalid syntax'
    response = await api.request("GET", "/v1/query/none/execute?cached")
    assert (response.status, response.body) == (500, b"Query not found")
    assert header(response, "X-Cache") is None


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("explain?limit=x", 'Bad limit: strconv.Atoi: parsing "x": invalid syntax'),
        (
            "execute?connect=maybe",
            "Error parsing 'connect' value: strconv.ParseBool: parsing \"maybe\": invalid syntax",
        ),
        ("execute?dc=nowhere", "No path to datacenter"),
    ],
)
async def test_parameters_that_make_no_sense(api: Handlers, path: str, text: str) -> None:
    await create(api)
    response = await api.request("GET", f"/v1/query/q/{path}")
    assert (response.status, response.body.decode()) == (500, text)


@pytest.mark.parametrize(("connect", "count"), [("", 3), ("=", 3), ("=0", 3), ("=1", 0)])
async def test_running_for_the_mesh(api: Handlers, connect: str, count: int) -> None:
    await three_instances(api)
    await create(api)
    result = await api.json("GET", f"/v1/query/q/execute?connect{connect}")
    assert len(result["Nodes"]) == count


async def test_a_query_may_be_called_execute(api: Handlers) -> None:
    response = await api.request("GET", "/v1/query/execute")
    assert (response.status, response.body) == (404, b"Query not found")
    await create(api, Name="execute")
    assert (await api.json("GET", "/v1/query/execute"))["Service"] == "web"
    response = await api.request("PUT", "/v1/query/execute", json=DEFINITION)
    assert (response.status, header(response, "Allow")) == (405, "GET")


async def test_a_change_without_a_body_is_one_to_nothing(api: Handlers) -> None:
    for query_id, text in (
        (UNKNOWN, f"Cannot modify non-existent prepared query: '{UNKNOWN}'"),
        (await create(api), "Invalid prepared query: Must be bound to a session"),
    ):
        response = await api.request("PUT", f"/v1/query/{query_id}")
        assert (response.status, response.body.decode()) == (500, text)


@pytest.mark.parametrize(("query_id", "status"), [(UNKNOWN, 404), ("not-an-id", 500)])
async def test_nobody_waits_for_what_is_not_there(
    api: Handlers, query_id: str, status: int
) -> None:
    path = f"/v1/query/{query_id}?index=1000&wait=10m"
    response = await asyncio.wait_for(api.request("GET", path), 5)
    assert response.status == status


async def test_there_is_no_index_to_wait_on(api: Handlers) -> None:
    await create(api)
    for path in ("execute", "explain"):
        response = await api.request("GET", f"/v1/query/q/{path}")
        assert header(response, "X-Consul-Index") == "1"
    await create(api, Name="other")
    response = await api.request("GET", "/v1/query/q/explain")
    assert header(response, "X-Consul-Index") == "1"


async def test_refusals_tell_no_consistency(api: Handlers) -> None:
    for path in ("none/execute", "not-an-id"):
        response = await api.request("GET", f"/v1/query/{path}")
        assert header(response, "X-Consul-Effective-Consistency") is None


class Lagging(InstantBackend):
    """A copy that heard from its leader some time ago."""

    async def read(self, query: Query, options: ReadOptions) -> ReadResult:
        return msgspec.structs.replace(await super().read(query, options), last_contact_ms=50)


async def test_the_last_contact_is_milliseconds_in_the_header_nanoseconds_in_the_body() -> None:
    api = Handlers(make_facade(backend=Lagging()), query.routes)
    await create(api)
    for path in ("execute", "explain"):
        response = await api.request("GET", f"/v1/query/q/{path}?stale")
        assert header(response, "X-Consul-Lastcontact") == "50"
        assert json.loads(response.body)["LastContact"] == 50_000_000
