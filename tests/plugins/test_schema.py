"""Schemas as a user has them: the package installed, an agent, writes of every kind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from registry.client import ApiError
from registry.testing.packages import install
from registry.testing.process import AgentProcess, wait_until

PORT = {"type": "object", "properties": {"port": {"type": "integer"}}}
GOOD, BAD = b'{"port": 80}', b'{"port": "http"}'
REASON = 'breaks the schema of app/: at /port: the value is not of type "integer"'


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install("registry-schema", tmp_path_factory.mktemp("site"))


@pytest.fixture
def agent(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AgentProcess:
    monkeypatch.setenv("PYTHONPATH", f"{installed}:{os.environ.get('PYTHONPATH', '')}")
    return AgentProcess(tmp_path, arguments=["-dev"])


def set_schemas(agent: AgentProcess, prefixes: dict[str, Any], **more: str) -> None:
    settings = {"prefixes": prefixes, **more}
    agent.write_config("plugins.json", {"plugins": {"settings": {"schema": settings}}})


def refusal(agent: AgentProcess, key: str, value: bytes, **parameters: Any) -> str:
    """Why a write is refused, "" when it is not."""
    path = f"/v1/kv/{key}"
    answer = agent.client.put(path, parameters, body=value, accept=(200, 400))
    return answer.text if answer.status == 400 else ""


def is_written(agent: AgentProcess, key: str, value: bytes) -> bool:
    """False while a server that has just been started does not know its schemas: 403."""
    return agent.client.put(f"/v1/kv/{key}", body=value, accept=(200, 403)).status == 200


def test_writes_that_break_their_schema(agent: AgentProcess, tmp_path: Path) -> None:
    file = tmp_path / "flags.json"
    file.write_text('{"type": "boolean"}')
    set_schemas(agent, {"app/": PORT, "flags/": str(file)}, keys="_schemas/")
    with agent:
        wait_until(lambda: is_written(agent, "app/web", GOOD), "schemas that are read")
        session = agent.client.put("/v1/session/create").json()["ID"]
        ways: list[dict[str, Any]] = [{}, {"cas": 0}, {"acquire": session}, {"release": session}]
        for way in ways:
            assert refusal(agent, "app/db", BAD, **way) == f"app/db {REASON}"
        check_transaction(agent)
        check_stored_schemas(agent)
        check_reload(agent, file)
        assert agent.client.kv_delete("app/web")
        (plugin,) = [
            each
            for each in agent.client.get("/v1/agent/plugins").json()
            if each["Name"] == "schema"
        ]
        assert plugin["Errors"] == []


def check_transaction(agent: AgentProcess) -> None:
    """One refusal refuses all."""
    operations = [
        {"KV": {"Verb": "set", "Key": "app/one", "Value": "eyJwb3J0IjogMX0="}},  # {"port": 1}
        {"KV": {"Verb": "set", "Key": "app/two", "Value": "eyJwb3J0IjogIiJ9"}},  # {"port": ""}
    ]
    refused = agent.client.put("/v1/txn", json_body=operations, accept=(400,))
    assert refused.text == f"app/two {REASON}"
    assert agent.client.kv_get("app/one") is None
    agent.client.put("/v1/txn", json_body=operations[:1])
    assert agent.client.kv_get("app/one") == b'{"port": 1}'


def check_stored_schemas(agent: AgentProcess) -> None:
    assert refusal(agent, "_schemas/jobs/", b'{"type": 5}').startswith(
        "_schemas/jobs/ would not be a schema: /type: "
    )
    assert refusal(agent, "_schemas/jobs/", b'{"type": "string"}') == ""
    wait_until(lambda: refusal(agent, "jobs/a", b"1") != "", "the schema in force")
    assert refusal(agent, "jobs/a", b'"text"') == ""
    agent.client.kv_delete("_schemas/jobs/")
    wait_until(lambda: refusal(agent, "jobs/a", b"1") == "", "the schema gone")


def check_reload(agent: AgentProcess, file: Path) -> None:
    """A file that has changed counts, and what is no schema is refused by name."""
    assert refusal(agent, "flags/a", b"true") == ""
    file.write_text('{"type": "integer"}')
    agent.client.put("/v1/agent/reload")
    wait_until(lambda: refusal(agent, "flags/a", b"true") != "", "the file's new schema")
    set_schemas(agent, {"app/": {"type": "nope"}})
    with pytest.raises(ApiError, match="app/: not a schema: /type: "):
        agent.client.put("/v1/agent/reload")
    assert refusal(agent, "app/web", BAD) == f"app/web {REASON}"


def test_an_agent_with_what_is_no_schema(agent: AgentProcess) -> None:
    set_schemas(agent, {"app/": {"pattern": "("}})
    agent.start(wait=False)
    assert agent.process is not None
    try:
        assert agent.process.wait(20) == 1
    finally:
        agent.kill()
    assert "plugins.settings.schema" in agent.log_tail()
    assert "app/: not a schema: /pattern: " in agent.log_tail()
    assert "Traceback" not in agent.log_tail()
