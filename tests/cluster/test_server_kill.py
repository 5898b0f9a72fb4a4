"""kill -9 of leaders under a load of writers: what was acknowledged stays, and clients go on.

Bare servers (consensus, state and RPC on RocksDB), asked as client agents ask them.
`REGISTRY_KILL_ROUNDS` sets the number of kills (2 here), `REGISTRY_KILL_SEED` replays the delays.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from registry.agent.client_backend import ClientBackend
from registry.errors import NoLeader, OutcomeUnknown, RegistryError
from registry.rpc import Hello, Pool
from registry.state.base import ReadOptions
from registry.state.kv import KvGet, KvList, KvSet
from registry.testing.ports import free_ports
from registry.testing.seeds import seed_from

pytestmark = pytest.mark.alone

ROUNDS = int(os.environ.get("REGISTRY_KILL_ROUNDS", "2"))
SEED = seed_from("REGISTRY_KILL_SEED")
WRITERS = 32


class ServerProcess:
    def __init__(self, root: Path, server_id: str, peers: dict[str, str]) -> None:
        self.id, self.address = server_id, peers[server_id]
        self._root = root / server_id
        self._peers = [f"--peer={each}={address}" for each, address in peers.items()]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._root.mkdir(exist_ok=True)
        with (self._root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "registry.testing.server_process",
                    f"--id={self.id}",
                    f"--data={self._root}",
                    *self._peers,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """Stop it without a word, as a machine that swaps or is suspended does."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def log(self) -> str:
        return (self._root / "log").read_text(errors="replace")[-3000:]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[ServerProcess]]:
    peers = {
        f"{number}0000000-1111-2222-3333-444444444444": f"127.0.0.1:{port}"
        for number, port in enumerate(free_ports(3), 1)
    }
    servers = [ServerProcess(tmp_path, each, peers) for each in peers]
    for server in servers:
        server.start()
    yield servers
    for server in servers:
        server.kill()


class Writer:
    """Counts up in a key of its own. What it reads back is never older than what it was told."""

    def __init__(self, client: ClientBackend, number: int) -> None:
        self.key = b"w/%d" % number
        self.acknowledged = -1
        self.times: list[float] = []
        self._client = client

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        number = 0
        while True:
            number += 1
            with suppress(OutcomeUnknown, NoLeader):
                await self._client.write(KvSet(key=self.key, value=b"%d" % number))
                self.acknowledged = number
                self.times.append(loop.time())
            if number % 5 == 0:
                with suppress(NoLeader):
                    result = await self._client.read(KvGet(key=self.key), ReadOptions())
                    assert int(result.value.value) >= self.acknowledged, "a stale default read"


async def leader_of(client: ClientBackend, servers: list[ServerProcess]) -> ServerProcess:
    async with asyncio.timeout(30):
        while True:
            with suppress(RegistryError):
                address = await client.leader_address()
                found = [server for server in servers if server.address == address]
                if found:
                    return found[0]
            await asyncio.sleep(0.02)


@pytest.mark.timeout(60 + 15 * ROUNDS)
async def test_leaders_are_killed_under_load(
    servers: list[ServerProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(SEED)
    client = ClientBackend(Pool(Hello("dc1", "test")))
    client.set_servers([server.address for server in servers])
    writers = [Writer(client, number) for number in range(WRITERS)]
    loop = asyncio.get_running_loop()
    gaps: list[float] = []
    async with asyncio.TaskGroup() as group:
        running = group.create_task(client.run())
        await asyncio.sleep(0)
        await leader_of(client, servers)
        writing = [group.create_task(writer.run()) for writer in writers]
        for _ in range(ROUNDS):
            await asyncio.sleep(rng.uniform(0.3, 1.0))  # the random moment itself
            leader = await leader_of(client, servers)
            leader.kill()
            killed_at = loop.time()
            async with asyncio.timeout(20):
                while not (times := _after(writers, killed_at + 0.1)):  # noqa: ASYNC110 - others'
                    await asyncio.sleep(0.01)
            gaps.append(min(times) - killed_at)
            leader.start()
            await _rejoined(client, leader)
        for task in writing:
            task.cancel()
        await asyncio.wait(writing)
        found = {
            key: int(entry.value)
            for key, entry in (await client.read(KvList(prefix=b"w/"), ReadOptions())).value
        }
        running.cancel()
    lost = [each.key for each in writers if found.get(each.key, -1) < each.acknowledged]
    total = sum(len(writer.times) for writer in writers)
    with capsys.disabled():
        print(
            f"\nserver kill: {ROUNDS} kills, {total} writes acknowledged, next write after "
            f"{statistics.median(gaps):.2f} s (median), {max(gaps):.2f} s (most), seed {SEED}"
        )
    assert not lost, f"acknowledged and lost: {lost}, seed {SEED}"
    assert total > ROUNDS * WRITERS
    # The election timeout is 1 s here, so that up to 2 s pass before anybody campaigns; what
    # matters to clients is that nobody is left waiting for much longer than that.
    assert max(gaps) < 5


async def test_a_frozen_leader_is_left_behind_and_serves_nothing_stale(
    servers: list[ServerProcess],
) -> None:
    """It answers nobody, closes nothing and, back again, believes to lead for a moment."""
    client = ClientBackend(Pool(Hello("dc1", "test")))
    client.set_servers([server.address for server in servers])
    writers = [Writer(client, number) for number in range(8)]
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(client.run())
        await asyncio.sleep(0)
        leader = await leader_of(client, servers)
        old = ClientBackend(Pool(Hello("dc1", "old")))
        old.set_servers([leader.address])
        running_old = group.create_task(old.run())
        writing = [group.create_task(writer.run()) for writer in writers]
        await _until(lambda: all(writer.acknowledged > 0 for writer in writers))
        assert await old.leader_address() == leader.address
        leader.freeze()
        frozen_at = loop.time()
        await _until(
            lambda: all(each.times[-1] > frozen_at + 0.5 for each in writers),
            "every writer goes on at the others",
        )
        assert loop.time() - frozen_at < 12
        acknowledged = {writer.key: writer.acknowledged for writer in writers}
        # Asked while it is frozen: the questions are the first thing it sees when it wakes.
        asking = [group.create_task(_read(old, writer.key)) for writer in writers for _ in range(3)]
        await asyncio.sleep(0.05)
        leader.thaw()
        for answer in asking:
            key, value = await answer
            assert value is None or value >= acknowledged[key], "a stale default read"
        for task in [*writing, running, running_old]:
            task.cancel()


async def _read(client: ClientBackend, key: bytes) -> tuple[bytes, int | None]:
    """A default read's value; None when the server did not answer."""
    try:
        result = await client.read(KvGet(key=key), ReadOptions())
    except NoLeader:
        return key, None
    return key, int(result.value.value)


async def _until(condition: Callable[[], bool], what: str = "") -> None:
    try:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - of other processes
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(what) from None


def _after(writers: list[Writer], moment: float) -> list[float]:
    return [writer.times[-1] for writer in writers if writer.times and writer.times[-1] > moment]


async def _rejoined(client: ClientBackend, server: ServerProcess) -> None:
    """The restarted server serves again, so that the next kill leaves a quorum."""
    other = ClientBackend(Pool(Hello("dc1", "probe")), hold_timeout_s=20)
    other.set_servers([server.address])
    async with asyncio.TaskGroup() as group:
        running = group.create_task(other.run())
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            while True:
                with suppress(RegistryError):
                    answer = await other.read(KvGet(key=b"w/0"), ReadOptions(mode="stale"))
                    if answer.known_leader and answer.mode == "stale":
                        break
                await asyncio.sleep(0.05)
        running.cancel()
