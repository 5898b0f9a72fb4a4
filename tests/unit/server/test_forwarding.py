"""Three servers in one process over loopback sockets: what each does for the others' clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest

from registry.errors import (
    ConfigError,
    ConnectionLost,
    NoLeader,
    NotLeader,
    OutcomeUnknown,
    RegistryError,
    Rejected,
    Unavailable,
)
from registry.raft.membership import AddLearner, ChangePending
from registry.raft.messages import HeartbeatRequest
from registry.raft.reports import NEVER_MS
from registry.raft.transport import encode_message
from registry.rpc.connection import dial
from registry.rpc.stream import Hello
from registry.server import calls
from registry.server.raft_transport import METHOD
from registry.state.base import ReadOptions, Refused
from registry.state.catalog_queries import ListNodes
from registry.state.kv import KvGet, KvList, KvSet
from registry.state.locks import KvLock
from registry.state.sessions import SessionCreate, SessionInfo
from registry.testing.servers import LocalCluster, LocalServer, cluster_of, until

HOLD_S = 3.0


@pytest.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    async with cluster_of(3, hold_timeout_s=HOLD_S) as cluster:
        yield cluster


async def outcome(work: Awaitable[Any]) -> Any:
    """The result, or the error of ours that came instead."""
    try:
        return await work
    except RegistryError as problem:
        return problem


async def value_of(member: LocalServer, key: bytes, **options: Any) -> bytes | None:
    result = await member.server.read(KvGet(key=key), ReadOptions(**options))
    return result.value.value if result.value else None


async def test_writes_go_to_the_leader_from_everywhere(cluster: LocalCluster) -> None:
    await cluster.leader()
    for member in cluster.members:
        assert await member.server.write(KvSet(key=member.name.encode(), value=b"x")) is True
    for member in cluster.members:
        result = await member.server.read(KvList(prefix=b""), ReadOptions())
        assert [key for key, _ in result.value] == [b"s1", b"s2", b"s3"]


@pytest.mark.parametrize("mode", ["default", "consistent"])
async def test_a_follower_has_the_leader_answer(cluster: LocalCluster, mode: str) -> None:
    leader, follower = await cluster.leader(), await cluster.follower()
    await leader.server.write(KvSet(key=b"a", value=b"1", flags=7))
    here = await leader.server.read(KvGet(key=b"a"), ReadOptions(mode=mode))
    there = await follower.server.read(KvGet(key=b"a"), ReadOptions(mode=mode))
    assert there == here
    assert (there.mode, there.known_leader, there.last_contact_ms) == (mode, True, 0)


async def test_a_follower_answers_stale_reads_itself(cluster: LocalCluster) -> None:
    leader, follower = await cluster.leader(), await cluster.follower()
    await leader.server.write(KvSet(key=b"a", value=b"1"))
    await until(lambda: follower.driver.applied_index >= leader.driver.commit_index)
    others = [member for member in cluster.members if member is not follower]
    await asyncio.gather(*(cluster.kill(member) for member in others))
    await until(lambda: not follower.driver.leader_id, "the silence is noticed")
    result = await follower.server.read(KvGet(key=b"a"), ReadOptions(mode="stale"))
    assert result.value.value == b"1"
    assert (result.mode, result.known_leader) == ("stale", False)
    assert 300 <= result.last_contact_ms < NEVER_MS


async def test_last_contact_is_small_while_the_leader_is_heard(cluster: LocalCluster) -> None:
    follower = await cluster.follower()
    result = await follower.server.read(KvGet(key=b"a"), ReadOptions(mode="stale"))
    assert (result.mode, result.known_leader) == ("stale", True)
    assert result.last_contact_ms < 300


async def test_what_is_staler_than_allowed_is_asked_of_the_leader(cluster: LocalCluster) -> None:
    leader, follower = await cluster.leader(), await cluster.follower()
    await leader.server.write(KvSet(key=b"a", value=b"1"))
    result = await follower.server.read(KvGet(key=b"a"), ReadOptions(mode="stale", max_stale_ms=-1))
    assert (result.mode, result.last_contact_ms, result.value.value) == ("default", 0, b"1")


async def test_refusals_come_back_as_values(cluster: LocalCluster) -> None:
    follower = await cluster.follower()
    refused = await follower.server.write(KvLock(key=b"a", value=b"", session="nonsense"))
    assert isinstance(refused, Refused)
    assert refused.reason.startswith("failed session lookup")


async def test_errors_of_the_leader_keep_their_type(cluster: LocalCluster) -> None:
    leader, follower = await cluster.leader(), await cluster.follower()
    big = KvSet(key=b"a", value=bytes(2 << 20))
    here, there = await outcome(leader.server.write(big)), await outcome(follower.server.write(big))
    assert type(there) is type(here)
    assert str(there) == str(here)
    assert "over the limit" in str(there)


async def test_the_leader_stamps_ids_and_runs_the_timers(cluster: LocalCluster) -> None:
    leader, follower = await cluster.leader(), await cluster.follower()
    await until(lambda: _is_registered(leader))
    session = await follower.server.write(
        SessionCreate(node=leader.name, checks=(), ttl_ns=10 * 10**9)
    )
    assert len(session.id) == 36
    assert len(leader.server.duties.timers) == 1
    info = await follower.server.read(SessionInfo(id=session.id), ReadOptions())
    assert info.value == [session]


def _is_registered(leader: LocalServer) -> bool:
    _, nodes = ListNodes().run(leader.server.machine.reader)
    return [node.node for node in nodes] == [leader.name]


async def test_a_blocking_read_at_a_follower_wakes_by_a_write(cluster: LocalCluster) -> None:
    leader, follower = await cluster.leader(), await cluster.follower()
    index = (await follower.server.read(KvGet(key=b"a"), ReadOptions())).index
    async with asyncio.TaskGroup() as group:
        options = ReadOptions(min_index=index, wait_ms=20_000)
        reading = group.create_task(follower.server.read(KvGet(key=b"a"), options))
        await until(lambda: leader.server.reads.blocking == 1, "the leader holds the read")
        await leader.server.write(KvSet(key=b"a", value=b"new"))
        assert (await reading).value.value == b"new"


async def test_a_blocking_read_that_ends_unchanged(cluster: LocalCluster) -> None:
    follower = await cluster.follower()
    await follower.server.write(KvSet(key=b"a", value=b"1"))
    before = await follower.server.read(KvGet(key=b"a"), ReadOptions())
    after = await follower.server.read(
        KvGet(key=b"a"), ReadOptions(min_index=before.index, wait_ms=50)
    )
    assert after == before


async def test_a_client_that_goes_away_ends_its_read_at_the_leader(cluster: LocalCluster) -> None:
    leader, follower = await cluster.leader(), await cluster.follower()
    await leader.server.write(KvSet(key=b"a", value=b"1"))
    index = (await leader.server.read(KvGet(key=b"a"), ReadOptions())).index
    async with asyncio.TaskGroup() as group:
        options = ReadOptions(min_index=index, wait_ms=20_000)
        reading = group.create_task(follower.server.read(KvGet(key=b"a"), options))
        await until(lambda: leader.server.reads.blocking == 1)
        reading.cancel()
        await until(lambda: leader.server.reads.blocking == 0, "the leader lets it go")


async def test_clients_go_on_when_the_leader_dies(cluster: LocalCluster) -> None:
    """Writes whose outcome is unknown are told; what was acknowledged is there; reads block on."""
    leader, follower = await cluster.leader(), await cluster.follower()
    await follower.server.write(KvSet(key=b"watched", value=b"before"))
    index = (await follower.server.read(KvGet(key=b"watched"), ReadOptions())).index
    acknowledged: list[bytes] = []
    others = [member for member in cluster.members if member is not leader]

    async def write_on(member: LocalServer, count: int) -> None:
        for number in range(count):
            key = b"%s/%d" % (member.name.encode(), number)
            result = await outcome(member.server.write(KvSet(key=key, value=b"x")))
            if result is True:
                acknowledged.append(key)
            else:
                assert isinstance(result, OutcomeUnknown), result

    async with asyncio.TaskGroup() as group:
        options = ReadOptions(min_index=index, wait_ms=30_000)
        reading = group.create_task(follower.server.read(KvGet(key=b"watched"), options))
        await until(lambda: leader.server.reads.blocking == 1)
        writing = [group.create_task(write_on(member, 150)) for member in others]
        await until(lambda: len(acknowledged) > 20)
        await cluster.kill(leader)
        await asyncio.wait(writing)
        new = await cluster.leader()
        assert new is not leader
        await until(lambda: new.server.reads.blocking == 1 or reading.done())
        assert not reading.done(), "nothing has changed, so the read goes on at the new leader"
        await others[0].server.write(KvSet(key=b"watched", value=b"after"))
        assert (await reading).value.value == b"after"
    found = await others[1].server.read(KvList(prefix=b"s"), ReadOptions())
    assert set(acknowledged) <= {key for key, _ in found.value}
    assert len(acknowledged) > 250


async def test_a_write_that_was_lost_on_its_way_is_not_repeated(cluster: LocalCluster) -> None:
    """The leader takes it and dies before the answer: nobody may guess."""
    leader, follower = await cluster.leader(), await cluster.follower()
    await follower.server.write(KvSet(key=b"warm", value=b""))
    sent = 0

    async def swallow(caller: Any, body: bytes) -> bytes:
        nonlocal sent
        sent += 1
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    leader.network.rpc.handlers[calls.WRITE] = swallow
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(outcome(follower.server.write(KvSet(key=b"a", value=b""))))
        await until(lambda: sent == 1)
        await cluster.kill(leader)
        result = await writing
    assert isinstance(result, OutcomeUnknown)
    assert "lost the connection" in str(result)
    assert await value_of(follower, b"a") is None


async def test_a_leader_that_vanished_silently_is_given_up_once_another_leads(
    cluster: LocalCluster,
) -> None:
    leader, follower = await cluster.leader(), await cluster.follower()
    asked = 0

    async def swallow(caller: Any, body: bytes) -> bytes:
        nonlocal asked
        asked += 1
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    leader.network.rpc.handlers.update({calls.READ: swallow, calls.WRITE: swallow})
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(value_of(follower, b"a"))
        writing = group.create_task(outcome(follower.server.write(KvSet(key=b"b", value=b""))))
        await until(lambda: asked == 2)
        await leader.driver.transfer()
        assert await reading is None
        assert isinstance(await writing, OutcomeUnknown)


async def test_without_a_leader_requests_are_held_then_refused(cluster: LocalCluster) -> None:
    leader, survivor = await cluster.leader(), await cluster.follower()
    third = next(each for each in cluster.members if each not in (leader, survivor))
    await cluster.kill(leader)
    await cluster.kill(third)
    loop = asyncio.get_running_loop()
    await until(lambda: not survivor.driver.leader_id)
    began = loop.time()
    results = await asyncio.gather(
        outcome(survivor.server.write(KvSet(key=b"a", value=b""))),
        outcome(survivor.server.read(KvGet(key=b"a"), ReadOptions())),
        outcome(survivor.server.read(KvGet(key=b"a"), ReadOptions(mode="consistent"))),
        outcome(survivor.server.open_dump()),
        outcome(survivor.server.remove_server("s1")),
    )
    took = loop.time() - began
    assert [type(result) for result in results] == [NoLeader] * 5
    assert str(results[0]) == "No cluster leader"
    assert HOLD_S * 0.9 <= took <= HOLD_S + 1


async def test_requests_are_held_until_a_leader_is_there() -> None:
    async with cluster_of(3) as cluster:
        results = await asyncio.gather(
            *(
                member.server.write(KvSet(key=b"%d" % number, value=b""))
                for member in cluster.members
                for number in range(5)
            )
        )
        assert results == [True] * 15


async def test_a_request_does_not_hop_twice(cluster: LocalCluster) -> None:
    """A server that was taken for the leader says so instead of handing the request on."""
    leader, follower = await cluster.leader(), await cluster.follower()
    connection = await dial(follower.address, Hello("dc1", "test"))
    command, query = KvSet(key=b"a", value=b""), KvGet(key=b"a")
    for call in (
        calls.write(connection, command, 1),
        calls.read(connection, query, ReadOptions(), 1),
        calls.remove_server(connection, "s1", 1),
        calls.open_dump(connection, 1),
    ):
        with pytest.raises(NotLeader) as caught:
            await call
        assert caught.value.leader_id in (leader.id, None)
    assert await calls.write(connection, command, 0) is True
    connection.close()


async def test_servers_that_take_each_other_for_the_leader_give_up(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, follower = await cluster.leader(), await cluster.follower()
    third = next(each for each in cluster.members if each not in (leader, follower))

    class Mistaken:
        is_leader = False
        leader_id = third.id
        leader_address = third.address

    monkeypatch.setattr(follower.server.forwarding, "_consensus", Mistaken())
    monkeypatch.setattr(third.server.forwarding, "_consensus", Mistaken())
    result = await outcome(follower.server.write(KvSet(key=b"a", value=b"")))
    assert isinstance(result, NoLeader)


async def test_the_whole_state_comes_over_a_follower(cluster: LocalCluster) -> None:
    leader, follower = await cluster.leader(), await cluster.follower()
    for number in range(5):
        await leader.server.write(KvSet(key=b"%d" % number, value=bytes(300_000)))
    with await leader.server.open_dump() as here, await follower.server.open_dump() as there:
        assert (there.index, there.term) == (here.index, here.term)
        expected, got = await asyncio.gather(
            asyncio.to_thread(b"".join, here.chunks), asyncio.to_thread(b"".join, there.chunks)
        )
    assert got == expected
    assert len(got) > 1_500_000


async def test_dumps_are_closed_with_the_connection_that_opened_them(
    cluster: LocalCluster,
) -> None:
    leader = await cluster.leader()
    connection = await dial(leader.address, Hello("dc1", "test"))
    opened = [
        calls.decode(
            await connection.call(calls.DUMP_OPEN, calls.encode(calls.DumpCall(1))),
            calls.DumpOpened,
        )
        for _ in range(4)
    ]
    with pytest.raises(Unavailable, match="too many snapshots"):
        await calls.open_dump(connection, 1)
    handle = calls.encode(calls.DumpHandle(opened[0].handle))
    assert (await connection.call(calls.DUMP_NEXT, handle)).startswith(b"registry-state")
    connection.close()
    again = await dial(leader.address, Hello("dc1", "test"))
    with pytest.raises(Rejected, match="not open any more"):
        await again.call(calls.DUMP_NEXT, handle)
    again.close()


async def test_facts_and_configuration_are_known_everywhere(cluster: LocalCluster) -> None:
    leader = await cluster.leader()
    for member in cluster.members:
        assert await member.server.leader_address() == leader.address
        assert sorted(await member.server.peer_addresses()) == sorted(cluster.addresses)
        connection = await dial(member.address, Hello("dc1", "test"))
        facts = await calls.facts(connection)
        connection.close()
        assert facts.leader_address == leader.address
        assert [each["ID"] for each in facts.configuration if each["Leader"]] == [leader.id]


async def test_a_server_is_put_out_through_a_follower(cluster: LocalCluster) -> None:
    leader, follower = await cluster.leader(), await cluster.follower()
    third = next(each for each in cluster.members if each not in (leader, follower))
    await follower.server.remove_server(third.id)
    assert len(leader.driver.configuration.servers) == 2
    assert third.id not in [each.id for each in follower.driver.configuration.servers]


async def test_a_server_is_put_out_while_the_configuration_changes(cluster: LocalCluster) -> None:
    """Neither a change that is not committed yet nor one made in between is the asker's trouble."""
    leader, follower = await cluster.leader(), await cluster.follower()
    third = next(each for each in cluster.members if each not in (leader, follower))
    for number in range(2):
        await leader.server.barrier()  # so that its own first entry stands in nobody's way
        index = leader.driver.configuration.index
        learner = AddLearner(id=f"l{number}", address=f"127.0.0.1:{number}", based_on=index)
        await leader.driver.change_configuration(learner)
    async with asyncio.TaskGroup() as group:
        group.create_task(leader.server.remove_server("l0"))
        group.create_task(leader.server.remove_server("l1"))
        group.create_task(follower.server.remove_server(third.id))
    ids = {each.id for each in leader.driver.configuration.servers}
    assert ids == {leader.id, follower.id}


async def test_a_write_waits_for_the_end_of_a_transfer(cluster: LocalCluster) -> None:
    leader, follower = await cluster.leader(), await cluster.follower()
    async with asyncio.TaskGroup() as group:
        group.create_task(leader.driver.transfer(follower.id))
        writes = [
            group.create_task(member.server.write(KvSet(key=b"a%d" % number, value=b"")))
            for number, member in enumerate([leader, follower] * 5)
        ]
    assert [write.result() for write in writes] == [True] * 10
    assert (await cluster.leader()) is follower


async def test_what_a_leader_keeps_refusing_is_told_after_the_hold_time() -> None:
    async with cluster_of(3, hold_timeout_s=0.3) as cluster:
        leader, follower = await cluster.leader(), await cluster.follower()

        async def busy(server_id: str) -> None:
            raise ChangePending("another membership change is not committed yet; retry")

        leader.server.remove_server_here = busy  # type: ignore[method-assign]
        for member in (leader, follower):
            with pytest.raises(ChangePending, match="another membership change"):
                await member.server.remove_server("s1")


async def test_nonsense_from_a_caller_is_its_own_trouble(cluster: LocalCluster) -> None:
    leader = await cluster.leader()
    connection = await dial(leader.address, Hello("dc1", "test"))
    for method in (calls.WRITE, calls.READ, calls.REMOVE_SERVER, calls.DUMP_OPEN, calls.DUMP_NEXT):
        with pytest.raises(RegistryError, match=r"not a \w+"):
            await connection.call(method, b"\xc1")
    bad = calls.encode(calls.WriteCall(1, b"\x81\xa4type\xa1x"))
    with pytest.raises(RegistryError, match="not a command that this version knows"):
        await connection.call(calls.WRITE, bad)
    bad = calls.encode(calls.ReadCall(1, b"\x81\xa4type\xa1x", ReadOptions()))
    with pytest.raises(RegistryError, match="not a query that this version knows"):
        await connection.call(calls.READ, bad)
    for nonsense in (b"", b"\xc1", b"\x81\xa4type\xa1\x80"):
        connection.notify(METHOD, [nonsense])
    foreign = HeartbeatRequest(sender="x", receiver="y", term=10**6, cluster_id="other")
    connection.notify(METHOD, [encode_message(foreign)])
    assert (await calls.facts(connection)).leader_address == leader.address
    assert leader.network.transport.statistics()["undecodable"] == 3
    connection.close()


async def test_a_taken_port_says_what_to_do() -> None:
    async with cluster_of(1) as cluster:
        member = await cluster.leader()
        other = type(member.network)(member.network.settings)
        with pytest.raises(ConfigError, match=r"ports\.server: listen tcp .*-server-port"):
            other.bind()


async def test_a_lost_connection_is_no_outcome_for_reads(cluster: LocalCluster) -> None:
    """A read whose answer was lost is asked again, as often as it takes."""
    leader, follower = await cluster.leader(), await cluster.follower()
    await leader.server.write(KvSet(key=b"a", value=b"1"))
    answer = leader.network.rpc.handlers[calls.READ]
    lost = 0

    async def drop_twice(caller: Any, body: bytes) -> bytes:
        nonlocal lost
        if lost < 2:
            lost += 1
            leader.network.rpc.close_all()
            raise ConnectionLost("x", "y")
        return await answer(caller, body)

    leader.network.rpc.handlers[calls.READ] = drop_twice
    assert await value_of(follower, b"a") == b"1"
    assert lost == 2
