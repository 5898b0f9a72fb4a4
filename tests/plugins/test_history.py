"""The history of keys in a real server: who wrote what, differences, rollback, a restart."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.testing.process import AgentProcess, wait_until

PACKAGE = Path(__file__).resolve().parents[2] / "plugins" / "registry-history"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that the package is installed into, as pip does it, without a network."""
    target = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "package"
    # Building leaves files beside the sources: a copy keeps the repository clean.
    subprocess.run(["cp", "-r", str(PACKAGE), str(source)], check=True)
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


class Server:
    """An agent with the plugin, and what a test asks of it."""

    def __init__(self, agent: AgentProcess) -> None:
        self.agent = agent

    def put(self, key: str, value: str, **parameters: Any) -> None:
        body = value.encode()
        assert self.agent.client.put(f"/v1/kv/{key}", parameters, body=body).json() is True

    def get(self, key: str) -> bytes | None:
        return self.agent.client.kv_get(key)

    def versions(self, key: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.agent.client.get(f"/v1/history/{key}").json()["Versions"]
        return found

    def values(self, key: str) -> list[str | None]:
        return [
            None if each["Deleted"] else base64.b64decode(each["Value"]).decode()
            for each in self.versions(key)
        ]

    def wait_for(self, key: str, *values: str | None) -> list[int]:
        """The indexes of the key's versions, newest first, once they are these."""
        wait_until(
            lambda: self.values(key) == [*values],
            lambda: f"{values}, not {self.values(key)}; log:\n{self.agent.log_tail()}",
        )
        return [each["Index"] for each in self.versions(key)]

    def roll_back(self, key: str, to: int, *accept: int, **parameters: Any) -> Any:
        path = f"/v1/history-rollback/{key}"
        given = {"to": to, **parameters}
        answer = self.agent.client.put(path, given, accept=accept or (200,))
        return answer.text if accept else answer.json()

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "registry", *words],
            capture_output=True,
            text=True,
            env={**os.environ, "REGISTRY_HTTP_ADDR": self.agent.http_address},
        )

    def report(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = self.agent.client.get("/v1/agent/plugins").json()
        return next(entry for entry in found if entry["Name"] == "history")


@pytest.fixture(scope="module")
def server(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(installed), *_path()]))
        with AgentProcess(tmp_path_factory.mktemp("agent")) as agent:
            yield Server(agent)


def _path() -> list[str]:
    given = os.environ.get("PYTHONPATH", "")
    return [given] if given else []


def test_who_wrote_what_and_why(server: Server) -> None:
    server.put("who/a", "1")
    server.put("who/a", "2", reason="a better one", flags=7)
    server.agent.client.delete("/v1/kv/who/a", {"reason": "no more"})
    indexes = server.wait_for("who/a", None, "2", "1")
    assert indexes == sorted(indexes, reverse=True)
    deleted, second, first = server.versions("who/a")
    assert [each["Reason"] for each in (deleted, second, first)] == ["no more", "a better one", ""]
    assert {each["Client"] for each in (deleted, second, first)} == {"127.0.0.1"}
    assert (second["Flags"], second["Key"]) == (7, "who/a")
    assert first["Time"] <= second["Time"] <= deleted["Time"]

    client = server.agent.client
    page = client.get("/v1/history/who/a", {"limit": 2}).json()
    assert page["Next"] == indexes[2]
    page = client.get("/v1/history/who/a", {"to": page["Next"]}).json()
    assert ([each["Index"] for each in page["Versions"]], page["Next"]) == ([indexes[2]], None)
    raw = client.get("/v1/history/who/a", {"at": indexes[1], "raw": True})
    assert (raw.body, raw.headers["x-registry-version"]) == (b"2", str(indexes[1]))
    gone = client.get("/v1/history/who/a", {"raw": True}, accept=(404,))
    assert "there was no such key at index" in gone.text
    assert client.get("/v1/history/who/a", {"from": "x"}, accept=(400,)).text == (
        "from must be a number, not 'x'"
    )
    assert server.report()["Errors"] == []
    paths = client.get("/v1/openapi.json").json()["paths"]
    assert {"/v1/history/{key}", "/v1/history-diff/{key}", "/v1/history-rollback/{key}"} <= {*paths}


def test_difference_and_rollback_of_a_prefix(server: Server) -> None:
    for key in ("a", "b", "c"):
        server.put(f"tree/{key}", "1")
    then = server.wait_for("tree/c", "1")[0]
    server.put("tree/a", "2")
    server.agent.client.delete("/v1/kv/tree/b")
    server.put("tree/d", "1")
    server.wait_for("tree/d", "1")
    client = server.agent.client
    found = client.get("/v1/history-diff/tree/", {"from": then, "recurse": True}).json()
    told = [
        (each["Key"], each["Before"] is not None, each["After"] is not None)
        for each in found["Differences"]
    ]
    assert told == [("tree/a", True, True), ("tree/b", True, False), ("tree/d", False, True)]

    steps = [("tree/a", "set"), ("tree/b", "set"), ("tree/d", "delete")]
    planned = server.roll_back("tree/", then, recurse=True, **{"dry-run": True})
    assert (planned["Done"], server.get("tree/a")) == (False, b"2")
    done = server.roll_back("tree/", then, recurse=True, reason="broken")
    assert [(each["Key"], each["Verb"]) for each in done["Operations"]] == steps
    assert (done["Done"], done["Transactions"]) == (True, 1)
    assert [server.get(f"tree/{key}") for key in "abcd"] == [b"1", b"1", b"1", None]

    server.wait_for("tree/a", "1", "2", "1")
    server.wait_for("tree/d", None, "1")
    new = [server.versions(f"tree/{key}")[0] for key in "abd"]
    assert len({each["Index"] for each in new}) == 1  # one transaction
    assert {each["Reason"] for each in new} == {f"rollback to index {then} by 127.0.0.1: broken"}
    assert server.roll_back("tree/", then, recurse=True)["Operations"] == []


def test_more_than_a_transaction_takes(server: Server) -> None:
    keys = [f"many/{number:03}" for number in range(130)]
    server.put("many/first", "1")
    then = server.wait_for("many/first", "1")[0]
    for start in range(0, len(keys), 64):
        operations = [
            {"KV": {"Verb": "set", "Key": key, "Value": "MQ=="}} for key in keys[start : start + 64]
        ]
        server.agent.client.put("/v1/txn", json_body=operations)
    server.wait_for(keys[-1], "1")
    text = server.roll_back("many/", then, 400, recurse=True)
    assert text.startswith("130 keys differ, more than one transaction takes (64 keys, ")
    assert len(server.agent.client.kv_list("many/")) == 131
    done = server.roll_back("many/", then, recurse=True, chunked=True)
    assert done["Transactions"] == 3
    assert [entry["Key"] for entry in server.agent.client.kv_list("many/")] == ["many/first"]


def test_a_value_that_fits_in_no_transaction(server: Server) -> None:
    large = "x" * (500 * 1024)
    server.put("large", large, flags=3)
    then = server.wait_for("large", large)[0]
    server.put("large", "small")
    server.wait_for("large", "small", large)
    assert server.roll_back("large", then)["Transactions"] == 1
    assert server.get("large") == large.encode()
    assert server.wait_for("large", large, "small", large)
    newest = server.versions("large")[0]
    assert newest["Flags"] == 3
    assert newest["Reason"].startswith(f"rollback to index {then} by ")


def test_what_is_not_known_is_refused(server: Server) -> None:
    server.put("known", "1")
    index = server.wait_for("known", "1")[0]
    assert "beyond the history" in server.roll_back("known", index + 10**6, 400)
    assert server.roll_back("", index, 400) == "Missing key name"
    assert "ask one of its servers" in server.roll_back("known", index, 400, dc="other")


def test_commands(server: Server) -> None:
    server.put("cli/a", "one\ntwo")
    server.put("cli/a", "one\nthree", reason="counting")
    newer, older = server.wait_for("cli/a", "one\nthree", "one\ntwo")
    shown = server.run("history", "cli/a")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [str(newer), str(older)]
    assert lines[0].endswith("'one·three'  counting")
    assert server.run("history", f"-at={older}", "cli/a").stdout == "one\ntwo"
    compared = server.run("history", "diff", "-recurse", "cli/", str(older))
    assert compared.stdout.splitlines()[:2] == [f"--- cli/a @{older}", f"+++ cli/a @{newer}"]
    assert compared.stdout.splitlines()[-2:] == ["-two", "+three"]
    rolled = server.run("history", "rollback", "-reason=wrong", "cli/a", str(older))
    assert rolled.stdout.splitlines() == [
        f"set cli/a to its version of index {older}",
        f"Rolled back 1 key to index {older}",
    ]
    assert server.get("cli/a") == b"one\ntwo"
    refused = server.run("history", "rollback", "cli/a", "999999")
    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: index 999999 is beyond the history")


def test_it_survives_a_restart_and_the_loss_of_its_file(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(installed), *_path()]))
    agent = AgentProcess(tmp_path)
    server = Server(agent)
    with agent:
        server.put("a", "1", reason="first")
        server.put("b", "1")
        server.put("a", "2")
        before = server.wait_for("a", "2", "1")
        agent.kill()
        agent.start()
        server.put("a", "3")
        assert server.wait_for("a", "3", "2", "1")[1:] == before
        assert server.versions("a")[2]["Reason"] == "first"
        assert agent.stop() == 0
        files = list((agent.data_dir / "plugins").rglob("history.db*"))
        assert files
        for file in files:
            file.unlink()
        agent.start()
        server.put("a", "4")
        server.wait_for("a", "4")  # from the state that it was told again
        server.wait_for("b", "1")
        assert [each["Time"] for each in server.versions("b")] == [None]
        assert "before the history" in server.roll_back("", before[1], 400, recurse=True)
        assert server.report()["Errors"] == []
