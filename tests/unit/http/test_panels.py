"""Plugins' panels: where they are shown, what they may give, and that they can do nothing there."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from registry.agent.config import AgentConfig
from registry.hooks import PanelRequest, UiPanel, hookimpl
from registry.plugins import Plugins, guards, record
from registry.testing.serving import make_facade, serving

Client = httpx.AsyncClient


class Panels:
    """A plugin with these panels, or with one that is made from keywords."""

    def __init__(self, *panels: UiPanel, **one: Any) -> None:
        self.panels = [*panels, *([panel(**one)] if one else [])]

    @hookimpl
    def registry_ui_panels(self) -> list[UiPanel]:
        return self.panels


def panel(**more: Any) -> UiPanel:
    return UiPanel(**{"slug": "it", "title": "It", "render": lambda request: "<p>here</p>", **more})


@asynccontextmanager
async def agent(**plugins: Any) -> AsyncIterator[tuple[Client, Plugins]]:
    """One that serves the UI."""
    async with agent_of(AgentConfig(node_name="node1", ui=True), **plugins) as found:
        yield found


@asynccontextmanager
async def agent_of(config: AgentConfig, **named: Any) -> AsyncIterator[tuple[Client, Plugins]]:
    plugins = Plugins()
    for name, plugin in named.items():
        plugins.add(name, plugin)
    async with (
        serving(make_facade(config=config, plugins=plugins)) as server,
        Client(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        yield client, plugins
    plugins.close()


def policy(answer: httpx.Response) -> dict[str, str]:
    """The directives of a page's Content-Security-Policy."""
    parts = [part.strip().partition(" ") for part in answer.headers[_POLICY].split(";")]
    return {name: value for name, _, value in parts}


_POLICY = "Content-Security-Policy"


async def test_registry_ui_panels() -> None:
    seen: list[PanelRequest] = []

    def blocking(request: PanelRequest) -> str:
        seen.append(request)
        return "<p>one</p>"

    async def waiting(request: PanelRequest) -> str:
        seen.append(request)
        return "<p>two</p>"

    mine = Panels(
        panel(slug="one", title="One", render=blocking),
        panel(slug="two", title="Two", render=waiting, page="service", height_px=200),
    )
    async with agent(mine=mine) as (client, _):
        assert (await client.get("/v1/internal/ui/panels")).json() == [
            {
                "Plugin": "mine",
                "Slug": "one",
                "Title": "One",
                "Page": "overview",
                "Path": "/ui/panels/mine/one",
                "HeightPx": 320,
            },
            {
                "Plugin": "mine",
                "Slug": "two",
                "Title": "Two",
                "Page": "service",
                "Path": "/ui/panels/mine/two",
                "HeightPx": 200,
            },
        ]
        first = await client.get("/ui/panels/mine/one?a=1&a=2&b")
        assert first.status_code == 200
        assert "<title>One</title>" in first.text
        assert first.text.endswith("<body><p>one</p></body></html>")
        assert "<p>two</p>" in (await client.get("/ui/panels/mine/two?subject=web%2F1")).text
    assert seen == [
        PanelRequest(query={"a": "1", "b": ""}),
        PanelRequest(subject="web/1"),
    ]


async def test_a_panel_can_do_nothing_where_it_is_shown() -> None:
    async with agent(mine=Panels(panel())) as (client, _):
        for path in ("/ui/panels/mine/it", "/ui/panels/mine/it?subject=x"):
            answer = await client.get(path)
            directives = policy(answer)
            assert directives["sandbox"] == ""  # no scripts, no forms, and an origin of nobody's
            assert directives["default-src"] == "'none'"
            assert directives["frame-ancestors"] == "'self'"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"


async def test_a_document_is_left_as_it_is() -> None:
    html = "\n<!DOCTYPE html><title>whole</title>"
    async with agent(mine=Panels(render=lambda request: html)) as (client, _):
        answer = await client.get("/ui/panels/mine/it")
    assert answer.text == html
    assert "sandbox" in policy(answer)


async def test_the_list_shows_each_panel_in_a_frame_without_rights() -> None:
    title = 'A & "B" <script>'
    mine = Panels(
        panel(title=title, height_px=10**9),
        panel(slug="of-key", title="Of a key", page="key"),
    )
    async with agent(mine=mine, other=Panels(panel())) as (client, _):
        answer = await client.get("/ui/panels/")
        assert (await client.get("/ui/panels")).headers["Location"] == "/ui/panels/"
    assert "<script" not in answer.text
    frames = re.findall(r"<iframe ([^>]*)>", answer.text)
    assert [re.findall(r'src="([^"]*)"', frame) for frame in frames] == [
        ["/ui/panels/mine/it"],
        ["/ui/panels/other/it"],
    ]
    assert all(" sandbox " in frame for frame in frames)
    assert 'height="1600"' in frames[0]
    assert '<form action="/ui/panels/mine/of-key">' in answer.text
    directives = policy(answer)
    assert directives["default-src"] == "'none'"
    assert directives["frame-src"] == "'self'"
    (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert directives["style-src"] == f"'sha256-{digest}'"


async def test_a_list_without_panels_says_so() -> None:
    async with agent() as (client, _):
        answer = await client.get("/ui/panels/")
    assert "No plugin has a panel" in answer.text


async def test_panels_are_there_only_with_the_ui() -> None:
    plain = AgentConfig(node_name="node1")
    async with agent_of(plain, mine=Panels(panel())) as (client, _):
        assert (await client.get("/v1/internal/ui/panels")).json() == []
        assert (await client.get("/ui/panels/")).status_code == 404
        assert (await client.get("/ui/panels/mine/it")).status_code == 404


async def test_panels_are_under_the_path_of_the_ui() -> None:
    config = AgentConfig(node_name="node1", ui_dir="/srv/ui", ui_content_path="/see/here/")
    async with agent_of(config, mine=Panels(panel())) as (client, _):
        (found,) = (await client.get("/v1/internal/ui/panels")).json()
        assert found["Path"] == "/see/here/panels/mine/it"
        assert (await client.get(found["Path"])).status_code == 200


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("mine/none", 404, "there is no panel mine/none"),
        ("none/it", 404, "there is no panel none/it"),
        ("mine", 404, "there is no panel mine"),
        ("mine/of", 400, "this panel is of a node: name it, by ?subject="),
    ],
    ids=["slug", "plugin", "no slug", "no subject"],
)
async def test_what_is_not_there(path: str, status: int, text: str) -> None:
    mine = Panels(panel(), panel(slug="of", page="node"))
    async with agent(mine=mine) as (client, _):
        answer = await client.get(f"/ui/panels/{path}")
    assert (answer.status_code, answer.text) == (status, text)


# What goes wrong


def raises(request: PanelRequest) -> str:
    raise LookupError("no <b>table</b>")


class Text(str):
    """Text whose methods are the plugin's."""


async def gone(request: PanelRequest) -> str:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("render", "reason"),
    [
        (raises, "LookupError: no &lt;b&gt;table&lt;/b&gt;"),
        (gone, "RuntimeError: SystemExit: 3"),
        (lambda request: time.sleep(1), "took longer than 0.1 s"),
        (lambda request: None, "gave NoneType, expected text"),
        (lambda request: b"<p>", "gave bytes, expected text"),
        (lambda request: Text("<p>"), "gave Text, expected text"),
        (lambda request: "x" * 2000, "gave 2000 bytes, at most 1000"),
        (lambda request: "é" * 600, "gave 1200 bytes, at most 1000"),
    ],
    ids=["raises", "exits", "hangs", "none", "bytes", "subclass", "long", "long in bytes"],
)
async def test_a_panel_that_fails_says_so_in_its_place(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    render: Callable[[PanelRequest], Any],
    reason: str,
) -> None:
    monkeypatch.setattr(guards, "PANEL_LIMIT_S", 0.1)
    monkeypatch.setattr(guards, "PANEL_BYTES_MAX", 1000)
    broken = Panels(render=render, title="<i>It</i>")
    async with agent(broken=broken, mine=Panels(panel())) as (client, plugins):
        answer = await client.get("/ui/panels/broken/it")
        assert answer.status_code == 500
        assert "<strong>&lt;i&gt;It&lt;/i&gt;</strong> of the plugin <strong>broken" in answer.text
        assert reason in answer.text.replace("&#x27;", "'")
        assert policy(answer)["sandbox"] == ""
        assert (await client.get("/ui/panels/mine/it")).status_code == 200
        (report,) = [each for each in plugins.report() if each["Name"] == "broken"]
        assert report["ErrorCount"] == 1
        assert "plugin failed plugin=broken hook=registry_ui_panels" in caplog.text
        assert "has failed" in (await client.get("/ui/panels/")).text


async def test_a_panel_that_fails_again_and_again_is_left_alone() -> None:
    calls = []

    def render(request: PanelRequest) -> str:
        calls.append(request)
        raise LookupError("none")

    async with agent(broken=Panels(render=render)) as (client, _):
        for _ in range(record.FAILURES_MAX + 2):
            answer = await client.get("/ui/panels/broken/it")
            assert answer.status_code == 500
        assert len(calls) == record.FAILURES_MAX
        assert "left alone for a while" in answer.text
        assert "left alone" in (await client.get("/ui/panels/")).text


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"slug": "No way"}, "slug 'No way' is not lower-case letters, digits and dashes"),
        ({"slug": "a/b"}, "slug 'a/b' is not lower-case letters, digits and dashes"),
        ({"page": "cluster"}, "there is no page 'cluster' for panels"),
        ({"height_px": "tall"}, "the title of 'it' must be text, its height a number"),
    ],
    ids=["slug", "path", "page", "height"],
)
def test_panels_that_are_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        panel(**given)


async def test_slugs_are_the_plugins_own() -> None:
    twice = Panels(panel(title="first"), panel(title="second"))
    async with agent(twice=twice, other=Panels(panel())) as (client, plugins):
        found = (await client.get("/v1/internal/ui/panels")).json()
        assert [each["Title"] for each in found] == ["first", "It"]
        (report,) = [each for each in plugins.report() if each["Name"] == "twice"]
    assert report["Errors"] == ["registry_ui_panels: 'twice/it' is already there, from twice"]
