"""Bad input to a real agent: one clear line and a non-zero exit, or a 4xx; nothing is harmed.

Every refusal is that of a process of its own, started as a user would start it.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.storage.format import FORMAT, FORMAT_KEY
from registry.storage.rocks import RocksStore
from registry.storage.store import Batch
from registry.testing.ports import free_ports
from registry.testing.process import AgentProcess, wait_until

VALUE_BYTES_MAX = 512 * 1024


def run(*arguments: str, cwd: Path) -> tuple[int, str]:
    """Exit status and all output of `registry agent` with `arguments`; it must end by itself."""
    done = subprocess.run(
        [sys.executable, "-m", "registry", "agent", *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.decode(errors="replace")


def refusal(*arguments: str, cwd: Path) -> str:
    """The one line with which the agent refused to run; there may be log lines before it."""
    status, output = run(*arguments, cwd=cwd)
    assert status == 1, output
    assert "Traceback" not in output
    told = [line for line in output.splitlines() if line.startswith("==> ")]
    line = told[-1]
    assert output.endswith(f"{line}\n"), output
    return line.removeprefix("==> ")


def dev(*arguments: str) -> list[str]:
    """Arguments of a development agent on ports of its own."""
    names = ("http", "server", "serf-lan", "serf-wan")
    ports = zip(names, free_ports(len(names)), strict=True)
    return ["-dev", "-bind=127.0.0.1", "-dns-port=-1", *(f"-{n}-port={p}" for n, p in ports),
            *arguments]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        pytest.param(
            ["-dev", "-bogus"], "flag provided but not defined: -bogus", id="unknown flag"
        ),
        pytest.param(
            ["-dev", "-http-port=x"],
            'invalid value "x" for flag -http-port: parse error',
            id="type of a flag",
        ),
        pytest.param(
            ["-dev", "-http-port=70000"],
            "command line: ports.http: invalid port 70000",
            id="port out of range",
        ),
        pytest.param(["-dev", "extra"], "unexpected arguments: extra", id="argument"),
        pytest.param(
            ["-dev", "-retry-interval=5"],
            'invalid value "5" for flag -retry-interval: time: missing unit in duration "5"',
            id="duration of a flag",
        ),
        pytest.param(["-server"], "data_dir cannot be empty", id="no data directory"),
        pytest.param(
            ["-bootstrap", "-bootstrap-expect=3", "-server", "-data-dir=d", "-bind=127.0.0.1"],
            "command line: 'bootstrap_expect > 0' and 'bootstrap = true' are mutually exclusive",
            id="bootstrap and bootstrap-expect",
        ),
        pytest.param(
            ["-dev", "-config-dir=/nonexistent"],
            "/nonexistent: no such file or directory",
            id="configuration directory",
        ),
    ],
)
def test_a_command_line_that_makes_no_sense(
    arguments: list[str], line: str, tmp_path: Path
) -> None:
    assert refusal(*arguments, cwd=tmp_path) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param(
            '{\n "ports": {"http": 1},\n}',
            "a.json:3:1: invalid JSON: expecting property name enclosed in double quotes",
            id="JSON",
        ),
        pytest.param(
            '{\n "ports": {"http": "x"}\n}',
            "a.json:2: 'ports.http' expected type 'int', got unconvertible type 'string'",
            id="type",
        ),
        pytest.param('{"node_nam": "x"}', "a.json:1: invalid config key node_nam", id="key"),
        pytest.param(
            '{"check_update_interval": "5 minutes"}',
            'a.json:1: check_update_interval: invalid duration: "5 minutes": '
            'time: unknown unit " minutes" in duration "5 minutes"',
            id="duration",
        ),
        pytest.param(
            '{"service": {"name": "a",\n "check": {"tcp": "x"}}}',
            "a.json:1: service: Invalid check: "
            "Interval must be > 0 for Script, HTTP, or TCP checks",
            id="check",
        ),
        pytest.param("\xff", "a.json:1: the file is not UTF-8 text", id="not text"),
        pytest.param("[" * 100_000, "a.json: invalid JSON: nested too deeply", id="nesting"),
    ],
)
def test_a_configuration_that_makes_no_sense(text: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    assert refusal("-dev", "-config-file=a.json", cwd=tmp_path) == line


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        line = refusal(*dev(f"-http-port={port}"), cwd=tmp_path)
        assert line == (
            f"ports.http: cannot listen on 127.0.0.1:{port}: the port is taken; "
            "stop the other program or choose another port"
        )
        line = refusal(*dev(f"-server-port={port}"), cwd=tmp_path)
        assert f"127.0.0.1:{port}" in line
        line = refusal(*dev(f"-dns-port={port}"), cwd=tmp_path)
        assert line == (
            f"ports.dns: cannot listen on 127.0.0.1:{port} (TCP): the port is taken; "
            "stop the other program or choose another port"
        )


def test_a_join_that_reaches_nobody(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    line = refusal(*dev(f"-join=127.0.0.1:{port}"), cwd=tmp_path)
    assert line.startswith(f"Failed to join 127.0.0.1: dial tcp 127.0.0.1:{port}: ")
    retry = ["-retry-interval=10ms", "-retry-max=2"]
    status, output = run(*dev(f"-retry-join=127.0.0.1:{port}", *retry), cwd=tmp_path)
    assert status == 1
    assert output.count("Join cluster failed, will retry: cluster=LAN") == 2
    assert output.splitlines()[-1].startswith("==> max join retry exhausted, exiting: Failed")


# The data directory


def agent_arguments(root: Path) -> list[str]:
    """Arguments for a server, as `AgentProcess` has them, over the same directories."""
    return ["-server", "-bootstrap", "-config-dir", str(root / "config.d")]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> AgentProcess:
    """A server that ran, stored something and ended."""
    agent = AgentProcess(tmp_path_factory.mktemp("stopped"))
    agent.start()
    assert agent.client.kv_put("kept", b"here")
    assert agent.stop() == 0
    return agent


@pytest.fixture
def intact(stopped: AgentProcess) -> Iterator[AgentProcess]:
    """The same, and what it stored must still be there afterwards."""
    yield stopped
    try:
        stopped.start()
        assert stopped.client.kv_get("kept") == b"here"
    finally:
        assert stopped.stop() == 0


def test_a_data_directory_that_another_agent_uses(intact: AgentProcess) -> None:
    intact.start()
    other = AgentProcess(intact.root / "other", config={"data_dir": str(intact.data_dir)})
    line = refusal(*agent_arguments(other.root), cwd=other.root)
    assert str(intact.data_dir) in line
    assert "another process" in line
    assert intact.client.kv_get("kept") == b"here"
    assert intact.stop() == 0


def test_a_data_directory_of_a_newer_format(intact: AgentProcess) -> None:
    def stamp(number: int) -> None:
        store = RocksStore.open(intact.data_dir / "store")
        batch = Batch()
        batch.put(FORMAT_KEY, str(number).encode())
        store.write(batch)
        store.sync()
        store.close()

    stamp(FORMAT + 1)
    line = refusal(*agent_arguments(intact.root), cwd=intact.root)
    assert f"written in format {FORMAT + 1}" in line
    assert str(intact.data_dir) in line
    # No older program could set it back: the test does, below the store's own check.
    _restamp(intact.data_dir / "store", FORMAT)


def _restamp(directory: Path, number: int) -> None:
    from rocksdict import AccessType, Options, Rdict

    database = Rdict(str(directory), Options(raw_mode=True), access_type=AccessType.read_write())
    database[FORMAT_KEY] = str(number).encode()
    database.flush_wal(True)
    database.close()


def test_a_data_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    arguments = ["-server", "-bootstrap", "-bind=127.0.0.1"]
    line = refusal(*arguments, "-data-dir=file", cwd=tmp_path)
    assert line == 'command line: data_dir "file" is not a directory'
    line = refusal(*arguments, "-data-dir=file/below", cwd=tmp_path)
    assert line.startswith("cannot make the data directory file/below: ")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "store").write_text("no directory")
    line = refusal(*arguments, "-data-dir=data", *dev()[1:], cwd=tmp_path)
    assert "data/store" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_data_directory_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0)
    arguments = ["-server", "-bootstrap", "-data-dir=data", *dev()[1:]]
    assert "data" in refusal(*arguments, cwd=tmp_path)


# Requests


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path_factory.mktemp("serving"), arguments=("-dev",)) as running:
        yield running
        assert "Traceback" not in running.log_path.read_text(errors="replace")


def send(agent: AgentProcess, method: str, path: str, body: bytes = b"") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", agent.ports["http"], timeout=20)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("PUT", "/v1/agent/service/register", b"{", 400, "Request decode failed: "),
        ("PUT", "/v1/agent/service/register", b'{"Name": 5}', 400, "Request decode failed: "),
        ("PUT", "/v1/agent/service/register", b'{"Nam": "a"}', 400, "Request decode failed: json:"),
        ("PUT", "/v1/catalog/register", b"[]", 400, "Request decode failed: "),
        ("PUT", "/v1/session/create", b'{"LockDelay": "x"}', 400, "Request decode failed: "),
        ("PUT", "/v1/txn", b"{}", 400, "Failed to parse body: "),
        ("GET", "/v1/kv/a?index=x", b"", 400, "Invalid index"),
        ("GET", "/v1/kv/a?wait=5", b"", 400, "Invalid wait time"),
        ("PUT", "/v1/kv/", b"x", 400, "Missing key name"),
        ("POST", "/v1/kv/a", b"x", 405, "method POST not allowed"),
    ],
)
def test_a_request_that_makes_no_sense(
    agent: AgentProcess, method: str, path: str, body: bytes, status: int, text: str
) -> None:
    answered, told = send(agent, method, path, body)
    assert answered == status
    assert told.startswith(text)
    assert "\n" not in told


def test_a_value_may_have_512_kib_and_no_byte_more(agent: AgentProcess) -> None:
    largest = b"v" * VALUE_BYTES_MAX
    assert send(agent, "PUT", "/v1/kv/large", largest) == (200, "true\n")
    status, text = send(agent, "PUT", "/v1/kv/large", largest + b"v")
    assert status == 413
    assert text.startswith(
        f"Request body({VALUE_BYTES_MAX + 1} bytes) too large, max size: {VALUE_BYTES_MAX} bytes."
    )
    assert agent.client.kv_get("large") == largest


def test_a_bad_reload_changes_nothing(agent: AgentProcess) -> None:
    path = agent.write_config("service.json", {"service": {"name": "web", "port": 1}})

    def port() -> int | None:
        services: dict[str, dict[str, int]] = json.loads(
            send(agent, "GET", "/v1/agent/services")[1]
        )
        return services.get("web", {}).get("Port")

    wait_until(lambda: port() == 1, "the service of the new file")
    path.write_text('{"service": {"name": "web",\n "port": "x"}}')
    status, text = send(agent, "PUT", "/v1/agent/reload")
    assert status == 500
    assert f"{path}:2: 'service.port' expected type 'int'" in text
    assert "\n" not in text
    assert port() == 1
