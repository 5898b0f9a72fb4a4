"""A follower that was down for longer than the log reaches back catches up by a snapshot, while
writers go on.

Whole agents on RocksDB. Here a few thousand writes and a log that is cut early; with
`REGISTRY_CATCH_UP_WRITES` so many writes (`make catch-up-campaign`: 100,000) and the settings that
an agent has by default. Then the state is half a million keys, the writers must not notice much,
and neither must those who read from the follower while it takes the snapshot in.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import pytest

from registry.errors import StorageError
from registry.state.kv import list_entries
from registry.storage.rocks import RocksStore
from registry.testing.process import AgentProcess, wait_until

pytestmark = pytest.mark.alone

WRITES = int(os.environ.get("REGISTRY_CATCH_UP_WRITES", "0"))
LONG = WRITES > 0
WRITERS = 64
#: Each writer goes round its keys; all together they are more than the long form's writes.
KEYS_PER_WRITER = 2000
#: Keys that are there already, to make the snapshot as big as it may be.
KEYS_BEFORE = 400_000 if LONG else 0
#: How long the normal pace is measured.
NORMAL_S = 10.0 if LONG else 1.0
#: How much slower than normal the slowest of a hundred writes may be while a follower catches up.
RATIO_MAX = 4.0
#: A probe by gossip waits for half a second, a follower for a heartbeat even longer.
SILENCE_MAX_S = 0.5
#: Nearer to the leader than this a server counts as caught up (autopilot's `MaxTrailingLogs`).
TRAILING_MAX = 250

#: The short form cuts the log early; the long form takes what an agent has by default.
SHORT_CONFIG: dict[str, object] = {
    "raft_snapshot_threshold": 500,
    "raft_snapshot_interval": "500ms",
    "raft_trailing_logs": 500,
}
LONG_CONFIG: dict[str, object] = {"performance": {}}


class Connection:
    """A kept-alive HTTP connection, as thin as can be: the agents need the processor."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    @asynccontextmanager
    async def open(cls, agent: AgentProcess) -> AsyncIterator[Connection]:
        reader, writer = await asyncio.open_connection("127.0.0.1", agent.ports["http"])
        try:
            yield cls(reader, writer)
        finally:
            writer.close()

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of the answer."""
        head = f"{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        sizes = [line for line in lines if line.startswith(b"content-length:")]
        size = int(sizes[0].partition(b":")[2])
        return int(lines[0].split(b" ")[1]), await self._reader.readexactly(size)


async def fill(agent: AgentProcess, first: int, last: int) -> None:
    """Put keys there, in the biggest groups that one request can have."""
    rng = random.Random(first)
    async with Connection.open(agent) as connection:
        for start in range(first, last, 64):
            numbers = range(start, min(start + 64, last))
            operations = [
                {
                    "KV": {
                        "Verb": "set",
                        "Key": f"catch-up/before/{number}",
                        "Value": b64encode(rng.randbytes(120)).decode(),
                    }
                }
                for number in numbers
            ]
            status, answer = await connection.ask("PUT", "/v1/txn", json.dumps(operations).encode())
            assert status == 200, answer


@dataclass(slots=True)
class Reader:
    """Reads from a server that is starting, as soon as it answers, until told to stop."""

    answers: int = 0
    silence_s: float = 0.0  # the longest that an answer took
    stopping: bool = False

    async def run(self, agent: AgentProcess) -> None:
        loop = asyncio.get_running_loop()
        while not self.stopping:
            with suppress(OSError):  # not up yet
                async with Connection.open(agent) as connection:
                    while not self.stopping:
                        began = loop.time()
                        await connection.ask("GET", "/v1/kv/catch-up/0/0?stale")
                        self.silence_s = max(self.silence_s, loop.time() - began)
                        self.answers += 1
                        await asyncio.sleep(0.01)
            await asyncio.sleep(0.02)


@dataclass(slots=True)
class Load:
    """What the writers have seen: when each write was acknowledged, and after how long."""

    times: list[tuple[float, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stopping: bool = False

    async def write(self, agent: AgentProcess, number: int) -> None:
        """One writer, one connection, one write after the other, until told to stop."""
        rng, loop = random.Random(number), asyncio.get_running_loop()
        async with Connection.open(agent) as connection:
            count = 0
            while not self.stopping:
                path = f"/v1/kv/catch-up/{number}/{count % KEYS_PER_WRITER}"
                value = b"%d " % count + rng.randbytes(rng.randint(50, 100)).hex().encode()
                began = loop.time()
                status, answer = await connection.ask("PUT", path, value)
                if (status, answer) != (200, b"true"):
                    self.failures.append(f"{status} {answer[:200]!r}")
                now = loop.time()
                self.times.append((now, now - began))
                count += 1

    async def has(self, count: int) -> bool:
        """Whether so many writes are done."""
        return len(self.times) >= count

    def p99_ms(self, start: float, stop: float) -> float:
        """What 99 of 100 writes between two moments took at most."""
        took = sorted(took for at, took in self.times if start <= at < stop)
        return 1000 * took[int(len(took) * 0.99)]

    def worst_ms(self, start: float, stop: float) -> float:
        return 1000 * max(took for at, took in self.times if start <= at < stop)

    def per_second(self, start: float, stop: float) -> float:
        return sum(start <= at < stop for at, _ in self.times) / (stop - start)


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[list[AgentProcess]]:
    agents = [
        AgentProcess(
            tmp_path / f"server{number}",
            name=f"server{number}",
            arguments=("-server", "-bootstrap-expect=3"),
            config=LONG_CONFIG if LONG else SHORT_CONFIG,
        )
        for number in (1, 2, 3)
    ]
    join = [f"127.0.0.1:{agent.ports['serf_lan']}" for agent in agents]
    for agent in agents:
        agent.write_config("10-join.json", {"retry_join": join})
        agent.start(wait=False)
    try:
        for agent in agents:
            wait_until(agent.is_ready, f"{agent.name} knows a leader", seconds=60)
        yield agents
    finally:
        for agent in agents:
            agent.kill()


@pytest.mark.timeout(150 + (WRITES + KEYS_BEFORE) // 250)
async def test_a_follower_that_was_down_catches_up_by_snapshot(
    agents: list[AgentProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    loop, load = asyncio.get_running_loop(), Load()
    leader = await leader_of(agents)
    behind, other = (agent for agent in agents if agent is not leader)
    async with asyncio.TaskGroup() as group:
        for first in range(0, KEYS_BEFORE, KEYS_BEFORE // 8 or 1):
            group.create_task(fill(leader, first, first + KEYS_BEFORE // 8))
    async with asyncio.TaskGroup() as group:
        for number in range(WRITERS):
            group.create_task(load.write((leader, other)[number % 2], number))
        await until(lambda: load.has(20 * WRITERS), "the writers are under way")
        normal_from = loop.time()
        await asyncio.sleep(NORMAL_S)  # the measure itself
        normal_to = loop.time()

        behind.kill()
        last_index = await statistic(leader, "last_log_index")
        so_far, killed_at = len(load.times), loop.time()
        await until(lambda: load.has(so_far + (WRITES or 4000)), "the writes are done", 600)
        await until(
            lambda: newer(leader, last_index), "the leader has cut its log behind the follower"
        )
        down = len(load.times) - so_far

        back_at = loop.time()
        behind.start(wait=False)
        reader = Reader()
        group.create_task(reader.run(behind))
        await until(lambda: caught_up(behind, leader), "the follower has caught up", 120)
        caught_up_at = loop.time()
        # Down, it had no more than this; what it lacks, the leader's log does not hold.
        assert await statistic(behind, "last_snapshot_index") > last_index
        load.stopping = reader.stopping = True
    await until(lambda: level(agents), "all three have applied the same", 60)

    normal, during = (
        load.p99_ms(normal_from, normal_to),
        load.p99_ms(back_at, caught_up_at),
    )
    with capsys.disabled():
        print(
            f"\ncatch up: {len(load.times)} writes, {down} while a follower was down, which was "
            f"level again {caught_up_at - back_at:.1f} s after its start\n"
            f"  normally         p99 {normal:6.1f} ms, most "
            f"{load.worst_ms(normal_from, normal_to):6.1f} ms, "
            f"{load.per_second(normal_from, normal_to):5.0f} writes/s\n"
            f"  while it is down p99 {load.p99_ms(killed_at, back_at):6.1f} ms, most "
            f"{load.worst_ms(killed_at, back_at):6.1f} ms, "
            f"{load.per_second(killed_at, back_at):5.0f} writes/s\n"
            f"  catching up      p99 {during:6.1f} ms, most "
            f"{load.worst_ms(back_at, caught_up_at):6.1f} ms, "
            f"{load.per_second(back_at, caught_up_at):5.0f} writes/s, "
            f"{during / normal:.2f} times the normal p99\n"
            f"  the follower meanwhile answered {reader.answers} reads, the slowest after "
            f"{1000 * reader.silence_s:.0f} ms"
        )
    assert not load.failures
    for agent in agents:
        agent.kill()
    assert_same_keys(agents)
    if LONG:
        assert during / normal < RATIO_MAX
        assert reader.silence_s < SILENCE_MAX_S


async def leader_of(agents: list[AgentProcess]) -> AgentProcess:
    async with Connection.open(agents[0]) as connection:
        _, answer = await connection.ask("GET", "/v1/status/leader")
    address = json.loads(answer)
    return next(each for each in agents if address == f"127.0.0.1:{each.ports['server']}")


async def statistic(agent: AgentProcess, name: str) -> int:
    """One of an agent's figures about consensus."""
    async with Connection.open(agent) as connection:
        _, answer = await connection.ask("GET", "/v1/agent/self")
    return int(json.loads(answer)["Stats"]["raft"][name])


async def newer(agent: AgentProcess, index: int) -> bool:
    """Whether its log begins behind `index`."""
    return await statistic(agent, "last_snapshot_index") > index


async def caught_up(behind: AgentProcess, leader: AgentProcess) -> bool:
    with suppress(OSError, asyncio.IncompleteReadError):  # not up yet
        applied = await statistic(behind, "applied_index")
        return applied >= await statistic(leader, "applied_index") - TRAILING_MAX
    return False


async def level(agents: list[AgentProcess]) -> bool:
    return len({await statistic(agent, "applied_index") for agent in agents}) == 1


def assert_same_keys(agents: list[AgentProcess]) -> None:
    """Every key and value, indexes and all, are the same on all disks."""
    stores = [RocksStore.open(agent.data_dir / "store", read_only=True) for agent in agents]
    try:
        listings = [list_entries(store, b"catch-up/") for store in stores]
        for number, found in enumerate(zip_longest(*listings)):
            assert len(set(found)) == 1, f"the {number}th key: {found}"
        assert number >= WRITERS
    finally:
        for store in stores:
            with suppress(StorageError):
                store.close()


async def until(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = 60) -> None:
    """Poll a condition of other processes, with a deadline."""
    try:
        async with asyncio.timeout(seconds):
            while not await condition():  # noqa: ASYNC110 - of other processes
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:g} s: {what}") from None
