"""What every storage engine must do, as a pytest class: ours pass it, and a plugin's engine must.

Usage, in a test module of the engine's own:

    from registry.testing.storage import StoreContract

    class TestMyStore(StoreContract):
        engine = "registry_mystore:open_store"

`engine` names a function from a directory to a store as `module:attribute`, so that a second
process can open it as well: durability is proved by writing there and killing it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import pytest

from registry.errors import Locked, NewerFormat, StorageError
from registry.storage.format import FORMAT, FORMAT_KEY
from registry.storage.store import Batch, Reader, Store
from registry.testing.storage_writer import check_whole

KEYS = [b"a", b"a\x00", b"a\x00b", b"ab", b"b", b"b\xff", b"c", b"\xff", b"\xff\xff"]


def engine_named(name: str) -> Callable[[Path], Store]:
    """The function that `module:attribute.attribute` names."""
    module, _, path = name.partition(":")
    found: Any = reduce(getattr, path.split("."), importlib.import_module(module))
    opened: Callable[[Path], Store] = found
    return opened


def put(store: Store, *pairs: tuple[bytes, bytes]) -> None:
    batch = Batch()
    for key, value in pairs:
        batch.put(key, value)
    store.write(batch)


def own(pairs: Iterator[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The pairs without what the engine keeps for itself (its format version)."""
    return [pair for pair in pairs if pair[0] != FORMAT_KEY]


def _without(start: bytes, stop: bytes) -> Batch:
    batch = Batch()
    batch.delete_range(start, stop)
    return batch


class StoreContract:
    """Subclass it as `Test…`, set `engine`, and `durable` to False for an engine that forgets."""

    engine: ClassVar[str]
    durable: ClassVar[bool] = True
    #: How often the durability test kills a writer; each takes about half a second.
    kills: ClassVar[int] = 6

    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        return tmp_path / "store"

    @pytest.fixture
    def store(self, directory: Path) -> Iterator[Store]:
        with contextlib.closing(self.open(directory)) as store:
            yield store

    def open(self, directory: Path) -> Store:
        return engine_named(self.engine)(directory)

    def only_durable(self) -> None:
        if not self.durable:
            pytest.skip("the engine says that it forgets everything when closed")

    # -- reading and writing

    def test_is_a_store(self, store: Store) -> None:
        assert isinstance(store, Store)

    def test_missing_key_is_none(self, store: Store) -> None:
        assert store.get(b"absent") is None

    @pytest.mark.parametrize("key", [*KEYS, b"", b"\x00", bytes(range(256))], ids=repr)
    def test_gives_back_what_was_put(self, store: Store, key: bytes) -> None:
        put(store, (key, b"value of " + key))
        assert store.get(key) == b"value of " + key
        assert store.get(key + b"\x00") is None

    @pytest.mark.parametrize("size", [0, 1, 4096, 1 << 20])
    def test_values_of_any_size(self, store: Store, size: int) -> None:
        value = random.Random(size).randbytes(size)
        put(store, (b"k", value))
        assert store.get(b"k") == value
        assert list(store.scan(b"k", b"l")) == [(b"k", value)]

    def test_overwritten_and_deleted(self, store: Store) -> None:
        put(store, (b"k", b"1"), (b"l", b"2"))
        put(store, (b"k", b"3"))
        assert store.get(b"k") == b"3"
        batch = Batch()
        batch.delete(b"k")
        batch.delete(b"never there")
        store.write(batch)
        assert store.get(b"k") is None
        assert own(store.scan(b"")) == [(b"l", b"2")]

    def test_empty_batch_changes_nothing(self, store: Store) -> None:
        put(store, (b"k", b"1"))
        store.write(Batch())
        assert own(store.scan(b"")) == [(b"k", b"1")]

    def test_later_operations_of_a_batch_win(self, store: Store) -> None:
        put(store, (b"a", b"old"), (b"b", b"old"), (b"c", b"old"))
        batch = Batch()
        batch.put(b"a", b"1")
        batch.put(b"a", b"2")
        batch.put(b"b", b"gone with the range")
        batch.delete_range(b"b", b"d")
        batch.put(b"c", b"after the range")
        batch.delete(b"a")
        store.write(batch)
        assert own(store.scan(b"")) == [(b"c", b"after the range")]

    @pytest.mark.parametrize(
        ("start", "stop", "left"),
        [
            (b"b", b"d", b"ade"),
            (b"", b"b", b"bcde"),
            (b"b\x00", b"d\x00", b"abe"),
            (b"a", b"f", b""),
            (b"c", b"c", b"abcde"),
            (b"d", b"b", b"abcde"),
        ],
    )
    def test_delete_range(self, store: Store, start: bytes, stop: bytes, left: bytes) -> None:
        put(store, *((bytes([key]), b"v") for key in b"abcde"))
        batch = Batch()
        batch.delete_range(start, stop)
        store.write(batch)
        assert b"".join(key for key, _ in own(store.scan(b"a"))) == left

    # -- scans

    @pytest.mark.parametrize("reverse", [False, True], ids=["ascending", "descending"])
    @pytest.mark.parametrize("limit", [None, 0, 1, 3, 100])
    @pytest.mark.parametrize(
        ("start", "stop"),
        [
            (b"", None),
            (b"a", None),
            (b"a\x00a", b"b\xff"),
            (b"aa", b"bb"),
            (b"b", b"b"),
            (b"c", b"b"),
            (b"\xff", None),
            (b"\xff\xff\xff", None),
            (b"", b""),
        ],
    )
    def test_scan(
        self, store: Store, start: bytes, stop: bytes | None, limit: int | None, reverse: bool
    ) -> None:
        put(store, *((key, key * 2) for key in reversed(KEYS)))
        expected = [
            (key, key * 2)
            for key in sorted(KEYS, reverse=reverse)
            if start <= key and (stop is None or key < stop)
        ][:limit]
        snapshot = store.snapshot()
        for reader in (store, snapshot):
            # One more than the limit, for the pair that the engine itself may keep in the range.
            asked = limit and limit + 1
            found = own(reader.scan(start, stop, reverse=reverse, limit=asked))
            assert found[:limit] == expected
        snapshot.close()

    @pytest.mark.parametrize("of_snapshot", [False, True], ids=["store", "snapshot"])
    def test_long_scans_in_both_directions(self, store: Store, of_snapshot: bool) -> None:
        keys = [b"n%05d" % number for number in range(5000)]
        shuffled = keys[:]
        random.Random(1).shuffle(shuffled)
        put(store, *((key, key[::-1]) for key in shuffled))
        snapshot = store.snapshot()
        reader: Reader = snapshot if of_snapshot else store
        assert [key for key, _ in reader.scan(b"n", b"o")] == keys
        assert all(value == key[::-1] for key, value in reader.scan(b"n", b"o"))
        assert [key for key, _ in reader.scan(b"n", b"o", reverse=True)] == keys[::-1]
        assert [key for key, _ in reader.scan(b"n01000", limit=700)] == keys[1000:1700]
        snapshot.close()

    def test_limit_is_exact(self, store: Store) -> None:
        put(store, *((key, b"") for key in KEYS))
        for limit in range(8):
            assert len(list(store.scan(b"a", b"\xff\xff\xff", limit=limit))) == limit

    @pytest.mark.parametrize("of_snapshot", [False, True], ids=["store", "snapshot"])
    def test_scans_interleave(self, store: Store, of_snapshot: bool) -> None:
        put(
            store, *((b"%c%03d" % (table, number), b"") for table in b"xy" for number in range(300))
        )
        snapshot = store.snapshot()
        reader: Reader = snapshot if of_snapshot else store
        up, down = reader.scan(b"x", b"y"), reader.scan(b"y", b"z", reverse=True)
        for number, ((first, _), (second, _)) in enumerate(zip(up, down, strict=True)):
            assert (first, second) == (b"x%03d" % number, b"y%03d" % (299 - number))
            assert reader.get(first) == b""
        snapshot.close()

    # -- snapshots

    def test_snapshot_stays_while_writes_go_on(self, store: Store) -> None:
        put(store, (b"changed", b"1"), (b"deleted", b"1"), (b"in range", b"1"))
        snapshot = store.snapshot()
        before = own(snapshot.scan(b""))
        batch = Batch()
        batch.put(b"changed", b"2")
        batch.put(b"added", b"2")
        batch.delete(b"deleted")
        batch.delete_range(b"in", b"io")
        store.write(batch)
        assert own(snapshot.scan(b"")) == before
        assert own(snapshot.scan(b"", reverse=True)) == before[::-1]
        assert [snapshot.get(key) for key in (b"changed", b"deleted", b"in range")] == [b"1"] * 3
        assert snapshot.get(b"added") is None
        assert own(store.scan(b"")) == [(b"added", b"2"), (b"changed", b"2")]
        snapshot.close()

    def test_snapshots_of_several_moments(self, store: Store) -> None:
        snapshots = []
        for moment in range(20):
            put(store, *((b"%03d" % key, b"%d" % moment) for key in range(moment, 600, 7)))
            snapshots.append((store.snapshot(), own(store.scan(b""))))
        for snapshot, expected in snapshots:
            assert own(snapshot.scan(b"")) == expected
            assert all(snapshot.get(key) == value for key, value in islice(expected, 0, None, 50))
            snapshot.close()

    def test_snapshot_read_in_a_thread_while_writes_go_on(self, store: Store) -> None:
        put(store, *((b"k%05d" % number, b"before") for number in range(3000)))
        snapshot = store.snapshot()
        seen: list[tuple[bytes, bytes]] = []
        reading = threading.Thread(target=lambda: seen.extend(snapshot.scan(b"k", b"l")))
        reading.start()
        for number in range(0, 6000, 2):
            put(store, (b"k%05d" % number, b"after"))
        reading.join()
        assert seen == [(b"k%05d" % number, b"before") for number in range(3000)]
        snapshot.close()

    # -- closing

    # -- replacing much at once

    def test_staged_pairs_replace_what_was_there(self, store: Store) -> None:
        old = [(b"s%04d" % number, b"old") for number in range(0, 4000, 2)]
        new = [(b"s%04d" % number, b"new") for number in range(0, 4000, 3)]
        beside = [(b"r", b"before the range"), (b"t", b"behind it")]
        put(store, *old, *beside)
        snapshot = store.snapshot()
        staged = store.stage(iter(new))
        assert own(store.scan(b"s", b"t")) == old, "staged pairs can be read"
        store.replace(_without(b"s", b"t"), staged)
        assert own(store.scan(b"")) == sorted(new + beside)
        assert own(store.scan(b"", reverse=True)) == sorted(new + beside, reverse=True)
        assert store.get(b"s0003") == b"new"
        assert store.get(b"s0002") is None
        assert own(snapshot.scan(b"s", b"t")) == old
        snapshot.close()
        put(store, (b"s0003", b"newer"), (b"s0004", b"newer"))
        assert own(store.scan(b"s0002", b"s0006")) == [(b"s0003", b"newer"), (b"s0004", b"newer")]
        staged.discard()
        assert store.get(b"s0006") == b"new", "what was added is discarded"

    def test_replacing_again_and_again(self, store: Store) -> None:
        """As a follower does that is left behind time after time."""
        for round_ in range(5):
            pairs = [(b"s%04d" % number, b"%d" % round_) for number in range(round_, 1000, 7)]
            put(store, (b"log%d" % round_, b""))
            store.replace(_without(b"s", b"t"), store.stage(pairs))
            assert own(store.scan(b"s", b"t")) == pairs
        assert len(own(store.scan(b"log", b"loh"))) == 5

    def test_nothing_may_be_staged_and_staged_pairs_may_be_discarded(self, store: Store) -> None:
        put(store, (b"s1", b"old"))
        store.stage([(b"s1", b"new")]).discard()
        assert store.get(b"s1") == b"old"
        store.replace(_without(b"s", b"t"), store.stage([]))
        assert own(store.scan(b"")) == []

    @pytest.mark.parametrize("keys", [(b"b", b"a"), (b"a", b"a")], ids=["descending", "twice"])
    def test_staging_keys_out_of_order_is_refused(
        self, store: Store, keys: tuple[bytes, ...]
    ) -> None:
        with pytest.raises(StorageError):
            store.stage([(key, b"") for key in keys])
        put(store, (b"k", b"1"))
        assert own(store.scan(b"")) == [(b"k", b"1")]

    def test_an_error_of_the_source_reaches_whoever_stages(self, store: Store) -> None:
        def pairs() -> Iterator[tuple[bytes, bytes]]:
            yield b"s1", b"new"
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            store.stage(pairs())
        assert own(store.scan(b"")) == []

    def test_staging_in_a_thread_while_writes_go_on(self, store: Store) -> None:
        staged = []
        pairs = [(b"s%06d" % number, b"%d" % number) for number in range(20_000)]
        thread = threading.Thread(target=lambda: staged.append(store.stage(pairs)))
        thread.start()
        written = 0
        while thread.is_alive():
            put(store, (b"w%06d" % written, b""))
            written += 1
            store.sync()
        thread.join()
        store.replace(_without(b"s", b"t"), staged[0])
        assert len(own(store.scan(b"w", b"x"))) == written
        assert own(store.scan(b"s", b"t")) == pairs

    def test_what_was_replaced_is_there_when_reopened(self, directory: Path) -> None:
        self.only_durable()
        pairs = [(b"s%04d" % number, b"new") for number in range(1000)]
        with contextlib.closing(self.open(directory)) as store:
            put(store, (b"s", b"old"), (b"log", b"1"))
            store.replace(_without(b"s", b"t"), store.stage(pairs))
            put(store, (b"log", b"2"))
            store.sync()
        for _ in range(2):
            with contextlib.closing(self.open(directory)) as store:
                assert own(store.scan(b"")) == [(b"log", b"2"), *pairs]

    def test_closed_store_refuses(self, store: Store) -> None:
        snapshot = store.snapshot()
        store.close()
        store.close()
        batch = Batch()
        batch.put(b"k", b"v")
        uses: list[Callable[[], object]] = [
            lambda: store.get(b"k"),
            lambda: list(store.scan(b"k")),
            lambda: store.write(batch),
            store.sync,
            store.snapshot,
            lambda: snapshot.get(b"k"),
            lambda: list(snapshot.scan(b"k")),
        ]
        for use in uses:
            with pytest.raises(StorageError, match="closed"):
                use()

    def test_closed_snapshot_refuses(self, store: Store) -> None:
        snapshot = store.snapshot()
        snapshot.close()
        snapshot.close()
        with pytest.raises(StorageError, match="closed"):
            snapshot.get(b"k")
        with pytest.raises(StorageError, match="closed"):
            list(snapshot.scan(b"k"))

    # -- durability

    def test_sync_in_a_thread_while_writes_go_on(self, store: Store) -> None:
        failures: list[BaseException] = []
        written = threading.Event()

        def sync_until_written() -> None:
            try:
                while not written.is_set():
                    store.sync()
            except BaseException as error:
                failures.append(error)

        syncing = threading.Thread(target=sync_until_written)
        syncing.start()
        for number in range(3000):
            put(store, (b"%05d" % number, b"v"))
        written.set()
        syncing.join()
        assert not failures
        assert len(own(store.scan(b""))) == 3000

    def test_reopened_store_has_everything(self, directory: Path) -> None:
        self.only_durable()
        for opening in range(3):
            store = self.open(directory)
            assert own(store.scan(b"")) == [(b"%d" % number, b"v") for number in range(opening)]
            put(store, (b"%d" % opening, b"v"))
            store.sync()
            store.close()

    def test_second_opener_is_told_that_it_is_locked(self, store: Store, directory: Path) -> None:
        self.only_durable()
        with pytest.raises(Locked, match=str(directory)):
            self.open(directory)
        put(store, (b"k", b"the first one goes on"))

    def test_new_store_says_its_format(self, store: Store) -> None:
        self.only_durable()
        assert store.get(FORMAT_KEY) == str(FORMAT).encode()

    def test_newer_format_is_refused_and_left_alone(self, directory: Path) -> None:
        self.only_durable()
        store = self.open(directory)
        put(store, (FORMAT_KEY, str(FORMAT + 1).encode()), (b"k", b"v"))
        store.sync()
        store.close()
        for _ in range(2):
            with pytest.raises(NewerFormat, match=f"format {FORMAT + 1}.*run the newer version"):
                self.open(directory)

    def test_kill_9_loses_nothing_synced_and_tears_no_batch(self, directory: Path) -> None:
        """A second process writes, syncs and only then prints a number; it is killed at random
        moments. Whatever it printed must be there, batches whole, none without those before it."""
        self.only_durable()
        seed = random.randrange(1 << 32)
        chance = random.Random(seed)
        acknowledged = -1
        for _ in range(self.kills):
            acknowledged = max(acknowledged, self._write_until_killed(directory, chance))
            store = self.open(directory)
            last = check_whole(store)
            assert last >= acknowledged, f"lost {acknowledged - last} synced batches, seed {seed}"
            store.close()

    def _write_until_killed(self, directory: Path, chance: random.Random) -> int:
        """The highest number that the writer acknowledged before it died."""
        command = [sys.executable, "-m", "registry.testing.storage_writer"]
        process = subprocess.Popen(
            [*command, self.engine, str(directory)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert process.stdout is not None
        with process:
            # At the n-th acknowledgement the writer is somewhere in the writes that follow it.
            lines = list(islice(process.stdout, chance.randint(1, 120)))
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        whole = [line for line in lines if line.endswith(b"\n")]
        assert whole, "the writer died by itself"
        return int(whole[-1])
