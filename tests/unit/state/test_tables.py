"""Typed tables: records under ordered composite keys."""

from __future__ import annotations

import msgspec
import pytest

from registry.state.overlay import Overlay
from registry.state.tables import Table
from registry.storage.memory import MemoryStore


class Pet(msgspec.Struct, frozen=True):
    name: str
    age: int = 0


@pytest.fixture
def state() -> Overlay:
    return Overlay(MemoryStore())


def test_a_record_is_found_under_its_parts(state: Overlay) -> None:
    table = Table("pets", Pet)
    table.put(state, Pet("rex", 3), "ann", "dog")
    assert table.get(state, "ann", "dog") == Pet("rex", 3)
    assert table.get(state, "ann") is None
    table.delete(state, "ann", "dog")
    assert table.get(state, "ann", "dog") is None


def test_a_scan_takes_whole_parts_in_key_order(state: Overlay) -> None:
    table = Table("pets", Pet)
    for owner, kind in [("bob", "cat"), ("ann", "dog"), ("ann", "cat"), ("anna", "ant")]:
        table.put(state, Pet(f"{owner}'s {kind}"), owner, kind)
    assert [pet.name for pet in table.scan(state, "ann")] == ["ann's cat", "ann's dog"]
    assert [pet.name for pet in table.scan(state, reverse=True, limit=2)] == [
        "bob's cat",
        "anna's ant",
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(("a", "bc"), ("ab", "c"), id="cut elsewhere"),
        pytest.param(("a\x00", "b"), ("a", "\x00b"), id="zero bytes"),
        pytest.param(("", "a"), ("a", ""), id="empty parts"),
    ],
)
def test_no_two_keys_collide(
    state: Overlay, first: tuple[str, str], second: tuple[str, str]
) -> None:
    table = Table("pets", Pet)
    table.put(state, Pet("one"), *first)
    table.put(state, Pet("two"), *second)
    assert table.get(state, *first) == Pet("one")
    assert table.get(state, *second) == Pet("two")


def test_tables_do_not_see_each_other(state: Overlay) -> None:
    Table("pets", Pet).put(state, Pet("rex"), "a")
    assert list(Table("pet", Pet).scan(state)) == []
    assert list(Table("pets2", Pet).scan(state)) == []


def test_a_raw_tail_is_scanned_by_any_prefix_of_it(state: Overlay) -> None:
    table = Table("paths", Pet, raw_tail=True)
    for path in ("a/b", "a/c", "ab"):
        table.put(state, Pet(path), path)
    assert [pet.name for pet in table.scan(state, "a/")] == ["a/b", "a/c"]
    assert [key for key, _ in table.scan_raw(state, "a")] == [b"a/b", b"a/c", b"ab"]
