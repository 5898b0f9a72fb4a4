"""Plugins' endpoints over HTTP: on their own loop, and named when they fail."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from registry.hooks import HttpRoute, hookimpl
from registry.http.api import ApiRequest, ApiResponse, HttpError, json_response, text_response
from registry.plugins import Plugins
from registry.state.base import ReadOptions
from registry.state.kv import KvGet, KvSet
from registry.testing.consensus import InstantBackend
from registry.testing.serving import make_facade, serving


class Routes:
    @hookimpl
    def registry_http_routes(self) -> list[HttpRoute]:
        return [
            HttpRoute(method=method, pattern=f"/v1/mine/{name}", handler=handler, limit_s=0.5)
            for method, name, handler in (
                ("PUT", "write", write),
                ("GET", "stream", stream),
                ("GET", "refuse", refuse),
                ("GET", "nonsense", nonsense),
                ("GET", "hang", hang),
            )
        ]


async def write(request: ApiRequest) -> ApiResponse:
    value = await request.body()
    await request.agent.write(KvSet(key=b"mine", value=value))
    read = await request.agent.read(KvGet(key=b"mine"), ReadOptions())
    return json_response([read.value.value.decode(), threading.current_thread().name])


async def stream(request: ApiRequest) -> ApiResponse:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield threading.current_thread().name.encode() + b"\n"

    return ApiResponse(stream=chunks())


async def refuse(request: ApiRequest) -> ApiResponse:
    raise HttpError(403, "not today")


async def nonsense(request: ApiRequest) -> Any:
    return "text"


async def hang(request: ApiRequest) -> ApiResponse:
    time.sleep(1)  # noqa: ASYNC251 - what a plugin should not do
    return text_response("late")


@pytest.fixture
async def plugins() -> AsyncIterator[Plugins]:
    plugins = Plugins()
    plugins.add("mine", Routes())
    yield plugins
    plugins.close()


@pytest.fixture
async def client(plugins: Plugins) -> AsyncIterator[httpx.AsyncClient]:
    facade = make_facade(backend=InstantBackend(), plugins=plugins)
    async with (
        serving(facade) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        yield client


async def test_a_handler_reads_and_writes_through_the_agent(client: httpx.AsyncClient) -> None:
    answer = await client.put("/v1/mine/write", content=b"five")
    assert answer.json() == ["five", "plugin-mine"]


async def test_an_answer_that_streams(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/mine/stream")).text == "plugin-mine\n" * 3


async def test_a_refusal_is_the_plugins_to_make(
    client: httpx.AsyncClient, plugins: Plugins
) -> None:
    answer = await client.get("/v1/mine/refuse")
    assert (answer.status_code, answer.text) == (403, "not today")
    assert plugins.report()[0]["Errors"] == []


@pytest.mark.parametrize(
    ("path", "reason"),
    [("nonsense", "gave str, expected ApiResponse"), ("hang", "took longer than 0.5 s")],
)
async def test_a_failure_names_the_plugin(
    client: httpx.AsyncClient, path: str, reason: str
) -> None:
    answer = await client.get(f"/v1/mine/{path}")
    assert answer.status_code == 500
    assert answer.text.startswith("plugin mine failed in registry_http_routes: ")
    assert answer.text.endswith(reason)
