"""Commands run in this process, against a real agent or against answers that a test lays out."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.cli.main import main
from registry.testing.command_line import Outcome, Run, Stub
from registry.testing.process import AgentProcess, wait_until

NODE = "cli-node"


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """One development agent for all tests of a worker: each uses names of its own."""
    root = tmp_path_factory.mktemp("agent")
    config: dict[str, object] = {"disable_remote_exec": False, "data_dir": ""}
    started = AgentProcess(root, arguments=("-dev",), config=config, name=NODE)
    with started:
        checks = f"/v1/health/node/{NODE}"
        wait_until(lambda: bool(started.client.get(checks).json()), "serfHealth, for sessions")
        yield started


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of the user's, and a directory to write into."""
    for name in ("HTTP_ADDR", "HTTP_TOKEN", "HTTP_TOKEN_FILE", "HTTP_AUTH", "HTTP_SSL", "CACERT"):
        for prefix in ("REGISTRY_", "CONSUL_"):
            monkeypatch.delenv(prefix + name, raising=False)
    monkeypatch.delenv("COMP_LINE", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`cli("kv", "get", "a", stdin=b"")` runs `registry kv get a`."""

    def run(*words: str, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfd.readouterr()
        status = main(words)
        return Outcome(status, *capfd.readouterr())

    return run


@pytest.fixture
def registry(cli: Run, agent: AgentProcess, monkeypatch: pytest.MonkeyPatch) -> Run:
    """As `cli`, with a real agent."""
    monkeypatch.setenv("REGISTRY_HTTP_ADDR", f"127.0.0.1:{agent.ports['http']}")
    return cli


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """A stub that the commands of the test talk to."""
    with Stub() as made:
        monkeypatch.setenv("REGISTRY_HTTP_ADDR", made.address)
        yield made
