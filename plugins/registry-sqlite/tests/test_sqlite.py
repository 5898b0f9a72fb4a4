"""The engine keeps the contract of all engines, and says in words what is wrong with a file."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest

# The package stands beside its tests and need not be installed to be tested.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from registry_sqlite import SqliteStore
from registry_sqlite import store as module

from registry.errors import Corrupt
from registry.storage import Batch
from registry.testing.storage import StoreContract, own, put


class TestSqliteStore(StoreContract):
    engine = "registry_sqlite:SqliteStore.open"


def test_a_damaged_file_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(Corrupt, match="restore the directory from a backup") as caught:
        SqliteStore.open(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_the_log_is_moved_into_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_BYTES", 100_000)
    with contextlib.closing(SqliteStore.open(tmp_path)) as store:
        for number in range(400):
            put(store, (b"%d" % (number % 7), b"%04d" % number * 250))
            store.sync()
        # It is written again from its beginning instead of growing on.
        assert (tmp_path / "store.db-wal").stat().st_size < 300_000
        assert (tmp_path / "store.db").stat().st_size > 8000


def test_what_was_staged_for_nothing_is_gone_after_a_restart(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path)
    store.stage([(b"k", b"v")])
    store.close()
    with contextlib.closing(SqliteStore.open(tmp_path)) as store:
        assert list(tmp_path.glob("staged-*")) == []
        assert own(store.scan(b"")) == []


def test_a_failed_write_leaves_nothing_of_its_batch(tmp_path: Path) -> None:
    with contextlib.closing(SqliteStore.open(tmp_path)) as store:
        batch = Batch()
        batch.put(b"a", b"1")
        batch.operations.append((Batch.PUT, b"b", object()))  # type: ignore[arg-type]
        with pytest.raises(Exception, match="type"):
            store.write(batch)
        assert own(store.scan(b"")) == []
        put(store, (b"c", b"1"))
