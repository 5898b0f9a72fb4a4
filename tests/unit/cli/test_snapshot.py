"""`snapshot`: saved, looked into, put back; damaged files are told from good ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from registry.cli.snapshot import verify
from registry.errors import Corrupt
from registry.testing.command_line import Run, Stub
from registry.testing.process import AgentProcess

META = {"Version": 1, "ID": "2-7-1", "Index": 7, "Term": 2, "Size": 5}


def archive(path: Path, members: dict[str, bytes], *, kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.type = len(content), kind
            tar.addfile(entry, io.BytesIO(content))
    return path


def sums(members: dict[str, bytes]) -> bytes:
    lines = (f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in members.items())
    return "".join(lines).encode()


def snapshot(path: Path, meta: Any = META, **more: bytes) -> Path:
    members = {"meta.json": json.dumps(meta).encode(), "state.bin": b"state"}
    members["SHA256SUMS"] = sums(members)
    return archive(path, {**members, **{name.replace("_", "."): x for name, x in more.items()}})


def test_a_whole_round(registry: Run, agent: AgentProcess, tmp_path: Path) -> None:
    agent.client.kv_put("snap/a", b"before")
    file = tmp_path / "back.snap"
    saved = registry("snapshot", "save", "back.snap")
    index = verify(file)["Index"]
    assert saved == (0, f"Saved and verified snapshot to index {index}\n", "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["back.snap"]
    agent.client.kv_put("snap/a", b"after")
    assert registry("snapshot", "restore", "back.snap") == (0, "Restored snapshot\n", "")
    assert agent.client.kv_get("snap/a") == b"before"


def test_inspect(cli: Run, tmp_path: Path) -> None:
    snapshot(tmp_path / "a.snap")
    assert cli("snapshot", "inspect", "a.snap") == (
        0,
        "ID           2-7-1\nSize         5\nIndex        7\nTerm         2\nVersion      1\n",
        "",
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["save"], "Missing FILE argument", id="save-nothing"),
        pytest.param(["save", "a", "b"], "Too many arguments (expected 1, got 2)", id="save-two"),
        pytest.param(
            ["save", "no/dir/a"],
            "Error writing unverified snapshot file: open no/dir/a: no",
            id="save-where",
        ),
        pytest.param(["restore"], "Missing FILE argument", id="restore-nothing"),
        pytest.param(["restore", "none"], "Error opening snapshot file: open none", id="restore"),
        pytest.param(["inspect"], "Missing FILE argument", id="inspect-nothing"),
        pytest.param(["inspect", "none"], "Error opening snapshot file: open none", id="inspect"),
    ],
)
def test_arguments(registry: Run, words: list[str], said: str) -> None:
    done = registry("snapshot", *words)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(said)


def test_the_server_refuses_a_damaged_file(registry: Run, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"not a snapshot")
    done = registry("snapshot", "restore", "bad")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("Error restoring snapshot: Unexpected response code: 500 (")


def test_what_is_there_survives_a_failed_save(cli: Run, stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "a.snap").write_bytes(b"yesterday's")
    stub.answer("GET /v1/snapshot", b"half a file")
    done = cli("snapshot", "save", "a.snap")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("Error verifying snapshot file: failed to decompress snapshot")
    stub.answer("GET /v1/snapshot", b"no leader", status=500)
    done = cli("snapshot", "save", "a.snap")
    assert done.err == "Error saving snapshot: Unexpected response code: 500 (no leader)\n"
    assert (tmp_path / "a.snap").read_bytes() == b"yesterday's"
    assert [each.name for each in tmp_path.iterdir()] == ["a.snap"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(lambda raw: b"", "snapshot: EOF", id="empty"),
        pytest.param(lambda raw: b"text", "snapshot: unexpected EOF", id="short"),
        pytest.param(lambda raw: b"a longer text", "gzip: invalid header", id="no-gzip"),
        pytest.param(lambda raw: raw[: len(raw) // 2], "failed to|hash check", id="cut"),
        pytest.param(lambda raw: gzip.compress(b"text" * 999), "failed to decompress", id="no-tar"),
    ],
)
def test_damaged_files(tmp_path: Path, damage: Any, said: str) -> None:
    file = snapshot(tmp_path / "a")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(Corrupt, match=said):
        verify(file)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        pytest.param({"state_bin": b"other"}, 'hash check failed for "state.bin"', id="state"),
        pytest.param({"meta_json": b"{}"}, 'hash check failed for "meta.json"', id="meta"),
        pytest.param({"SHA256SUMS": b""}, "hash check failed", id="sums"),
    ],
)
def test_changed_members(tmp_path: Path, more: dict[str, bytes], said: str) -> None:
    with pytest.raises(Corrupt, match=said):
        verify(snapshot(tmp_path / "a", **more))


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        pytest.param({**META, "Version": 2}, "unsupported snapshot version", id="version"),
        pytest.param([], "unsupported snapshot version", id="no-object"),
        pytest.param({"Version": 1, "ID": "x"}, "meta.json has no Index, Size, Term", id="fields"),
    ],
)
def test_what_it_says_about_itself(tmp_path: Path, meta: Any, said: str) -> None:
    with pytest.raises(Corrupt, match=said):
        verify(snapshot(tmp_path / "a", meta))


def test_other_archives(tmp_path: Path) -> None:
    members = {"meta.json": b"{", "state.bin": b""}
    broken = archive(tmp_path / "a", {**members, "SHA256SUMS": sums(members)})
    with pytest.raises(Corrupt, match=r"failed to decode meta\.json"):
        verify(broken)
    with pytest.raises(Corrupt, match="hash check failed"):
        verify(archive(tmp_path / "b", {"readme": b"hello"}))
    with pytest.raises(Corrupt, match='unexpected file "dir" in snapshot'):
        verify(archive(tmp_path / "c", {"dir": b""}, kind=tarfile.DIRTYPE))
