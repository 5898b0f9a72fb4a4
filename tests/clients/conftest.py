"""An agent for the clients of a file, and the clients that PyPI does not have.

Those are installed once, with the ordinary tools of their registries, into `clients/` of the
virtual environment. Where a tool or the network is missing, their tests are skipped and say so.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from registry.testing.process import AgentProcess

HERE = Path(__file__).parent
INSTALLED = Path(sys.prefix) / "clients"
INSTALL_SECONDS = 150
#: What npm and go say when they do not reach their registries.
NO_NETWORK = re.compile(r"dial tcp|i/o timeout|GOPROXY|ECONN|ENOTFOUND|EAI_AGAIN|ETIMEDOUT")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """A server of its own, with script checks from the API."""
    with AgentProcess(
        tmp_path_factory.mktemp("agent"),
        arguments=("-server", "-bootstrap", "-enable-script-checks"),
        config={"node_meta": {"rack": "r1"}, "telemetry": {"prometheus_retention_time": "10m"}},
        name="n1",
    ) as agent:
        yield agent


@pytest.fixture(scope="session")
def npm_packages() -> Path:
    """A `node_modules` with the packages of `node/package.json`."""
    need("node")
    options = "--no-package-lock --no-audit --no-fund --fetch-retries=1 --fetch-timeout=20000"
    command = [need("npm"), "install", *options.split()]
    return install("node", "package.json", command) / "node_modules"


@pytest.fixture(scope="session")
def go_calls() -> Path:
    """The program of `go/`, compiled."""
    return (
        install("go", "*", [need("go"), "test", "-buildvcs=false", "-c", "-o", "calls", "."])
        / "calls"
    )


@pytest.fixture(scope="session")
def prometheus_program() -> str:
    return need("prometheus")


@pytest.fixture(scope="session")
def prometheus_discovery() -> Path:
    """The program of `prometheus/`, compiled."""
    return (
        install("prometheus", "*", [need("go"), "build", "-buildvcs=false", "-o", "discover", "."])
        / "discover"
    )


def need(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def install(name: str, sources: str, command: Sequence[str]) -> Path:
    """Run `command` in a copy of the folder `name`, unless that was done for the same sources."""
    INSTALLED.mkdir(exist_ok=True)
    target = INSTALLED / name
    wanted = {path.name: path.read_bytes() for path in sorted((HERE / name).glob(sources))}
    with (INSTALLED / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (target / "complete").exists() or _content(target, wanted) != wanted:
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            for file_name, content in wanted.items():
                (target / file_name).write_bytes(content)
            _run(name, command, target)
            (target / "complete").touch()
    return target


def _content(target: Path, names: dict[str, bytes]) -> dict[str, bytes]:
    found = [target / name for name in names]
    return {path.name: path.read_bytes() for path in found if path.exists()}


def _run(name: str, command: Sequence[str], directory: Path) -> None:
    try:
        subprocess.run(
            command,
            cwd=directory,
            env={**os.environ, "NO_UPDATE_NOTIFIER": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=INSTALL_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"the {name} client was not installed within {INSTALL_SECONDS} s")
    except subprocess.CalledProcessError as problem:
        said = " ".join(problem.stdout.decode(errors="replace").split())
        if not NO_NETWORK.search(said):
            raise AssertionError(f"the {name} client could not be installed: {said}") from None
        pytest.skip(f"the {name} client could not be fetched: {said[:300]}")
