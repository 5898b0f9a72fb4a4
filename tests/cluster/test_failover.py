"""A cluster of real agents under load: how soon it is there, and what its users notice of a loss.

Three servers and a client agent, asked over HTTP by writers that turn to another agent when one
fails them. `REGISTRY_FAILOVER_ROUNDS` sets the number of kills (2 here), `REGISTRY_FAILOVER_SEED`
replays their moments, `REGISTRY_ROLLING_ROUNDS` is how often each agent is restarted in turn (1
here). `REGISTRY_FAILOVER_MULTIPLIER` is the `raft_multiplier` of the load tests, its default here.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from registry.testing.agent_cluster import AgentCluster, alive_seen_by
from registry.testing.kv_load import KvLoad
from registry.testing.process import AgentProcess, wait_until
from registry.testing.seeds import seed_from

pytestmark = pytest.mark.alone

KILLS = int(os.environ.get("REGISTRY_FAILOVER_ROUNDS", "2"))
RESTARTS = int(os.environ.get("REGISTRY_ROLLING_ROUNDS", "1"))
MULTIPLIER = int(os.environ.get("REGISTRY_FAILOVER_MULTIPLIER", "5"))
SEED = seed_from("REGISTRY_FAILOVER_SEED")
WRITERS = 64

Say = Callable[[str], None]

#: In seconds.
MEMBERS_AGREE_MAX = 5.0
ELECTION_MAX = 3.0
NEXT_WRITE_MAX = 5.0
NEXT_WRITE_MEDIAN_MAX = 1.5
#: A median of fewer kills than this says more of the machine than of the cluster.
KILLS_FOR_MEDIAN = 10
#: A start is measured until it is quick enough, at most so often: other work on the machine only
#: makes it slower.
STARTS_MAX = 3
#: A client's request may take so long, all its tries together.
CURED_WITHIN = 10.0


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Print a figure although the test passes."""

    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}", flush=True)

    return say


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentCluster]:
    timing = {"performance": {"raft_multiplier": MULTIPLIER}}
    with AgentCluster(tmp_path_factory.mktemp("cluster"), clients=1, config=timing) as cluster:
        yield cluster


def test_four_agents_agree_on_the_members_soon_after_their_start(tmp_path: Path, say: Say) -> None:
    took = _quickest(_members_agree_after, tmp_path, MEMBERS_AGREE_MAX)
    say(f"start: four agents agree on the members after {took:.2f} s")
    assert took < MEMBERS_AGREE_MAX


def test_three_servers_elect_a_leader_soon_after_the_third_joins(tmp_path: Path, say: Say) -> None:
    took = _quickest(_leader_elected_after, tmp_path, ELECTION_MAX)
    say(f"start: a leader {took:.2f} s after the third server's join")
    assert took < ELECTION_MAX


def _quickest(start: Callable[[Path], float], root: Path, limit_s: float) -> float:
    took: list[float] = []
    while len(took) < STARTS_MAX and min(took, default=limit_s) >= limit_s:
        took.append(start(root / str(len(took))))
    return min(took)


def _members_agree_after(root: Path) -> float:
    cluster = AgentCluster(root, clients=1)
    try:
        cluster.start(wait=False)
        started = time.monotonic()
        names = {agent.name for agent in cluster.agents}
        wait_until(
            lambda: all(alive_seen_by(agent) == names for agent in cluster.agents),
            "four agents that see each other alive",
        )
        return time.monotonic() - started
    finally:
        cluster.kill()


def _leader_elected_after(root: Path) -> float:
    cluster = AgentCluster(root)
    *first, third = cluster.servers
    try:
        for server in first:
            server.start(wait=False)
        wait_until(lambda: all(len(alive_seen_by(each)) == 2 for each in first), "two that joined")
        assert cluster.leader_now() is None
        third.start(wait=False)
        wait_until(lambda: len(alive_seen_by(first[0])) == 3, "the third one's join")
        joined = time.monotonic()
        cluster.leader()
        return time.monotonic() - joined
    finally:
        cluster.kill()


@pytest.mark.timeout(90 + 20 * KILLS)
async def test_writes_go_on_after_a_leader_is_killed(cluster: AgentCluster, say: Say) -> None:
    """The next acknowledged write is one that was sent after the leader's death: an answer that it
    gave while it died does not count."""
    rng = random.Random(SEED)
    load = _load(cluster, "kill/")
    next_write, every_writer = [], []
    async with load.running():
        for _ in range(KILLS):
            await asyncio.sleep(rng.uniform(0.3, 1.3))  # the random moment itself
            leader = await asyncio.to_thread(cluster.leader)
            began = time.monotonic()
            await asyncio.to_thread(leader.kill)
            acknowledged = await _all_write_again(load, time.monotonic())
            next_write.append(min(acknowledged) - began)
            every_writer.append(max(acknowledged) - began)
            await asyncio.to_thread(cluster.start)
            load.spread()
    lost = await load.lost()
    say(
        f"failover: {KILLS} leaders killed, {load.total} writes of {WRITERS} writers acknowledged, "
        f"{len(lost)} lost; next write after {statistics.median(next_write):.2f} s (median), "
        f"{max(next_write):.2f} s (most); every writer wrote again after "
        f"{statistics.median(every_writer):.2f} s (median), {max(every_writer):.2f} s (most); "
        f"at most {load.tries_max()} tries; seed {SEED}"
    )
    assert not lost, f"acknowledged and lost: {lost}, seed {SEED}"
    assert min(len(writer.writes) for writer in load.writers) > KILLS
    assert sum(writer.reads for writer in load.writers) > KILLS * WRITERS
    assert max(next_write) < NEXT_WRITE_MAX
    assert KILLS < KILLS_FOR_MEDIAN or statistics.median(next_write) < NEXT_WRITE_MEDIAN_MAX


@pytest.mark.timeout(90 + 60 * RESTARTS)
async def test_a_rolling_restart_costs_clients_no_more_than_a_retry(
    cluster: AgentCluster, say: Say
) -> None:
    """SIGTERM, as a service manager stops a program: servers stay members, client agents leave.

    A leader hands over before it goes, so that nobody waits for an election timeout.
    """
    load = _load(cluster, "rolling/", limit_s=CURED_WITHIN)
    pauses: list[float] = []
    async with load.running():
        for _ in range(RESTARTS):
            leader = await asyncio.to_thread(cluster.leader)
            # The leader is not always the first one.
            for agent in (*cluster.followers(), *cluster.clients, leader):
                was_leader = agent is await asyncio.to_thread(cluster.leader)
                began = time.monotonic()
                assert await asyncio.to_thread(agent.stop) == 0
                if was_leader:
                    await _all_write_again(load, time.monotonic())
                    pauses.append(_longest_pause(load, began))
                await asyncio.to_thread(cluster.start)
                load.spread()
    lost = await load.lost()
    retried = [write for writer in load.writers for write in writer.writes if write.tries > 1]
    say(
        f"rolling restart: each agent {RESTARTS} times, {load.total} writes acknowledged, "
        f"{len(retried)} of them at a second try or later, at most at try {load.tries_max()}; "
        f"no write acknowledged for {max(pauses):.2f} s at most while a leader stopped"
    )
    assert not lost, f"acknowledged and lost: {lost}"
    assert load.tries_max() <= len(cluster.agents)
    handed_over = sum(_handed_over(server) for server in cluster.servers)
    assert handed_over >= len(pauses)


def _load(cluster: AgentCluster, prefix: str, *, limit_s: float = 20.0) -> KvLoad:
    addresses = [agent.http_address for agent in cluster.agents]
    return KvLoad(addresses, writers=WRITERS, prefix=prefix, limit_s=limit_s)


async def _all_write_again(load: KvLoad, moment: float) -> list[float]:
    """When each writer's first write that it sent after `moment` was acknowledged."""
    async with asyncio.timeout(30):
        while True:
            found = [at for at in load.first_after(moment) if at is not None]
            if len(found) == len(load.writers):
                return found
            await asyncio.sleep(0.02)


def _longest_pause(load: KvLoad, moment: float) -> float:
    """The longest time after `moment` in which no writer had anything acknowledged."""
    times = sorted(
        write.at for writer in load.writers for write in writer.writes if write.at > moment
    )
    return max(after - before for before, after in pairwise([moment, *times]))


def _handed_over(server: AgentProcess) -> int:
    return server.log_path.read_text(errors="replace").count("leadership was taken over")
