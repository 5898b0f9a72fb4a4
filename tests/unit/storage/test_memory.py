"""The in-memory engine: the contract, and the sharing of pages with snapshots."""

from __future__ import annotations

import random
from pathlib import Path

from registry.storage import Batch, Store
from registry.storage.memory import MemoryStore
from registry.testing.storage import StoreContract, put


class TestMemoryStore(StoreContract):
    durable = False

    def open(self, directory: Path) -> Store:
        return MemoryStore()


def test_snapshot_copies_only_the_pages_that_change() -> None:
    store = MemoryStore()
    put(store, *((b"%06d" % number, b"v") for number in range(10_000)))
    snapshot = store.snapshot()
    put(store, (b"000500", b"changed"))
    mine, shared = store._open().pages, snapshot._open().pages
    assert sum(own is not other for own, other in zip(mine, shared, strict=True)) == 1


def test_pages_stay_bounded_sorted_and_in_step_with_their_first_keys() -> None:
    store = MemoryStore()
    rng = random.Random(7)
    for _ in range(300):
        batch = Batch()
        for _ in range(100):
            batch.put(b"%05d" % rng.randrange(20_000), b"v")
        start = rng.randrange(20_000)
        batch.delete_range(b"%05d" % start, b"%05d" % (start + rng.randrange(200)))
        store.write(batch)
        if rng.random() < 0.1:
            store.snapshot().close()
    view = store._open()
    assert view.firsts[0] == b""
    assert view.firsts == sorted(view.firsts)
    for number, page in enumerate(view.pages):
        assert len(page.keys) == len(page.values) <= 512
        assert page.keys == sorted(page.keys)
        assert page.keys or number == 0
        assert all(view.firsts[number] <= key for key in page.keys)
        assert all(key < first for key in page.keys for first in view.firsts[number + 1 :][:1])


def test_ascending_keys_leave_full_pages() -> None:
    store = MemoryStore()
    put(store, *((b"%06d" % number, b"v") for number in range(10_240)))
    assert len(store._open().pages) <= 21
