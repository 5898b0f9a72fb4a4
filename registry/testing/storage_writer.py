"""A process that writes numbered batches into a store until it is killed: for `StoreContract`.

    python -m registry.testing.storage_writer ENGINE DIRECTORY

Batch n puts `a<n>` and `b<n>`, deletes `c<n - 1>` and puts `c<n>`, and sets `last` to n; the values
grow and shrink so that log records span blocks. Writes go on while a thread syncs; a number is
printed when a sync that began after its write has returned.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from functools import reduce
from pathlib import Path
from typing import Any

from registry.storage.store import Batch, Reader, Store

# How far the writer may run ahead of the acknowledged: enough that a kill finds unsynced batches.
_AHEAD_MAX = 64


def value_of(number: int) -> bytes:
    return b"%d," % number * (number * 37 % 400 + 1)


def numbered_batch(number: int) -> Batch:
    batch = Batch()
    batch.put(b"a%08d" % number, value_of(number))
    batch.put(b"b%08d" % number, value_of(number))
    if number:
        batch.delete(b"c%08d" % (number - 1))
    batch.put(b"c%08d" % number, b"")
    batch.put(b"last", b"%d" % number)
    return batch


def check_whole(store: Reader) -> int:
    """The number of the last batch, -1 if none; AssertionError unless just 0 … last are there."""
    last = int(store.get(b"last") or -1)
    numbers = range(last + 1)
    for table in (b"a", b"b"):
        found = store.scan(table, bytes([table[0] + 1]))
        for number, (key, value) in zip(numbers, found, strict=True):
            assert key == table + b"%08d" % number, f"{key!r} where batch {number} should be"
            assert value == value_of(number), f"batch {number} has the wrong value"
    left = [b"c%08d" % last] if last >= 0 else []
    assert [key for key, _ in store.scan(b"c", b"d")] == left, "a batch was applied in part"
    return last


class Writer:
    """Writes in the caller's thread, syncs and acknowledges in another one."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.written = self.synced = check_whole(store)
        self.changed = threading.Condition()

    def run(self) -> None:
        """Write until killed."""
        threading.Thread(target=self.acknowledge, daemon=True).start()
        while True:
            self.store.write(numbered_batch(self.written + 1))
            with self.changed:
                self.written += 1
                self.changed.notify_all()
                self.changed.wait_for(lambda: self.written - self.synced < _AHEAD_MAX)

    def acknowledge(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.written > self.synced)
                covered = self.written
            self.store.sync()
            os.write(1, b"%d\n" % covered)
            with self.changed:
                self.synced = covered
                self.changed.notify_all()


def main() -> None:
    module, _, path = sys.argv[1].partition(":")
    opened: Any = reduce(getattr, path.split("."), importlib.import_module(module))
    Writer(opened(Path(sys.argv[2]))).run()


if __name__ == "__main__":
    main()
