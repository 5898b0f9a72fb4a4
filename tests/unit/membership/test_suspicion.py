"""Lifeguard's timers and score, against the numbers of the sheet."""

from __future__ import annotations

import pytest

from registry.membership.awareness import Awareness
from registry.membership.config import SwimConfig
from registry.membership.suspicion import Suspicion, SuspicionLimits


@pytest.mark.parametrize(
    ("config", "node_count", "expected"),
    [
        pytest.param(SwimConfig.local(), 4, (1, 3000, 18_000, 3000), id="local-4"),
        pytest.param(SwimConfig.local(), 2, (0, 3000, 18_000, 3000), id="local-2"),
        pytest.param(SwimConfig.local(), 200, (1, 6903, 41_418, 5250), id="local-200"),
        pytest.param(SwimConfig.lan(), 3, (0, 4000, 24_000, 4000), id="lan-3"),
        pytest.param(SwimConfig.lan(), 4, (2, 4000, 24_000, 4000), id="lan-4"),
        pytest.param(SwimConfig.lan(), 10, (2, 4000, 24_000, 4000), id="lan-10"),
        pytest.param(SwimConfig.lan(), 55, (2, 6960, 41_760, 6960), id="lan-55"),
        pytest.param(SwimConfig.lan(), 100, (2, 8000, 48_000, 7000), id="lan-100"),
        pytest.param(SwimConfig.lan(), 200, (2, 9204, 55_224, 7000), id="lan-200"),
        pytest.param(SwimConfig.lan(), 1000, (2, 12_000, 72_000, 7000), id="lan-1000"),
        pytest.param(SwimConfig.lan(), 100_000, (2, 20_000, 120_000, 7200), id="lan-100000"),
        pytest.param(SwimConfig.wan(), 10, (4, 30_000, 180_000, 30_000), id="wan-10"),
        pytest.param(SwimConfig.wan(), 100, (4, 60_000, 360_000, 52_500), id="wan-100"),
        pytest.param(SwimConfig.consul_dev(), 10, (1, 300, 1800, 300), id="dev-10"),
        # Its probe interval is as short as its gossip interval: nothing is left to save.
        pytest.param(SwimConfig.consul_dev(), 200, (1, 690, 4140, 690), id="dev-200"),
    ],
)
def test_limits(config: SwimConfig, node_count: int, expected: tuple[int, int, int, int]) -> None:
    assert SuspicionLimits.of(config, node_count) == SuspicionLimits(*expected)


@pytest.mark.parametrize(
    ("confirmations", "confirmed", "timeout_ms"),
    [
        pytest.param(2, 0, 54_000, id="nobody-else"),
        pytest.param(2, 1, 25_608, id="one-of-two"),
        pytest.param(2, 2, 9000, id="both"),
        pytest.param(2, 3, 8000, id="one-more"),
        pytest.param(2, 5, 6000, id="certain"),
        pytest.param(0, 0, 9000, id="nobody-to-wait-for"),
    ],
)
def test_each_accuser_shortens_the_wait(
    confirmations: int, confirmed: int, timeout_ms: int
) -> None:
    limits = SuspicionLimits(confirmations, 9000, 54_000, 6000)
    assert limits.timeout_ms(confirmed) == timeout_ms


def test_who_counts_as_an_accuser() -> None:
    suspicion = Suspicion("ann", 1000, SuspicionLimits(2, 4000, 24_000, 4000))
    assert suspicion.deadline_ms == 25_000
    assert not suspicion.confirm("ann"), "the first accuser does not count again"
    assert suspicion.confirm("bob")
    assert not suspicion.confirm("bob"), "nor does any other"
    assert suspicion.confirm("cid")
    assert not suspicion.confirm("dan"), "two are enough"
    assert suspicion.deadline_ms == 5000


def test_in_a_large_pool_three_more_accusers_count() -> None:
    suspicion = Suspicion("ann", 0, SuspicionLimits(2, 9000, 54_000, 6000))
    deadlines = []
    for accuser in ("bob", "cid", "dan", "eve", "fay"):
        assert suspicion.confirm(accuser)
        deadlines.append(suspicion.deadline_ms)
    assert deadlines == [25_608, 9000, 8000, 7000, 6000]
    assert not suspicion.confirm("gus"), "more make it no more certain"


def test_the_score_stays_within_its_bounds() -> None:
    awareness = Awareness(8)
    awareness.change(-1)
    assert (awareness.score, awareness.scale(1000)) == (0, 1000)
    awareness.change(3)
    assert (awareness.score, awareness.scale(1000)) == (3, 4000)
    awareness.change(50)
    assert (awareness.score, awareness.scale(1000)) == (7, 8000)


def test_the_profiles_of_the_sheet() -> None:
    lan, wan, local, dev = (
        SwimConfig.lan(),
        SwimConfig.wan(),
        SwimConfig.local(),
        SwimConfig.consul_dev(),
    )

    def row(name: str) -> list[int]:
        return [getattr(config, name) for config in (lan, wan, local, dev)]

    assert row("probe_interval_ms") == [1000, 5000, 1000, 100]
    assert row("probe_timeout_ms") == [500, 3000, 200, 100]
    assert row("indirect_checks") == [3, 3, 1, 3]
    assert row("suspicion_mult") == [4, 6, 3, 3]
    assert row("suspicion_max_timeout_mult") == [6, 6, 6, 6]
    assert row("awareness_max") == [8, 8, 8, 8]
    assert row("gossip_interval_ms") == [200, 500, 100, 100]
    assert row("gossip_nodes") == [3, 4, 3, 3]
    assert row("gossip_to_the_dead_ms") == [30_000, 60_000, 15_000, 30_000]
    assert row("retransmit_mult") == [4, 4, 2, 4]
    assert row("push_pull_interval_ms") == [30_000, 60_000, 15_000, 30_000]
    assert row("stream_timeout_ms") == [10_000, 30_000, 1000, 10_000]
    assert row("dead_node_reclaim_ms") == [0, 0, 0, 30_000]
    assert SwimConfig.consul_lan().dead_node_reclaim_ms == 30_000
    assert SwimConfig.consul_wan().gossip_nodes == 3
