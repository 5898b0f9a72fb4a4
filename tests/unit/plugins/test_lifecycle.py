"""Plugins are started, told of new settings, and stopped; each on its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from registry.hooks import PluginContext, hookimpl
from registry.plugins import Plugins, lifecycle
from registry.plugins.lifecycle import AgentFacts, Lifecycle


class Settings(msgspec.Struct, frozen=True):
    pace: int = 1


class Recorder:
    """Notes what happens to it, and where."""

    def __init__(self) -> None:
        self.notes: list[Any] = []
        self.context: PluginContext | None = None

    @hookimpl
    def registry_settings(self) -> type[Settings]:
        return Settings

    @hookimpl
    async def registry_start(self, context: PluginContext) -> None:
        self.context = context
        self.notes.append(("start", context.settings.pace, threading.current_thread().name))

    @hookimpl
    async def registry_settings_changed(self, context: PluginContext) -> None:
        self.notes.append(("changed", context.settings.pace))

    @hookimpl
    async def registry_stop(self, context: PluginContext) -> None:
        self.notes.append("stop")


def life_of(plugins: Plugins, data_dir: Path | None = None) -> Lifecycle:
    facts = AgentFacts(
        node_name="node1",
        node_id="1234",
        datacenter="dc1",
        is_server=True,
        config={"node_name": "node1"},
        make_client=httpx.AsyncClient,
        data_dir=data_dir,
    )
    return Lifecycle(plugins, facts)


@pytest.fixture
async def plugins() -> AsyncIterator[Plugins]:
    plugins = Plugins()
    yield plugins
    plugins.close()


def configure(plugins: Plugins, given: dict[str, Any]) -> None:
    plugins.configure(plugins.judged_settings(given))


async def test_registry_start(plugins: Plugins) -> None:
    recorder = Recorder()
    plugins.add("mine", recorder)
    configure(plugins, {"mine": {"pace": 5}})
    await life_of(plugins).start()
    assert recorder.notes == [("start", 5, "plugin-mine")]
    assert recorder.context is not None
    assert (recorder.context.plugin, recorder.context.node_name) == ("mine", "node1")
    assert recorder.context.logger.name == "registry.plugin.mine"


async def test_registry_settings_changed(plugins: Plugins) -> None:
    recorder, other = Recorder(), Recorder()
    plugins.add("mine", recorder)
    plugins.add("other", other)
    configure(plugins, {})
    life = life_of(plugins)
    await life.start()
    configure(plugins, {"mine": {"pace": 7}})
    await life.settings_changed({"mine"})
    assert recorder.notes[1:] == [("changed", 7)]
    assert len(other.notes) == 1


async def test_registry_stop(plugins: Plugins) -> None:
    recorder = Recorder()
    plugins.add("mine", recorder)
    configure(plugins, {})
    life = life_of(plugins)
    await life.start()
    await life.stop()
    await life.stop()
    assert recorder.notes[1:] == ["stop"]


async def test_tasks_run_until_the_plugin_is_stopped(plugins: Plugins) -> None:
    ended = threading.Event()

    class Busy:
        @hookimpl
        async def registry_start(self, context: PluginContext) -> None:
            async def work() -> None:
                try:
                    await asyncio.Event().wait()
                finally:
                    ended.set()

            async def fail() -> None:
                raise LookupError("nobody")

            context.tasks.create_task(work(), name="work")
            failing = context.tasks.create_task(fail(), name="fail")
            await asyncio.wait([failing])

    plugins.add("busy", Busy())
    life = life_of(plugins)
    await life.start()
    (report,) = plugins.report()
    assert report["Errors"] == ["task fail: LookupError: nobody"]
    assert not ended.is_set()
    await life.stop()
    assert ended.is_set()


class Fails:
    def __init__(self) -> None:
        self.stopped = False

    @hookimpl
    async def registry_start(self, context: PluginContext) -> None:
        raise OSError("no such host")

    @hookimpl
    async def registry_stop(self, context: PluginContext) -> None:
        self.stopped = True


async def test_one_that_fails_to_start_holds_up_nobody(
    plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "START_LIMIT_S", 0.05)
    monkeypatch.setattr(lifecycle, "STOP_LIMIT_S", 0.05)
    go_on = threading.Event()

    class Hangs:
        @hookimpl
        async def registry_start(self, context: PluginContext) -> None:
            go_on.wait()

    fails, recorder = Fails(), Recorder()
    for name, plugin in (("fails", fails), ("hangs", Hangs()), ("mine", recorder)):
        plugins.add(name, plugin)
    configure(plugins, {})
    life = life_of(plugins)
    await life.start()
    await life.stop()
    go_on.set()
    assert recorder.notes[-1] == "stop"
    assert not fails.stopped
    errors = {each["Name"]: each["Errors"] for each in plugins.report()}
    assert errors["fails"] == ["registry_start: OSError: no such host"]
    assert errors["hangs"][0] == "registry_start: TimeoutError: took longer than 0.05 s"


async def test_one_that_waited_for_its_settings_starts_when_it_has_them(plugins: Plugins) -> None:
    class Needs(Recorder):
        @hookimpl
        def registry_settings(self) -> Any:
            return msgspec.defstruct("Needed", [("pace", int)], frozen=True)

    waiting = Needs()
    plugins.add("waiting", waiting)
    configure(plugins, {})
    life = life_of(plugins)
    await life.start()
    assert waiting.notes == []
    configure(plugins, {"waiting": {"pace": 3}})
    await life.settings_changed({"waiting"})
    assert waiting.notes == [("start", 3, "plugin-waiting")]


async def test_directories(plugins: Plugins, tmp_path: Path) -> None:
    lasting, passing = Recorder(), Recorder()
    plugins.add("mine", lasting)
    configure(plugins, {})
    await life_of(plugins, tmp_path).start()
    assert lasting.context is not None
    assert lasting.context.data_dir == tmp_path / "plugins" / "mine"
    assert lasting.context.data_dir.is_dir()
    other = Plugins()
    other.add("mine", passing)
    configure(other, {})
    life = life_of(other)
    await life.start()
    assert passing.context is not None
    directory = passing.context.data_dir
    assert directory.is_dir()
    await life.stop()
    assert not directory.exists()
    other.close()
