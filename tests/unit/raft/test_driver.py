"""The driver: one server on a real engine, three in one process, and what is told to whom."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from registry.errors import (
    Corrupt,
    LocalProtocolError,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    StorageError,
    TooLarge,
)
from registry.raft.disk import Identity, bootstrap
from registry.raft.driver import RaftDriver
from registry.raft.messages import Configuration, Entry, EntryKind, Server, SnapshotMeta
from registry.raft.ready import RaftRole, RoleChange
from registry.raft.reports import NEVER_MS
from registry.raft.settings import RaftSettings
from registry.raft.snapshots import write_snapshot
from registry.raft.transport import LocalNetwork
from registry.storage.keys import STATE, decode_u64, encode_u64
from registry.storage.memory import MemoryStore
from registry.storage.rocks import RocksStore
from registry.storage.store import Batch, Snapshot, Staged, Store, prefix_stop

FAST = RaftSettings(election_timeout_ms=100)
_APPLIED = STATE + b"applied"


class WordMachine:
    """Keeps the data of every command under its index; the result is (index, data)."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.batches: list[int] = []

    @property
    def applied_index(self) -> int:
        return decode_u64(self._store.get(_APPLIED) or b"")

    def apply(self, entries: Sequence[Entry]) -> list[Any]:
        batch = Batch()
        results: list[Any] = []
        for entry in entries:
            is_command = entry.kind is EntryKind.COMMAND
            results.append((entry.index, entry.data) if is_command else None)
            if is_command:
                batch.put(STATE + b"w" + encode_u64(entry.index), entry.data)
        batch.put(_APPLIED, encode_u64(entries[-1].index))
        self._store.write(batch)
        self.batches.append(len(entries))
        return results

    def dump(self, snapshot: Snapshot) -> Iterator[bytes]:
        for key, value in snapshot.scan(STATE, prefix_stop(STATE)):
            yield b"%d %d\n" % (len(key), len(value)) + key + value

    def prepare(self, chunks: Iterable[bytes]) -> Staged:
        raw = b"".join(chunks)
        pairs = []
        while raw:
            head, _, rest = raw.partition(b"\n")
            key_size, value_size = map(int, head.split())
            pairs.append((rest[:key_size], rest[key_size : key_size + value_size]))
            raw = rest[key_size + value_size :]
        return self._store.stage(pairs)

    def install(self, prepared: Staged) -> None:
        batch = Batch()
        batch.delete_range(STATE, prefix_stop(STATE) or b"")
        self._store.replace(batch, prepared)

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.install(self.prepare(chunks))

    def words(self) -> list[bytes]:
        return [value for _, value in self._store.scan(STATE + b"w", STATE + b"x")]


class SlowlyPreparedMachine(WordMachine):
    """Prepares a snapshot only when the test lets it."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.preparing = threading.Event()
        self.may_prepare = threading.Event()

    def prepare(self, chunks: Iterable[bytes]) -> Staged:
        self.preparing.set()
        assert self.may_prepare.wait(20)
        return super().prepare(chunks)


class SlowSyncStore(MemoryStore):
    """A store whose sync waits until the test lets it go, and can be made to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.may_sync = threading.Event()
        self.may_sync.set()
        self.syncs = 0
        self.error: Exception | None = None

    def sync(self) -> None:
        self.syncs += 1
        assert self.may_sync.wait(10)
        if self.error is not None:
            raise self.error
        super().sync()


def servers(*ids: str) -> Configuration:
    return Configuration(tuple(Server(id_, f"{id_}:8300") for id_ in ids))


def single(store: Store, **options: Any) -> RaftDriver:
    """A driver of a one-server cluster on `store`, which is bootstrapped when it is new."""
    with contextlib.suppress(LocalProtocolError):
        bootstrap(store, servers("a"), Identity("a"))
    options.setdefault("settings", FAST)
    return RaftDriver(server_id="a", store=store, machine=WordMachine(store), **options)


@contextlib.asynccontextmanager
async def running(*drivers: RaftDriver) -> AsyncIterator[None]:
    tasks = []
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(driver.run()) for driver in drivers]
        await asyncio.sleep(0)
        yield
        for task in tasks:
            task.cancel()


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the condition spans threads and servers
            await asyncio.sleep(0.005)


class TestOneServer:
    async def test_leads_at_once_and_answers(self) -> None:
        # An election timeout of a minute: it must not be waited for.
        driver = single(MemoryStore(), settings=RaftSettings(election_timeout_ms=60_000))
        async with running(driver), asyncio.timeout(5):
            await driver.wait_for_leader()
            assert driver.is_leader
            assert driver.leader_id == "a"
            assert driver.leader_address == "a:8300"
            index, data = await driver.propose(b"hello")
            assert data == b"hello"
            assert driver.applied_index == index == driver.commit_index
            assert driver.last_contact_ms() == 0

    async def test_reads_are_let_through(self) -> None:
        driver = single(MemoryStore())
        assert not driver.try_lease_read()
        async with running(driver), asyncio.timeout(5):
            await driver.wait_for_leader()
            await driver.barrier()
            assert driver.try_lease_read()
            await driver.read_barrier(consistent=True)
            await driver.read_barrier()

    async def test_a_restart_forgets_nothing(self, tmp_path: Path) -> None:
        store = RocksStore.open(tmp_path)
        async with running(driver := single(store)):
            await driver.wait_for_leader()
            await asyncio.gather(*(driver.propose(b"%d" % n) for n in range(50)))
            term = driver.term
        store.close()
        store = RocksStore.open(tmp_path)
        driver = single(store)
        machine = WordMachine(store)
        assert sorted(machine.words()) == sorted(b"%d" % n for n in range(50))
        async with running(driver), asyncio.timeout(5):
            await driver.wait_for_leader()
            assert driver.term > term
            await driver.propose(b"more")
            assert b"more" in machine.words()
        store.close()

    async def test_concurrent_proposals_share_syncs_and_writes(self) -> None:
        store = SlowSyncStore()
        machine = WordMachine(store)
        bootstrap(store, servers("a"), Identity("a"))
        driver = RaftDriver(server_id="a", store=store, machine=machine, settings=FAST)
        async with running(driver), asyncio.timeout(10):
            await driver.wait_for_leader()
            await driver.barrier()
            before, machine.batches[:] = store.syncs, []
            results = await asyncio.gather(*(driver.propose(b"%d" % n) for n in range(1000)))
            assert [data for _, data in results] == [b"%d" % n for n in range(1000)]
            assert store.syncs - before < 20
            assert len(machine.batches) < 20

    async def test_nothing_is_acknowledged_before_its_sync(self) -> None:
        store = SlowSyncStore()
        driver = single(store)
        async with running(driver), asyncio.timeout(10):
            await driver.wait_for_leader()
            await driver.barrier()
            before = store.syncs
            store.may_sync.clear()
            async with asyncio.TaskGroup() as group:
                first = group.create_task(driver.propose(b"one"))
                await until(lambda: store.syncs == before + 1)
                second = group.create_task(driver.propose(b"two"))
                for _ in range(20):
                    await asyncio.sleep(0)
                assert driver.last_index == driver.commit_index + 2, "the loop goes on meanwhile"
                assert not first.done()
                assert not second.done()
                store.may_sync.set()
            assert (first.result()[1], second.result()[1]) == (b"one", b"two")
            assert store.syncs <= before + 3

    async def test_what_a_killed_process_left_unsynced_is_synced_first(self) -> None:
        store = SlowSyncStore()
        bootstrap(store, servers("a"), Identity("a"))
        before = store.syncs
        single(store)
        assert store.syncs == before + 1, "its log counts as durable from the start"

    async def test_bytes_held_by_proposals_are_given_back(self) -> None:
        settings = RaftSettings(election_timeout_ms=100, proposal_bytes_max=1000)
        driver = single(MemoryStore(), settings=settings)
        async with running(driver), asyncio.timeout(5):
            await driver.wait_for_leader()
            for _ in range(5):
                await driver.propose(b"x" * 900)
            with pytest.raises(Overloaded):
                await asyncio.gather(driver.propose(b"x" * 600), driver.propose(b"x" * 600))

    async def test_a_failed_sync_stops_the_server(self) -> None:
        store = SlowSyncStore()
        driver = single(store)
        outcome: list[BaseException] = []

        async def run_and_propose() -> None:
            async with asyncio.timeout(10), asyncio.TaskGroup() as group:
                group.create_task(driver.run())
                await asyncio.sleep(0)
                await propose()

        async def propose() -> None:
            await driver.wait_for_leader()
            await driver.barrier()
            store.error = StorageError("input/output error")
            try:
                await driver.propose(b"doubtful")
            except Exception as error:
                outcome.append(error)

        with pytest.raises(ExceptionGroup) as raised:
            await run_and_propose()
        assert isinstance(raised.value.exceptions[0], StorageError)
        assert isinstance(outcome[0], OutcomeUnknown)
        with pytest.raises(NotLeader):
            await driver.propose(b"late")

    async def test_too_large_and_too_many_are_refused_undone(self) -> None:
        store = SlowSyncStore()
        settings = RaftSettings(election_timeout_ms=100, proposals_max=10)
        driver = single(store, settings=settings)
        async with running(driver), asyncio.timeout(10):
            await driver.wait_for_leader()
            await driver.barrier()
            with pytest.raises(TooLarge):
                await driver.propose(b"x" * (4 << 20))
            store.may_sync.clear()
            async with asyncio.TaskGroup() as group:
                accepted = [group.create_task(driver.propose(b"%d" % n)) for n in range(10)]
                await until(lambda: driver.last_index >= driver.commit_index + 10)
                with pytest.raises(Overloaded):
                    await driver.propose(b"one too many")
                store.may_sync.set()
            assert all(task.done() for task in accepted)

    async def test_stopping_leaves_no_one_waiting(self) -> None:
        store = SlowSyncStore()
        driver = single(store)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group, running(driver):
            await driver.wait_for_leader()
            await driver.barrier()
            store.may_sync.clear()
            waiting = group.create_task(_outcome(driver.propose(b"appended")))
            await until(lambda: driver.last_index > driver.commit_index)
            store.may_sync.set()
            # Cancelled before the loop hears of the sync.
        assert waiting.result() in (OutcomeUnknown, None)

    async def test_refuses_a_state_that_the_log_does_not_explain(self) -> None:
        store = MemoryStore()
        bootstrap(store, servers("a"), Identity("a"))
        batch = Batch()
        batch.put(_APPLIED, encode_u64(99))
        store.write(batch)
        with pytest.raises(Corrupt, match="state is at index 99"):
            single(store)

    async def test_refuses_the_store_of_another_server(self) -> None:
        store = MemoryStore()
        bootstrap(store, servers("a"), Identity("a"))
        with pytest.raises(StorageError, match="belongs to server a"):
            RaftDriver(server_id="b", store=store, machine=WordMachine(store))

    async def test_the_log_is_compacted_and_survives_it(self, tmp_path: Path) -> None:
        settings = RaftSettings(
            election_timeout_ms=100,
            compaction_threshold_entries=100,
            compaction_interval_ms=20,
            trailing_entries=10,
        )
        store = RocksStore.open(tmp_path)
        async with running(driver := single(store, settings=settings)), asyncio.timeout(20):
            await driver.wait_for_leader()
            for start in range(0, 400, 50):
                await asyncio.gather(*(driver.propose(b"%d" % (start + n)) for n in range(50)))
            await until(lambda: int(driver.statistics()["last_snapshot_index"]) > 200)
            last = driver.last_index
        store.close()
        store = RocksStore.open(tmp_path)
        async with running(driver := single(store, settings=settings)), asyncio.timeout(20):
            assert driver.last_index >= last
            await driver.wait_for_leader()
            await driver.propose(b"after")
            assert len(WordMachine(store).words()) == 401
            assert driver.configuration.servers == servers("a").servers
        store.close()

    async def test_a_pause_is_noticed_before_the_next_read(self) -> None:
        now = [100.0]
        driver = single(MemoryStore(), clock=lambda: now[0])
        async with running(driver), asyncio.timeout(5):
            await driver.wait_for_leader()
            await driver.barrier()
            seen: list[str] = []
            driver._loop.core.clock_jumped = lambda: seen.append("jump")  # type: ignore[method-assign]
            now[0] += 30
            driver.try_lease_read()
            assert seen == ["jump"]


async def _outcome(operation: Any) -> type[BaseException] | None:
    try:
        await operation
    except Exception as error:
        return type(error)
    return None


@dataclass
class Trio:
    """Three drivers on one in-process network."""

    network: LocalNetwork = field(default_factory=LocalNetwork)
    stores: dict[str, Store] = field(default_factory=dict)
    drivers: dict[str, RaftDriver] = field(default_factory=dict)
    changes: list[tuple[str, RoleChange]] = field(default_factory=list)
    settings: RaftSettings = FAST

    def build(
        self, server_id: str, machine: WordMachine | None = None, **options: Any
    ) -> RaftDriver:
        store = self.stores.setdefault(server_id, MemoryStore())
        driver = RaftDriver(
            server_id=server_id,
            store=store,
            machine=machine or WordMachine(store),
            transport=self.network.transport(server_id),
            settings=self.settings,
            on_role_change=lambda change: self.changes.append((server_id, change)),
            rng=random.Random(server_id),
            **options,
        )
        self.network.attach(server_id, driver.receive)
        self.drivers[server_id] = driver
        return driver

    def words(self, server_id: str) -> list[bytes]:
        return WordMachine(self.stores[server_id]).words()

    async def leader(self, among: Iterable[str] = "abc") -> RaftDriver:
        """The one among these that has a leader's proof: something of its own term committed."""
        names = list(among)

        def found() -> RaftDriver | None:
            leading = [self.drivers[n] for n in names if self.drivers[n].is_leader]
            return max(leading, key=lambda driver: driver.term, default=None)

        await until(lambda: found() is not None)
        leader = found()
        assert leader is not None
        return leader


#: So that a few hundred writes are more than the log holds.
CUT_EARLY = RaftSettings(
    election_timeout_ms=100,
    compaction_threshold_entries=50,
    compaction_interval_ms=20,
    trailing_entries=5,
    snapshot_chunk_bytes=1000,
)


async def leave_behind(trio: Trio) -> RaftDriver:
    """A follower that is cut off, and so far behind that the leader's log has no more for it."""
    leader = await trio.leader()
    behind = next(d for d in trio.drivers.values() if d is not leader)
    trio.network.isolate(behind.server_id)
    for start in range(0, 300, 50):
        await asyncio.gather(*(leader.propose(b"%d" % (start + n)) for n in range(50)))
    await until(lambda: int(leader.statistics()["last_snapshot_index"]) > 200)
    return behind


@pytest.fixture
def trio() -> Trio:
    trio = Trio()
    for server_id in "abc":
        trio.stores[server_id] = MemoryStore()
        bootstrap(trio.stores[server_id], servers("a", "b", "c"), Identity(server_id))
        trio.build(server_id)
    return trio


class TestThreeServers:
    async def test_replicate_to_all(self, trio: Trio) -> None:
        async with running(*trio.drivers.values()), asyncio.timeout(20):
            leader = await trio.leader()
            await asyncio.gather(*(leader.propose(b"%d" % n) for n in range(300)))
            last = leader.last_index
            await until(lambda: all(d.applied_index == last for d in trio.drivers.values()))
            assert trio.words("a") == trio.words("b") == trio.words("c")
            assert len(trio.words("a")) == 300
            for driver in trio.drivers.values():
                assert driver.leader_id == leader.server_id
                assert 0 <= driver.last_contact_ms() < NEVER_MS
            await leader.read_barrier(consistent=True)

    async def test_followers_refuse_and_say_who_leads(self, trio: Trio) -> None:
        async with running(*trio.drivers.values()), asyncio.timeout(20):
            leader = await trio.leader()
            follower = next(d for d in trio.drivers.values() if d is not leader)
            await follower.wait_for_leader()
            with pytest.raises(NotLeader) as refused:
                await follower.propose(b"x")
            assert refused.value.leader_id == leader.server_id
            with pytest.raises(NotLeader):
                await follower.read_barrier(consistent=True)
            assert not follower.try_lease_read()

    async def test_loss_of_the_leader(self, trio: Trio) -> None:
        async with running(*trio.drivers.values()), asyncio.timeout(30):
            old = await trio.leader()
            await old.propose(b"kept")
            others = [d.server_id for d in trio.drivers.values() if d is not old]
            trio.network.isolate(old.server_id)
            doubtful = asyncio.gather(_outcome(old.propose(b"doubtful")))
            new = await trio.leader(others)
            assert new.term > old.term
            await new.propose(b"after")
            assert await doubtful == [OutcomeUnknown]
            await until(lambda: not old.is_leader)
            assert not old.try_lease_read()
            trio.network.heal()
            await until(lambda: trio.words(old.server_id) == [b"kept", b"after"])
            roles = [c.role for name, c in trio.changes if name == old.server_id]
            assert RaftRole.LEADER in roles
            assert roles[-1] is RaftRole.FOLLOWER

    async def test_a_leader_tells_how_its_followers_do(self, trio: Trio) -> None:
        async with running(*trio.drivers.values()), asyncio.timeout(20):
            leader = await trio.leader()
            await leader.propose(b"x")
            last, term = leader.last_index, leader.last_term
            await until(lambda: all(f.match == last for f in leader.followers().values()))
            others = set(trio.drivers) - {leader.server_id}
            assert set(leader.followers()) == others
            assert {f.match_term for f in leader.followers().values()} == {term}
            gone, there = sorted(others)
            assert trio.drivers[there].followers() == {}
            trio.network.isolate(gone)
            await until(lambda: leader.followers()[gone].silence_ms > 20)
            # One that answers every heartbeat is never silent, however far these are apart.
            assert leader.followers()[there].silence_ms <= 10
            await leader.propose(b"y")
            assert leader.followers()[gone].match == last

    async def test_transfer_of_leadership(self, trio: Trio) -> None:
        async with running(*trio.drivers.values()), asyncio.timeout(20):
            old = await trio.leader()
            await old.barrier()
            target = next(d for d in trio.drivers.values() if d is not old)
            await until(lambda: target.commit_index == old.commit_index)
            await old.transfer(target.server_id)
            assert not old.is_leader
            await until(lambda: target.is_leader)

    async def test_a_follower_that_has_much_to_apply_gives_way(self, trio: Trio) -> None:
        """Thousands of entries at once would keep it from answering anybody for a second."""
        turns = 0
        applied: dict[int, int] = defaultdict(int)  # turn of the loop -> entries

        class WatchedMachine(WordMachine):
            def apply(self, entries: Sequence[Entry]) -> list[Any]:
                applied[turns] += len(entries)
                return super().apply(entries)

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with running(*trio.drivers.values()), asyncio.timeout(60):
            leader = await trio.leader()
            behind = next(d for d in trio.drivers.values() if d is not leader).server_id
            trio.network.isolate(behind)
            for _ in range(6):
                await asyncio.gather(*(leader.propose(b"x" * 200) for _ in range(1000)))
            words = trio.words(leader.server_id)
        for server_id in "abc":
            trio.build(server_id, WatchedMachine(trio.stores[server_id]))
        trio.network.heal()
        async with (
            asyncio.timeout(60),
            asyncio.TaskGroup() as group,
            running(*trio.drivers.values()),
        ):
            counting = group.create_task(count_turns())
            await until(lambda: trio.words(behind) == words, 40)
            counting.cancel()
        assert sum(applied.values()) >= 6000
        assert max(applied.values()) < 500

    async def test_a_follower_behind_the_log_catches_up_by_snapshot(
        self, trio: Trio, tmp_path: Path
    ) -> None:
        trio.settings = CUT_EARLY
        for server_id in "abc":
            trio.build(server_id, snapshot_directory=tmp_path / server_id)
        async with running(*trio.drivers.values()), asyncio.timeout(60):
            behind = await leave_behind(trio)
            leader = await trio.leader()
            trio.network.heal()
            await until(lambda: behind.applied_index >= leader.commit_index, 30)
            assert trio.words(behind.server_id) == trio.words(leader.server_id)
            assert int(behind.statistics()["last_snapshot_index"]) > 0
            assert list((tmp_path / behind.server_id).glob("*/meta.json"))
            await (await trio.leader()).propose(b"more")

    async def test_a_follower_answers_while_it_prepares_a_snapshot(
        self, trio: Trio, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """For longer than a sender waits for any answer: it is told that there is work done."""
        caplog.set_level("INFO", "registry.raft")
        attempts_max = 2
        monkeypatch.setattr("registry.raft.streaming.ATTEMPTS_MAX", attempts_max)
        # Long enough that nobody else takes over on a busy machine.
        trio.settings = replace(CUT_EARLY, election_timeout_ms=400)
        machines = {id_: SlowlyPreparedMachine(trio.stores[id_]) for id_ in "abc"}
        for server_id, machine in machines.items():
            trio.build(server_id, machine)
        async with running(*trio.drivers.values()), asyncio.timeout(60):
            behind = await leave_behind(trio)
            leader, machine = await trio.leader(), machines[behind.server_id]
            before = trio.words(behind.server_id)
            trio.network.heal()
            await until(machine.preparing.is_set)
            patience_s = attempts_max * trio.settings.election_timeout_ms / 1000
            waited_until = asyncio.get_running_loop().time() + 1.5 * patience_s
            while asyncio.get_running_loop().time() < waited_until:
                await leader.propose(b"meanwhile")
                assert behind.last_contact_ms() < 1000
                assert trio.words(behind.server_id) == before, "the old state, and all of it"
                await asyncio.sleep(0.01)
            # Once only until here. What was written meanwhile may make another one necessary.
            assert sum("sending a snapshot" in record.message for record in caplog.records) == 1
            machine.may_prepare.set()
            await until(lambda: behind.applied_index >= leader.commit_index, 30)
            assert trio.words(behind.server_id) == trio.words(leader.server_id)

    async def test_a_snapshot_that_is_not_needed_any_more_is_thrown_away(self, trio: Trio) -> None:
        class CountingStore(MemoryStore):
            staged = 0

            def stage(self, pairs: Iterable[tuple[bytes, bytes]]) -> Staged:
                self.staged += 1
                return super().stage(pairs)

            def replace(self, before: Batch, staged: Staged) -> None:
                raise AssertionError("installed")

        for server_id in "abc":
            trio.stores[server_id] = CountingStore()
            bootstrap(trio.stores[server_id], servers("a", "b", "c"), Identity(server_id))
            trio.build(server_id)
        async with running(*trio.drivers.values()), asyncio.timeout(20):
            leader = await trio.leader()
            await leader.propose(b"x")
            store = trio.stores[leader.server_id]
            snapshots = leader._loop._compaction._snapshots
            ahead = SnapshotMeta("1-1000-ab", 1000, leader.term, leader.configuration)
            view = store.snapshot()
            meta = write_snapshot(snapshots, ahead, WordMachine(store).dump(view))
            # Whoever leads by the time that it is ready has no use for it.
            await leader._loop._compaction._snapshot_received(meta, "b")
            assert isinstance(store, CountingStore)
            assert store.staged == 1
            old = msgspec.structs.replace(meta, index=1)
            await leader._loop._compaction._snapshot_received(old, "b")
            assert store.staged == 1, "prepared although it is old"
            await leader.propose(b"y")

    @pytest.mark.parametrize("crash_at", ["the note", "the old state gone", "the log's reset"])
    async def test_a_restart_finishes_an_installation(
        self, trio: Trio, tmp_path: Path, crash_at: str
    ) -> None:
        """A crash anywhere in it: note, switch of the state, reset of the log (R-52)."""

        class Crash(Exception):
            """The process ends here."""

        class CrashingStore(MemoryStore):
            crashing = False

            def replace(self, before: Batch, staged: Staged) -> None:
                if self.crashing and crash_at == "the note":
                    raise Crash
                self.write(before)
                if self.crashing and crash_at == "the old state gone":
                    raise Crash
                super().replace(Batch(), staged)
                if self.crashing:
                    raise Crash

        trio.settings = CUT_EARLY
        for server_id in "abc":
            trio.stores[server_id] = CrashingStore()
            bootstrap(trio.stores[server_id], servers("a", "b", "c"), Identity(server_id))
            trio.build(server_id, snapshot_directory=tmp_path / server_id)
        crashed: list[str] = []

        async def run_until_crash(driver: RaftDriver) -> None:
            try:
                await driver.run()
            except Crash:
                crashed.append(driver.server_id)
                trio.network.detach(driver.server_id)

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            tasks = [group.create_task(run_until_crash(d)) for d in trio.drivers.values()]
            behind = await leave_behind(trio)
            id_ = behind.server_id
            store = trio.stores[id_]
            assert isinstance(store, CrashingStore)
            store.crashing = True
            trio.network.heal()
            await until(lambda: crashed == [id_], 30)
            store.crashing = False
            again = trio.build(id_, snapshot_directory=tmp_path / id_)
            # Before anything was heard from anybody:
            assert again.applied_index > 200
            assert again.applied_index == again.last_index
            assert (
                trio.words(id_)
                == trio.words((await trio.leader()).server_id)[: len(trio.words(id_))]
            )
            tasks.append(group.create_task(run_until_crash(again)))
            leader = await trio.leader()
            await leader.propose(b"more")
            await until(lambda: trio.words(id_) == trio.words(leader.server_id), 30)
            for task in tasks:
                task.cancel()
