"""How a cluster begins: what each server decides, and several that begin at the same time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from registry.errors import Rejected, Unreachable
from registry.raft.driver import RaftDriver
from registry.raft.membership import AddLearner
from registry.raft.messages import Configuration, Role, Server
from registry.raft.settings import RaftSettings
from registry.raft.transport import LocalNetwork
from registry.server.bootstrap import (
    Bootstrap,
    Conflict,
    Decision,
    Found,
    Join,
    PeersAnswer,
    Wait,
    candidates,
    decide,
    peers_answer,
)
from registry.server.members import MemberStatus, PoolMember, ServerMember, servers_of
from registry.state.machine import StateMachine
from registry.storage.memory import MemoryStore
from registry.testing.pool import FakePool, server_id, server_member
from registry.testing.servers import until

ALIVE, FAILED = MemberStatus.ALIVE, MemberStatus.FAILED


def expecting(names: str, **tags: str) -> list[PoolMember]:
    return [
        server_member(name, address=f"10.0.0.{ord(name)}", tags={"expect": "3"} | tags)
        for name in names
    ]


def seen(members: Sequence[PoolMember]) -> list[ServerMember]:
    return servers_of(members, "dc1")


def blank(name: str, members: Sequence[PoolMember], **changes: object) -> PeersAnswer:
    """The answer of a server that knows `members` and has not begun."""
    fields: dict[str, object] = {
        "server_id": server_id(name),
        "cluster_id": "",
        "is_blank": True,
        "peers": (),
        "candidates": candidates(seen(members)),
    }
    return PeersAnswer(**(fields | changes))  # type: ignore[arg-type]


def answers(*given: PeersAnswer) -> dict[str, PeersAnswer]:
    return {answer.server_id: answer for answer in given}


ABC = expecting("abc")
PEER = (Server(server_id("z"), "10.0.0.122:8300"),)


@pytest.mark.parametrize(
    ("members", "given", "expected"),
    [
        pytest.param(expecting("ab"), [blank("b", ABC)], Wait, id="too-few"),
        pytest.param(
            [*expecting("ab"), server_member("c", FAILED, expect="3")],
            [blank("b", expecting("ab"))],
            Wait,
            id="failed-ones-do-not-count",
        ),
        pytest.param(
            [*expecting("ab"), *expecting("c", nonvoter="1")],
            [blank("b", ABC), blank("c", ABC)],
            Wait,
            id="non-voters-do-not-count",
        ),
        pytest.param(expecting("bcd"), [blank(n, ABC) for n in "bcd"], Wait, id="self-not-shown"),
        pytest.param(ABC, [blank("b", ABC)], Wait, id="one-has-not-answered"),
        pytest.param(
            ABC, [blank("b", ABC), blank("c", expecting("abcd"))], Wait, id="one-knows-others"
        ),
        pytest.param(
            ABC,
            [blank("b", ABC), blank("c", ABC, is_blank=False)],
            Wait,
            id="one-has-voted-already",
        ),
        pytest.param(
            [*expecting("ab"), *expecting("c", expect="5")],
            [blank("b", ABC), blank("c", ABC)],
            Conflict,
            id="other-expectation",
        ),
        pytest.param(
            [*expecting("ab"), server_member("c", bootstrap="1")],
            [blank("b", ABC), blank("c", ABC)],
            Conflict,
            id="one-bootstraps-alone",
        ),
        pytest.param(
            [*ABC, server_member("d", id=server_id("c"))],
            [blank("b", ABC), blank("c", ABC)],
            Conflict,
            id="same-id-twice",
        ),
        pytest.param(
            [*ABC, server_member("d", id="")],
            [blank("b", ABC), blank("c", ABC)],
            Conflict,
            id="without-id",
        ),
        pytest.param(
            ABC, [blank("b", ABC, is_blank=False, peers=PEER)], Join, id="a-cluster-is-there"
        ),
        pytest.param(
            [*expecting("ab"), server_member("z", bootstrap="1")],
            [blank("z", ABC, is_blank=False, peers=PEER)],
            Join,
            id="a-cluster-goes-before-a-conflict",
        ),
        pytest.param(
            ABC,
            [blank("b", ABC, peers=PEER, cluster_id="x"), blank("c", ABC, peers=PEER)],
            Conflict,
            id="two-clusters",
        ),
        pytest.param(ABC, [blank("b", ABC), blank("c", ABC)], Found, id="all-agree"),
        pytest.param(
            expecting("abcd"),
            [blank(name, expecting("abcd")) for name in "bcd"],
            Found,
            id="more-than-expected",
        ),
    ],
)
def test_what_a_blank_server_does(
    members: list[PoolMember], given: list[PeersAnswer], expected: type[Decision]
) -> None:
    decision = decide(server_id("a"), 3, seen(members), answers(*given))
    assert isinstance(decision, expected), decision


def test_a_server_that_expects_nothing_only_joins() -> None:
    both = answers(blank("b", ABC), blank("c", ABC))
    assert isinstance(decide(server_id("a"), 0, seen(ABC), both), Wait)
    there = answers(blank("b", ABC, peers=PEER, cluster_id="x"))
    assert decide(server_id("a"), 0, seen(ABC), there) == Join("x")


def test_the_first_list_is_the_same_whatever_the_order() -> None:
    """R-58: sorted by id, those without a vote for good as learners."""
    members = [*expecting("bca"), *expecting("d", nonvoter="1")]
    found = {
        decide(
            server_id(name),
            3,
            seen(members if name == "a" else members[::-1]),
            answers(*(blank(other, members) for other in "abcd" if other != name)),
        )
        for name in "abcd"
    }
    assert len(found) == 1
    (decision,) = found
    assert isinstance(decision, Found)
    servers = decision.configuration.servers
    assert [server.id for server in servers] == [server_id(name) for name in "abcd"]
    assert [server.role for server in servers] == [Role.VOTER] * 3 + [Role.LEARNER]


@dataclass
class Machine:
    """One server that is to begin: a driver on the others' network, and its own view of the pool"""

    driver: RaftDriver
    pool: FakePool
    bootstrap: Bootstrap


@dataclass
class Race:
    """Servers that begin at the same time, and a network between them that a test cuts."""

    network: LocalNetwork = field(default_factory=LocalNetwork)
    machines: dict[str, Machine] = field(default_factory=dict)
    cut_off: set[str] = field(default_factory=set)
    questions: int = 0

    def add(self, name: str, expect: int, *members: PoolMember) -> Machine:
        own = server_id(name)
        store = MemoryStore()
        driver = RaftDriver(
            server_id=own,
            store=store,
            machine=StateMachine(store),
            transport=self.network.transport(own),
            settings=RaftSettings(election_timeout_ms=300),
            rng=random.Random(name),
        )
        self.network.attach(own, driver.receive)
        pool = FakePool(*members)

        async def ask(server: ServerMember) -> PeersAnswer:
            self.questions += 1
            if {name, server.name} & self.cut_off or server.name not in self.machines:
                raise Unreachable(server.rpc_address, "cut off")
            other = self.machines[server.name]
            return peers_answer(other.driver, servers_of(other.pool.members(), "dc1"))

        machine = Machine(
            driver,
            pool,
            Bootstrap(
                expect=expect,
                datacenter="dc1",
                consensus=driver,
                pool=lambda: pool,
                ask=ask,
                pauses_s=(0.01,),
            ),
        )
        self.machines[name] = machine
        return machine

    def heal(self) -> None:
        self.cut_off.clear()

    def configurations(self) -> Mapping[str, Configuration]:
        return {name: machine.driver.configuration for name, machine in self.machines.items()}

    def leaders(self) -> list[str]:
        return [name for name, machine in self.machines.items() if machine.driver.is_leader]

    def agreed(self) -> bool:
        """On the leader, and on who is in the cluster: the log comes later than the leader."""
        known = {machine.driver.leader_id for machine in self.machines.values()}
        return len(known) == 1 and "" not in known and len(set(self.configurations().values())) == 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = []
            for machine in self.machines.values():
                tasks.append(group.create_task(machine.driver.run()))
                tasks.append(group.create_task(machine.bootstrap.run()))
            await asyncio.sleep(0)
            yield
            for task in tasks:
                task.cancel()


class TestRaces:
    async def test_three_servers_begin_one_cluster(self) -> None:
        race = Race()
        for name in "abc":
            race.add(name, 3, *ABC)
        async with race.running():
            await until(race.agreed)
            # Nobody had to wait for its election timeout to be over again and again.
            assert max(machine.driver.term for machine in race.machines.values()) <= 4

    async def test_nobody_begins_while_one_is_cut_off(self) -> None:
        """Scenario 31: one that does not answer may be part of a cluster already."""
        race = Race(cut_off={"c"})
        for name in "abc":
            race.add(name, 3, *ABC)
        async with race.running():
            await until(lambda: race.questions > 20)
            assert all(machine.driver.is_blank for machine in race.machines.values())
            race.heal()
            await until(race.agreed)

    async def test_two_groups_of_four_do_not_begin_a_cluster_each(self) -> None:
        """Scenario 31: a knows a, b and c; d knows b, c and d; three are expected."""
        race = Race()
        views = {"a": "abc", "b": "abcd", "c": "abcd", "d": "bcd"}
        for name, view in views.items():
            race.add(name, 3, *expecting(view))
        async with race.running():
            await until(lambda: race.questions > 20)
            assert all(machine.driver.is_blank for machine in race.machines.values())
            for machine in race.machines.values():
                for member in expecting("abcd"):
                    machine.pool.put(member)
                machine.bootstrap.members_changed()
            await until(race.agreed)
            assert len(race.configurations()["a"].servers) == 4

    async def test_different_expectations_begin_nothing(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Scenario 31: servers that were started with different lists."""
        race = Race()
        members = [*expecting("ab"), *expecting("c", expect="2")]
        race.add("a", 3, *members)
        race.add("b", 3, *members)
        race.add("c", 2, *members)
        async with race.running():
            await until(lambda: race.questions > 20)
            assert all(machine.driver.is_blank for machine in race.machines.values())
        assert caplog.text.count("c expects 2 servers, and this server 3") == 2  # not every round

    async def test_a_late_server_with_an_empty_disk_joins(self) -> None:
        """Scenario 31: it expects three and sees three, but there is a cluster."""
        race = Race()
        for name in "abc":
            race.add(name, 3, *ABC)
        late = race.add("d", 3, *expecting("bcd"))
        race.cut_off.add("d")
        async with race.running():
            three = [race.machines[name].driver for name in "abc"]
            await until(lambda: sum(driver.is_leader for driver in three) == 1)
            race.heal()
            leader = next(driver for driver in three if driver.is_leader)
            await leader.barrier()
            await leader.change_configuration(
                AddLearner(
                    id=server_id("d"),
                    address="10.0.0.100:8300",
                    based_on=leader.configuration.index,
                )
            )
            await until(lambda: late.driver.configuration == leader.configuration)
            await until(lambda: late.driver.commit_index >= leader.configuration.index)
            assert late.driver.leader_id == leader.server_id

    async def test_a_server_takes_over_the_id_of_a_recovered_cluster(self) -> None:
        race = Race()
        late = race.add("d", 0, *expecting("ad"))
        there = race.add("a", 0, *expecting("ad"))
        async with race.running():
            await there.driver.adopt_cluster("recovered")
            await there.driver.bootstrap(Configuration((Server(server_id("a"), "10.0.0.97:8300"),)))
            await until(lambda: late.driver.cluster_id == "recovered")
            there.driver.campaign()
            await until(lambda: there.driver.is_leader)
            await there.driver.barrier()
            await there.driver.change_configuration(
                AddLearner(
                    id=server_id("d"),
                    address="10.0.0.100:8300",
                    based_on=there.driver.configuration.index,
                )
            )
            await until(lambda: late.driver.configuration == there.driver.configuration)

    async def test_who_is_called_off_before_it_begins_has_begun_nothing(self) -> None:
        race = Race()
        machine = race.add("a", 0, *expecting("ad"))
        async with race.running(), asyncio.TaskGroup() as group:
            beginning = group.create_task(machine.driver.bootstrap(Configuration(PEER)))
            asyncio.get_running_loop().call_soon(beginning.cancel)  # before the step that begins
            await asyncio.wait([beginning])
            assert beginning.cancelled()
            await machine.driver.adopt_cluster("recovered")
            assert machine.driver.is_blank
            assert machine.driver.cluster_id == "recovered"

    async def test_who_has_begun_does_not_begin_again(self) -> None:
        race = Race()
        machine = race.add("a", 1, *expecting("a", expect="1"))
        async with race.running():
            await until(lambda: machine.driver.is_leader)
            with pytest.raises(Rejected):
                await machine.driver.bootstrap(Configuration(PEER))
            with pytest.raises(Rejected):
                await machine.driver.adopt_cluster("another")


async def test_news_end_a_pause() -> None:
    race = Race()
    machine = race.add("a", 3, *expecting("a"))
    machine.bootstrap = Bootstrap(
        expect=3,
        datacenter="dc1",
        consensus=machine.driver,
        pool=lambda: machine.pool,
        ask=machine.bootstrap._ask,
        pauses_s=(600.0,),
    )
    for name in "bc":
        race.add(name, 3, *ABC)
    async with race.running():
        await until(lambda: race.questions >= 4)
        for member in ABC:
            machine.pool.put(member)
        machine.bootstrap.members_changed()
        await until(race.agreed)
