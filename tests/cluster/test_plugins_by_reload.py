"""Plugins that only a reload configures: they are in use from then on, and until another takes it
back."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dns.asyncquery
import dns.message
import msgspec
import pytest

from registry.hooks import (
    AccessDenied,
    CheckResult,
    CheckType,
    DefinitionSource,
    DnsAnswer,
    DnsFilter,
    DnsQuestion,
    HttpAnswer,
    HttpMiddleware,
    HttpRoute,
    KvValidator,
    KvWrite,
    MetricsSink,
    PanelRequest,
    ServiceTransform,
    StorageEngine,
    UiPanel,
    WatchHandler,
    WriteRefused,
    hookimpl,
)
from registry.http.api import ApiRequest, ApiResponse, text_response
from registry.testing.change_recorder import ChangeRecorder
from registry.testing.in_process import InProcessAgent, agent_in_process


class Settings(msgspec.Struct, frozen=True):
    word: str


class Needy:
    """A plugin of nearly everything that does nothing without its settings."""

    def __init__(self) -> None:
        self.watched: list[Any] = []
        self.started: list[Settings] = []
        self.asked: list[str] = []

    @hookimpl
    def registry_settings(self) -> type[Settings]:
        return Settings

    @hookimpl
    async def registry_start(self, context: Any) -> None:
        self.started.append(context.settings)

    @hookimpl
    def registry_storage_engines(self) -> list[StorageEngine]:
        return [StorageEngine(name="mine", open=_open)]

    @hookimpl
    def registry_check_types(self) -> list[CheckType]:
        return [CheckType(key="mine", type_name="mine", create=lambda definition: self)]

    async def run(self) -> CheckResult:
        return CheckResult("passing", "mine")

    @hookimpl
    def registry_definition_sources(self) -> list[DefinitionSource]:
        return [DefinitionSource(suffix=".mine", load=_read)]

    @hookimpl
    def registry_service_transforms(self) -> list[ServiceTransform]:
        return [ServiceTransform(name="mine", transform=_tagged)]

    @hookimpl
    def registry_metrics_sinks(self) -> list[MetricsSink]:
        return [MetricsSink(name="mine", deliver=self.watched.append)]

    @hookimpl
    def registry_watch_handlers(self) -> list[WatchHandler]:
        async def handle(index: int, data: bytes) -> None:
            self.watched.append(json.loads(data))

        return [WatchHandler(key="mine", create=lambda definition: handle)]

    @hookimpl
    def registry_kv_validators(self) -> list[KvValidator]:
        return [KvValidator(name="mine", prefix="checked/", validate=_refuse)]

    @hookimpl
    def registry_http_routes(self) -> list[HttpRoute]:
        return [HttpRoute(method="GET", pattern="/v1/mine", handler=_answer)]

    @hookimpl
    def registry_http_middleware(self) -> list[HttpMiddleware]:
        return [HttpMiddleware(name="mine", prefix="/v1/status/", before=_deny)]

    @hookimpl
    def registry_dns_filters(self) -> list[DnsFilter]:
        return [DnsFilter(name="mine", filter=self.choose)]

    def choose(self, question: DnsQuestion, answers: Sequence[DnsAnswer]) -> Sequence[DnsAnswer]:
        self.asked.append(question.name)
        return answers

    @hookimpl
    def registry_ui_panels(self) -> list[UiPanel]:
        return [UiPanel(slug="mine", title="Mine", render=_render)]


def _open(directory: Path) -> Any:
    raise NotImplementedError


def _read(path: Path, text: str) -> Mapping[str, Any]:
    name, port = text.split()
    return {"service": {"name": name, "port": int(port)}}


def _tagged(definition: dict[str, Any], source: str) -> Mapping[str, Any]:
    return {**definition, "Tags": ["mine"]}


def _refuse(write: KvWrite) -> None:
    raise WriteRefused("not this one")


async def _answer(request: ApiRequest) -> ApiResponse:
    return text_response("mine")


def _deny(call: Any) -> HttpAnswer | None:
    raise AccessDenied("not for you")


async def _render(request: PanelRequest) -> str:
    return "<p>mine</p>"


class Recorder(ChangeRecorder):
    """A change sink that needs settings."""

    @hookimpl
    def registry_settings(self) -> type[Settings]:
        return Settings


SETTINGS = {"needy": {"word": "x"}, "sink": {"word": "y"}, "local": {"word": "z"}}

#: What only the plugin understands, in the same files as its settings.
DEFINITIONS = {
    "check": {"id": "mine", "name": "mine", "interval": "1s", "mine": {}},
    "watches": [{"type": "key", "key": "watched", "mine": {}}],
}


async def status(agent: InProcessAgent, path: str) -> int:
    return (await agent.http.get(path)).status_code


async def until(condition: Callable[[], Any], what: str, seconds: float = 20) -> None:
    try:
        async with asyncio.timeout(seconds):
            while True:
                if await condition():
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:g} s: {what}") from None


async def test_a_plugin_is_in_use_from_the_reload_that_configures_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "registry")
    needy, sink, local = Needy(), Recorder(wants_origin=True), Recorder(where="server")
    local._sink = msgspec.structs.replace(local._sink, name="local")
    plugins = {"needy": needy, "sink": sink, "local": local}
    async with agent_in_process(plugins) as agent:
        http = agent.http
        await until(lambda: _has_leader(agent), "a leader")
        assert (await http.put("/v1/kv/before", content=b"1")).status_code == 200
        assert (await http.put("/v1/kv/checked/a", content=b"1")).status_code == 200
        for path in ("/v1/mine", "/ui/panels/needy/mine"):
            assert await status(agent, path) == 404
        assert not agent.report("needy")["Configured"]
        assert sink.changes == local.changes == []
        assert needy.started == []

        (agent.config_dir / "web.mine").write_text("web 80")
        agent.write_config("mine.json", {"plugins": {"settings": SETTINGS}, **DEFINITIONS})
        await until(lambda: _is_configured(agent), "the reload that follows the edit")

        # Changes: the whole state, and what comes, with who made it.
        await http.put("/v1/kv/after?reason=why", content=b"2")
        for recorder in (sink, local):
            await asyncio.to_thread(recorder.wait_for_key, "after")
            assert recorder.changes[0].kind == "reset"
            assert {"before", "after"} <= recorder.state().keys()
        assert sink.wait_for_key("after").origin is not None
        assert needy.started == [Settings("x")]
        # Everything else.
        refused = await http.put("/v1/kv/checked/b", content=b"1")
        assert (refused.status_code, refused.text) == (400, "not this one")
        assert (await http.get("/v1/mine")).text == "mine"
        assert "/v1/mine" in (await http.get("/v1/openapi.json")).json()["paths"]
        assert "<p>mine</p>" in (await http.get("/ui/panels/needy/mine")).text
        assert await status(agent, "/v1/status/leader") == 403
        await until(lambda: _check_runs(agent), "a run of the plugin's check")
        await http.put("/v1/kv/watched", content=b"3")
        await until(lambda: _true(any(needy.watched)), "the plugin's watch handler")
        services = (await http.get("/v1/agent/services")).json()
        assert (services["web"]["Port"], services["web"]["Tags"]) == (80, ["mine"])
        await until(lambda: _is_found(agent, "web"), "the service in DNS")
        assert set(needy.asked) == {"web.service.consul."}
        # A file of the plugin's format is followed from now on.
        (agent.config_dir / "api.mine").write_text("api 81")
        await until(lambda: _has_service(agent, "api"), "the new file")
        # What cannot be had without a restart is told.
        assert agent.report("needy")["NeedsRestart"] == ["registry_storage_engines"]
        assert agent.report("sink")["NeedsRestart"] == []
        told = "plugin needy: added, needs restart (registry_storage_engines)"
        assert (await http.put("/v1/agent/reload")).text == ""
        assert caplog.text.count(told) == 1

        # And back.
        (agent.config_dir / "mine.json").unlink()
        for name in ("web", "api"):
            (agent.config_dir / f"{name}.mine").unlink()
        await until(lambda: _is_configured(agent, False), "the reload that takes it back")
        assert await status(agent, "/v1/mine") == 404
        assert await status(agent, "/v1/status/leader") == 200
        assert (await http.put("/v1/kv/checked/c", content=b"1")).status_code == 200
        assert agent.report("needy")["NeedsRestart"] == []
        assert "checked/c" not in sink.state()


async def test_a_reload_that_is_refused_configures_nothing() -> None:
    recorder = Recorder()
    async with agent_in_process({"sink": recorder}) as agent:
        await until(lambda: _has_leader(agent), "a leader")
        wrong = {"plugins": {"settings": {"sink": {"word": "y"}}}, "service": {"port": 80}}
        agent.write_config("wrong.json", wrong)
        answer = await agent.http.put("/v1/agent/reload")
        assert answer.status_code == 500
        assert not agent.report("sink")["Configured"]
        await agent.http.put("/v1/kv/a", content=b"1")
        assert recorder.deliveries == []


async def _true(value: bool) -> bool:
    return value


async def _has_leader(agent: InProcessAgent) -> bool:
    answer = await agent.http.get("/v1/status/leader")
    return answer.status_code == 200 and bool(answer.json())


async def _is_configured(agent: InProcessAgent, wanted: bool = True) -> bool:
    found = (await agent.http.get("/v1/agent/plugins")).json()
    (needy,) = [each for each in found if each["Name"] == "needy"]
    # The reload is over once the plugin was started, or the route is gone.
    route = await status(agent, "/v1/mine")
    return needy["Configured"] is wanted and (route == 200) is wanted


async def _check_runs(agent: InProcessAgent) -> bool:
    found = (await agent.http.get("/v1/agent/checks")).json()
    return "mine" in found and found["mine"]["Status"] == "passing"


async def _is_found(agent: InProcessAgent, name: str) -> bool:
    question = dns.message.make_query(f"{name}.service.consul.", "SRV")
    port = agent.node.config.ports.dns
    return bool((await dns.asyncquery.udp(question, "127.0.0.1", port=port)).answer)


async def _has_service(agent: InProcessAgent, name: str) -> bool:
    return name in (await agent.http.get("/v1/agent/services")).json()
