"""`GET /v1/prometheus/sd`: asks the agent for the services and answers with their targets.

A service is asked for with every request, so an answer is never older than the agent's; but as long
as its `X-Consul-Index` stays, what was made of it is used again.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from urllib.parse import quote

import httpx
import msgspec

from registry.hooks import PluginContext
from registry.http.api import ApiRequest, ApiResponse, HttpError, json_response
from registry.http.operations import Answer, Operation, Parameter, Refusal

from .settings import Settings
from .targets import target_group

PATH = "/v1/prometheus/sd"

#: Services asked for at the same time.
ASKED_MAX = 16

#: Services remembered; the one that was not asked for longest is dropped.
REMEMBERED_MAX = 4096

#: Parameters that go on to the API.
PASSED_ON = ("tag", "node-meta", "filter", "passing", "stale", "consistent")
TOKEN_HEADERS = ("x-consul-token", "authorization")

OPERATION = Operation(
    summary="List instances of services as targets of Prometheus",
    about="In the format of `http_sd_configs`, with the labels of `consul_sd_configs`.",
    parameters=(
        Parameter("service", "Keep this service; without it: all.", repeated=True),
        Parameter("tag", "Keep instances with this tag; of several: with all.", repeated=True),
        Parameter("node-meta", "Keep nodes with this metadata, `key:value`.", repeated=True),
        Parameter("filter", "Keep instances for which this expression holds."),
        Parameter("passing", "Keep instances of which every check passes."),
        Parameter("dc", "The datacenter that is asked."),
        Parameter("stale", "Any server may answer, with what it knows."),
        Parameter("consistent", "The leader makes sure that it still leads."),
    ),
    answers=(Answer({"type": "array"}, "Groups of targets"),),
    refusals=(Refusal(400, "…"), Refusal(403, "…"), Refusal(500, "…"), Refusal(503, "…")),
)


class Remembered(msgspec.Struct, frozen=True):
    """What was made of a service's instances when they had this index."""

    index: str
    until: float
    groups: tuple[msgspec.Raw, ...]


class Endpoint:
    """The handler and what it remembers. Belongs to the plugin's event loop."""

    def __init__(self) -> None:
        self._context: PluginContext | None = None
        self._known: OrderedDict[object, Remembered] = OrderedDict()
        self._asking = asyncio.Semaphore(ASKED_MAX)
        #: How often the targets of a service were made anew.
        self.made = 0

    def configure(self, context: PluginContext) -> None:
        """Answer by the settings now in force."""
        self._context = context
        self._known.clear()

    async def serve(self, request: ApiRequest) -> ApiResponse:
        if self._context is None:
            raise HttpError(503, "prometheus-sd: the agent is starting")
        search = _Search(self._context, request)
        names = sorted(set(request.query.get_all("service"))) or await search.services()
        try:
            async with asyncio.TaskGroup() as group:
                found = [group.create_task(self._groups(search, name)) for name in names if name]
        except ExceptionGroup as problems:
            raise problems.exceptions[0] from None
        return json_response([each for task in found for each in task.result()])

    async def _groups(self, search: _Search, service: str) -> tuple[msgspec.Raw, ...]:
        async with self._asking:
            index, body = await search.get(f"/v1/health/service/{quote(service, safe='')}")
        key, now = (service, search.key), time.monotonic()
        known = self._known.pop(key, None)
        if known is None or known.index != index or now >= known.until:
            settings: Settings = search.context.settings
            known = Remembered(index, now + settings.cache_s, _made(body, settings.tag_separator))
            self.made += 1
        self._known[key] = known
        if len(self._known) > REMEMBERED_MAX:
            self._known.popitem(last=False)
        return known.groups


class _Search:
    """What one request looks for, and how it asks the agent."""

    def __init__(self, context: PluginContext, request: ApiRequest) -> None:
        query = request.query
        self.context = context
        self._dc = [("dc", value) for value in query.get_all("dc")[:1]]
        self._tags = set(query.get_all("tag"))
        self._parameters = [
            *self._dc,
            *((name, value) for name in PASSED_ON for value in query.get_all(name)),
        ]
        self._headers = {
            name: request.headers[name] for name in TOKEN_HEADERS if name in request.headers
        }
        if token := query.get("token"):
            self._headers["x-consul-token"] = token
        #: What is not the same for all who ask for a service.
        self.key = (*self._parameters, *self._headers.items())

    async def services(self) -> list[str]:
        """The names of all services that have the tags wanted."""
        _, body = await self._ask("/v1/catalog/services", self._dc)
        found = msgspec.json.decode(body, type=dict[str, list[str]])
        return sorted(name for name, tags in found.items() if self._tags <= set(tags))

    async def get(self, path: str) -> tuple[str, bytes]:
        return await self._ask(path, self._parameters)

    async def _ask(self, path: str, parameters: list[tuple[str, str]]) -> tuple[str, bytes]:
        """The answer's index and body. Raises `HttpError` with what the API says against it."""
        try:
            answer = await self.context.client.get(
                path, params=httpx.QueryParams(tuple(parameters)), headers=self._headers
            )
        except httpx.HTTPError as problem:
            reason = str(problem) or type(problem).__name__
            raise HttpError(503, f"prometheus-sd: the agent does not answer: {reason}") from problem
        if not answer.is_success:
            raise HttpError(answer.status_code, answer.text)
        return answer.headers.get("x-consul-index", ""), answer.content


def _made(body: bytes, separator: str) -> tuple[msgspec.Raw, ...]:
    return tuple(
        msgspec.Raw(msgspec.json.encode(target_group(instance, separator)))
        for instance in msgspec.json.decode(body)
    )
