"""Application configuration as a user has it: the package installed, an agent, a program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from registry.client import Response
from registry.testing.packages import install
from registry.testing.process import AgentProcess, wait_until

#: Writes its variables down, and how it was told to end.
PROGRAM = """
trap 'echo "end $DB_HOST" >> "$LOG"; exit 5' TERM
trap 'echo "hup $DB_HOST" >> "$LOG"' HUP
echo "begin $DB_HOST $LEVEL" >> "$LOG"
while :; do sleep 0.02; done
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install("registry-appconfig", tmp_path_factory.mktemp("site"))


def get(agent: AgentProcess, query: str = "", **more: Any) -> Response:
    return agent.client.get(f"/v1/appconfig/web?profile=prod{query}", **more)


def test_one_request_and_a_program(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{installed}:{os.environ.get('PYTHONPATH', '')}")
    agent = AgentProcess(tmp_path, arguments=["-dev"])
    settings = {"plugins": {"settings": {"appconfig": {"prefix": "apps/"}}}}
    agent.write_config("plugins.json", settings)
    with agent:
        monkeypatch.setenv("REGISTRY_HTTP_ADDR", agent.http_address)
        put = agent.client.kv_put
        put("apps/_shared/default/level", b"info")
        put("apps/web/default/db/host", b"db.${kv:domain}")
        put("apps/web/profile/prod/level", b"warn")
        refused = get(agent, accept=(422,))
        assert refused.text == (
            "db.host (apps/web/default/db/host) refers to ${kv:domain}, which is not there"
        )
        put("domain", b"one")
        first = get(agent)
        assert first.json() == {"db": {"host": "db.one"}, "level": "warn"}
        etag = {"If-None-Match": first.headers["etag"]}
        assert get(agent, headers=etag, accept=(304,)).body == b""
        check_waiting(agent, first)
        check_program(agent, tmp_path)
        check_reload(agent)
        (plugin,) = [
            each
            for each in agent.client.get("/v1/agent/plugins").json()
            if each["Name"] == "appconfig"
        ]
        assert plugin["Errors"] == []
        paths = agent.client.get("/v1/openapi.json").json()["paths"]
        assert "/v1/appconfig/{app}" in paths


def check_waiting(agent: AgentProcess, first: Response) -> None:
    """A change elsewhere in the KV store does not end the wait, a change of a reference does."""
    answers: list[Response] = []

    def wait() -> None:
        headers = {"If-None-Match": first.headers["etag"]}
        answers.append(get(agent, f"&index={first.index}&wait=1m", headers=headers, timeout=80))

    waiting = threading.Thread(target=wait)
    waiting.start()
    agent.client.kv_put("elsewhere", b"x")
    agent.client.kv_put("domain", b"two")
    waiting.join(20)
    assert [answer.json()["db"]["host"] for answer in answers] == ["db.two"]
    assert answers[0].index > first.index


def check_program(agent: AgentProcess, tmp_path: Path) -> None:
    """It runs with the configuration, is started again on a change, and gets signals."""
    registry = [sys.executable, "-m", "registry", "appconfig"]
    rendered = subprocess.run(
        [*registry, "render", "-app=web", "-profile=prod", "-format=env"],
        capture_output=True,
        check=True,
    )
    assert rendered.stdout == b"DB_HOST=db.two\nLEVEL=warn\n"
    log = tmp_path / "program.log"
    log.touch()
    said = tmp_path / "said.log"

    def lines(*expected: str) -> None:
        wait_until(
            lambda: tuple(log.read_text().splitlines()) == expected,
            lambda: f"{expected}; there is {log.read_text()!r}; said {said.read_text()!r}",
        )

    options = ["-app=web", "-profile=prod", "-settle=50ms", "-grace=20s"]
    with said.open("wb") as errors:
        process = subprocess.Popen(
            [*registry, "exec", *options, "--", "/bin/sh", "-c", PROGRAM],
            stdin=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, "LOG": str(log)},
        )
    try:
        lines("begin db.two warn")
        agent.client.kv_put("domain", b"three")
        restarted = ("begin db.two warn", "end db.two", "begin db.three warn")
        lines(*restarted)
        agent.client.kv_delete("domain")
        wait_until(lambda: "which is not there" in said.read_text(), "what is wrong")
        process.send_signal(signal.SIGHUP)
        lines(*restarted, "hup db.three")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 5
        lines(*restarted, "hup db.three", "end db.three")
    finally:
        process.kill()
        process.wait()


def check_reload(agent: AgentProcess) -> None:
    """New settings are in force after a reload."""
    agent.client.kv_put("else/web/default/a", b"1")
    settings = {"plugins": {"settings": {"appconfig": {"prefix": "else/"}}}}
    agent.write_config("plugins.json", settings)
    agent.client.put("/v1/agent/reload")
    wait_until(lambda: b"apps/" not in get(agent, accept=(200, 422)).body, "the new settings")
    assert get(agent).json() == {"a": "1"}
