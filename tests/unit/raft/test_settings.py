"""Timing in ticks, and what of it the multiplier stretches."""

from __future__ import annotations

import pytest

from registry.raft.settings import RaftSettings


@pytest.mark.parametrize(
    ("multiplier", "election", "sticky", "heartbeat"),
    [(1, 20, 20, 2), (2, 40, 20, 4), (5, 100, 20, 5), (10, 200, 20, 5)],
)
def test_the_multiplier_stretches_patience_with_silence_alone(
    multiplier: int, election: int, sticky: int, heartbeat: int
) -> None:
    settings = RaftSettings.scaled(multiplier)
    assert settings.tick_ms == 50
    ticks = (settings.election_ticks, settings.sticky_ticks, settings.heartbeat_ticks)
    assert ticks == (election, sticky, heartbeat)


def test_a_short_timeout_is_stickiness_as_well() -> None:
    settings = RaftSettings(election_timeout_ms=100)
    assert (settings.election_ticks, settings.sticky_ticks, settings.heartbeat_ticks) == (20, 20, 2)
