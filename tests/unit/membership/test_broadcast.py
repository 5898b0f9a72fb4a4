"""The transmit-limited queue: what goes out first, how often, and what is replaced."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.membership.addresses import Address
from registry.membership.broadcast import TransmitQueue, transmit_limit
from registry.membership.seam import Recipient


def queue(*messages: tuple[str, bytes], mult: int = 1) -> TransmitQueue:
    made = TransmitQueue(mult, bytes_max=100)
    for name, data in messages:
        made.add(name, data)
    return made


@pytest.mark.parametrize(
    ("mult", "node_count", "limit"),
    [
        pytest.param(4, 1, 4, id="alone"),
        pytest.param(4, 9, 4, id="9"),
        pytest.param(4, 10, 8, id="10"),
        pytest.param(4, 99, 8, id="99"),
        pytest.param(4, 999, 12, id="999"),
        pytest.param(2, 4, 2, id="local"),
    ],
)
def test_how_often_each_goes_out(mult: int, node_count: int, limit: int) -> None:
    assert transmit_limit(mult, node_count) == limit


def test_it_goes_out_as_often_as_that_and_then_is_finished() -> None:
    waiting = TransmitQueue(2, bytes_max=100)
    broadcast = waiting.add("bob", b"news")
    assert waiting.take(50, 2, 4) == [b"news"]
    was_finished = broadcast.is_finished
    assert waiting.take(50, 2, 4) == [b"news"]
    assert (was_finished, broadcast.is_finished) == (False, True)
    assert waiting.take(50, 2, 4) == []
    assert len(waiting) == 0


def test_what_went_out_least_goes_first() -> None:
    waiting = queue(("a", b"first"), mult=4)
    waiting.take(10, 2, 4)
    waiting.add("b", b"new")
    assert waiting.take(8, 2, 4) == [b"new"]


def test_among_equals_the_longest_that_fits_then_the_newest() -> None:
    waiting = queue(("a", b"aaaaaa"), ("b", b"bb"), ("c", b"cccc"), ("d", b"dddd"))
    assert waiting.take(9, 2, 4) == [b"aaaaaa"]
    assert waiting.take(12, 2, 4) == [b"dddd", b"cccc"]


def test_what_does_not_fit_stays() -> None:
    waiting = queue(("a", b"aaaaaa"), ("b", b"bb"))
    assert waiting.take(7, 2, 4) == [b"bb"]
    assert waiting.take(1, 2, 4) == []
    assert waiting.take(-5, 2, 4) == []
    assert waiting.take(8, 2, 4) == [b"aaaaaa"]


def test_nothing_is_taken_twice_for_one_packet() -> None:
    assert queue(("a", b"aa"), mult=4).take(1000, 2, 4) == [b"aa"]


BOB, CAROL, DAVE = (("10.0.0.2", 1), ("10.0.0.3", 1), ("10.0.0.4", 1))


def to(address: Address, *hearers: Address) -> Recipient:
    return Recipient(address, frozenset(hearers))


def test_in_a_small_pool_it_goes_to_nobody_twice_before_it_went_to_all() -> None:
    waiting = queue(("a", b"news"), mult=2)
    everybody = (BOB, CAROL, DAVE)
    assert waiting.take(50, 2, 4, to(BOB, *everybody)) == [b"news"]
    assert waiting.take(50, 2, 4, to(BOB, *everybody)) == []
    assert waiting.take(50, 2, 4, to(CAROL, *everybody)) == [b"news"]
    assert len(waiting) == 1  # twice is the limit, but Dave has not heard it
    assert waiting.take(50, 2, 4, to(DAVE, *everybody)) == [b"news"]
    assert len(waiting) == 0


def test_in_a_small_pool_it_goes_out_as_often_as_elsewhere() -> None:
    """What went to all goes to anybody again: a packet may have been lost."""
    waiting = queue(("a", b"news"), mult=4)
    for _ in range(4):
        assert waiting.take(50, 2, 2, to(BOB, BOB)) == [b"news"]
    assert len(waiting) == 0


def test_who_was_told_leaves_the_room_to_other_news() -> None:
    waiting = queue(("a", b"aaaaaa"), mult=4)
    waiting.take(8, 2, 3, to(BOB, BOB, CAROL))
    waiting.add("b", b"bbbb")
    waiting.take(6, 2, 3, to(CAROL, BOB, CAROL))
    assert waiting.take(8, 2, 3, to(BOB, BOB, CAROL)) == [b"bbbb"]
    assert waiting.take(8, 2, 3, to(CAROL, BOB, CAROL)) == [b"aaaaaa"]


def test_it_does_not_wait_for_who_is_no_longer_there() -> None:
    waiting = queue(("a", b"news"), mult=2)
    waiting.take(50, 2, 3, to(BOB, BOB, CAROL))
    assert waiting.take(50, 2, 3, to(BOB, BOB)) == [b"news"]
    assert len(waiting) == 0


def test_news_replaces_news_about_the_same_node() -> None:
    waiting = TransmitQueue(4, bytes_max=100)
    old = waiting.add("bob", b"old")
    waiting.add("bob", b"newer")
    assert old.is_finished
    assert waiting.take(100, 2, 4) == [b"newer"]


def test_what_could_never_go_out_is_not_taken_in() -> None:
    waiting = TransmitQueue(4, bytes_max=10)
    assert waiting.add("bob", bytes(11)).is_finished
    assert len(waiting) == 0
    # It says what the older one got wrong, so that one goes all the same.
    waiting.add("bob", bytes(10))
    waiting.add("bob", bytes(11))
    assert len(waiting) == 0


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 30)), max_size=40),
    st.lists(st.integers(0, 60), max_size=40),
)
def test_it_takes_what_a_simple_queue_takes(news: list[tuple[int, int]], limits: list[int]) -> None:
    """Against the rule as the sheet states it, which looks at everything each time."""
    waiting = TransmitQueue(2, bytes_max=30)
    simple: dict[str, tuple[int, bytes, int]] = {}  # transmits, data, number
    for number, (node, length) in enumerate(news):
        data = bytes([number]) * length
        waiting.add(str(node), data)
        simple[str(node)] = (0, data, number)
    for limit in limits:
        expected = []
        room = limit
        for name, (transmits, data, number) in sorted(
            simple.items(), key=lambda item: (item[1][0], -len(item[1][1]), -item[1][2])
        ):
            if len(data) + 2 <= room:
                room -= len(data) + 2
                expected.append(data)
                simple[name] = (transmits + 1, data, number)
        simple = {name: entry for name, entry in simple.items() if entry[0] < 2}
        assert waiting.take(limit, 2, 4) == expected
        assert len(waiting) == len(simple)
