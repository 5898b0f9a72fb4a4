"""The in-memory engine: sorted pages of keys, copied when a snapshot still needs them.

One sorted list of all keys would make every insertion move half of them: quadratic for a bulk load.
So keys live in pages of bounded size, and a list of the pages' first keys finds the page:

    firsts   [b""        , b"k"       , b"t"  ]
    pages    [ a b c f h ,  k l m n q ,  t u v ]

An operation is two bisections and a move inside one page. A snapshot takes a copy of the two short
lists and shares the pages; the store remembers in which epoch a page was made, and a page from
before the latest snapshot is copied before it is changed. So a snapshot costs a pointer per page,
and a write after it the copy of the pages that it touches.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise
from weakref import WeakSet

from registry.errors import StorageError
from registry.storage.store import Batch, Staged

# Keys of one page before it is split. Around 500 the move inside a page (4 KB of pointers) costs as
# little as the bisections, and a million keys need a list of only a few thousand pages.
_PAGE_KEYS_MAX = 512


@dataclass(slots=True)
class _Page:
    """A run of neighbouring keys, ascending, and their values; `epoch` is when it was made."""

    epoch: int
    keys: list[bytes] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)


class _Pages:
    """All pages of one view, in key order. Invariant: `firsts[0] == b""` and
    `firsts[i] <= every key of pages[i] < firsts[i + 1]`; only the first page may be empty."""

    __slots__ = ("firsts", "pages")

    def __init__(self, firsts: list[bytes], pages: list[_Page]) -> None:
        self.firsts = firsts
        self.pages = pages

    def get(self, key: bytes) -> bytes | None:
        page = self.pages[bisect_right(self.firsts, key) - 1]
        at = bisect_left(page.keys, key)
        if at < len(page.keys) and page.keys[at] == key:
            return page.values[at]
        return None

    def scan(
        self, start: bytes, stop: bytes | None, reverse: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        low = bisect_right(self.firsts, start) - 1
        high = len(self.pages) if stop is None else bisect_left(self.firsts, stop)
        numbers = range(low, high)
        for number in reversed(numbers) if reverse else numbers:
            page = self.pages[number]
            begin = bisect_left(page.keys, start) if number == low else 0
            end = len(page.keys) if stop is None else bisect_left(page.keys, stop)
            pairs = zip(page.keys[begin:end], page.values[begin:end], strict=True)
            yield from reversed(list(pairs)) if reverse else pairs


class _View:
    """What the store and its snapshots have in common: reading, until closed."""

    __slots__ = ("__weakref__", "_view")

    def __init__(self, view: _Pages) -> None:
        self._view: _Pages | None = view

    def _open(self) -> _Pages:
        if self._view is None:
            raise StorageError("the in-memory store or snapshot is closed")
        return self._view

    def get(self, key: bytes) -> bytes | None:
        return self._open().get(key)

    def scan(
        self,
        start: bytes,
        stop: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[bytes, bytes]]:
        pairs = self._open().scan(start, stop, reverse)
        return pairs if limit is None else islice(pairs, limit)

    def close(self) -> None:
        self._view = None


class _StagedPairs:
    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[bytes, bytes]]) -> None:
        self.pairs = pairs

    def discard(self) -> None:
        self.pairs = []


class MemoryStore(_View):
    """A store that forgets everything when closed; `sync` has nothing to do."""

    __slots__ = ("_epoch", "_snapshots")

    def __init__(self) -> None:
        self._epoch = 0
        self._snapshots: WeakSet[_View] = WeakSet()
        super().__init__(_Pages([b""], [_Page(0)]))

    def write(self, batch: Batch) -> None:
        self._open()
        for kind, key, value in batch.operations:
            if kind == Batch.PUT:
                self._put(key, value)
            elif kind == Batch.DELETE:
                self._delete(key)
            else:
                self._delete_range(key, value)

    def sync(self) -> None:
        self._open()

    def stage(self, pairs: Iterable[tuple[bytes, bytes]]) -> Staged:
        staged = list(pairs)
        if any(low >= high for (low, _), (high, _) in pairwise(staged)):
            raise StorageError("the keys to be staged are not in order")
        return _StagedPairs(staged)

    def replace(self, before: Batch, staged: Staged) -> None:
        assert isinstance(staged, _StagedPairs)
        self.write(before)
        for key, value in staged.pairs:
            self._put(key, value)
        staged.discard()

    def snapshot(self) -> _View:
        view = self._open()
        self._epoch += 1
        snapshot = _View(_Pages(view.firsts[:], view.pages[:]))
        self._snapshots.add(snapshot)
        return snapshot

    def close(self) -> None:
        for snapshot in list(self._snapshots):
            snapshot.close()
        super().close()

    def _put(self, key: bytes, value: bytes) -> None:
        view = self._open()
        number = bisect_right(view.firsts, key) - 1
        page = self._writable(number)
        at = bisect_left(page.keys, key)
        if at < len(page.keys) and page.keys[at] == key:
            page.values[at] = value
            return
        page.keys.insert(at, key)
        page.values.insert(at, value)
        if len(page.keys) > _PAGE_KEYS_MAX:
            self._split(number, at)

    def _split(self, number: int, at: int) -> None:
        view = self._open()
        page = view.pages[number]
        # Keys that come in ascending order leave full pages behind instead of half-full ones.
        ascending = number == len(view.pages) - 1 and at == len(page.keys) - 1
        cut = at if ascending else len(page.keys) // 2
        upper = _Page(self._epoch, page.keys[cut:], page.values[cut:])
        del page.keys[cut:], page.values[cut:]
        view.firsts.insert(number + 1, upper.keys[0])
        view.pages.insert(number + 1, upper)

    def _delete(self, key: bytes) -> None:
        view = self._open()
        number = bisect_right(view.firsts, key) - 1
        keys = view.pages[number].keys
        at = bisect_left(keys, key)
        if at < len(keys) and keys[at] == key:
            self._cut(number, at, at + 1)

    def _delete_range(self, start: bytes, stop: bytes) -> None:
        if start >= stop:
            return
        view = self._open()
        low = bisect_right(view.firsts, start) - 1
        high = bisect_left(view.firsts, stop) - 1  # the last page that can hold a key of the range
        if high > low:
            self._cut(high, 0, bisect_left(view.pages[high].keys, stop))
            del view.firsts[low + 1 : high], view.pages[low + 1 : high]
        keys = view.pages[low].keys
        self._cut(low, bisect_left(keys, start), bisect_left(keys, stop))

    def _cut(self, number: int, begin: int, end: int) -> None:
        """Remove the keys at `begin <= position < end`, and the page if nothing is left in it."""
        if begin == end:
            return
        view = self._open()
        if number and end - begin == len(view.pages[number].keys):
            del view.firsts[number], view.pages[number]
            return
        page = self._writable(number)
        del page.keys[begin:end], page.values[begin:end]

    def _writable(self, number: int) -> _Page:
        """The page, as a copy of our own if a snapshot may still read the present one."""
        view = self._open()
        page = view.pages[number]
        if page.epoch != self._epoch:
            page = view.pages[number] = _Page(self._epoch, page.keys[:], page.values[:])
        return page
