"""Plugins' panels for the web UI: `/ui/panels/`, where the UI is on, and their list as JSON.

A panel is drawn by its plugin each time somebody looks at it, and sent as a page that may do
nothing (`panel_page.FRAME_POLICY`). One that fails is a page that says so, with status 500.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict
from urllib.parse import quote

from registry.agent.config import AgentConfig
from registry.agent.facade import AgentFacade
from registry.errors import RegistryError
from registry.hooks import PanelRequest
from registry.http import panel_page
from registry.http.api import ApiRequest, ApiResponse, HttpError, Routes, json_response
from registry.http.operations import Operation
from registry.http.options import shows
from registry.http.panel_page import Shown
from registry.http.rim import HTML_TYPE
from registry.plugins.guards import GuardedPanel

routes = Routes()


class PanelObject(TypedDict):
    """`Page` is "overview", or the page of each "node", "service" or "key": then the name of which
    goes behind `Path` as `?subject=`."""

    Plugin: str
    Slug: str
    Title: str
    Page: str
    Path: str
    HeightPx: int


@routes.get(
    "/v1/internal/ui/panels",
    Operation(
        summary="List the panels that plugins add to the web UI",
        about="None where the UI is not served.",
        answers=shows(list[PanelObject]),
    ),
)
async def panels(request: ApiRequest) -> ApiResponse:
    found = _panels(request.agent) if is_on(request.agent.config) else ()
    listed: list[PanelObject] = [
        {
            "Plugin": shown.plugin,
            "Slug": panel.slug,
            "Title": shown.title,
            "Page": shown.page,
            "Path": shown.path,
            "HeightPx": shown.height_px,
        }
        for shown, panel in found
    ]
    return json_response(listed)


def is_on(config: AgentConfig) -> bool:
    """Whether this agent serves the web UI."""
    return config.ui or bool(config.ui_dir)


def pages_of(config: AgentConfig) -> Routes:
    """The pages, under the path of the UI. They are no part of the API, so not of its document."""
    pages = Routes()
    pages.get(_base(config))(_page)
    return pages


def _base(config: AgentConfig) -> str:
    path = config.ui_content_path.strip("/")
    return f"/{path}/panels/" if path else "/panels/"


def _panels(agent: AgentFacade) -> Iterator[tuple[Shown, GuardedPanel]]:
    for panel in agent.plugins.ui_panels():
        plugin = panel.record.name
        path = f"{_base(agent.config)}{quote(plugin, safe='')}/{panel.slug}"
        yield Shown(plugin, panel.title, panel.page, path, panel.height_px), panel


async def _page(request: ApiRequest) -> ApiResponse:
    agent = request.agent
    found = list(_panels(agent))
    if not request.argument:
        shown = [each for each, _ in found]
        html = panel_page.listed(agent.node_name, agent.datacenter, shown, agent.plugins.report())
        return _answer(html, panel_page.LIST_POLICY)
    for each, panel in found:
        if request.argument == f"{each.plugin}/{panel.slug}":
            return await _drawn(request, each, panel)
    raise HttpError(404, f"there is no panel {request.argument}")


async def _drawn(request: ApiRequest, shown: Shown, panel: GuardedPanel) -> ApiResponse:
    query: dict[str, str] = {}
    for name, value in request.query.pairs():
        query.setdefault(name, value)
    subject = query.pop("subject", "")
    if panel.page != "overview" and not subject:
        raise HttpError(400, f"this panel is of a {panel.page}: name it, by ?subject=")
    try:
        html = await panel.draw(PanelRequest(subject=subject, query=query))
    except RegistryError as problem:
        return _answer(panel_page.failed(shown, str(problem)), panel_page.FRAME_POLICY, 500)
    return _answer(panel_page.framed(shown.title, html), panel_page.FRAME_POLICY)


def _answer(html: str, policy: str, status: int = 200) -> ApiResponse:
    headers = [
        ("Content-Security-Policy", policy),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-store"),
    ]
    return ApiResponse(status, html.encode("utf-8", "replace"), HTML_TYPE, headers)
