"""`?cached`: what a cached read says of itself, and how fresh it is.

On a server the state that a read asks is in this process, so a cached read asks it again, which
costs what looking into a cache would: a cached answer is never older than an uncached one. What is
kept is which questions were asked with `?cached` before: the first one is a MISS, later ones are
HITs whose `Age` is 0, as it is for an entry that a background refresh keeps up to date.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from registry.agent.facade import Backend
from registry.http.cache_control import CacheControl
from registry.server.autopilot import AutopilotReport
from registry.state.base import Command, Query, ReadOptions, ReadResult
from registry.state.dump import StateDump

if TYPE_CHECKING:
    from registry.http.api import ApiRequest

#: Questions remembered, the least recently asked one is dropped. A question is about 200 bytes.
ENTRIES_MAX = 4096

#: A question that was not asked for so long starts anew, seconds.
ENTRY_TTL_S = 72 * 3600

#: Patterns of the endpoints that heed `?cached`, and how their argument must end.
CACHEABLE = {
    "/v1/catalog/datacenters": "",
    "/v1/catalog/services": "",
    "/v1/catalog/service/": "",
    "/v1/health/service/": "",
    "/v1/query/": "/execute",
}


class CachedAnswer:
    """What one request's `?cached` found."""

    __slots__ = ("age_s", "hit")

    def __init__(self) -> None:
        self.hit = False
        self.age_s = 0

    def headers(self) -> list[tuple[str, str]]:
        if not self.hit:
            return [("X-Cache", "MISS")]
        return [("X-Cache", "HIT"), ("Age", str(self.age_s))]


class AnswerCache:
    """Which questions this agent was asked with `?cached`, by the request that they came as."""

    def __init__(self) -> None:
        self._asked: OrderedDict[object, float] = OrderedDict()

    def attach(self, request: ApiRequest) -> None:
        """Have the reads of this request go through the cache, where its endpoint allows that."""
        ending = CACHEABLE.get(request.pattern)
        allowed = request.agent.config.http_config.use_cache
        if ending is None or not allowed or not request.argument.endswith(ending):
            return
        request.cached = CachedAnswer()
        backend = _CachingBackend(request.agent.backend, self, request)
        request.agent = replace(request.agent, backend=backend)

    def seen(self, question: object) -> bool:
        """Whether `question` was asked before, and remember that it is asked now."""
        now = time.monotonic()
        before = self._asked.pop(question, None)
        self._asked[question] = now
        if len(self._asked) > ENTRIES_MAX:
            self._asked.popitem(last=False)
        return before is not None and now - before < ENTRY_TTL_S

    def __len__(self) -> int:
        return len(self._asked)


class _CachingBackend:
    """The agent's backend as one cached request sees it."""

    def __init__(self, below: Backend, cache: AnswerCache, request: ApiRequest) -> None:
        self._below, self._cache, self._request = below, cache, request

    async def read(self, query: Query, options: ReadOptions) -> ReadResult:
        result = await self._below.read(query, options)
        if self._request.cached is not None:
            control = CacheControl.read(self._request.headers.get("cache-control", ""))
            known = self._cache.seen((self._request.agent.datacenter, repr(query)))
            self._request.cached.hit = known and not control.must_revalidate
        return result

    async def write(self, command: Command) -> Any:
        return await self._below.write(command)

    async def leader_address(self) -> str:
        return await self._below.leader_address()

    async def peer_addresses(self) -> list[str]:
        return await self._below.peer_addresses()

    async def raft_configuration(self) -> tuple[int, list[dict[str, Any]]]:
        return await self._below.raft_configuration()

    def statistics(self) -> dict[str, dict[str, str]]:
        return self._below.statistics()

    async def remove_server(self, server_id: str) -> None:
        await self._below.remove_server(server_id)

    async def autopilot_health(self) -> AutopilotReport:
        return await self._below.autopilot_health()

    async def open_dump(self) -> StateDump:
        return await self._below.open_dump()
