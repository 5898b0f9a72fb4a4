"""The rules of the switch between namespaces."""

from __future__ import annotations

import pytest

from registry.testing.frame_relay import Link, Rule, Switch, mac_address

TO_ALL = b"\xff" * 6


def frame(receiver: bytes, text: bytes = b"") -> bytes:
    return receiver + mac_address(1) + text


def out(switch: Switch, now_s: float) -> list[int]:
    return [receiver for receiver, _ in switch.due(now_s)]


@pytest.mark.parametrize(
    ("receiver", "reached"),
    [
        pytest.param(mac_address(3), [3], id="one"),
        pytest.param(TO_ALL, [2, 3], id="broadcast"),
        pytest.param(b"\x33\x33\x00\x00\x00\x01", [2, 3], id="multicast"),
        pytest.param(mac_address(9), [], id="nobody"),
        pytest.param(mac_address(1), [], id="itself"),
    ],
)
def test_who_receives_a_frame(receiver: bytes, reached: list[int]) -> None:
    switch = Switch(3, seed=1)
    switch.accept(1, frame(receiver), 0.0)
    assert out(switch, 0.0) == reached


def test_a_cut_is_one_way_until_it_is_lifted() -> None:
    switch = Switch(2, seed=1)
    switch.set_rules([Rule(1, 2, Link(loss=1.0))])
    switch.accept(1, frame(mac_address(2)), 0.0)
    switch.accept(2, frame(mac_address(1)), 0.0)
    assert out(switch, 0.0) == [1]
    switch.set_rules([])
    switch.accept(1, frame(mac_address(2)), 0.0)
    assert out(switch, 0.0) == [2]
    assert (switch.counts.passed, switch.counts.dropped) == (2, 1)


def test_delayed_frames_wait_in_order() -> None:
    switch = Switch(2, seed=1)
    switch.set_rules([Rule(1, 2, Link(delay_ms=50.0))])
    assert switch.next_due_s() is None
    for text in (b"first", b"second"):
        switch.accept(1, frame(mac_address(2), text), 1.0)
    assert switch.next_due_s() == pytest.approx(1.05)
    assert out(switch, 1.04) == []
    assert [sent[12:] for _, sent in switch.due(1.06)] == [b"first", b"second"]


def test_jitter_stays_within_its_bounds() -> None:
    switch = Switch(2, seed=1)
    switch.set_rules([Rule(1, 2, Link(delay_ms=50.0, jitter_ms=20.0))])
    for _ in range(200):
        switch.accept(1, frame(mac_address(2)), 0.0)
    assert out(switch, 0.0299) == []
    early = len(out(switch, 0.05))
    assert 50 < early < 150
    assert len(out(switch, 0.0701)) == 200 - early


def test_losses_are_as_many_as_asked_and_repeat_with_the_seed() -> None:
    def fates(seed: int) -> list[bool]:
        switch = Switch(2, seed=seed)
        switch.set_rules([Rule(1, 2, Link(loss=0.2))])
        found = []
        for _ in range(2000):
            switch.accept(1, frame(mac_address(2)), 0.0)
            found.append(bool(out(switch, 0.0)))
        return found

    assert fates(7) == fates(7) != fates(8)
    assert 0.75 < sum(fates(7)) / 2000 < 0.85
