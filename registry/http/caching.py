"""`?cached`: what a cached read says of itself, and how fresh it is.

On a server the state that a read asks is in this process, so a cached read asks it again, which
costs what looking into a cache would: a cached answer is never older than an uncached one. What is
kept is which questions were asked with `?cached` before: the first one is a MISS, later ones are
HITs, as they are with a cache of answers. Such a cache is kept up to date in the background for the
endpoints in `REFRESHED`; there a HIT has the `Age` 0 whatever `Cache-Control` asks for, and a read
that waits for a change is a MISS. For the others a HIT is as old as the last MISS, and one that is
older than the client takes is a MISS too.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

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
    "/v1/catalog/connect/": "",
    "/v1/health/service/": "",
    "/v1/health/connect/": "",
    "/v1/health/ingress/": "",
    "/v1/query/": "/execute",
}

#: Those of them whose answers are kept as the filter leaves them: the instances of a service.
FILTERED = frozenset(
    {
        "/v1/catalog/service/",
        "/v1/catalog/connect/",
        "/v1/health/service/",
        "/v1/health/connect/",
        "/v1/health/ingress/",
    }
)

#: Those whose answers a background refresh keeps up to date.
REFRESHED = frozenset({"/v1/catalog/services", *FILTERED})


class CachedAnswer:
    """What one request's `?cached` found."""

    __slots__ = ("age_s", "hit")

    def __init__(self) -> None:
        self.hit = False
        self.age_s = 0.0

    def headers(self) -> list[tuple[str, str]]:
        if not self.hit:
            return [("X-Cache", "MISS")]
        return [("X-Cache", "HIT"), ("Age", f"{self.age_s:.0f}")]


class AnswerCache:
    """Which questions this agent was asked with `?cached`, by the request that they came as."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: When an answer was last fetched, and when it was last asked for.
        self._times: OrderedDict[object, tuple[float, float]] = OrderedDict()

    def attach(self, request: ApiRequest) -> None:
        """Have the reads of this request go through the cache, where its endpoint allows that."""
        ending = CACHEABLE.get(request.pattern)
        allowed = request.agent.config.http_config.use_cache
        if ending is None or not allowed or not request.argument.endswith(ending):
            return
        request.cached = CachedAnswer()
        backend = _CachingBackend(request.agent.backend, self, request)
        request.agent = replace(request.agent, backend=backend)

    def note(self, request: ApiRequest, question: object, *, waited: bool = False) -> None:
        """Have the request's headers say what became of its `question`, which was answered now;
        `waited` for a change it was not by anything kept."""
        assert request.cached is not None  # only such requests come here
        now = self._clock()
        fetched_s, asked_s = self._times.pop(question, (now, now - ENTRY_TTL_S))
        age_s = 0.0 if request.pattern in REFRESHED else now - fetched_s
        hit = now - asked_s < ENTRY_TTL_S and not waited
        if request.pattern not in REFRESHED:
            control = CacheControl.read(request.headers.get("cache-control", ""))
            hit = hit and control.allows(age_s)
        self._times[question] = (fetched_s if hit else now, now)
        if len(self._times) > ENTRIES_MAX:
            self._times.popitem(last=False)
        request.cached.hit, request.cached.age_s = hit, age_s

    def __len__(self) -> int:
        return len(self._times)


class _CachingBackend:
    """The agent's backend as one cached request sees it."""

    def __init__(self, below: Backend, cache: AnswerCache, request: ApiRequest) -> None:
        self._below, self._cache, self._request = below, cache, request

    async def read(self, query: Query, options: ReadOptions) -> ReadResult:
        request = self._request
        result, waited = await self._answer(query, options)
        if request.cached is not None:
            expression = request.query.get("filter") if request.pattern in FILTERED else ""
            question = (request.agent.datacenter, repr(query), expression)
            self._cache.note(request, question, waited=waited)
        return result

    async def _answer(self, query: Query, options: ReadOptions) -> tuple[ReadResult, bool]:
        """The answer, and whether it had to wait for a change."""
        if options.min_index:
            present = msgspec.structs.replace(options, min_index=0, wait_ms=0)
            result = await self._below.read(query, present)
            if result.index > options.min_index:
                return result, False
        return await self._below.read(query, options), options.min_index > 0

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
