"""The recorded conversations, replayed: the contract with existing clients.

They are asked of a fresh agent, with and without a disk, and of a follower and a client agent of a
cluster of three servers. `make conformance-campaign` repeats all of it, each time in another order.

The recordings stay outside the repository: they are looked for beside the checkout, or where
`REGISTRY_CONFORMANCE` points. Without them the tests are skipped and say so.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from registry.testing.agent_cluster import AgentCluster, Host
from registry.testing.process import AgentProcess
from registry.testing.recordings import (
    IN_A_CLUSTER,
    ON_A_CLIENT,
    Recording,
    case_count,
    recordings_for,
    write,
)

KIT = Path(
    os.environ.get(
        "REGISTRY_CONFORMANCE",
        Path(__file__).resolve().parents[2].parent / "shared" / "conformance",
    )
)
ROUNDS = int(os.environ.get("REGISTRY_CONFORMANCE_ROUNDS", "1"))

PROGRAM = f"{sys.executable} -m registry"
MODES = {
    "dev": "agent -dev -config-dir {config_dir}",
    "server": "agent -server -bootstrap -data-dir {data_dir} -config-dir {config_dir}",
}
# Cases at once. More of them, and their own time limits are missed by what asks, not by the agent.
JOBS_MAX = 12
# What a replay allows the server that it starts.
ALLOWED = {"enable_script_checks": True, "disable_remote_exec": False}

pytestmark = [
    pytest.mark.skipif(not KIT.is_dir(), reason=f"the recorded conversations are not at {KIT}"),
    pytest.mark.timeout(300),
]


def replay(program: str, *arguments: str) -> str:
    """Run one of the kit's programs; its output, which ends with `N passed, N failed`."""
    done = subprocess.run(
        [sys.executable, str(KIT / program), *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    return done.stdout + done.stderr


def assert_passed(output: str, count: int) -> None:
    """All `count` cases passed. The seed of their order is printed, to run it again."""
    print("\n".join(output.splitlines()[-2:]))
    verdict = re.search(r"^(\d+) passed, (\d+) failed$", output, re.MULTILINE)
    assert verdict, output[-4000:]
    assert (int(verdict[1]), int(verdict[2])) == (count, 0), output[-8000:]


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("mode", MODES)
def test_http(mode: str, number: int) -> None:
    count = case_count(KIT / "cases", dev=mode == "dev")
    output = replay("replay.py", "--agent", f"{PROGRAM} {MODES[mode]}", "--shuffle")
    assert_passed(output, count)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentCluster]:
    root = tmp_path_factory.mktemp("cluster")
    hosts = [Host("127.0.0.1")] * 4  # where a case expects the agent that it joins to itself
    with AgentCluster(root, servers=3, clients=1, config=ALLOWED, hosts=hosts) as running:
        yield running


def url_of(agent: AgentProcess) -> str:
    return f"http://{agent.http_address}"


class Replayed:
    """The cases that an agent of a cluster has to pass, in two folders for the kit's program."""

    def __init__(self, agent: AgentProcess, recordings: list[Recording], root: Path) -> None:
        self._url = url_of(agent)
        self._folders = {serial: root / f"serial-{serial}" for serial in (False, True)}
        self._counts = {
            serial: write(recordings, folder, serial=serial)
            for serial, folder in self._folders.items()
        }

    def replay(self, *, serial: bool) -> tuple[str, int]:
        """The output, and how many cases have to pass."""
        folder = str(self._folders[serial])
        at_once = ("--jobs", str(JOBS_MAX // 2))
        output = replay("replay.py", "--url", self._url, "--cases", folder, "--shuffle", *at_once)
        return output, self._counts[serial]


@pytest.mark.parametrize("number", range(ROUNDS))
def test_http_of_a_cluster(cluster: AgentCluster, tmp_path: Path, number: int) -> None:
    """A follower and a client agent answer like the one server, at the same time."""
    on_follower = recordings_for(KIT / "cases", IN_A_CLUSTER)
    on_client = recordings_for(KIT / "cases", IN_A_CLUSTER, ON_A_CLIENT)
    asked = [
        Replayed(cluster.followers()[0], on_follower, tmp_path / "follower"),
        Replayed(cluster.clients[0], on_client, tmp_path / "client"),
    ]
    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(lambda each: each.replay(serial=False), asked))
    outcomes += [each.replay(serial=True) for each in asked]
    for output, count in outcomes:
        assert_passed(output, count)


@pytest.mark.parametrize("kind", ["cases", "cli"])
def test_few_cases_need_a_single_server(kind: str) -> None:
    """The rules leave out what cannot hold in a cluster, and little of any area."""
    for recording in recordings_for(KIT / kind, IN_A_CLUSTER, ON_A_CLIENT):
        assert len(recording.excluded) <= len(recording.cases), recording.excluded


def replay_command_lines(*arguments: str) -> str:
    second = f"{PROGRAM} agent -data-dir {{data_dir}} -config-dir {{config_dir}}"
    own = ("--cli", PROGRAM, "--program", "registry", "--client-agent", second)
    return replay("replay_cli.py", *own, "--shuffle", *arguments)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_command_line(number: int) -> None:
    output = replay_command_lines("--agent", f"{PROGRAM} {MODES['dev']}")
    assert_passed(output, case_count(KIT / "cli"))


@pytest.mark.skipif(ROUNDS == 1, reason="takes long: a part of make conformance-campaign")
@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("asked", ["follower", "client"])
def test_command_line_of_a_cluster(
    cluster: AgentCluster, tmp_path: Path, asked: str, number: int
) -> None:
    agent = cluster.clients[0] if asked == "client" else cluster.followers()[0]
    rules = (IN_A_CLUSTER, ON_A_CLIENT) if asked == "client" else (IN_A_CLUSTER,)
    count = write(recordings_for(KIT / "cli", *rules), tmp_path / "cases")
    folder = str(tmp_path / "cases")
    output = replay_command_lines("--url", url_of(agent), "--cases", folder)
    assert_passed(output, count)
