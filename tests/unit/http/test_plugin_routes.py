"""Plugins' handlers: what they are lent, on an event loop that is not the agent's."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from registry.agent.facade import AgentFacade, NoDatacenters
from registry.hooks import HttpRoute
from registry.http.api import ApiRequest, ApiResponse, json_response
from registry.http.origin import with_origin
from registry.http.params import parse_query
from registry.http.plugin_routes import add_plugin_routes
from registry.http.queries import KvGet, read_options
from registry.http.routing import Router
from registry.state.kv import KvSet
from registry.testing.consensus import InstantBackend
from registry.testing.serving import make_facade


class Elsewhere(NoDatacenters):
    """There is a way to dc2 and no other."""

    def __init__(self, backend: InstantBackend) -> None:
        self.backend = backend

    def path(self, name: str) -> Any:
        return self.backend if name == "dc2" else None


async def read_own_body(limit: int | None) -> bytes:
    await asyncio.sleep(0)
    return b"body"


async def ask(facade: AgentFacade, query: bytes = b"") -> ApiResponse:
    """The handler's answer, from a loop of the handler's own."""
    elsewhere = asyncio.new_event_loop()
    thread = threading.Thread(target=elsewhere.run_forever)
    thread.start()

    async def handler(request: ApiRequest) -> ApiResponse:
        running = asyncio.run_coroutine_threadsafe(write_then_read(request), elsewhere)
        return await asyncio.wrap_future(running)

    router = Router([])
    add_plugin_routes(router, [HttpRoute(method="GET", pattern="/v1/mine", handler=handler)])
    endpoint = router.endpoint("/v1/mine")
    assert endpoint is not None
    request = ApiRequest(
        agent=facade,
        method="GET",
        path="/v1/mine",
        argument="",
        query=parse_query(query),
        headers={},
        read_body=read_own_body,
        client=("192.0.2.1", 1),
    )
    try:
        return await endpoint.handlers["GET"](request)
    finally:
        elsewhere.call_soon_threadsafe(elsewhere.stop)
        thread.join()
        elsewhere.close()


async def write_then_read(request: ApiRequest) -> ApiResponse:
    body = await request.body()
    options = read_options(request)
    await request.agent.write(with_origin(request, KvSet(key=b"k", value=body)))
    result = await request.agent.read(KvGet(key=b"k"), options)
    return json_response([result.value.value.decode(), request.agent.datacenter], result)


async def test_reads_writes_and_the_body_cross_over() -> None:
    facade = make_facade(wants_origin=True)
    response = await ask(facade)
    assert response.body == b'["body","dc1"]'
    assert dict(response.headers)["X-Consul-Index"] != "0"


async def test_another_datacenter() -> None:
    there = InstantBackend()
    facade = make_facade(datacenters=Elsewhere(there))
    response = await ask(facade, b"dc=dc2")
    assert response.body == b'["body","dc2"]'
