"""Targets of instances, and what the endpoint asks, keeps and answers."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest

# The package stands beside its tests and need not be installed to be tested.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from registry_prometheus_sd.endpoint import Endpoint
from registry_prometheus_sd.settings import Settings
from registry_prometheus_sd.targets import health, target_group

from registry.http.api import ApiRequest, HttpError, Parameters

NODE = {
    "Node": "n1",
    "Address": "10.0.0.1",
    "Datacenter": "dc1",
    "TaggedAddresses": {"lan_ipv4": "10.0.0.1"},
    "Meta": {"rack-no": "r1"},
}
SERVICE = {
    "ID": "web-1",
    "Service": "web",
    "Tags": ["v1", "metrics"],
    "Address": "10.0.0.9",
    "Port": 80,
    "Meta": {"path": "/m"},
}


def instance(**service: Any) -> dict[str, Any]:
    return {"Node": NODE, "Service": {**SERVICE, **service}, "Checks": []}


def check(status: str, check_id: str = "c") -> dict[str, Any]:
    return {"CheckID": check_id, "Status": status}


def test_a_target() -> None:
    assert target_group(instance(), ",") == {
        "targets": ["10.0.0.9:80"],
        "labels": {
            "__meta_consul_address": "10.0.0.1",
            "__meta_consul_dc": "dc1",
            "__meta_consul_health": "passing",
            "__meta_consul_metadata_rack_no": "r1",
            "__meta_consul_namespace": "",
            "__meta_consul_node": "n1",
            "__meta_consul_partition": "",
            "__meta_consul_service": "web",
            "__meta_consul_service_address": "10.0.0.9",
            "__meta_consul_service_id": "web-1",
            "__meta_consul_service_metadata_path": "/m",
            "__meta_consul_service_port": "80",
            "__meta_consul_tagged_address_lan_ipv4": "10.0.0.1",
            "__meta_consul_tags": ",v1,metrics,",
        },
    }


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ({"Address": ""}, "10.0.0.1:80"),
        ({"Address": "web.test", "Port": 0}, "web.test:0"),
        ({"Address": "fe80::1"}, "[fe80::1]:80"),
    ],
    ids=["of the node", "name", "IPv6"],
)
def test_addresses(service: dict[str, Any], expected: str) -> None:
    assert target_group(instance(**service), ",")["targets"] == [expected]


def test_no_tags_and_no_metadata() -> None:
    labels = target_group(instance(Tags=None, Meta=None), ",")["labels"]
    assert labels["__meta_consul_tags"] == ""
    assert not [name for name in labels if name.startswith("__meta_consul_service_metadata")]
    assert target_group(instance(), ";")["labels"]["__meta_consul_tags"] == ";v1;metrics;"


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        ([], "passing"),
        ([check("passing"), check("warning")], "warning"),
        ([check("warning"), check("critical"), check("passing")], "critical"),
        ([check("passing"), check("critical", "_node_maintenance")], "maintenance"),
        ([check("critical", "_service_maintenance:web-1")], "maintenance"),
    ],
    ids=["none", "warning", "critical", "node", "service"],
)
def test_health(checks: list[dict[str, Any]], expected: str) -> None:
    assert health(checks) == expected


class Agent:
    """Answers as the API does, with services by name, and notes what it was asked."""

    def __init__(self) -> None:
        self.services = {"web": [instance()], "a b/c": [instance(ID="x", Tags=[])]}
        self.index = 5
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        headers = {"X-Consul-Index": str(self.index)}
        if request.url.path == "/v1/catalog/services":
            tags = {name: list[str]() for name in self.services} | {"web": ["v1", "metrics"]}
            return httpx.Response(200, json=tags, headers=headers)
        if "filter" in request.url.params:
            return httpx.Response(400, text="what filter?")
        name = request.url.path.removeprefix("/v1/health/service/")
        return httpx.Response(200, json=self.services.get(name, []), headers=headers)


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
async def context(agent: Agent) -> AsyncIterator[Any]:
    transport = httpx.MockTransport(agent)
    async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
        yield SimpleNamespace(settings=Settings(), client=client)


@pytest.fixture
def endpoint(context: Any) -> Endpoint:
    endpoint = Endpoint()
    endpoint.configure(context)
    return endpoint


def request(*query: tuple[str, str], **headers: str) -> ApiRequest:
    async def no_body(limit: int | None) -> bytes:
        return b""

    return ApiRequest(
        agent=SimpleNamespace(),  # type: ignore[arg-type]
        method="GET",
        path="/v1/prometheus/sd",
        argument="",
        query=Parameters([(name, value.encode()) for name, value in query]),
        headers=headers,
        read_body=no_body,
    )


async def ids(endpoint: Endpoint, *query: tuple[str, str], **headers: str) -> list[str]:
    answer = await endpoint.serve(request(*query, **headers))
    assert (answer.status, answer.content_type) == (200, "application/json")
    return [each["labels"]["__meta_consul_service_id"] for each in json.loads(answer.body)]


async def test_all_services_or_those_named(endpoint: Endpoint) -> None:
    assert await ids(endpoint) == ["x", "web-1"]
    assert await ids(endpoint, ("service", "web")) == ["web-1"]
    assert await ids(endpoint, ("service", "a b/c"), ("service", "gone")) == ["x"]


async def test_what_is_asked(endpoint: Endpoint, agent: Agent) -> None:
    query = [
        ("tag", "v1"),
        ("tag", "metrics"),
        ("passing", ""),
        ("dc", "dc2"),
        ("node-meta", "a:b"),
    ]
    assert await ids(endpoint, *query, **{"x-consul-token": "t"}) == ["web-1"]
    services, web = agent.asked
    assert str(services.url) == "http://agent/v1/catalog/services?dc=dc2"
    assert web.url.path == "/v1/health/service/web"
    assert sorted(web.url.params.multi_items()) == sorted(query)
    assert services.headers["x-consul-token"] == web.headers["x-consul-token"] == "t"


async def test_a_service_is_looked_into_when_its_index_changes(
    endpoint: Endpoint, agent: Agent
) -> None:
    for _ in range(3):
        assert await ids(endpoint, ("service", "web")) == ["web-1"]
    assert endpoint.made == 1
    # Whoever asks for something else, or as somebody else, has no part in it.
    await ids(endpoint, ("service", "web"), ("passing", ""))
    await ids(endpoint, ("service", "web"), authorization="Bearer t")
    assert endpoint.made == 3
    agent.services["web"].append(instance(ID="web-2"))
    agent.index += 1
    assert await ids(endpoint, ("service", "web")) == ["web-1", "web-2"]
    assert endpoint.made == 4


async def test_what_is_remembered_ends(endpoint: Endpoint, context: Any) -> None:
    context.settings = Settings(cache_s=0)
    endpoint.configure(context)
    await ids(endpoint, ("service", "web"))
    await ids(endpoint, ("service", "web"))
    assert endpoint.made == 2


async def test_refusals_are_handed_on(endpoint: Endpoint) -> None:
    with pytest.raises(HttpError, match="what filter") as caught:
        await endpoint.serve(request(("filter", "=")))
    assert caught.value.status == 400


async def test_an_agent_that_does_not_answer(context: Any) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    endpoint = Endpoint()
    with pytest.raises(HttpError, match="starting") as caught:
        await endpoint.serve(request())
    assert caught.value.status == 503
    context.client = httpx.AsyncClient(transport=httpx.MockTransport(refuse), base_url="http://a")
    endpoint.configure(context)
    with pytest.raises(HttpError, match="does not answer: refused") as caught:
        await endpoint.serve(request())
    assert caught.value.status == 503


def test_refused_settings() -> None:
    with pytest.raises(msgspec.ValidationError, match="<= 300"):
        msgspec.convert({"cache_s": 301}, Settings)
