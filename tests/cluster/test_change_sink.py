"""A change sink across a change of leader and a restart: every change, in order, none missing.

Three servers with a plugin that notes in a file what it is told; 10,000 writes, a leader killed in
the middle of them, and each server restarted afterwards, one after the other.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry.testing.agent_cluster import AgentCluster
from registry.testing.kv_load import RetryingClient
from registry.testing.process import wait_until

WRITES = int(os.environ.get("REGISTRY_SINK_WRITES", "10000"))
WRITERS = 32

PLUGIN = '''
"""Notes every change that it is told, with the time, one line each."""

import json
import os
import time

from registry.hooks import ChangeSink, hookimpl

PATH = os.environ["RECORDER_PATH"]


async def deliver(changes):
    now = time.monotonic()
    with open(f"{PATH}.{os.getpid()}", "a") as file:
        for change in changes:
            value = change.value["Value"].decode() if change.value else None
            note = [now, change.index, change.sequence, change.kind, change.key, value]
            file.write(json.dumps(note) + "\\n")


@hookimpl
def registry_change_sinks():
    kinds = frozenset({"kv"})
    return [ChangeSink(name="recorder", deliver=deliver, kinds=kinds, batch_max=200)]
'''

#: When it was told, by the clock of the machine; index; sequence; kind; key; value.
Note = tuple[float, int, int, str, str, str | None]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AgentCluster]:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "recorder.py").write_text(PLUGIN)
    monkeypatch.setenv("RECORDER_PATH", str(tmp_path / "notes"))
    arguments = [f"-plugin-dir={plugins}"]
    with AgentCluster(tmp_path / "cluster", arguments=arguments) as cluster:
        yield cluster


def told(tmp_path: Path) -> list[Note]:
    """Everything that any of the servers was told, in the order of time."""
    lines = [
        line
        for path in tmp_path.glob("notes.*")
        for line in path.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]
    notes: list[Note] = [tuple(json.loads(line)) for line in lines]
    # What one call was told has one time, and is in order already.
    return sorted(notes, key=lambda note: note[0])


def processes(tmp_path: Path) -> int:
    """How many servers were told anything, each start of one counted."""
    return len(list(tmp_path.glob("notes.*")))


async def write_all(cluster: AgentCluster, half_way: Callable[[], None]) -> None:
    """Every key `sink/N` holds N in the end; `half_way` is called in a thread meanwhile."""
    addresses = [server.http_address for server in cluster.servers]
    numbers = iter(range(WRITES))
    begun = asyncio.Event()

    async def write(home: int) -> None:
        client = RetryingClient(addresses, home=home, limit_s=40)
        for number in numbers:
            await client.request("PUT", f"/v1/kv/sink/{number:05}", b"%d" % number)
            if number >= WRITES // 3:
                begun.set()
        client.close()

    async with asyncio.TaskGroup() as group:
        for home in range(WRITERS):
            group.create_task(write(home))
        await begun.wait()
        await asyncio.to_thread(half_way)


@pytest.mark.timeout(200)
async def test_every_change_in_order_across_leaders_and_restarts(
    cluster: AgentCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change_leader() -> None:
        leader = cluster.leader()
        leader.kill()
        leader.start(wait=False)

    await write_all(cluster, change_leader)
    wait_until(cluster.is_whole, "a whole cluster")
    for server in cluster.servers:
        server.stop()
        server.start()
        wait_until(cluster.is_whole, "a whole cluster after a restart")
    assert cluster.leader().client.kv_put("sink/last", b"last")

    def everything_told() -> bool:
        return any(key == "sink/last" for *_, key, _ in told(tmp_path))

    wait_until(everything_told, "the last write is told")
    notes = told(tmp_path)
    changes = [note for note in notes if note[3] == "kv"]
    first_told: dict[tuple[int, int], Note] = {}
    for note in changes:
        first_told.setdefault((note[1], note[2]), note)
    places = list(first_told)
    with capsys.disabled():
        print(
            f"\nchange sink: {WRITES} writes, {len(places)} changes told, "
            f"{len(changes) - len(places)} of them again, by "
            f"{processes(tmp_path)} processes"
        )
    assert places == sorted(places), "told out of order"
    values = {key: value for *_, key, value in first_told.values()}
    missing = [n for n in range(WRITES) if values.get(f"sink/{n:05}") != str(n)]
    assert not missing, f"never told: {missing[:10]} and {len(missing) - 10} more"
    # The whole state was told to begin with, and never again: nothing was lost on the way.
    assert sum(note[3] == "reset" for note in notes) == 1
