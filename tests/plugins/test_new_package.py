"""A package from `registry plugins new`, outside the repository, installed beside the wheel.

It adds a check type, a route, a command and a storage engine, and its own tests pass. Nothing of
the repository is in it but what pip made of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from registry.testing.process import AgentProcess, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
PIP = (
    *("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"),
    *("--no-cache-dir", "--target"),
)


class Site:
    """A directory with installed packages, and programs that are run with it."""

    def __init__(self, root: Path) -> None:
        self.path = root / "site"
        self._root = root

    def run(self, *arguments: str | Path, cwd: Path | None = None, agent: str = "") -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=cwd or self._root,
            env={**os.environ, "PYTHONPATH": str(self.path), "REGISTRY_HTTP_ADDR": agent},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
        return done.stdout

    def install(self, package: Path) -> None:
        """As pip does it, without a network."""
        self.run(*PIP, self.path, package)

    def digest(self, package: str) -> str:
        """Changes when a source file of the installed package does."""
        found = sha256()
        for path in sorted((self.path / package).rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                found.update(str(path).encode() + path.read_bytes())
        return found.hexdigest()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """With the registry itself."""
    source = tmp_path / "source"
    source.mkdir()
    # Building leaves files beside the sources: a copy keeps the repository clean.
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "registry", source / "registry", ignore=ignored)
    site = Site(tmp_path)
    site.install(source)
    return site


def test_a_new_package_adds_to_the_registry(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = site.run("-c", "import registry; print(registry.__file__)")
    assert where.startswith(str(site.path))
    before = site.digest("registry")
    said = site.run("-m", "registry", "plugins", "new", "-with=check,route,command,storage", "ours")
    assert "registry-ours is written" in said
    package = tmp_path / "registry-ours"

    tested = site.run("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=package)
    assert " passed" in tested
    assert "failed" not in tested
    site.install(package)
    checked = site.run("-m", "registry", "plugins", "check")
    assert "registry_storage_engines" in checked
    assert "Error" not in checked

    monkeypatch.setenv("PYTHONPATH", str(site.path))
    agent = AgentProcess(
        tmp_path / "agent",
        arguments=("-server", "-bootstrap", "-storage-engine=ours"),
        config={"plugins": {"settings": {"ours": {"greeting": "good evening"}}}},
    )
    check = {"id": "room", "name": "room", "interval": "1s", "ours_disk": {"path": "/"}}
    agent.write_config("check.json", {"check": check})
    with agent:
        (plugin,) = [
            each for each in agent.client.get("/v1/agent/plugins").json() if each["Name"] == "ours"
        ]
        assert (plugin["Source"], plugin["Version"]) == ("entry point", "0.1.0")
        assert plugin["Errors"] == []

        def check_has_run() -> bool:
            found = agent.client.get("/v1/agent/checks").json()["room"]
            return found["Type"] == "ours_disk" and "MB are free at /" in found["Output"]

        wait_until(check_has_run, agent.log_tail)
        greeting = agent.client.get("/v1/ours/greeting/ada").json()
        assert greeting == {"Text": "good evening ada", "Node": "test-node"}
        assert site.run("-m", "registry", "ours", agent=agent.http_address) == "1 services\n"
        agent.client.put("/v1/kv/a", body=b"kept")
        agent.kill()
        agent.start()
        assert agent.client.get("/v1/kv/a?raw").body == b"kept"
        assert (agent.data_dir / "store" / "log").is_file()
    assert site.digest("registry") == before
