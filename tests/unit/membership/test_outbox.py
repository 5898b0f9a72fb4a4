"""What rides along in which packet, and how often."""

from __future__ import annotations

import pytest

from registry.membership.outbox import DEPTH_MAX, Outbox
from registry.membership.seam import Recipient


@pytest.mark.parametrize(
    ("members", "transmits"),
    [(1, 4), (4, 4), (9, 4), (10, 8), (99, 8), (100, 12)],
)
def test_a_message_goes_out_a_limited_number_of_times(members: int, transmits: int) -> None:
    outbox = Outbox(4)
    outgoing = outbox.add(b"news")
    finished = []
    for _ in range(transmits):
        assert outbox.take(1400, 3, members) == [b"news"]
        finished.append(outgoing.is_finished)
    assert finished == [False] * (transmits - 1) + [True]
    assert outbox.take(1400, 3, members) == []


def test_in_a_small_pool_it_goes_to_nobody_twice_before_it_went_to_all() -> None:
    addresses = [(f"10.0.0.{number}", 7946) for number in (2, 3, 4)]
    recipients = [Recipient(address, frozenset(addresses)) for address in addresses]
    outbox = Outbox(2)
    outgoing = outbox.add(b"news")
    first, *others = recipients
    assert outbox.take(1400, 3, 4, first) == [b"news"]
    assert outbox.take(1400, 3, 4, first) == []  # a ping, say, shortly after gossip
    finished = []
    for recipient in others:
        assert outbox.take(1400, 3, 4, recipient) == [b"news"]
        finished.append(outgoing.is_finished)
    assert finished == [False, True]
    assert len(outbox) == 0


def test_the_least_told_go_first_then_the_longest_then_the_newest() -> None:
    outbox = Outbox(4)
    outbox.add(b"told already")
    outbox.take(1400, 3, 9)
    for data in (b"short 1", b"longer 1", b"short 2"):
        outbox.add(data)
    assert outbox.take(1400, 3, 9) == [b"longer 1", b"short 2", b"short 1", b"told already"]


def test_what_does_not_fit_waits_and_lets_others_pass() -> None:
    outbox = Outbox(4)
    outbox.add(b"x" * 100)
    outbox.add(b"y" * 10)
    assert outbox.take(50, 3, 9) == [b"y" * 10]
    assert outbox.take(103, 3, 9) == [b"x" * 100]


def test_overhead_counts() -> None:
    outbox = Outbox(4)
    outbox.add(b"12345")
    assert outbox.take(7, 3, 9) == []
    assert outbox.take(8, 3, 9) == [b"12345"]


def test_too_many_are_cut_from_the_oldest() -> None:
    outbox = Outbox(4)
    first = outbox.add(b"0")
    for _ in range(DEPTH_MAX):
        outbox.add(b"1")
    assert first.is_finished
    assert len(outbox) == DEPTH_MAX
