"""A store with changes on top that are not yet written: what a batch of commands works on.

Commands of one committed batch must see each other's effects, and all of them must reach the
store as one write. The overlay answers reads from its changes first and from the store after, and
turns into a `Batch` at the end. A journal lets one command (or one operation of a transaction) be
undone without disturbing those before it: a refused command leaves no trace.

Most batches are point reads and writes, so writing costs two dictionary and list operations; the
order of the changed keys is only established when somebody scans.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator

from registry.storage.store import Batch, Reader

#: Up to this many new keys are put into the sorted list one by one (a memmove each); more are
#: appended and sorted at once, which costs one pass over a list that is mostly in order.
_INSERT_MAX = 16


class Overlay:
    """Reads fall through to `below`; writes stay here until `batch` takes them."""

    __slots__ = ("_below", "_changes", "_journal", "_keys", "_unsorted")

    def __init__(self, below: Reader) -> None:
        self._below = below
        self._changes: dict[bytes, bytes | None] = {}  # None is a deletion
        # The changed keys are those of `_keys` (sorted) and `_unsorted` (as they came) together.
        self._keys: list[bytes] = []
        self._unsorted: list[bytes] = []
        # What undoing takes, oldest first: key, whether it was changed before, and its value then.
        self._journal: list[tuple[bytes, bool, bytes | None]] = []

    def get(self, key: bytes) -> bytes | None:
        if key in self._changes:
            return self._changes[key]
        return self._below.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self._set(key, value)

    def delete(self, key: bytes) -> None:
        self._set(key, None)

    def _set(self, key: bytes, value: bytes | None) -> None:
        changes = self._changes
        if key in changes:
            self._journal.append((key, True, changes[key]))
        else:
            self._journal.append((key, False, None))
            self._unsorted.append(key)
        changes[key] = value

    def scan(
        self,
        start: bytes,
        stop: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[bytes, bytes]]:
        """As `Reader.scan`; changes made while the iterator is in use are not seen by it."""
        changed = self._changed_between(start, stop)
        if not changed:
            return self._below.scan(start, stop, reverse=reverse, limit=limit)
        if reverse:
            changed.reverse()
        values = [self._changes[key] for key in changed]
        merged = self._merged(start, stop, reverse, changed, values)
        return merged if limit is None else _first(merged, limit)

    def _changed_between(self, start: bytes, stop: bytes | None) -> list[bytes]:
        keys = self._sorted_keys()
        low = bisect.bisect_left(keys, start)
        high = len(keys) if stop is None else bisect.bisect_left(keys, stop, low)
        return keys[low:high]

    def _sorted_keys(self) -> list[bytes]:
        new = self._unsorted
        if len(new) <= _INSERT_MAX:
            for key in new:
                bisect.insort(self._keys, key)
        else:
            self._keys += new
            self._keys.sort()
        new.clear()
        return self._keys

    def _merged(
        self,
        start: bytes,
        stop: bytes | None,
        reverse: bool,
        changed: list[bytes],
        values: list[bytes | None],
    ) -> Iterator[tuple[bytes, bytes]]:
        at = 0
        for key, value in self._below.scan(start, stop, reverse=reverse):
            while at < len(changed) and (changed[at] > key if reverse else changed[at] < key):
                if (new := values[at]) is not None:
                    yield changed[at], new
                at += 1
            if at < len(changed) and changed[at] == key:
                continue  # the change replaces it and is given in its turn
            yield key, value
        while at < len(changed):
            if (new := values[at]) is not None:
                yield changed[at], new
            at += 1

    def savepoint(self) -> int:
        """A mark for `rollback`: all changes so far."""
        return len(self._journal)

    def rollback(self, mark: int) -> None:
        """Undo every change made since `savepoint` gave `mark`."""
        journal, changes = self._journal, self._changes
        while len(journal) > mark:
            key, was_changed, value = journal.pop()
            if was_changed:
                changes[key] = value
            else:
                del changes[key]
                self._forget(key)

    def _forget(self, key: bytes) -> None:
        # Undoing goes backwards, so a key that no scan has sorted in since is the last of the new.
        if self._unsorted and self._unsorted[-1] == key:
            self._unsorted.pop()
            return
        at = bisect.bisect_left(self._keys, key)
        if at < len(self._keys) and self._keys[at] == key:
            del self._keys[at]
        else:
            self._unsorted.remove(key)

    def changed_since_settled(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Each key that was changed since `settle`, in the order of its first change, with what it
        held before; None if it was not there."""
        seen = set()
        for key, was_changed, value in self._journal:
            if key not in seen:
                seen.add(key)
                yield key, value if was_changed else self._below.get(key)

    def settle(self) -> None:
        """Give up the possibility of undoing what was changed so far; frees the journal."""
        self._journal.clear()

    def batch(self) -> Batch:
        """All changes, one operation per key, in the order in which keys were first changed."""
        batch = Batch()
        for key, value in self._changes.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        return batch


def _first(pairs: Iterator[tuple[bytes, bytes]], limit: int) -> Iterator[tuple[bytes, bytes]]:
    for _, pair in zip(range(limit), pairs, strict=False):
        yield pair
