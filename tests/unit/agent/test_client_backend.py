"""An agent without data: which server it asks, and what it does when that one fails."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from registry.agent.client_backend import ClientBackend, RateLimit
from registry.agent.facade import Backend
from registry.errors import (
    NoLeader,
    OutcomeUnknown,
    Overloaded,
    RegistryError,
)
from registry.rpc.pool import Pool, PoolSettings
from registry.rpc.stream import Hello
from registry.server import calls
from registry.server.server_list import ServerList
from registry.state.base import ReadOptions, Refused
from registry.state.kv import KvGet, KvList, KvSet
from registry.state.locks import KvLock
from registry.testing.ports import free_ports
from registry.testing.servers import DATACENTER, LocalCluster, LocalServer, cluster_of, until

HOLD_S = 2.0


@asynccontextmanager
async def client_of(addresses: list[str], **options: Any) -> AsyncIterator[ClientBackend]:
    pool = Pool(Hello(DATACENTER, "client"), PoolSettings(ping_interval_s=0.1, silence_max_s=0.4))
    backend = ClientBackend(
        pool, hold_timeout_s=HOLD_S, rng=random.Random(options.pop("seed", 1)), **options
    )
    backend.set_servers(addresses)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(backend.run())
        await asyncio.sleep(0)  # it has begun
        try:
            yield backend
        finally:
            running.cancel()


@pytest.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    async with cluster_of(3, hold_timeout_s=HOLD_S) as cluster:
        await cluster.leader()
        yield cluster


@pytest.fixture
async def client(cluster: LocalCluster) -> AsyncIterator[ClientBackend]:
    async with client_of(cluster.addresses) as backend:
        yield backend


async def outcome(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except RegistryError as problem:
        return problem


def server_of(cluster: LocalCluster, client: ClientBackend) -> LocalServer:
    """The server that the client uses."""
    return next(each for each in cluster.members if each.address == client.servers.current)


def test_it_is_a_backend() -> None:
    backend: Backend = ClientBackend(Pool(Hello(DATACENTER, "client")))
    assert backend.statistics() == {
        "consul": {"acl": "disabled", "known_servers": "0", "server": "false"}
    }


@pytest.mark.parametrize("used", [0, 1, 2])
async def test_everything_goes_to_a_server(cluster: LocalCluster, used: int) -> None:
    leader = await cluster.leader()
    async with client_of([cluster.addresses[used]]) as client:
        assert await client.write(KvSet(key=b"a", value=b"1")) is True
        for mode in ("default", "consistent"):
            here = await leader.server.read(KvGet(key=b"a"), ReadOptions(mode=mode))
            assert await client.read(KvGet(key=b"a"), ReadOptions(mode=mode)) == here
        assert await client.leader_address() == leader.address
        assert sorted(await client.peer_addresses()) == sorted(cluster.addresses)
        index, servers = await client.raft_configuration()
        assert len(servers) == 3
        assert index == leader.driver.configuration.index
        refused = await client.write(KvLock(key=b"a", value=b"", session="x"))
        assert isinstance(refused, Refused)


async def test_a_stale_read_is_answered_by_the_server_that_was_asked(
    cluster: LocalCluster,
) -> None:
    follower = await cluster.follower()
    async with client_of([follower.address]) as client:
        result = await client.read(KvGet(key=b"a"), ReadOptions(mode="stale"))
        assert (result.mode, result.known_leader) == ("stale", True)
        assert result.last_contact_ms < 300


async def test_the_state_is_handed_on(cluster: LocalCluster) -> None:
    follower, leader = await cluster.follower(), await cluster.leader()
    await leader.server.write(KvSet(key=b"a", value=bytes(400_000)))
    async with client_of([follower.address]) as client:
        is_compared = False
        while not is_compared:
            with await client.open_dump() as there, await leader.server.open_dump() as here:
                is_same = b"".join(there.chunks) == await asyncio.to_thread(b"".join, here.chunks)
                # The leader writes, too: only dumps of one index can be compared.
                is_compared = there.index == here.index
        assert is_same


async def test_a_server_is_put_out(cluster: LocalCluster, client: ClientBackend) -> None:
    follower = await cluster.follower()
    await client.remove_server(follower.id)
    _, servers = await client.raft_configuration()
    assert follower.id not in [server["ID"] for server in servers]


async def test_the_next_server_is_asked_when_one_is_down(cluster: LocalCluster) -> None:
    (nobody,) = free_ports(1)
    async with client_of([f"127.0.0.1:{nobody}", *cluster.addresses]) as client:
        while client.servers.current != f"127.0.0.1:{nobody}":
            client.servers.rebalance()
        assert await client.write(KvSet(key=b"a", value=b"1")) is True
        assert client.servers.current in cluster.addresses
        assert client.servers.servers[-1] == f"127.0.0.1:{nobody}"


async def test_a_blocking_read_survives_its_server(
    cluster: LocalCluster, client: ClientBackend
) -> None:
    """Whichever server dies, a leader included, the read waits on at another one."""
    await client.write(KvSet(key=b"a", value=b"1"))
    index = (await client.read(KvGet(key=b"a"), ReadOptions())).index
    async with asyncio.TaskGroup() as group:
        options = ReadOptions(min_index=index, wait_ms=30_000)
        reading = group.create_task(client.read(KvGet(key=b"a"), options))
        used = server_of(cluster, client)
        await until(lambda: sum(each.server.reads.blocking for each in cluster.alive) == 1)
        await cluster.kill(used)
        await cluster.leader()
        await until(lambda: sum(each.server.reads.blocking for each in cluster.alive) == 1)
        assert not reading.done()
        assert await client.write(KvSet(key=b"a", value=b"2")) is True
        assert (await reading).value.value == b"2"
    assert client.servers.current != used.address


async def test_a_blocking_read_keeps_its_deadline_over_servers(
    cluster: LocalCluster, client: ClientBackend
) -> None:
    await client.write(KvSet(key=b"a", value=b"1"))
    before = await client.read(KvGet(key=b"a"), ReadOptions())
    async with asyncio.TaskGroup() as group:
        options = ReadOptions(min_index=before.index, wait_ms=2500)
        began = asyncio.get_running_loop().time()
        reading = group.create_task(client.read(KvGet(key=b"a"), options))
        await until(lambda: sum(each.server.reads.blocking for each in cluster.alive) == 1)
        await cluster.kill(server_of(cluster, client))
        result = await reading
    assert (result.index, result.value) == (before.index, before.value)
    assert 2.4 <= asyncio.get_running_loop().time() - began < 4


async def test_a_client_that_goes_away_ends_its_read_everywhere(
    cluster: LocalCluster,
) -> None:
    leader, follower = await cluster.leader(), await cluster.follower()
    async with client_of([follower.address]) as client:
        await client.write(KvSet(key=b"a", value=b"1"))
        index = (await client.read(KvGet(key=b"a"), ReadOptions())).index
        async with asyncio.TaskGroup() as group:
            options = ReadOptions(min_index=index, wait_ms=30_000)
            reading = group.create_task(client.read(KvGet(key=b"a"), options))
            await until(lambda: leader.server.reads.blocking == 1)
            reading.cancel()
            await until(lambda: leader.server.reads.blocking == 0)


async def test_writes_go_on_over_the_death_of_any_server(
    cluster: LocalCluster, client: ClientBackend
) -> None:
    """Nothing is done twice, nothing acknowledged is lost, and all but a few are acknowledged."""
    written: dict[bytes, Any] = {}

    async def write(first: int) -> None:
        for number in range(first, first + 100):
            key = b"k/%d" % number
            written[key] = await outcome(client.write(KvSet(key=key, value=b"")))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(write(1000 * writer)) for writer in range(4)]
        await until(lambda: len(written) > 40)
        await cluster.kill(await cluster.leader())
        await asyncio.wait(tasks)
    unknown = [result for result in written.values() if result is not True]
    assert all(isinstance(result, OutcomeUnknown) for result in unknown)
    assert len(unknown) <= 4, "one at most of each writer"
    found = {key for key, _ in (await client.read(KvList(prefix=b"k/"), ReadOptions())).value}
    assert {key for key, result in written.items() if result is True} <= found


async def test_a_write_whose_answer_was_lost_is_not_repeated(
    cluster: LocalCluster, client: ClientBackend
) -> None:
    asked = 0

    async def die(caller: Any, body: bytes) -> bytes:
        nonlocal asked
        asked += 1
        for member in cluster.members:
            member.network.rpc.close_all()
        raise AssertionError

    for member in cluster.members:
        member.network.rpc.handlers[calls.WRITE] = die
    result = await outcome(client.write(KvSet(key=b"a", value=b"")))
    assert isinstance(result, OutcomeUnknown)
    assert asked == 1


async def test_a_dead_quorum_gives_no_leader_within_the_hold_time(
    cluster: LocalCluster, client: ClientBackend
) -> None:
    leader = await cluster.leader()
    survivor = await cluster.follower()
    for member in cluster.members:
        if member is not survivor:
            await cluster.kill(member)
    assert leader is not survivor
    await until(lambda: not survivor.driver.leader_id)
    loop = asyncio.get_running_loop()
    began = loop.time()
    results = await asyncio.gather(
        outcome(client.write(KvSet(key=b"a", value=b""))),
        outcome(client.read(KvGet(key=b"a"), ReadOptions())),
        outcome(client.read(KvGet(key=b"a"), ReadOptions(min_index=1, wait_ms=60_000))),
    )
    assert [type(result) for result in results] == [NoLeader] * 3
    assert loop.time() - began < HOLD_S + 1.5
    stale = await client.read(KvGet(key=b"a"), ReadOptions(mode="stale"))
    assert (stale.mode, stale.known_leader) == ("stale", False)


@pytest.mark.parametrize("known", [0, 2])
async def test_without_any_server_requests_are_held_then_refused(known: int) -> None:
    loop = asyncio.get_running_loop()
    async with client_of([f"127.0.0.1:{port}" for port in free_ports(known)]) as client:
        began = loop.time()
        results = await asyncio.gather(
            outcome(client.write(KvSet(key=b"a", value=b""))),
            outcome(client.read(KvGet(key=b"a"), ReadOptions(mode="stale"))),
            outcome(client.leader_address()),
        )
        assert [type(result) for result in results] == [NoLeader] * 3
        assert HOLD_S * 0.9 <= loop.time() - began < HOLD_S + 1


async def test_news_of_a_server_end_the_wait(cluster: LocalCluster) -> None:
    async with client_of([]) as client, asyncio.TaskGroup() as group:
        writing = group.create_task(client.write(KvSet(key=b"a", value=b"")))
        await asyncio.sleep(0)
        assert not writing.done()
        client.set_servers(cluster.addresses)
        assert await writing is True


async def test_an_agent_may_be_limited(cluster: LocalCluster) -> None:
    counted: list[str] = []
    async with client_of(cluster.addresses, rate=0.0, burst=2, count=counted.append) as client:
        await client.leader_address()
        await client.leader_address()
        with pytest.raises(Overloaded, match="rpc rate limit exceeded"):
            await client.leader_address()
    assert counted == ["client.rpc"] * 3 + ["client.rpc.exceeded"]


# The list


def test_the_server_in_use_stays_while_it_is_there() -> None:
    servers = ServerList(random.Random(1))
    assert servers.current is None
    assert servers.update(["a", "b", "c"])
    used = servers.current
    assert servers.update(["a", "b", "c", "d", "e"])
    assert servers.current == used
    assert sorted(servers.servers) == ["a", "b", "c", "d", "e"]
    assert not servers.update(["a", "b", "c"])
    assert servers.current == used
    servers.update([each for each in "abc" if each != used])
    assert servers.current != used
    assert len(servers) == 2


def test_a_failed_server_is_tried_last() -> None:
    servers = ServerList(random.Random(1))
    servers.update(["a", "b", "c"])
    first, second, third = servers.servers
    servers.failed(first)
    assert servers.servers == (second, third, first)
    servers.failed("unknown")
    assert servers.servers == (second, third, first)


def test_agents_spread_over_the_servers() -> None:
    used = []
    for seed in range(300):
        servers = ServerList(random.Random(seed))
        servers.update(["a", "b", "c"])
        used.append(servers.current)
    assert all(70 < used.count(server) < 130 for server in "abc")
    used = []
    servers = ServerList(random.Random(1))
    servers.update(["a", "b", "c"])
    for _ in range(300):
        servers.rebalance()
        used.append(servers.current)
    assert all(70 < used.count(server) < 130 for server in "abc")


def test_the_bucket_fills_at_its_rate() -> None:
    now = 0.0
    limit = RateLimit(2.0, 3, lambda: now)
    for _ in range(3):
        limit.take()
    with pytest.raises(Overloaded):
        limit.take()
    now = 0.5
    limit.take()
    with pytest.raises(Overloaded):
        limit.take()
    now = 1000.0
    for _ in range(3):
        limit.take()
    with pytest.raises(Overloaded):
        limit.take()
    limit.configure(-1, 0)
    for _ in range(100):
        limit.take()
