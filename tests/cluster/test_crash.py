"""kill -9 at random moments under a write load: every acknowledged write is there after a restart.

`REGISTRY_CRASH_ROUNDS` sets the number of kills (9 here, 200 in `make crash-campaign`), and
`REGISTRY_CRASH_SEED` replays the same delays.
"""

from __future__ import annotations

import base64
import os
import random
import threading
import time
from pathlib import Path

import pytest

from registry.client import AgentUnreachable, ApiError, Client
from registry.testing.process import AgentProcess
from registry.testing.seeds import seed_from

ROUNDS = int(os.environ.get("REGISTRY_CRASH_ROUNDS", "9"))
SEED = seed_from("REGISTRY_CRASH_SEED")
WRITERS = 8
PLUGIN = Path(__file__).resolve().parents[2] / "plugins" / "registry-sqlite"


class Writer(threading.Thread):
    """Writes its own keys one after another and remembers which were acknowledged."""

    def __init__(self, client: Client, number: int, first: int) -> None:
        super().__init__(daemon=True)
        self.client, self.number, self.next = client, number, first
        self.acknowledged: dict[str, int] = {}
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.is_set():
            # Few keys, many versions: an old value coming back would be seen as well as a lost key.
            key = f"crash/{self.number}/{self.next % 50}"
            try:
                done = self.client.kv_put(key, str(self.next).encode())
            except (AgentUnreachable, ApiError):
                return  # killed: the outcome of this one write is unknown, and may be either
            assert done
            self.acknowledged[key] = self.next
            self.next += 1


def stored(client: Client) -> dict[str, int]:
    return {
        entry["Key"]: int(base64.b64decode(entry["Value"])) for entry in client.kv_list("crash/")
    }


@pytest.mark.timeout(60 + 10 * ROUNDS)
@pytest.mark.parametrize(("engine", "rounds"), [("rocksdict", ROUNDS), ("sqlite", ROUNDS // 3)])
def test_every_acknowledged_write_survives_kill_9(tmp_path, capsys, engine, rounds):
    rng = random.Random(SEED)
    with capsys.disabled():
        print(f"\ncrash test: engine {engine}, {rounds} kills, seed {SEED}")
    options = (f"-storage-engine={engine}", f"-plugin-dir={PLUGIN}")
    agent = AgentProcess(tmp_path, arguments=("-server", "-bootstrap", *options))
    acknowledged: dict[str, int] = {}
    first = [0] * WRITERS
    total = 0
    try:
        for round_number in range(rounds):
            agent.start()
            found = stored(agent.client)
            lost = {
                key: (value, found.get(key))
                for key, value in acknowledged.items()
                if found.get(key, -1) < value
            }
            assert not lost, f"round {round_number}, seed {SEED}: lost {lost}"
            writers = [Writer(agent.client, number, first[number]) for number in range(WRITERS)]
            for writer in writers:
                writer.start()
            time.sleep(rng.uniform(0.05, 0.8))  # the random moment itself, not a wait for anything
            agent.kill()
            for writer in writers:
                writer.stopped.set()
                writer.join(30)
                assert not writer.is_alive()
                acknowledged.update(writer.acknowledged)
                total += len(writer.acknowledged)
                first[writer.number] = writer.next + 1
    finally:
        agent.kill()
    assert total > rounds * WRITERS, "the load was too small to prove anything"
    with capsys.disabled():
        print(f"crash test: engine {engine}, {total} acknowledged writes, none lost")
