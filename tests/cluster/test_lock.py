"""A lock has one holder at a time while servers are killed.

Three servers and client agents; many processes take the lock in turn, some by py-consul, some by
`registry lock`, and servers are killed -9 and started again meanwhile. Now and then a holder's
session is ended, and it has the lock delay to notice. `REGISTRY_LOCK_SECONDS`,
`REGISTRY_LOCK_PROCESSES` and `REGISTRY_LOCK_KILLS` size it (`make lock-campaign`: 60, 20 and 10);
`REGISTRY_LOCK_SEED` replays the choice of the servers.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from registry.testing.agent_cluster import AgentCluster
from registry.testing.process import AgentProcess, wait_until
from registry.testing.seeds import seed_from

CONTENDER = Path(__file__).with_name("lock_contender.py")
SECONDS = float(os.environ.get("REGISTRY_LOCK_SECONDS", "8"))
PROCESSES = int(os.environ.get("REGISTRY_LOCK_PROCESSES", "6"))
KILLS = int(os.environ.get("REGISTRY_LOCK_KILLS", "1"))
SEED = seed_from("REGISTRY_LOCK_SEED")
#: Every which process runs `registry lock`, talks to a server that gets killed, loses its session.
COMMANDS_EVERY, AT_SERVER_EVERY, LOSES_EVERY = 5, 7, 8


#: As the contenders have it; a little less, because the leader tells the time in milliseconds.
LOCK_DELAY_SECONDS = 2 - 0.01


class Held(NamedTuple):
    """One time that somebody held the lock."""

    who: str
    token: int
    start: float
    end: float


def contend(agents: list[AgentProcess], journal: Path) -> list[subprocess.Popen[bytes]]:
    started = []
    for number, agent in enumerate(agents):
        kind = "commands" if number % COMMANDS_EVERY == COMMANDS_EVERY - 1 else "loop"
        who = f"{kind}-{number}-{agent.name}"
        command = [kind, agent.http_address, str(journal), who]
        if number % LOSES_EVERY == 0:
            command.append("--loses")
        with journal.with_name(f"{who}.log").open("wb") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, str(CONTENDER), *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    return started


def agents_for_contenders(cluster: AgentCluster) -> list[AgentProcess]:
    """Mostly client agents: a session made at a server that dies ends with it."""
    clients = cluster.clients
    return [
        cluster.servers[number % 3]
        if number % AT_SERVER_EVERY == AT_SERVER_EVERY - 1
        else clients[number % len(clients)]
        for number in range(PROCESSES)
    ]


def kill_servers(cluster: AgentCluster, rng: random.Random) -> int:
    """Kill servers spread over the time, every other the leader; returns how many leaders."""
    begun, leaders = time.monotonic(), 0
    for number in range(KILLS):
        moment = begun + SECONDS * (number + rng.uniform(0.2, 0.5)) / KILLS
        time.sleep(max(0.0, moment - time.monotonic()))  # the random moment itself
        leader = cluster.leader()
        server = leader if number % 2 == 0 else rng.choice(cluster.servers)
        leaders += server is leader
        server.kill()
        time.sleep(rng.uniform(0.0, 1.5))  # how long it stays away
        server.start(wait=False)
        # A second loss before this one is made good would leave no quorum.
        wait_until(server.is_ready, server.log_tail)
    return leaders


def read_journal(journal: Path) -> list[dict[str, Any]]:
    if not journal.exists():
        return []
    *whole, _ = journal.read_text().split("\n")  # the last may be being written
    return [json.loads(line) for line in whole]


def has_seen_all(journal: Path) -> bool:
    """Whether each process has had its turn, and a session was ended while it held."""
    lines = read_journal(journal)
    takers = {line["who"] for line in lines if line["what"] == "end"}
    return len(takers) == PROCESSES and any(line["what"] == "ending" for line in lines)


def holds_of(lines: list[dict[str, Any]]) -> list[Held]:
    """What was held, in the order of the journal; fails where two held it at once."""
    held: list[Held] = []
    holder: dict[str, Any] | None = None
    for line in lines:
        if line["what"] == "start":
            assert holder is None, f"two at once: {holder} and {line}; seed {SEED}"
            holder = line
        elif line["what"] == "end":
            assert holder is not None, f"an end without a start: {line}; seed {SEED}"
            assert (holder["who"], holder["token"]) == (line["who"], line["token"])
            held.append(Held(line["who"], line["token"], holder["time"], line["time"]))
            holder = None
    assert holder is None, f"held without an end: {holder}"
    return held


@pytest.mark.timeout(120 + 2 * SECONDS)
def test_one_holder_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(SEED)
    journal = tmp_path / "journal"
    with AgentCluster(tmp_path, servers=3, clients=2) as cluster:
        contenders = contend(agents_for_contenders(cluster), journal)
        begun = time.monotonic()
        try:
            leaders = kill_servers(cluster, rng)
            wait_until(lambda: time.monotonic() > begun + SECONDS, "", seconds=SECONDS + 1)
            wait_until(
                lambda: has_seen_all(journal),
                lambda: f"a turn for each; {journal.read_text()[-2000:]} {logs_of(tmp_path)}",
                seconds=40,
            )
            seconds = time.monotonic() - begun
            (tmp_path / "stop").touch()
            for process in contenders:
                assert process.wait(60) == 0, logs_of(tmp_path)
        finally:
            for process in contenders:
                process.kill()
    lines = read_journal(journal)
    held = holds_of(lines)
    ended = {line["token"]: line["time"] for line in lines if line["what"] == "ending"}
    for before, after in itertools.pairwise(held):
        assert before.end <= after.start, f"two at once: {before} and {after}; seed {SEED}"
        assert before.token < after.token, f"a fence that fell: {before}, {after}; seed {SEED}"
        free_from = ended.get(before.token, 0.0) + LOCK_DELAY_SECONDS
        assert free_from <= after.start, f"within the lock delay: {before}, {after}; seed {SEED}"
    times = Counter(each.who for each in held)
    lost = Counter(line["who"] for line in lines if line["what"] == "lost")
    gaps = [
        after.start - before.end
        for before, after in itertools.pairwise(held)
        if before.token not in ended
    ]
    with capsys.disabled():
        print(
            f"\nlock: {PROCESSES} processes for {seconds:.0f} s, {KILLS} servers killed "
            f"({leaders} leaders), taken {len(held)} times, by each {min(times.values())} to "
            f"{max(times.values())}; free for {statistics.median(gaps) * 1000:.0f} ms (median), "
            f"{max(gaps):.2f} s (most); {len(ended)} sessions ended, {sum(lost.values())} "
            f"lost, seed {SEED}"
        )
    assert leaders, f"no leader was among the killed, seed {SEED}"
    # A session lives on through the loss of any server but the one that it was made at.
    assert not [who for who in lost if "client" in who], f"{lost}, seed {SEED}"


def logs_of(root: Path) -> str:
    return "\n".join(path.read_text(errors="replace")[-1500:] for path in root.glob("*-*.log"))
