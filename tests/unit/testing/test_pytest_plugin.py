"""The fixtures that authors of plugins get."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from registry.errors import ConfigError
from registry.hooks import Change, HttpRoute, PluginContext, hookimpl
from registry.http.api import ApiRequest, ApiResponse, text_response
from registry.testing.change_recorder import ChangeRecorder
from registry.testing.process import wait_until
from registry.testing.pytest_plugin import StartAgent, StartCluster

PLUGIN_DIR = Path(__file__).resolve().parents[3] / "plugins" / "registry-dns-check"


class Settings(msgspec.Struct, frozen=True):
    word: str = "hello"


class Speaker:
    context: PluginContext | None = None

    @hookimpl
    def registry_settings(self) -> type[Settings]:
        return Settings

    @hookimpl
    async def registry_start(self, context: PluginContext) -> None:
        self.context = context

    @hookimpl
    def registry_http_routes(self) -> list[HttpRoute]:
        return [HttpRoute(method="GET", pattern="/v1/speak", handler=self.speak)]

    async def speak(self, request: ApiRequest) -> ApiResponse:
        assert self.context is not None
        return text_response(self.context.settings.word)


def test_an_agent_with_a_plugin_of_the_test(registry_agent: StartAgent) -> None:
    agent = registry_agent(
        {"speaker": Speaker()}, config={"plugins": {"settings": {"speaker": {"word": "hi"}}}}
    )
    assert agent.client.get("/v1/speak").text == "hi"
    assert agent.report("speaker")["Errors"] == []
    agent.write_config("10-word.json", {"plugins": {"settings": {"speaker": {"word": "hey"}}}})
    wait_until(lambda: agent.client.get("/v1/speak").text == "hey", "the new settings")


def test_a_second_agent_keeps_its_state(registry_agent: StartAgent, tmp_path: Path) -> None:
    registry_agent()
    agent = registry_agent(arguments=("-server", "-bootstrap"), data_dir=tmp_path)
    wait_until(lambda: bool(agent.client.get("/v1/status/leader").json()), "a leader")
    agent.client.put("/v1/kv/a", body=b"1")
    assert (tmp_path / "store").is_dir()


def test_what_keeps_an_agent_from_starting_is_raised(registry_agent: StartAgent) -> None:
    with pytest.raises(ConfigError, match="this plugin has no settings"):
        registry_agent(
            {"mine": ChangeRecorder()}, config={"plugins": {"settings": {"mine": {"a": 1}}}}
        )


def test_changes_are_recorded(registry_agent: StartAgent, change_recorder: ChangeRecorder) -> None:
    agent = registry_agent({"recorder": change_recorder})
    agent.client.put("/v1/kv/a", body=b"1")
    change = change_recorder.wait_for_key("a")
    assert (change.kind, change.value["Value"]) == ("kv", b"1")
    assert change_recorder.changes[0].kind == "reset"
    # The agent's own registration may come late; nothing but the key is to be refused.
    wait_until(lambda: any(each.kind == "check" for each in change_recorder.changes), "serfHealth")
    change_recorder.refuse(1)
    agent.client.put("/v1/kv/b", body=b"2")
    change_recorder.wait_for_key("b")
    assert change_recorder.deliveries[-1] == change_recorder.deliveries[-2]
    agent.client.delete("/v1/kv/a")
    change_recorder.wait_for(lambda changes: changes[-1].value is None, "the deletion")
    assert {key: value["Value"] for key, value in change_recorder.state().items()} == {"b": b"2"}
    assert agent.report("recorder")["Errors"] == [
        "registry_change_sinks: ConnectionError: the test refuses this delivery"
    ]


async def test_what_was_had_is_left_out_and_a_reset_begins_anew() -> None:
    recorder = ChangeRecorder()
    (sink,) = recorder.registry_change_sinks()

    def change(index: int, sequence: int, key: str, kind: str = "kv") -> Change:
        return Change(index=index, sequence=sequence, time_ms=0, kind=kind, key=key, value=index)

    first = [change(5, 0, "a"), change(5, 2, "b")]
    await sink.deliver(first)
    await sink.deliver([*first, change(6, 0, "a")])
    assert recorder.state() == {"a": 6, "b": 5}
    assert len(recorder.changes) == 3
    await sink.deliver([change(4, 0, "", "reset"), change(4, 1, "c")])
    assert recorder.state() == {"c": 4}
    with pytest.raises(AssertionError, match=r"not within 0 s: more; last were .*'c'"):
        recorder.wait_for(lambda changes: len(changes) > 9, "more", seconds=0)


def test_a_cluster_of_processes(registry_cluster: StartCluster) -> None:
    cluster = registry_cluster(plugin_dirs=[PLUGIN_DIR])
    assert len(cluster.servers) == 3
    cluster.leader().client.put("/v1/kv/a", body=b"1")
    for server in cluster.servers:
        names = [each["Name"] for each in server.client.get("/v1/agent/plugins").json()]
        assert "registry_dns_check" in names
        assert server.client.get("/v1/kv/a?raw").body == b"1"
