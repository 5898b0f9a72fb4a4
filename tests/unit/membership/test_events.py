"""User events: what is new."""

from __future__ import annotations

from registry.membership.events import EVENTS_PER_SLOT_MAX, BufferedEvent, EventBuffer

DEPLOY = BufferedEvent("deploy", b"42")


def test_an_event_is_new_once() -> None:
    buffer = EventBuffer(512)
    assert buffer.admit(3, DEPLOY)
    assert not buffer.admit(3, DEPLOY)
    assert buffer.clock.time == 4


def test_events_of_one_time_differ_by_name_or_payload() -> None:
    buffer = EventBuffer(512)
    others = [BufferedEvent("deploy", b"43"), BufferedEvent("restart", b"42")]
    assert all(buffer.admit(3, event) for event in [DEPLOY, *others])
    assert buffer.slots()[0].events == (DEPLOY, *others)


def test_what_is_a_ring_behind_the_clock_is_dropped() -> None:
    buffer = EventBuffer(8)
    assert buffer.admit(20, DEPLOY)  # the clock is at 21 now
    assert buffer.admit(13, DEPLOY)
    assert not buffer.admit(12, DEPLOY)


def test_a_young_ring_takes_any_time() -> None:
    buffer = EventBuffer(8)
    buffer.admit(7, DEPLOY)
    assert buffer.admit(1, DEPLOY)


def test_a_later_time_takes_over_the_slot() -> None:
    buffer = EventBuffer(8)
    buffer.admit(1, DEPLOY)
    assert buffer.admit(9, DEPLOY)
    assert [slot.l_time for slot in buffer.slots()] == [9]


def test_events_before_the_least_time_belong_to_another_life() -> None:
    buffer = EventBuffer(512)
    buffer.least_time = 5
    assert not buffer.admit(4, DEPLOY)
    assert buffer.admit(5, DEPLOY)


def test_a_flood_under_one_time_is_cut() -> None:
    buffer = EventBuffer(512)
    sent = [BufferedEvent("flood", bytes([n // 256, n % 256])) for n in range(2000)]
    assert sum(buffer.admit(1, event) for event in sent) == EVENTS_PER_SLOT_MAX
