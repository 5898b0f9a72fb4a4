"""A store with changes on top that are not yet written: what a batch of commands works on.

Commands of one committed batch must see each other's effects, and all of them must reach the
store as one write. The overlay answers reads from its changes first and from the store after, and
turns into a `Batch` at the end. Dropping it drops the changes: a refused command leaves no trace.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator

from registry.storage.store import Batch, Reader


class Overlay:
    """Reads fall through to `below`; writes stay here until `batch` takes them."""

    __slots__ = ("_below", "_changes", "_keys")

    def __init__(self, below: Reader) -> None:
        self._below = below
        self._changes: dict[bytes, bytes | None] = {}  # None is a deletion
        self._keys: list[bytes] = []  # the changed keys, sorted, for scans

    def get(self, key: bytes) -> bytes | None:
        if key in self._changes:
            return self._changes[key]
        return self._below.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self._set(key, value)

    def delete(self, key: bytes) -> None:
        self._set(key, None)

    def _set(self, key: bytes, value: bytes | None) -> None:
        if key not in self._changes:
            bisect.insort(self._keys, key)
        self._changes[key] = value

    def scan(
        self,
        start: bytes,
        stop: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[bytes, bytes]]:
        """As `Reader.scan`; changes made while the iterator is in use are not seen by it."""
        low = bisect.bisect_left(self._keys, start)
        high = len(self._keys) if stop is None else bisect.bisect_left(self._keys, stop)
        changed = self._keys[low:high]
        if not changed:
            yield from self._below.scan(start, stop, reverse=reverse, limit=limit)
            return
        values = [self._changes[key] for key in changed]
        if reverse:
            changed.reverse()
            values.reverse()
        for count, pair in enumerate(self._merged(start, stop, reverse, changed, values)):
            if limit is not None and count >= limit:
                return
            yield pair

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

    def fork(self) -> Overlay:
        """An overlay of this one; `merge` brings its changes down, dropping it undoes them."""
        return Overlay(self)

    def merge(self, other: Overlay) -> None:
        for key in other._keys:
            self._set(key, other._changes[key])

    def batch(self) -> Batch:
        """All changes, in key order."""
        batch = Batch()
        for key in self._keys:
            value = self._changes[key]
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        return batch
