"""Plugins' own endpoints: their handlers run on their plugin's event loop, not on the agent's.

What a request offers, its body and the agent's reads and writes, belongs to the agent's loop. So a
handler is given a request whose awaitables cross over to that loop and back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar, cast

from registry.agent.facade import AgentFacade
from registry.hooks import HttpRoute
from registry.http import openapi
from registry.http.api import ApiRequest, ApiResponse, Handler, Route
from registry.http.routing import Router
from registry.state.base import Command, Query, ReadOptions, ReadResult

logger = logging.getLogger("registry.http")

T = TypeVar("T")


def add_plugin_routes(router: Router, routes: Iterable[HttpRoute]) -> None:
    """Serve plugins' routes where the core has none; what the core has stays the core's."""
    for route in routes:
        operations = route.operations or (openapi.undescribed(route.pattern, route.handler),)
        try:
            router.add(route.method, route.pattern, Route(_handler_of(route), operations))
        except ValueError as problem:
            logger.error("Plugin route refused: error=%s", problem)


def _handler_of(route: HttpRoute) -> Handler:
    @wraps(route.handler)
    async def handle(request: ApiRequest) -> ApiResponse:
        response: ApiResponse = await route.handler(_lent(request, asyncio.get_running_loop()))
        return response

    return handle


class LentAgent:
    """The agent as a plugin's handler has it: reads and writes are done on the agent's loop."""

    def __init__(self, agent: AgentFacade, loop: asyncio.AbstractEventLoop) -> None:
        self._agent, self._loop = agent, loop
        self.config = agent.config
        self.node_name, self.node_id = agent.node_name, agent.node_id
        self.datacenter, self.wants_origin = agent.datacenter, agent.wants_origin

    def elsewhere(self, name: str) -> LentAgent | None:
        """The agent as it serves requests for another datacenter; None without a way there."""
        agent = self._agent.elsewhere(name)
        return None if agent is None else LentAgent(agent, self._loop)

    async def read(self, query: Query, options: ReadOptions) -> ReadResult:
        return await crossing(self._agent.read(query, options), self._loop)

    async def write(self, command: Command) -> Any:
        return await crossing(self._agent.write(command), self._loop)


def _lent(request: ApiRequest, loop: asyncio.AbstractEventLoop) -> ApiRequest:
    read_body = request.read_body

    async def read_lent_body(limit: int | None) -> bytes:
        return await crossing(read_body(limit), loop)

    agent = cast("AgentFacade", LentAgent(request.agent, loop))
    return replace(request, agent=agent, read_body=read_lent_body, cache=None, cached=None)


async def crossing(awaitable: Awaitable[T], loop: asyncio.AbstractEventLoop) -> T:
    """Await it on `loop`, from whichever loop this runs on."""
    if asyncio.get_running_loop() is loop:
        return await awaitable

    async def wait() -> T:
        return await awaitable

    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(wait(), loop))
