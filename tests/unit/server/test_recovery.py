"""Recovery by hand: how peers.json is read, and what servers do that were started with one."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from registry.errors import ConfigError
from registry.raft.disk import DiskLog, Identity, bootstrap
from registry.raft.driver import RaftDriver
from registry.raft.membership import AddLearner
from registry.raft.messages import Configuration, Entry, EntryKind, HardState, Role, Server
from registry.raft.settings import RaftSettings
from registry.raft.transport import LocalNetwork
from registry.server.recovery import INFO_FILE, PEERS_FILE, read_peers, recover_from_file
from registry.state.kv import KvGet, KvSet
from registry.state.machine import StateMachine, encode_command
from registry.storage.memory import MemoryStore
from registry.storage.rocks import RocksStore
from registry.storage.store import Store
from registry.testing.servers import until

THREE = Configuration(tuple(Server(name, f"{name}.example:8300") for name in "abc"))


def peer(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "address": f"{name}.example:8300", **more}


class TestReading:
    def test_the_usual_form(self) -> None:
        raw = json.dumps([peer("b", non_voter=True), peer("a", non_voter=False)]).encode()
        assert read_peers(raw, THREE, file="f") == (
            Server("a", "a.example:8300", Role.VOTER),
            Server("b", "b.example:8300", Role.LEARNER),
        )

    def test_the_older_form_names_known_servers_by_address(self) -> None:
        raw = b'["b.example:8300", "a.example:8300"]'
        assert [server.id for server in read_peers(raw, THREE, file="f")] == ["a", "b"]

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            pytest.param("", "not a list", id="empty"),
            pytest.param("{}", "not a list", id="object"),
            pytest.param("[1]", "not a list", id="number"),
            pytest.param('[{"id": "a"}]', "address", id="no-address"),
            pytest.param('[{"address": "a:1"}]', "id", id="no-id"),
            pytest.param(json.dumps([peer("a", suffrage="voter")]), "suffrage", id="unknown-field"),
            pytest.param(json.dumps([peer("a", non_voter="no")]), "non_voter", id="wrong-type"),
            pytest.param(json.dumps([peer("a")]) + "x", "not a list", id="trailing-text"),
            pytest.param("[]", "no server in it is a voter", id="nobody"),
            pytest.param(
                json.dumps([peer("a", non_voter=True)]), "no server in it is a voter", id="no-voter"
            ),
            pytest.param(json.dumps([peer("a"), peer("a")]), "the same id", id="same-id"),
            pytest.param(
                json.dumps([peer("a"), peer("b", address="a.example:8300")]),
                "the same address",
                id="same-address",
            ),
            pytest.param(json.dumps([peer("a", id="")]), "has no id", id="empty-id"),
            pytest.param(json.dumps([peer("a", address="a")]), "no address", id="no-port"),
            pytest.param(json.dumps([peer("a", address=":8300")]), "no address", id="no-host"),
            pytest.param(json.dumps([peer("a", address="a:0")]), "no address", id="port-zero"),
            pytest.param(json.dumps([peer("a", address="a:99999")]), "no address", id="port"),
            pytest.param('["d.example:8300"]', "no server is known at", id="unknown-address"),
            pytest.param('["a.example:8300", {"id": "b", "address": "b:1"}]', "either", id="mixed"),
        ],
    )
    def test_anything_else_is_refused(self, content: str, text: str) -> None:
        with pytest.raises(ConfigError, match=text) as caught:
            read_peers(content.encode(), THREE, file="peers.json")
        assert caught.value.file == "peers.json"


class Disk:
    """The data directory of one server, and the store in it."""

    def __init__(self, root: Path, name: str, store: Store | None = None) -> None:
        self.name = name
        self.store = store or MemoryStore()
        self.raft = root / name / "raft"

    @property
    def peers(self) -> Path:
        return self.raft / PEERS_FILE

    def order(self, *names: str, content: str | None = None) -> None:
        """Put a peers.json in place, on a server that was started before."""
        self.raft.mkdir(parents=True, exist_ok=True)
        (self.raft / INFO_FILE).touch()
        self.peers.write_text(content or json.dumps([peer(name) for name in names]))

    def write_log(self, *commands: KvSet, term: int = 3) -> None:
        """A cluster of three, whose log goes on with commands that nobody is known to have."""
        bootstrap(self.store, THREE, Identity(self.name))
        entries = [
            Entry(index, term, EntryKind.COMMAND, encode_command(command.stamped(1)))
            for index, command in enumerate(commands, 2)
        ]
        DiskLog(self.store).save(HardState(term + 2, "c"), entries)

    def recover(self) -> bool:
        machine = StateMachine(self.store)
        return recover_from_file(self.raft, self.store, machine, self.name)

    def value(self, key: bytes) -> bytes | None:
        _, found = KvGet(key=key).run(self.store)
        return None if found is None else found.value


def command(key: bytes, value: bytes) -> KvSet:
    return KvSet(key=key, value=value)


class TestOneServer:
    def test_entries_of_unknown_fate_are_applied_and_the_list_is_new(self, tmp_path: Path) -> None:
        disk = Disk(tmp_path, "a")
        disk.write_log(*(command(b"k", b"%d" % n) for n in range(5)))
        disk.order("a", "b")
        assert disk.recover()
        assert disk.value(b"k") == b"4"
        assert not disk.peers.exists()
        log = DiskLog(disk.store)
        assert [server.id for server in log.configuration.servers] == ["a", "b"]
        assert (log.first_index(), log.last_index()) == (7, 6)
        assert log.term(6) == 3
        # Nobody has voted in the new term yet; an election that was under way is void.
        assert log.hard_state == HardState(6, "")
        assert log.identity is not None
        assert log.identity.cluster_id

    def test_it_is_done_once(self, tmp_path: Path) -> None:
        disk = Disk(tmp_path, "a")
        disk.write_log(command(b"k", b"v"))
        disk.order("a", "b")
        content, modified = disk.peers.read_bytes(), disk.peers.stat().st_mtime_ns
        assert disk.recover()
        done = DiskLog(disk.store)
        assert not disk.recover()
        # A crash may come between the work and the end of the file.
        disk.peers.write_bytes(content)
        os.utime(disk.peers, ns=(modified, modified))
        assert not disk.recover()
        assert not disk.peers.exists()
        again = DiskLog(disk.store)
        assert (again.identity, again.hard_state) == (done.identity, done.hard_state)
        # The same list at another time is another order.
        disk.peers.write_bytes(content)
        os.utime(disk.peers, ns=(modified + 1, modified + 1))
        assert disk.recover()
        assert DiskLog(disk.store).identity != done.identity

    def test_a_file_of_before_the_first_start_is_deleted_unread(self, tmp_path: Path) -> None:
        disk = Disk(tmp_path, "a")
        disk.write_log(command(b"k", b"v"))
        disk.raft.mkdir(parents=True)
        disk.peers.write_text("nonsense")
        assert not disk.recover()
        assert not disk.peers.exists()
        assert "peers.json" in (disk.raft / INFO_FILE).read_text()
        assert DiskLog(disk.store).configuration.servers == THREE.servers

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            pytest.param("nonsense", "not a list", id="unreadable"),
            pytest.param(json.dumps([peer("b")]), "is not in it", id="not-in-it"),
        ],
    )
    def test_a_wrong_file_changes_nothing(self, tmp_path: Path, content: str, text: str) -> None:
        disk = Disk(tmp_path, "a")
        disk.write_log(command(b"k", b"v"))
        disk.order(content=content)
        with pytest.raises(ConfigError, match=text):
            disk.recover()
        assert disk.peers.read_text() == content
        assert disk.value(b"k") is None
        assert DiskLog(disk.store).last_index() == 2

    def test_a_server_without_data_has_nothing_to_recover(self, tmp_path: Path) -> None:
        disk = Disk(tmp_path, "a")
        disk.order("a")
        with pytest.raises(ConfigError, match="no data to recover"):
            disk.recover()

    def test_another_servers_directory_is_refused(self, tmp_path: Path) -> None:
        disk = Disk(tmp_path, "a")
        disk.write_log(command(b"k", b"v"))
        disk.order("b")
        with pytest.raises(ConfigError, match="belongs to a"):
            recover_from_file(disk.raft, disk.store, StateMachine(disk.store), "b")

    def test_survivors_come_to_the_same_cluster_by_themselves(self, tmp_path: Path) -> None:
        disks = [Disk(tmp_path, name) for name in "ab"]
        ids = set()
        for disk, order in zip(disks, ("ab", "ba"), strict=True):
            disk.write_log(command(b"k", b"v"))
            disk.order(*order)
            disk.recover()
            identity = DiskLog(disk.store).identity
            assert identity is not None
            ids.add(identity.cluster_id)
        assert len(ids) == 1

    def test_snapshots_with_the_old_list_go(self, tmp_path: Path) -> None:
        disk = Disk(tmp_path, "a")
        disk.write_log(command(b"k", b"v"))
        disk.order("a")
        old = disk.raft / "snapshots" / "3-2-00ff"
        old.mkdir(parents=True)
        disk.recover()
        assert not old.exists()

    def test_it_lasts(self, tmp_path: Path) -> None:
        store = RocksStore.open(tmp_path / "store")
        disk = Disk(tmp_path, "a", store)
        disk.write_log(command(b"k", b"v"))
        disk.order("a")
        disk.recover()
        store.close()
        store = RocksStore.open(tmp_path / "store")
        disk = Disk(tmp_path, "a", store)
        assert disk.value(b"k") == b"v"
        assert [s.id for s in DiskLog(store).configuration.servers] == ["a"]
        store.close()


class Servers:
    """Servers over their disks, on one network."""

    def __init__(self, disks: dict[str, Disk]) -> None:
        self.network = LocalNetwork()
        self.drivers: dict[str, RaftDriver] = {}
        for name, disk in disks.items():
            driver = RaftDriver(
                server_id=name,
                store=disk.store,
                machine=StateMachine(disk.store),
                transport=self.network.transport(name),
                settings=RaftSettings(election_timeout_ms=200),
                rng=random.Random(name),
            )
            self.network.attach(name, driver.receive)
            self.drivers[name] = driver

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(driver.run()) for driver in self.drivers.values()]
            await asyncio.sleep(0)
            yield
            for task in tasks:
                task.cancel()

    async def leader(self, *names: str) -> RaftDriver:
        drivers = [self.drivers[name] for name in names]

        def agreed() -> bool:
            known = {driver.leader_id for driver in drivers}
            return len(known) == 1 and known <= set(names)

        await until(agreed)
        return self.drivers[drivers[0].leader_id]


@pytest.fixture
async def lost(tmp_path: Path) -> dict[str, Disk]:
    """The disks of a cluster of three that had written something and is stopped."""
    disks = {name: Disk(tmp_path, name) for name in "abc"}
    for name, disk in disks.items():
        bootstrap(disk.store, THREE, Identity(name))
    servers = Servers(disks)
    async with servers.running():
        leader = await servers.leader("a", "b", "c")
        await leader.propose(encode_command(command(b"k", b"before").stamped(1)))
        last = leader.last_index
        await until(lambda: all(d.applied_index >= last for d in servers.drivers.values()))
    return disks


async def test_two_survivors_of_three_go_on_and_do_not_hear_the_third(
    lost: dict[str, Disk],
) -> None:
    """Scenario 32: the third was left out, knows nothing of it and comes back."""
    for name in "ab":
        lost[name].order("a", "b")
        assert lost[name].recover()
    servers = Servers(lost)
    async with servers.running():
        leader = await servers.leader("a", "b")
        await leader.propose(encode_command(command(b"k", b"after").stamped(2)))
        await until(lambda: lost["a"].value(b"k") == lost["b"].value(b"k") == b"after")
        third, term = servers.drivers["c"], leader.term
        # It asks for votes again and again, and is not listened to.
        asked = [servers.drivers[name]._loop.core for name in "ab"]
        await until(lambda: sum(core.dropped_messages for core in asked) >= 6)
        assert third.leader_id == ""
        assert lost["c"].value(b"k") == b"before"
        assert (leader.is_leader, leader.term) == (True, term)


async def test_a_file_on_one_survivor_only_elects_nobody(lost: dict[str, Disk]) -> None:
    """Scenario 32: a was told that a and b go on, b was not; the two must not half agree."""
    lost["a"].order("a", "b")
    lost["a"].recover()
    del lost["c"]
    servers = Servers(lost)
    async with servers.running():
        cores = [driver._loop.core for driver in servers.drivers.values()]
        await until(lambda: all(core.dropped_messages >= 3 for core in cores))
        assert [driver.leader_id for driver in servers.drivers.values()] == ["", ""]


async def test_a_wiped_server_comes_back_to_a_recovered_cluster(
    lost: dict[str, Disk], tmp_path: Path
) -> None:
    lost["a"].order("a")
    lost["a"].recover()
    lost = {"a": lost["a"], "b": Disk(tmp_path, "b")}
    servers = Servers(lost)
    async with servers.running():
        leader = await servers.leader("a")
        await leader.barrier()
        await servers.drivers["b"].adopt_cluster(leader.cluster_id)
        change = AddLearner(id="b", address="b.example:8300", based_on=leader.configuration.index)
        await leader.change_configuration(change)
        await until(lambda: lost["b"].value(b"k") == b"before")


async def test_a_recovered_server_takes_its_cluster_from_its_disk(lost: dict[str, Disk]) -> None:
    lost["a"].order("a")
    lost["a"].recover()
    identity = DiskLog(lost["a"].store).identity
    assert identity is not None
    servers = Servers({"a": lost["a"]})
    assert servers.drivers["a"].cluster_id == identity.cluster_id != ""
    async with servers.running():
        await (await servers.leader("a")).propose(encode_command(command(b"n", b"1").stamped(3)))
