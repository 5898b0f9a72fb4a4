"""Whole pools of real SWIM cores on a virtual clock: what a pool as a whole must promise.

Each run is decided by its seed, which a failure prints. `REGISTRY_MEMBERSHIP_LONG=1` (`make
membership-campaign`) runs the large forms: 200 nodes for an hour.
"""

from __future__ import annotations

import gc
import os
import random
import statistics
from functools import partial

import msgspec
import pytest

from registry.membership.config import SwimConfig
from registry.membership.seam import NodeState
from registry.membership.serf_values import MemberStatus
from registry.testing.swim import SimulatedNode, SwimPool

LONG = bool(os.environ.get("REGISTRY_MEMBERSHIP_LONG"))

SECOND_MS = 1000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS

#: The code stream is tested elsewhere; here it would only cost time.
LAN = msgspec.structs.replace(SwimConfig.lan(), compresses=False)
LOCAL = msgspec.structs.replace(SwimConfig.local(), compresses=False)
CONSUL_DEV = msgspec.structs.replace(SwimConfig.consul_dev(), compresses=False)


def grown(seed: int, count: int, config: SwimConfig) -> SwimPool:
    """A pool in which everybody knows everybody."""
    print(f"seed={seed}")
    pool = SwimPool(seed, config=config)
    pool.grow(count)
    names = set(pool.nodes)
    assert pool.run(MINUTE_MS, lambda: all(alive_in(node) == names for node in pool.running))
    return pool


def alive_in(node: SimulatedNode) -> set[str]:
    """Who counts as a live member in this node's view: suspects still do."""
    return {
        other.name
        for other in node.core.nodes
        if other.state in (NodeState.ALIVE, NodeState.SUSPECT)
    }


def everybody_alive(pool: SwimPool) -> bool:
    names = {node.name for node in pool.running}
    return all(alive_in(node) == names for node in pool.running)


def leaves(pool: SwimPool) -> list[tuple[str, str]]:
    """Who was declared dead, and by whom, since the pool began."""
    return [
        (node.name, name)
        for node in pool.nodes.values()
        for kind, name in node.delegate.events
        if kind == "leave"
    ]


@pytest.mark.parametrize(
    ("config", "failures"),
    [
        pytest.param(LAN, 100 if LONG else 4, id="lan"),
        pytest.param(LOCAL, 100 if LONG else 1, id="local"),
        pytest.param(CONSUL_DEV, 100 if LONG else 1, id="consul-dev"),
    ],
)
@pytest.mark.timeout(3600)
def test_a_failed_node_of_200_is_dead_to_all_within_10_s(config: SwimConfig, failures: int) -> None:
    """One after another fails, at any moment, and each is back before the next does."""
    pool = grown(1, 200, config)
    rng = random.Random(1)
    taken_s = []
    for _ in range(failures):
        pool.run(rng.uniform(0, 2 * SECOND_MS))
        victim = rng.choice(list(pool.nodes))
        pool.stop(victim)
        failed_ms = pool.now_ms
        assert pool.run(10 * SECOND_MS, partial(nobody_counts, pool, victim))
        taken_s.append((pool.now_ms - failed_ms) / SECOND_MS)
        assert {name for _, name in leaves(pool)} == {victim}, "nobody else was declared dead"
        come_back(pool, victim)
    print(f"dead to all after median={statistics.median(taken_s):.1f} s max={max(taken_s):.1f} s")


def nobody_counts(pool: SwimPool, name: str) -> bool:
    """Whether no member list shows it as alive."""
    live = (NodeState.ALIVE, NodeState.SUSPECT)
    return not any(node.sees(name) in live for node in pool.running)


def come_back(pool: SwimPool, name: str) -> None:
    restarted = pool.add(name)
    peer = next(node for node in pool.running if node is not restarted)
    pool.ask(restarted, lambda core: core.join(peer.address))
    assert pool.run(MINUTE_MS, lambda: everybody_alive(pool))
    for node in pool.running:
        node.delegate.events.clear()


def test_a_member_that_stands_still_for_a_few_seconds_is_not_declared_dead() -> None:
    """However many accuse it: a pool of 80 waits as long for it as a pool of 56 does."""
    pool = grown(2, 80, LAN)
    for number in range(20 if LONG else 5):
        name = f"n{number}"
        pool.block(name)
        pool.run(7 * SECOND_MS)
        assert any(node.sees(name) is NodeState.SUSPECT for node in pool.running)
        pool.unblock(name)
        assert pool.run(10 * SECOND_MS, lambda: everybody_trusted(pool))
    assert leaves(pool) == []


def everybody_trusted(pool: SwimPool) -> bool:
    return all(other.state is NodeState.ALIVE for node in pool.running for other in node.core.nodes)


@pytest.mark.timeout(14400)
@pytest.mark.parametrize("stream_ping", [True, False], ids=["tcp-fallback", "udp-alone"])
def test_loss_of_a_fifth_declares_no_live_node_dead_for_good(stream_ping: bool) -> None:
    """For an hour; without the fallback by TCP suspicions are common, and contradicted."""
    config = msgspec.structs.replace(LAN, stream_ping=stream_ping)
    count, minutes = (200, 60) if LONG else (12, 15)
    pool = grown(4, count, config)
    gc.freeze()  # to walk over the whole pool again and again takes a quarter of the time
    pool.loss = 0.2
    for minute in range(minutes):
        # Whoever was declared dead by mistake is back before a minute is over, under loss.
        pool.run(MINUTE_MS)
        assert pool.run(MINUTE_MS, lambda: everybody_alive(pool)), f"after {minute} minutes"
        if LONG:
            print(
                f"minute={minute} packets={pool.packets} wrong_deaths={len(leaves(pool))}",
                flush=True,
            )
    gc.unfreeze()
    refutations = sum(own_incarnation(node) - 1 for node in pool.running)
    wrong = leaves(pool)
    print(
        f"minutes={pool.now_ms / MINUTE_MS:.0f} packets={pool.packets} refutations={refutations}"
        f" wrong_deaths={len(wrong)} of_nodes={len({name for _, name in wrong})}"
    )
    pool.loss = 0.0
    assert pool.run(MINUTE_MS, lambda: everybody_trusted(pool)), "nothing is left of it"
    assert (refutations == 0) == stream_ping, "the test must have put the pool to the test"


def own_incarnation(node: SimulatedNode) -> int:
    myself = node.core.node(node.name)
    assert myself is not None
    return myself.incarnation


def test_halves_that_forgot_each_other_heal_when_one_member_rejoins() -> None:
    """After a long partition the dead are dropped; the layer above remembers, and tries them."""
    pool = grown(6, 40, LAN)
    names = list(pool.nodes)
    half = set(names[:20])
    pool.split(half, set(names) - half)
    pool.run(3 * MINUTE_MS)
    assert all(len(node.core.nodes) == 20 for node in pool.running)
    pool.heal()
    pool.ask(pool.nodes["n0"], lambda core: core.rejoin(pool.nodes["n30"].address))
    assert pool.run(MINUTE_MS, lambda: everybody_alive(pool))


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seconds", [40, 60, 120, 300])
def test_a_partition_of_half_heals_within_60_s(seconds: int) -> None:
    """Whether the lower layer has forgotten the other half, holds it dead, or some of each.

    By itself it heals small pools at most: it takes the layer above, which tries failed members.
    """
    for seed in range(10, 20 if LONG else 11):
        print(f"seed={seed} seconds={seconds}")
        assert heals_after_s(seed, 200 if LONG else 40, seconds * SECOND_MS) <= 60


def heals_after_s(seed: int, count: int, partition_ms: int) -> float:
    """After how long everybody lists everybody again, and nobody is suspected."""
    pool = SwimPool(seed, config=LAN, with_serf=True)
    pool.grow(count)
    names = set(pool.nodes)

    def is_whole() -> bool:
        return all(members_of(node) == names for node in pool.running) and everybody_trusted(pool)

    assert pool.run(MINUTE_MS, is_whole)
    half = {f"n{number}" for number in range(count // 2)}
    pool.split(half, names - half)
    pool.run(partition_ms)
    assert all(len(members_of(node)) == count // 2 for node in pool.running)
    pool.heal()
    healed_ms = pool.now_ms
    assert pool.run(2 * MINUTE_MS, is_whole)
    taken_s = (pool.now_ms - healed_ms) / SECOND_MS
    print(f"whole again after {taken_s:.1f} s")
    # All the way: it stays like this.
    pool.run(30 * SECOND_MS)
    assert is_whole()
    return taken_s


def members_of(node: SimulatedNode) -> set[str]:
    """Whom the Serf layer lists as alive."""
    assert node.serf is not None
    return {m.name for m in node.serf.members if m.status is MemberStatus.ALIVE}


def test_a_node_that_leaves_is_left_everywhere_and_not_dead() -> None:
    pool = grown(7, 50, LAN)
    pool.ask(pool.nodes["n7"], lambda core: core.leave())
    others = [node for node in pool.running if node.name != "n7"]
    assert pool.run(
        10 * SECOND_MS, lambda: all(node.sees("n7") is NodeState.LEFT for node in others)
    )


def test_a_node_that_restarts_is_back_under_a_greater_incarnation() -> None:
    """It begins at incarnation 1, which the pool has already seen: it learns so as it joins."""
    pool = grown(8, 20, LAN)
    pool.stop("n7")
    others = [node for node in pool.running if node.name != "n7"]
    assert pool.run(
        MINUTE_MS, lambda: all(node.sees("n7") in (NodeState.DEAD, None) for node in others)
    )
    restarted = pool.add("n7")
    pool.ask(restarted, lambda core: core.join(pool.nodes["n3"].address))
    assert pool.run(MINUTE_MS, lambda: everybody_alive(pool))


def test_the_same_seed_gives_the_same_run() -> None:
    def run() -> tuple[int, list[list[tuple[str, str]]]]:
        pool = grown(9, 15, LAN)
        pool.loss = 0.3
        pool.run(20 * SECOND_MS)
        return pool.packets, [node.delegate.events for node in pool.nodes.values()]

    assert run() == run()
