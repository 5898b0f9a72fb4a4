"""The overlay behaves like a sorted dictionary over the store, and can be taken back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from registry.state.overlay import Overlay
from registry.storage.memory import MemoryStore
from registry.storage.store import Batch

KEYS = st.binary(max_size=3)
PAIRS = st.dictionaries(KEYS, st.binary(max_size=2), max_size=12)
# A change: the key, and its new value or None for a deletion.
CHANGES = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=2)), max_size=40)
BOUNDS = st.tuples(KEYS, st.none() | KEYS, st.booleans(), st.none() | st.integers(0, 5))


def store_of(pairs: dict[bytes, bytes]) -> MemoryStore:
    store, batch = MemoryStore(), Batch()
    for key, value in pairs.items():
        batch.put(key, value)
    store.write(batch)
    return store


def change(overlay: Overlay, model: dict[bytes, bytes], key: bytes, value: bytes | None) -> None:
    if value is None:
        overlay.delete(key)
        model.pop(key, None)
    else:
        overlay.put(key, value)
        model[key] = value


def scan_model(
    model: dict[bytes, bytes], start: bytes, stop: bytes | None, reverse: bool, limit: int | None
) -> list[tuple[bytes, bytes]]:
    found = sorted(
        (key, value)
        for key, value in model.items()
        if start <= key and (stop is None or key < stop)
    )
    if reverse:
        found.reverse()
    return found if limit is None else found[:limit]


@given(PAIRS, CHANGES, st.lists(BOUNDS, min_size=1, max_size=4))
def test_reads_see_the_changes_over_the_store(
    pairs: dict[bytes, bytes],
    changes: list[tuple[bytes, bytes | None]],
    bounds: list[tuple[bytes, bytes | None, bool, int | None]],
) -> None:
    overlay, model = Overlay(store_of(pairs)), dict(pairs)
    for number, (key, value) in enumerate(changes):
        change(overlay, model, key, value)
        start, stop, reverse, limit = bounds[number % len(bounds)]
        if number % 3 == 0:  # scans in between establish the order early, others late
            found = list(overlay.scan(start, stop, reverse=reverse, limit=limit))
            assert found == scan_model(model, start, stop, reverse, limit)
    for start, stop, reverse, limit in bounds:
        found = list(overlay.scan(start, stop, reverse=reverse, limit=limit))
        assert found == scan_model(model, start, stop, reverse, limit)
    for key in {key for key, _ in changes} | set(pairs):
        assert overlay.get(key) == model.get(key)


@given(PAIRS, CHANGES, CHANGES, st.booleans())
def test_rolling_back_leaves_no_trace(
    pairs: dict[bytes, bytes],
    before: list[tuple[bytes, bytes | None]],
    undone: list[tuple[bytes, bytes | None]],
    scanned: bool,
) -> None:
    overlay, expected = Overlay(store_of(pairs)), Overlay(store_of(pairs))
    for key, value in before:
        change(overlay, {}, key, value)
        change(expected, {}, key, value)
    mark = overlay.savepoint()
    for key, value in undone:
        change(overlay, {}, key, value)
    if scanned:
        list(overlay.scan(b""))
    overlay.rollback(mark)
    assert list(overlay.scan(b"")) == list(expected.scan(b""))
    assert overlay.batch().operations == expected.batch().operations


@given(PAIRS, CHANGES)
def test_the_batch_makes_the_store_what_the_overlay_was(
    pairs: dict[bytes, bytes], changes: list[tuple[bytes, bytes | None]]
) -> None:
    store, model = store_of(pairs), dict(pairs)
    overlay = Overlay(store)
    for key, value in changes:
        change(overlay, model, key, value)
    store.write(overlay.batch())
    assert list(store.scan(b"")) == sorted(model.items())


def test_a_scan_does_not_see_what_is_changed_during_it() -> None:
    overlay = Overlay(store_of({b"a": b"1", b"b": b"2"}))
    overlay.put(b"c", b"3")
    found = []
    for key, _ in overlay.scan(b""):
        overlay.delete(key)
        overlay.put(key + b"+", b"new")
        found.append(key)
    assert found == [b"a", b"b", b"c"]


def test_settled_changes_stay_when_later_ones_are_rolled_back() -> None:
    overlay = Overlay(MemoryStore())
    overlay.put(b"a", b"1")
    overlay.settle()
    overlay.put(b"a", b"2")
    overlay.rollback(0)
    assert overlay.get(b"a") == b"1"


def test_many_changes_and_scans_do_not_cost_the_square() -> None:
    """A tree of 20,000 keys is deleted, then single commands with scans follow in the same batch:
    with a list kept sorted key by key, or sorted anew for each scan, this takes minutes."""
    overlay = Overlay(MemoryStore())
    for number in range(20_000):
        overlay.put(b"%08d" % (number * 7919 % 20_000), b"")
    for number in range(2_000):
        overlay.put(b"x%08d" % number, b"")
        assert next(overlay.scan(b"x", limit=1)) == (b"x00000000", b"")
