"""What a pool keeps on disk: keyring and snapshot."""

from __future__ import annotations

import json
import stat
from base64 import b64encode
from pathlib import Path

import pytest

from registry.errors import ConfigError
from registry.membership.shell import keyring_file, snapshot_file
from registry.membership.snapshot import SnapshotWrite

A, B = b"a" * 16, b"b" * 32


def test_a_keyring_comes_back_and_is_nobody_elses_business(tmp_path: Path) -> None:
    path = tmp_path / "serf" / "local.keyring"
    assert keyring_file.load(path) == ()
    keyring_file.write(path, [A])
    keyring_file.write(path, [B, A])
    assert keyring_file.load(path) == (B, A)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())[0] == b64encode(B).decode()
    assert [entry.name for entry in path.parent.iterdir()] == ["local.keyring"]


def test_a_leftover_of_an_interrupted_write_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "ring.new").write_text("half")
    (tmp_path / "ring.new").chmod(0o644)
    keyring_file.write(tmp_path / "ring", [A])
    assert stat.S_IMODE((tmp_path / "ring").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("{", "no JSON", id="no JSON"),
        pytest.param("{}", "must be a list", id="no list"),
        pytest.param("[]", "must be a list", id="empty"),
        pytest.param("[1]", "must be a list", id="no text"),
        pytest.param('["?"]', "must be base64", id="no base64"),
        pytest.param('["YWJj"]', "16, 24 or 32 bytes", id="wrong size"),
    ],
)
def test_a_damaged_keyring_names_its_file(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "ring"
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason) as raised:
        keyring_file.load(path)
    assert str(path) in str(raised.value)


def test_a_keyring_that_is_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        keyring_file.load(tmp_path)


def test_a_snapshot_is_appended_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "serf" / "local.snapshot"
    snapshot_file.apply(path, SnapshotWrite("clock: 1\n"))
    snapshot_file.apply(path, SnapshotWrite("alive: b 10.0.0.1:1\nfoo\n", sync=True))
    state, size_bytes, strange = snapshot_file.load(path, rejoin_after_leave=False)
    assert (state.clock, state.alive, strange) == (1, {"b": "10.0.0.1:1"}, ["foo"])
    assert size_bytes == path.stat().st_size
    snapshot_file.apply(path, SnapshotWrite("clock: 9\n", replace=True, sync=True))
    assert path.read_text() == "clock: 9\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["local.snapshot"]


def test_without_a_snapshot_there_is_nothing_to_know(tmp_path: Path) -> None:
    state, size_bytes, _ = snapshot_file.load(tmp_path / "none", rejoin_after_leave=False)
    assert (state.alive, size_bytes) == ({}, 0)
    with pytest.raises(ConfigError, match="cannot be read"):
        snapshot_file.load(tmp_path, rejoin_after_leave=False)
