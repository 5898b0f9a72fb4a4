"""`GET /v1/appconfig/APP`: the configuration, merged, resolved and written down."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Final

from registry.hooks import PluginContext
from registry.http.api import ApiRequest, ApiResponse, HttpError, index_headers
from registry.http.operations import (
    JSON_MEDIA,
    NOTHING,
    PRESENT,
    TEXT_MEDIA,
    Answer,
    Operation,
    Parameter,
    Refusal,
)
from registry.http.queries import INDEX_HEADERS, READ, read_options

from .formats import FORMATS, Style
from .layers import ConfigProblem, Wanted, layer_prefixes
from .reading import Snapshot, take_snapshot, wait_for_change
from .references import Expansion
from .settings import Settings

PATTERN: Final = "/v1/appconfig/"

#: A request may wait for ten minutes, stretched by a sixteenth.
LIMIT_S: Final = 660.0

_HEADERS: Final = (*INDEX_HEADERS, "ETag")
_MEDIA: Final = (JSON_MEDIA, "application/yaml", TEXT_MEDIA)

OPERATION: Final = Operation(
    summary="The configuration of an application",
    about="Merged from the layers of the KV tree, with references resolved.",
    path=(
        Parameter(
            "app",
            "The application; it may hold slashes.",
            place="path",
            required=True,
            refusals=(
                Refusal(400, "Missing application name"),
                Refusal(400, "not an application's name: …"),
            ),
        ),
    ),
    parameters=(
        *READ,
        Parameter(
            "profile",
            "A profile, or several with commas; a later one is above an earlier one.",
            repeated=True,
            refusals=(Refusal(400, "a profile or instance has no slash in its name: …"),),
        ),
        Parameter("instance", "The instance, whose layer is the highest."),
        Parameter(
            "format",
            "How it is written down.",
            {"type": "string", "enum": sorted(FORMATS)},
            refusals=(Refusal(400, "no such format: …"),),
        ),
        Parameter("flat", "JSON and YAML as one object of whole names, not as a tree.", PRESENT),
        Parameter(
            "typed",
            "Values that are JSON as what they say, in JSON and YAML, not as text.",
            PRESENT,
        ),
        Parameter(
            "If-None-Match",
            "Answer 304 while the configuration is the one with this ETag. Beside `index`, only "
            "another configuration ends the wait.",
            place="header",
        ),
    ),
    answers=(
        Answer({}, "The configuration", media=_MEDIA, headers=_HEADERS),
        Answer(NOTHING, "Not changed", 304, headers=_HEADERS),
    ),
    refusals=(
        Refusal(404, "there is no configuration for …"),
        Refusal(422, "…"),
        Refusal(503, "the plugin is not started yet"),
    ),
)

#: What the agents in this process lent the plugin, by node id. There is one, but in tests.
contexts: dict[str, PluginContext] = {}


@dataclass(frozen=True, slots=True)
class _Rendered:
    """An answer, or why there is none."""

    body: bytes = b""
    media: str = ""
    problem: str = ""
    status: int = 200

    @property
    def etag(self) -> str:
        # Weak: the API may indent and compress what is the same configuration.
        return f'W/"{hashlib.sha256(self.body).hexdigest()[:32]}"'


async def serve(request: ApiRequest) -> ApiResponse:
    """The configuration of an application, as soon as it is what the request waits for."""
    context = contexts.get(request.agent.node_id)
    if context is None:
        raise HttpError(503, "the plugin is not started yet")
    settings: Settings = context.settings
    options = read_options(request)
    render = _Renderer(request, settings)
    known = _etags(request.headers.get("if-none-match", ""))

    def is_news(rendered: _Rendered, index: int) -> bool:
        if known and rendered.status == 200:
            return not _matches(known, rendered.etag)
        return index > options.min_index

    clock = asyncio.get_running_loop().time
    end = clock() + options.wait_ms / 1000
    while True:
        snapshot = await take_snapshot(request.agent, render.prefixes, settings, options)
        rendered, index = render(snapshot), snapshot.meta.index
        left_ms = int((end - clock()) * 1000)
        if not options.min_index or is_news(rendered, index) or left_ms <= 0:
            break
        # An answer that is known by its ETag may be waited on from any index, also from one that
        # went back; else what the client was told counts.
        floor = index if known and rendered.status == 200 else options.min_index
        await wait_for_change(request.agent, snapshot, floor, left_ms, options)
    headers = index_headers(snapshot.meta)
    if rendered.status != 200:
        raise HttpError(rendered.status, rendered.problem, tuple(headers))
    headers.append(("ETag", rendered.etag))
    if _matches(known, rendered.etag):
        return ApiResponse(304, headers=headers)
    is_json = rendered.media == JSON_MEDIA
    return ApiResponse(200, rendered.body, rendered.media, headers, is_json=is_json)


class _Renderer:
    """What the request wants, from whichever snapshot."""

    def __init__(self, request: ApiRequest, settings: Settings) -> None:
        query = request.query
        name = query.get("format") or "json"
        if name not in FORMATS:
            raise HttpError(400, f"no such format: {name}; there are {', '.join(FORMATS)}")
        try:
            wanted = Wanted.read(request.argument, query.get_all("profile"), query.get("instance"))
        except ValueError as problem:
            raise HttpError(400, str(problem)) from problem
        self._app, self._settings, self._format = wanted.app, settings, FORMATS[name]
        self._style = Style(flat="flat" in query, typed="typed" in query)
        self.prefixes = layer_prefixes(wanted, settings)

    def __call__(self, snapshot: Snapshot) -> _Rendered:
        settings = self._settings
        try:
            if snapshot.problem is not None:
                raise snapshot.problem
            if not snapshot.values:
                looked = ", ".join(self.prefixes)
                text = f"there is no configuration for {self._app} (no key under {looked})"
                return _Rendered(problem=text, status=404)
            texts = Expansion(snapshot.values, snapshot.stored, settings.separator).all()
            body = self._format.write(texts, self._style, settings)
        except ConfigProblem as problem:
            return _Rendered(problem=problem.text, status=422)
        return _Rendered(body, self._format.media)


def _etags(header: str) -> list[str]:
    return [tag.strip().removeprefix("W/") for tag in header.split(",") if tag.strip()]


def _matches(known: list[str], etag: str) -> bool:
    """Weak comparison (RFC 9110, 13.1.2)."""
    return "*" in known or etag.removeprefix("W/") in known
