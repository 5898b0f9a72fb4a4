"""Three servers and a client, started by one command, and what people try first on them."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import dns.message
import dns.query
import pytest

from registry.testing.process import wait_until

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "examples" / "local_cluster" / "cluster.py"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs all of 127.0.0.0/8 on loopback"
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    data_dir = tmp_path_factory.mktemp("cluster")
    process = subprocess.Popen(
        [sys.executable, str(CLUSTER), "--data-dir", str(data_dir)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        first = process.stdout.readline()
        assert "The cluster is up" in first, first + (process.stdout.read() or "")
        yield data_dir
    finally:
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(60) == 0
        finally:
            # Whatever happened: the usual ports must be free for whoever comes next.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.stdout.close()


def consul(node: int, line: str) -> tuple[int, str, str]:
    """Run a command line against one node; status, output, errors."""
    done = subprocess.run(
        [sys.executable, "-m", "registry", *shlex.split(line)],
        env={**os.environ, "CONSUL_HTTP_ADDR": f"127.0.0.{node + 1}:8500"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_every_node_lists_the_same_members(cluster: Path) -> None:
    tables = [consul(node, "members") for node in (1, 2, 3, 4)]
    assert [status for status, _, _ in tables] == [0, 0, 0, 0]
    assert len({table for _, table, _ in tables}) == 1
    rows = [line.split() for line in tables[0][1].splitlines()]
    assert rows[0] == ["Node", "Address", "Status", "Type", "Build", "Protocol", "DC", "Segment"]
    assert [(row[0], row[1], row[2], row[3], row[7]) for row in rows[1:]] == [
        ("node1", "127.0.0.2:8301", "alive", "server", "<all>"),
        ("node2", "127.0.0.3:8301", "alive", "server", "<all>"),
        ("node3", "127.0.0.4:8301", "alive", "server", "<all>"),
        ("node4", "127.0.0.5:8301", "alive", "client", "<default>"),
    ]


def servers_by_name(node: int) -> list[str]:
    query = dns.message.make_query("consul.service.consul", "A")
    answer = dns.query.udp(query, f"127.0.0.{node + 1}", timeout=10, port=8600)
    return sorted(address.to_text() for found in answer.answer for address in found)


def test_every_node_knows_the_servers_by_name(cluster: Path) -> None:
    servers = [f"127.0.0.{number}" for number in (2, 3, 4)]
    wait_until(lambda: servers_by_name(1) == servers, "a server knows all servers")
    wait_until(lambda: servers_by_name(4) == servers, "the client knows all servers")


def test_keys_are_written_and_read_through_the_client(cluster: Path) -> None:
    assert consul(4, 'kv put foo "Hello foo"') == (0, "Success! Data written to: foo\n", "")
    assert consul(4, "kv put foo/foo1 one")[0] == 0
    status, detailed, _ = consul(4, "kv get -detailed foo/foo1")
    assert status == 0
    assert [line.split()[0] for line in detailed.splitlines()] == [
        "CreateIndex",
        "Flags",
        "Key",
        "LockIndex",
        "ModifyIndex",
        "Session",
        "Value",
    ]
    assert consul(4, 'kv get -keys -separator="" foo') == (0, "foo\nfoo/foo1\n", "")
    for node in (1, 2, 3):
        assert consul(node, "kv get foo") == (0, "Hello foo\n", "")


def test_a_missing_key_is_an_error(cluster: Path) -> None:
    message = "Error! No key exists at: not-a-real-key\n"
    assert consul(4, "kv get not-a-real-key") == (1, "", message)


def test_servers_agree_on_a_leader(cluster: Path) -> None:
    status, peers, _ = consul(4, "operator raft list-peers")
    states = sorted(line.split()[3] for line in peers.splitlines()[1:])
    assert (status, states) == (0, ["follower", "follower", "leader"])


def test_the_image_is_built_by_pip_alone() -> None:
    if shutil.which("docker") is None:
        pytest.skip("no docker on this machine")
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker engine is running")
    built = subprocess.run(
        ["docker", "build", "-q", "-f", "examples/docker-compose/Dockerfile", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
