"""A real server on a free port, over a backend that commits at once."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from registry.http.server import HttpServer
from registry.testing.serving import make_facade, serving


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[HttpServer]]]:
    """`await serve(config=..., server=...)`: a server that ends with the test."""
    async with AsyncExitStack() as stack:

        async def start(*, server: dict[str, Any] | None = None, **facade: Any) -> HttpServer:
            facade.setdefault("local", SimpleNamespace(services={}, checks={}))
            made = make_facade(**facade)
            return await stack.enter_async_context(serving(made, **(server or {})))

        yield start


@pytest.fixture(params=["short", "long"])
async def server(request: pytest.FixtureRequest, serve: Any) -> HttpServer:
    """A server with defaults, once with the short way and once without: both answer alike."""
    started: HttpServer = await serve(server={"short_way": request.param == "short"})
    return started


@pytest.fixture
async def client(server: HttpServer) -> AsyncIterator[httpx.AsyncClient]:
    """Sends nothing that the test did not ask for, gzip least of all."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as session:
        session.headers.clear()
        yield session
