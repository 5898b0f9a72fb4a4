"""The RocksDB engine: the contract, what it makes of a damaged directory, and its errors."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.errors import Corrupt, DiskFull, Locked, StorageError
from registry.storage import Batch
from registry.storage.format import FORMAT_KEY
from registry.storage.rocks import RocksStore
from registry.testing.storage import StoreContract, own, put


class TestRocksStore(StoreContract):
    engine = "registry.storage.rocks:RocksStore.open"


def content(directory: Path) -> list[tuple[bytes, bytes]]:
    with contextlib.closing(RocksStore.open(directory)) as store:
        return own(store.scan(b""))


def the_log(directory: Path) -> Path:
    (log,) = directory.glob("*.log")
    return log


def one_line_naming(error: BaseException, directory: Path) -> bool:
    return "\n" not in str(error) and str(directory) in str(error)


# -- recovery: a torn unsynced tail is cut, damage before it is refused

SYNCED = [(b"%02d" % number, b"synced") for number in range(20)]
UNSYNCED = [(b"%02d" % number, b"unsynced") for number in range(20, 23)]


@pytest.fixture(scope="module")
def crashed() -> Iterator[tuple[Path, int]]:
    """A directory as a crash leaves it, and how much of its log was synced."""
    with tempfile.TemporaryDirectory() as temporary:
        live, copy = Path(temporary, "live"), Path(temporary, "crashed")
        with contextlib.closing(RocksStore.open(live)) as store:
            for pair in SYNCED:
                put(store, pair)
            store.sync()
            size = the_log(live).stat().st_size
            for pair in UNSYNCED:
                put(store, pair)
            shutil.copytree(live, copy)
        yield copy, size


@pytest.fixture
def victim(crashed: tuple[Path, int], tmp_path: Path) -> Path:
    return Path(shutil.copytree(crashed[0], tmp_path / "victim"))


def test_crashed_directory_opens_with_all_that_reached_the_log(victim: Path) -> None:
    assert content(victim) == SYNCED + UNSYNCED


def test_tail_torn_at_any_length_is_cut(crashed: tuple[Path, int], tmp_path: Path) -> None:
    source, synced = crashed
    whole = the_log(source).read_bytes()
    kept = set()
    for length in range(synced, len(whole), 3):
        victim = Path(shutil.copytree(source, tmp_path / str(length)))
        the_log(victim).write_bytes(whole[:length])
        found = content(victim)
        assert found == (SYNCED + UNSYNCED)[: len(found)], f"a hole at length {length}"
        assert len(found) >= len(SYNCED), f"a synced batch is lost at length {length}"
        kept.add(len(found))
        shutil.rmtree(victim)
    assert kept == {20, 21, 22}


def test_bad_record_in_the_tail_is_cut_with_intact_ones_behind_it(
    crashed: tuple[Path, int], victim: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log, synced = the_log(victim), crashed[1]
    raw = bytearray(log.read_bytes())
    raw[synced + 20] ^= 0x40
    log.write_bytes(raw)
    assert content(victim) == SYNCED
    assert "cutting off a torn end of the log" in caplog.text
    put_and_check_reopened(victim)


def put_and_check_reopened(directory: Path) -> None:
    """What is written after a cut is there after the next opening, and nothing of the cut is."""
    with contextlib.closing(RocksStore.open(directory)) as store:
        put(store, (b"new", b"1"))
        store.sync()
    assert content(directory) == [*SYNCED, (b"new", b"1")]


def test_damage_to_the_synced_log_is_refused_and_changes_nothing(
    crashed: tuple[Path, int], tmp_path: Path
) -> None:
    source, synced = crashed
    whole = the_log(source).read_bytes()
    for position in range(0, synced, 23):
        victim = Path(shutil.copytree(source, tmp_path / str(position)))
        raw = bytearray(whole)
        raw[position] ^= 0x04
        the_log(victim).write_bytes(raw)
        for _ in range(2):
            with pytest.raises(Corrupt, match="restore it from a backup") as refused:
                RocksStore.open(victim)
            assert one_line_naming(refused.value, victim)
        # With the bit flipped back everything is there: the refusal threw nothing away.
        raw[position] ^= 0x04
        assert (victim / the_log(source).name).read_bytes()[:synced] != whole[:synced]
        (victim / the_log(source).name).write_bytes(raw)
        assert content(victim) == SYNCED + UNSYNCED


@pytest.mark.parametrize("records", [0, 5, 19])
def test_synced_log_cut_between_records_is_refused(victim: Path, records: int) -> None:
    log = the_log(victim)
    sizes = record_sizes(log.read_bytes())
    # The first record is the format stamp.
    log.write_bytes(log.read_bytes()[: sum(sizes[: records + 1])])
    with pytest.raises(Corrupt, match="synced up to"):
        RocksStore.open(victim)


def record_sizes(raw: bytes) -> list[int]:
    """Whole sizes of the records of a log that fits one block: 4 checksum, 2 length, 1 type."""
    sizes: list[int] = []
    while sum(sizes) < len(raw):
        at = sum(sizes)
        sizes.append(7 + int.from_bytes(raw[at + 4 : at + 6], "little"))
    return sizes


def test_missing_log_is_refused(victim: Path) -> None:
    the_log(victim).unlink()
    with pytest.raises(Corrupt):
        RocksStore.open(victim)


def test_without_the_synced_mark_a_tear_is_refused(victim: Path) -> None:
    (victim / "SYNCED").unlink()
    intact = the_log(victim).read_bytes()
    the_log(victim).write_bytes(intact[:-5])
    with pytest.raises(Corrupt):
        RocksStore.open(victim)
    the_log(victim).write_bytes(intact)
    assert content(victim) == SYNCED + UNSYNCED


@pytest.mark.parametrize("damage", ["flipped", "short", "empty"])
def test_damaged_synced_mark_does_not_matter_to_an_intact_log(victim: Path, damage: str) -> None:
    mark = victim / "SYNCED"
    raw = mark.read_bytes()
    damaged = {"flipped": bytes([raw[0] ^ 1]) + raw[1:], "short": raw[:7], "empty": b""}
    mark.write_bytes(damaged[damage])
    assert content(victim) == SYNCED + UNSYNCED


@pytest.mark.parametrize("file", ["MANIFEST", "CURRENT"])
def test_damaged_catalogue_of_files_is_refused(victim: Path, file: str) -> None:
    current = victim / "CURRENT"
    # An older manifest may not have been removed yet; CURRENT names the one that counts.
    path = current if file == "CURRENT" else victim / current.read_text().strip()
    path.write_bytes(b"nonsense" * 4)
    with pytest.raises(Corrupt, match="restore it from a backup") as refused:
        RocksStore.open(victim)
    assert one_line_naming(refused.value, victim)


@pytest.mark.parametrize("of_snapshot", [False, True], ids=["store", "snapshot"])
def test_damaged_table_is_told_by_reads_and_scans(tmp_path: Path, of_snapshot: bool) -> None:
    with contextlib.closing(RocksStore.open(tmp_path)) as store:
        put(store, *((b"%05d" % number, os.urandom(100)) for number in range(3000)))
        store._database.flush()
    (table,) = tmp_path.glob("*.sst")
    raw = bytearray(table.read_bytes())
    raw[len(raw) // 2] ^= 1
    table.write_bytes(raw)
    with contextlib.closing(RocksStore.open(tmp_path)) as store:
        reader = store.snapshot() if of_snapshot else store
        for reverse in (False, True):
            with pytest.raises(Corrupt, match=str(tmp_path)):
                list(reader.scan(b"0", reverse=reverse))
        with pytest.raises(Corrupt, match=str(tmp_path)):
            [reader.get(b"%05d" % number) for number in range(3000)]


# -- what cannot be opened

HOLDER = """
import sys
from pathlib import Path
from registry.storage.rocks import RocksStore
store = RocksStore.open(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""


def test_directory_held_by_another_process_is_locked(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(Locked, match="in use by another process: stop that one") as refused:
            RocksStore.open(tmp_path)
        assert one_line_naming(refused.value, tmp_path)
        holder.communicate()
    RocksStore.open(tmp_path).close()


def test_file_in_place_of_the_directory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    for directory in (path, path / "below"):
        with pytest.raises(StorageError, match="not a directory: choose another") as refused:
            RocksStore.open(directory)
        assert one_line_naming(refused.value, directory)
    assert path.read_text() == ""


REFUSED_BY_PERMISSION = """
import os, sys
from pathlib import Path
from registry.errors import StorageError
from registry.storage.rocks import RocksStore
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    RocksStore.open(Path(sys.argv[1]))
except StorageError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(("below", "mode"), [("", 0o000), ("", 0o555), ("new/store", 0o555)])
def test_directory_without_permission(below: str, mode: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        os.chmod(temporary, 0o755)
        closed = Path(temporary, "closed")
        closed.mkdir()
        closed.chmod(mode)
        directory = closed / below
        command = [sys.executable, "-c", REFUSED_BY_PERMISSION, str(directory)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        assert answer.stdout.startswith(f"StorageError data directory {directory}: cannot be read")
        assert "change its owner or permissions" in answer.stdout
        assert answer.stdout.count("\n") == 1


def test_data_without_a_format_version_are_refused(tmp_path: Path) -> None:
    with contextlib.closing(RocksStore.open(tmp_path)) as store:
        put(store, (b"k", b"v"))
        batch = Batch()
        batch.delete(FORMAT_KEY)
        store.write(batch)
    with pytest.raises(Corrupt, match="without a format version"):
        RocksStore.open(tmp_path)


def test_unreadable_format_version_is_refused(tmp_path: Path) -> None:
    with contextlib.closing(RocksStore.open(tmp_path)) as store:
        put(store, (FORMAT_KEY, b"\xff\x00"))
    with pytest.raises(Corrupt, match="format version is unreadable"):
        RocksStore.open(tmp_path)


# -- a full disk, a failing disk

WRITE_UNTIL_FULL = """
import resource, signal, sys
from pathlib import Path
from registry.errors import DiskFull
from registry.storage import Batch
from registry.storage.rocks import RocksStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = RocksStore.open(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
try:
    for number in range(1000):
        batch = Batch()
        batch.put(b"%04d" % number, b"v" * 10_000)
        store.write(batch)
        store.sync()
        print(number)
except DiskFull as error:
    print(error)
store.close()
"""


def test_log_at_its_size_limit_is_a_full_disk(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE_UNTIL_FULL, str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    *acknowledged, message = answer.stdout.splitlines()
    assert "no room left on the device: free some space" in message
    assert str(tmp_path) in message
    assert len(acknowledged) > 50
    assert [int(key) for key, _ in content(tmp_path)] == list(map(int, acknowledged))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mounted = tmp_path / "disk"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(mounted)]
    if os.getuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting a small disk needs root")
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting is not permitted here")
    yield mounted
    subprocess.run(["umount", "-l", str(mounted)], check=True)


def test_full_disk_is_told_and_harms_nothing(small_disk: Path) -> None:
    ballast, directory = small_disk / "ballast", small_disk / "store"
    ballast.write_bytes(b"b" * (4 << 20))
    store = RocksStore.open(directory)
    acknowledged = 0
    with pytest.raises(DiskFull, match="free some space") as refused:  # noqa: PT012
        while True:
            put(store, (b"%06d" % acknowledged, b"v" * 5000))
            store.sync()
            acknowledged += 1
    assert one_line_naming(refused.value, directory)
    for use in (store.sync, lambda: put(store, (b"k", b"v"))):
        with pytest.raises(DiskFull):
            use()
    store.close()
    ballast.unlink()
    assert len(content(directory)) == acknowledged


def test_new_directory_on_a_full_disk(small_disk: Path) -> None:
    with contextlib.suppress(OSError):
        (small_disk / "ballast").write_bytes(b"b" * (8 << 20))
    with pytest.raises(DiskFull):
        RocksStore.open(small_disk / "store")


class DiskThatFailsOnce:
    """A database whose first `flush_wal` fails, as after a write error of the device."""

    def __init__(self, database: object) -> None:
        self.database = database
        self.failed = False

    def flush_wal(self, sync: bool) -> None:
        if not self.failed:
            self.failed = True
            raise Exception("IO error: While fdatasync: 000004.log: Input/output error")

    def __getattr__(self, name: str) -> object:
        return getattr(self.database, name)


def test_failed_sync_is_final(tmp_path: Path) -> None:
    """The kernel may have dropped the pages: a later success proves nothing (R-8)."""
    with contextlib.closing(RocksStore.open(tmp_path)) as store:
        store._database = DiskThatFailsOnce(store._database)
        put(store, (b"k", b"v"))
        for use in (store.sync, store.sync, lambda: put(store, (b"l", b"v"))):
            with pytest.raises(StorageError, match="Input/output error"):
                use()
        assert store.get(b"k") == b"v"
        assert store.get(b"l") is None


# -- reading beside a running agent; life inside


def test_read_only_sees_what_the_writer_wrote_and_changes_nothing(tmp_path: Path) -> None:
    with contextlib.closing(RocksStore.open(tmp_path)) as writer:
        put(writer, (b"k", b"1"))
        with contextlib.closing(RocksStore.open(tmp_path, read_only=True)) as reader:
            put(writer, (b"k", b"2"))
            assert own(reader.scan(b"")) == [(b"k", b"1")]
            with pytest.raises(StorageError, match="opened for reading only"):
                put(reader, (b"k", b"3"))
            reader.sync()
        put(writer, (b"l", b"3"))
    assert content(tmp_path) == [(b"k", b"2"), (b"l", b"3")]


def test_read_only_does_not_make_a_store(tmp_path: Path) -> None:
    directory = tmp_path / "none"
    with pytest.raises(StorageError, match="holds no store"):
        RocksStore.open(directory, read_only=True)
    assert not directory.exists()


def test_snapshot_outlives_flushes_and_compaction(tmp_path: Path) -> None:
    with contextlib.closing(RocksStore.open(tmp_path)) as store:
        put(store, *((b"%04d" % number, b"before") for number in range(1000)))
        snapshot = store.snapshot()
        for round_ in range(3):
            put(store, *((b"%04d" % number, b"%d" % round_) for number in range(0, 2000, 2)))
            batch = Batch()
            batch.delete_range(b"0100", b"0500")
            store.write(batch)
            store._database.flush()
        store._database.compact_range(None, None)
        expected = [(b"%04d" % number, b"before") for number in range(1000)]
        assert own(snapshot.scan(b"")) == expected
        assert own(snapshot.scan(b"", reverse=True)) == expected[::-1]
        assert snapshot.get(b"0300") == b"before"
        assert store.get(b"0300") is None


def test_many_range_deletions_do_not_stay_in_the_memtable(tmp_path: Path) -> None:
    """Every read walks those that are there: thousands would make reads a thousand times slower."""
    with contextlib.closing(RocksStore.open(tmp_path)) as store:
        for number in range(500):
            put(store, (b"log%05d" % number, b"entry"))
            batch = Batch()
            batch.delete_range(b"log", b"log%05d" % number)
            store.write(batch)
        entries = store._database.property_int_value("rocksdb.num-entries-active-mem-table")
        assert entries <= 2 * 64
        assert own(store.scan(b"")) == [(b"log00499", b"entry")]


# -- replacing much at once


STAGED = [(b"s%03d" % number, b"new") for number in range(500)]


def without_old() -> Batch:
    batch = Batch()
    batch.delete_range(b"s", b"t")
    return batch


def killed(directory: Path, statements: str) -> Path:
    """A directory as a process left it that was killed after these statements on its store."""
    script = f"""
import os, signal, sys
from pathlib import Path
from registry.storage.rocks import RocksStore
from registry.testing.storage import put
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_rocks import STAGED, without_old
store = RocksStore.open(Path(sys.argv[1]))
{statements}
os.kill(os.getpid(), signal.SIGKILL)
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(directory)], capture_output=True, text=True, check=False
    )
    assert run.returncode == -9, run.stderr
    return directory


def test_nothing_staged_is_left_by_a_crash(tmp_path: Path) -> None:
    killed(tmp_path, "put(store, (b's', b'old')); store.stage(STAGED)")
    assert list(tmp_path.glob("STAGED-*"))
    assert content(tmp_path) == [(b"s", b"old")]
    assert not list(tmp_path.glob("STAGED-*"))


REPLACING = """
put(store, (b"s", b"old"))
store.sync()
put(store, (b"before", b"unsynced"))
store.replace(without_old(), store.stage(STAGED))
put(store, (b"later", b"1"))
put(store, (b"later", b"2"))
"""


def test_a_power_failure_after_replacing_loses_only_what_was_written_later(tmp_path: Path) -> None:
    """However much of the logs is gone: added tables are durable, and so is all before them."""
    source = killed(tmp_path / "source", REPLACING)
    size = max(source.glob("*.log")).stat().st_size
    kept = set()
    for length in range(size, -1, -3):
        victim = Path(shutil.copytree(source, tmp_path / "victim"))
        os.truncate(max(victim.glob("*.log")), length)
        found = content(victim)
        assert found[0] == (b"before", b"unsynced")
        assert found[-len(STAGED) :] == STAGED
        kept |= set(found[1 : -len(STAGED)])
        shutil.rmtree(victim)
    assert kept == {(b"later", b"1"), (b"later", b"2")}
    assert content(source) == [(b"before", b"unsynced"), (b"later", b"2"), *STAGED]


def test_a_log_that_was_synced_after_replacing_must_be_whole(tmp_path: Path) -> None:
    killed(tmp_path, REPLACING + "store.sync()")
    log = max(tmp_path.glob("*.log"))
    intact = log.read_bytes()
    os.truncate(log, len(intact) - 5)
    with pytest.raises(Corrupt, match="synced up to"):
        RocksStore.open(tmp_path)
    log.write_bytes(intact)
    assert content(tmp_path) == [(b"before", b"unsynced"), (b"later", b"2"), *STAGED]


def test_the_sequence_number_of_an_added_table_is_no_gap_in_the_logs(tmp_path: Path) -> None:
    """Again and again, with a cursor that keeps logs and tables from being deleted."""
    for round_ in range(4):
        killed(
            tmp_path,
            "put(store, (b's', b'old'), (b't', b''))\n"
            "cursor = store.scan(b''); next(cursor)\n" + f"{REPLACING}\n" * (1 + round_ % 2),
        )
        assert content(tmp_path) == [
            (b"before", b"unsynced"),
            (b"later", b"2"),
            *STAGED,
            (b"t", b""),
        ]


def test_many_staged_pairs_are_several_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.storage.rocks._STAGED_BYTES_MAX", 1000)
    with contextlib.closing(RocksStore.open(tmp_path)) as store:
        put(store, (b"s", b"old"))
        staged = store.stage(STAGED)
        assert len(list(tmp_path.glob("STAGED-*"))) == 4
        store.replace(without_old(), staged)
        assert own(store.scan(b"")) == STAGED
    assert content(tmp_path) == STAGED


def test_a_full_disk_while_staging_harms_nothing(tmp_path: Path) -> None:
    script = """
import resource, signal, sys
from pathlib import Path
from registry.errors import DiskFull
from registry.storage.rocks import RocksStore
from registry.storage.store import Batch
store = RocksStore.open(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    store.stage((b"%08d" % n, b"x" * 900 + b"%d" % n * 20) for n in range(100_000))
except DiskFull:
    batch = Batch()
    batch.put(b"k", b"1")
    store.write(batch)
    store.sync()
    print("refused")
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert run.stdout == "refused\n", run.stderr
    assert content(tmp_path) == [(b"k", b"1")]
    assert not list(tmp_path.glob("STAGED-*"))


def test_key_that_is_no_bytes_is_the_callers_bug(tmp_path: Path) -> None:
    with (
        contextlib.closing(RocksStore.open(tmp_path)) as store,
        pytest.raises(KeyError, match="only support bytes"),
    ):
        store.get(object())  # type: ignore[arg-type]
