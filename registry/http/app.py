"""The Starlette application: every endpoint of the API, from the tables of its families."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Message, Receive, Scope, Send

from registry.agent.facade import AgentFacade
from registry.http import (
    acl,
    agent_checks,
    agent_info,
    agent_maintenance,
    agent_services,
    catalog,
    config_entries,
    coordinate,
    event,
    health,
    internal_ui,
    kv,
    openapi,
    operator,
    panels,
    profiling,
    query,
    root,
    session,
    snapshot,
    status,
    txn,
)
from registry.http.api import HttpError
from registry.http.plugin_routes import add_plugin_routes
from registry.http.rim import Incoming, Rim, encode_headers
from registry.http.routing import Router
from registry.http.surroundings import Surroundings

logger = logging.getLogger("registry.http")

#: The families, each a module with its table `routes`.
FAMILIES = (
    acl,
    agent_checks,
    agent_info,
    agent_maintenance,
    agent_services,
    catalog,
    config_entries,
    coordinate,
    event,
    health,
    internal_ui,
    kv,
    operator,
    panels,
    profiling,
    query,
    root,
    session,
    snapshot,
    status,
    txn,
)

#: A body that nobody set a limit for, bytes.
BODY_BYTES_MAX = 8 << 20

ReadBody = Callable[[int | None], Awaitable[bytes]]


class ClientGone(Exception):
    """The client closed its connection before it had sent its body."""


def create_rim(agent: AgentFacade) -> Rim:
    """The router over all families and plugins, with the rules of the rim around it."""
    router, surroundings = _fittings(agent)
    return Rim(agent, router, surroundings)


def refit(rim: Rim) -> None:
    """Take what plugins contribute now, if that has changed since the last time."""
    plugins = rim.agent.plugins
    if plugins is not None and plugins.generation != rim.plugin_generation:
        rim.fit(*_fittings(rim.agent))


def _fittings(agent: AgentFacade) -> tuple[Router, Surroundings | None]:
    router = Router(family.routes for family in FAMILIES)
    router.include(openapi.routes_of(router))
    if panels.is_on(agent.config):
        router.include(panels.pages_of(agent.config))
    surroundings = None
    if agent.plugins is not None:
        agent.plugins.ui_panels()  # asked for here, and not while somebody waits for a page
        add_plugin_routes(router, agent.plugins.http_routes())
        surroundings = Surroundings(agent.plugins.auth_methods(), agent.plugins.http_middleware())
    return router, surroundings


def create_app(agent: AgentFacade, rim: Rim | None = None) -> Starlette:
    """The API as an ASGI application; without `rim`, over all families and plugins."""
    rim = rim or create_rim(agent)
    app = Starlette(routes=[Mount("/", app=Api(rim))])
    app.state.rim = rim
    return app


class Api:
    """Hands ASGI requests to the rim."""

    def __init__(self, rim: Rim) -> None:
        self.rim = rim

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): _text(value) for name, value in scope["headers"]}
        incoming = Incoming(
            method=scope["method"],
            raw_path=scope.get("raw_path") or scope["path"].encode(),
            query=scope["query_string"],
            headers=headers,
            read_body=body_reader(receive, headers),
            client=tuple(scope.get("client") or ("", 0)),
        )
        try:
            response = await self.rim.answer(incoming)
        except ClientGone:
            return
        wire = encode_headers(response)
        start: Message = {"type": "http.response.start", "status": response.status, "headers": wire}
        if response.stream is None:
            wire.append((b"Content-Length", str(len(response.body)).encode()))
            await send(start)
            await send({"type": "http.response.body", "body": response.body})
            return
        await send(start)
        await send({"type": "http.response.body", "body": b"", "more_body": True})  # the head, now
        async for chunk in response.stream:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def body_reader(receive: Receive, headers: dict[str, str]) -> ReadBody:
    """`ApiRequest.read_body` over an ASGI channel."""

    async def read_body(limit: int | None) -> bytes:
        limit = BODY_BYTES_MAX if limit is None else limit
        declared = headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise too_large(int(declared), limit)
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise too_large(size, limit)
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    return read_body


def too_large(size: int, limit: int) -> HttpError:
    text = (
        f"Request body({size} bytes) too large, max size: {limit} bytes. "
        "The limits are set in the agent's configuration, under limits."
    )
    return HttpError(413, text)
