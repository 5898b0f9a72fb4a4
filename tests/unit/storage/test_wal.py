"""The structure of RocksDB's logs: real ones, and ones that are damaged or have holes."""

from __future__ import annotations

import contextlib
import shutil
import struct
from pathlib import Path

import pytest

from registry.errors import Corrupt, StorageError
from registry.storage import rocks
from registry.storage.rocks import RocksStore
from registry.storage.wal import BLOCK_BYTES, find_tear, log_files, read_log
from registry.testing.storage import own, put

FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def record(kind: int, payload: bytes) -> bytes:
    return struct.pack("<IHB", 0, len(payload), kind) + payload


def batch(sequence: int, count: int, body: bytes = b"operations") -> bytes:
    return struct.pack("<QI", sequence, count) + body


ONE, TWO = record(FULL, batch(1, 2)), record(FULL, batch(3, 1))


@pytest.mark.parametrize(
    ("raw", "end", "span"),
    [
        (b"", 0, None),
        (ONE, len(ONE), (1, 3)),
        (ONE + TWO, len(ONE + TWO), (1, 4)),
        (ONE + TWO[:-1], len(ONE), (1, 3)),
        (ONE + TWO[:5], len(ONE), (1, 3)),
        (ONE + b"\x00" * 100, len(ONE), (1, 3)),
        (ONE + b"\x00" * 100 + TWO, len(ONE), (1, 3)),
        (ONE + record(5, batch(3, 1)), len(ONE), (1, 3)),
        (ONE + record(FULL, batch(4, 1)), len(ONE), (1, 3)),
        (ONE + record(FULL, b"short"), len(ONE), (1, 3)),
        (ONE + record(LAST, batch(3, 1)), len(ONE), (1, 3)),
        (ONE + record(FIRST, batch(3, 1)) + TWO, len(ONE), (1, 3)),
        (ONE + record(FIRST, batch(3, 1)), len(ONE), (1, 3)),
        (ONE + record(FULL, batch(2, 0)) + TWO, len(ONE) + 29 + len(TWO), (1, 4)),
        (record(9, b"lz4") + ONE, 10 + len(ONE), (1, 3)),
        (ONE + struct.pack("<IHB", 0, 40_000, FULL) + b"x" * 40_000, len(ONE), (1, 3)),
    ],
    ids=[
        "empty",
        "one batch",
        "two batches",
        "cut in a payload",
        "cut in a header",
        "zeros behind",
        "a batch behind zeros",
        "a recyclable type",
        "a gap in the numbers",
        "no batch inside",
        "an end without a beginning",
        "a beginning without an end",
        "unfinished",
        "a batch of nothing",
        "facts about the log",
        "longer than its block",
    ],
)
def test_end_of_the_last_whole_batch(raw: bytes, end: int, span: tuple[int, int] | None) -> None:
    content = read_log(raw)
    assert content.end == end
    assert (content.first, content.next) == (span or (None, None))
    assert content.whole == (not raw[end:].strip(b"\x00"))


def test_batches_over_several_blocks(tmp_path: Path) -> None:
    """Every way in which a batch, and the head of one, can be spread over blocks."""
    with contextlib.closing(RocksStore.open(tmp_path)) as store:
        for size in range(0, 3 * BLOCK_BYTES, 997):
            put(store, (b"%d" % size, b"v" * size))
        for number in range(3000):
            put(store, (b"%d" % number, b"v" * (number % 40)))
        (log,) = log_files(tmp_path)
        content = read_log(log.read_bytes())
        assert content.whole
        assert content.end == log.stat().st_size
        assert content.first == 1
        assert content.next == store._database.latest_sequence_number() + 1


def test_head_of_a_batch_spread_over_two_blocks() -> None:
    filler = record(FULL, batch(1, 1, b"v" * (BLOCK_BYTES - 12 - 7 - 12)))
    head = batch(2, 5, b"w" * 50)
    raw = filler + record(FIRST, head[:5]) + record(LAST, head[5:])
    assert len(filler) + 7 + 5 == BLOCK_BYTES
    content = read_log(raw)
    assert (content.first, content.next, content.end) == (1, 7, len(raw))


@pytest.mark.parametrize("bit", [0x01, 0x02, 0x04, 0x08, 0x80])
def test_any_flip_in_a_head_of_the_synced_log_is_refused(tmp_path: Path, bit: int) -> None:
    """Among them those of the type byte that RocksDB itself falls for."""
    live, victim = tmp_path / "live", tmp_path / "victim"
    with contextlib.closing(RocksStore.open(live)) as store:
        for number in range(3):
            put(store, (b"%d" % number, b"v"))
        store.sync()
        whole = log_files(live)[0].read_bytes()
        # The second record: neither the first nor the last of the log.
        begin = 7 + int.from_bytes(whole[4:6], "little")
        for position in range(begin, begin + 19):
            shutil.rmtree(victim, ignore_errors=True)
            shutil.copytree(live, victim)
            raw = bytearray(whole)
            raw[position] ^= bit
            log_files(victim)[0].write_bytes(raw)
            with pytest.raises(Corrupt, match="restore it from a backup"):
                RocksStore.open(victim)


# -- several logs, as a crash leaves them just after a memtable was full


@pytest.fixture
def two_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A crashed directory with two logs that are both needed; nothing in them was synced."""
    monkeypatch.setattr(rocks, "_WRITE_BUFFER_BYTES", 64 * 1024)
    live, copy = tmp_path / "live", tmp_path / "copy"
    with contextlib.closing(RocksStore.open(live)) as store:
        # A background job turns a full memtable into a table and drops its log: none may run.
        store._database.set_options({"max_write_buffer_number": "8"})
        store._database.cancel_all_background(True)
        number = 0
        while len(log_files(live)) < 2 or log_files(live)[1].stat().st_size < 5000:
            put(store, (b"%06d" % number, b"v" * 500))
            number += 1
        shutil.copytree(live, copy)
    assert len(log_files(copy)) == 2
    return copy


def content(directory: Path) -> list[bytes]:
    with contextlib.closing(RocksStore.open(directory)) as store:
        return [key for key, _ in own(store.scan(b""))]


def test_both_logs_are_replayed(two_logs: Path) -> None:
    written = len(log_sequence(two_logs)) - 1  # the first is the format stamp
    assert content(two_logs) == [b"%06d" % number for number in range(written)]


@pytest.mark.parametrize("tail", [b"", b"\x00" * 30, b"torn"], ids=["end", "zeros", "torn"])
def test_hole_between_two_logs_is_the_end(two_logs: Path, tail: bytes) -> None:
    """Without the end of the first log the second one must not be replayed either."""
    everything = len(log_sequence(two_logs))
    first, second = log_files(two_logs)
    raw = first.read_bytes()
    # Two batches less, and what a lost page leaves behind.
    first.write_bytes(raw[: len(raw) - 2 * batch_bytes(raw)] + tail)
    assert find_tear(log_files(two_logs), lambda: 0) is not None
    keys = content(two_logs)
    assert keys == [b"%06d" % number for number in range(len(keys))]
    assert 0 < len(keys) < everything
    assert second.with_name(second.name + ".cut").exists()
    assert content(two_logs) == keys


def test_hole_in_what_was_synced_is_refused(two_logs: Path) -> None:
    with contextlib.closing(rocks._Synced(two_logs)) as synced:
        synced.note(log_sequence(two_logs)[-1])
    first, _ = log_files(two_logs)
    raw = first.read_bytes()
    first.write_bytes(raw[: len(raw) - 2 * batch_bytes(raw)])
    before = sorted(path.name for path in two_logs.iterdir())
    with pytest.raises(Corrupt, match="was synced up to"):
        RocksStore.open(two_logs)
    assert {path.name for path in log_files(two_logs)} <= set(before)


def copy_if_there(source: str, target: str) -> None:
    """After a flush the engine deletes logs in the background, at any moment."""
    with contextlib.suppress(FileNotFoundError):
        shutil.copy2(source, target)


def test_old_log_that_is_no_longer_needed_may_be_anything(two_logs: Path) -> None:
    """A crash can leave a log whose content is in tables already, without its neighbours."""
    with contextlib.closing(RocksStore.open(two_logs)) as store:
        store._database.flush()
        put(store, (b"new", b"v"))
        store.sync()
        number = int(log_files(two_logs)[-1].stem)
        copy = two_logs.with_name("copy of copy")
        shutil.copytree(two_logs, copy, copy_function=copy_if_there)
    leftover = copy / f"{number - 3:06}.log"
    leftover.write_bytes(record(FULL, batch(7, 1)) + b"damaged")
    assert content(copy)[-1] == b"new"


def test_read_only_does_not_cut(two_logs: Path) -> None:
    _, second = log_files(two_logs)
    torn = second.read_bytes()[:-3]
    second.write_bytes(torn)
    with pytest.raises(StorageError, match="ends within a record"):
        RocksStore.open(two_logs, read_only=True)
    assert second.read_bytes() == torn


def log_sequence(directory: Path) -> range:
    """All sequence numbers in the logs."""
    contents = [read_log(path.read_bytes()) for path in log_files(directory)]
    assert contents[0].first is not None
    assert contents[-1].next is not None
    return range(contents[0].first, contents[-1].next)


def batch_bytes(raw: bytes) -> int:
    """The size of a record: all but the first are alike, and the end falls into none."""
    return len(record(FULL, batch(0, 1, b"\x01\x06" + b"000000" + b"\xf4\x03" + b"v" * 500)))
