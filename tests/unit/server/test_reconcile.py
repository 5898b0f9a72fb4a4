"""The catalog and the Raft configuration follow the members: the rules, and their carrying out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from registry.errors import NotLeader, Unavailable
from registry.raft.membership import (
    AddLearner,
    ChangeAddress,
    ConfigChange,
    Remove,
    next_configuration,
)
from registry.raft.messages import Configuration, Role, Server
from registry.server import reconcile
from registry.server.members import MemberStatus, PoolMember
from registry.server.reconcile import (
    LocalServerFacts,
    Reconciler,
    catalog_command,
    raft_change,
)
from registry.state.base import Command
from registry.state.catalog_commands import Register
from registry.state.catalog_queries import ListNodes
from registry.state.catalog_records import Check, get_check, get_node, get_service
from registry.testing.consensus import InstantBackend
from registry.testing.pool import FakePool, client_member, server_id, server_member
from registry.testing.servers import until

FACTS = LocalServerFacts(
    node_id=server_id("a"),
    node_name="a",
    address="10.0.0.1",
    datacenter="dc1",
    server_port=8300,
    tagged_addresses={"lan": "10.0.0.1"},
    node_meta={"rack": "1"},
)
ALIVE, LEAVING, LEFT, FAILED, REAPED = (
    MemberStatus.ALIVE,
    MemberStatus.LEAVING,
    MemberStatus.LEFT,
    MemberStatus.FAILED,
    MemberStatus.REAPED,
)


def server(name: str, host: int, role: Role = Role.VOTER) -> Server:
    return Server(server_id(name), f"10.0.0.{host}:8300", role)


ALONE = Configuration((server("a", 1),), 1)


@dataclass
class Cluster:
    """A state that commits at once, and a configuration that follows its changes."""

    backend: InstantBackend = field(default_factory=InstantBackend)
    configuration: Configuration = ALONE
    changes: list[ConfigChange] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    barriers: int = 0
    error: Exception | None = None
    server_id: str = server_id("a")

    async def propose(self, command: Command) -> Any:
        if self.error is not None:
            raise self.error
        self.commands.append(command)
        return await self.backend.write(command)

    async def barrier(self) -> None:
        self.barriers += 1

    async def change_configuration(self, change: ConfigChange) -> None:
        if self.error is not None:
            raise self.error
        following = next_configuration(self.configuration, change)
        self.configuration = Configuration(following.servers, self.configuration.index + 1)
        self.changes.append(change)

    def reconciler(self, pool: FakePool, **options: Any) -> Reconciler:
        return Reconciler(FACTS, self.backend.machine, self, self, lambda: pool, **options)

    def status(self, node: str) -> str:
        check = get_check(self.backend.machine.reader, node, "serfHealth")
        return "none" if check is None else check.status

    def nodes(self) -> list[str]:
        _, nodes = ListNodes().run(self.backend.machine.reader)
        return [node.node for node in nodes]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


async def test_a_live_client_becomes_a_node(cluster: Cluster) -> None:
    await cluster.reconciler(FakePool()).handle(client_member("c", address="10.0.0.7"))
    reader = cluster.backend.machine.reader
    node = get_node(reader, "c")
    assert node is not None
    assert (node.id, node.address, node.datacenter) == (server_id("c"), "10.0.0.7", "dc1")
    check = get_check(reader, "c", "serfHealth")
    assert check is not None
    assert (check.name, check.status) == ("Serf Health Status", "passing")
    assert check.output == "Agent alive and reachable"
    assert get_service(reader, "c", "consul") is None
    assert cluster.changes == []


async def test_a_live_server_becomes_a_node_a_service_and_a_learner(cluster: Cluster) -> None:
    added: list[bool] = []
    member = server_member("b", address="10.0.0.2")
    reconciler = cluster.reconciler(FakePool(member), on_server_added=lambda: added.append(True))
    await reconciler.handle(member)
    service = get_service(cluster.backend.machine.reader, "b", "consul")
    assert service is not None
    assert (service.name, service.port, service.tags) == ("consul", 8300, None)
    assert cluster.configuration.servers[1] == server("b", 2, Role.LEARNER)
    assert added == [True]


async def test_the_leader_itself_is_registered_with_all_it_knows(cluster: Cluster) -> None:
    await cluster.reconciler(FakePool()).handle(FACTS.as_member())
    node = get_node(cluster.backend.machine.reader, "a")
    assert node is not None
    assert (node.tagged_addresses, node.meta) == ({"lan": "10.0.0.1"}, {"rack": "1"})
    assert cluster.changes == []


@pytest.mark.parametrize(
    "member",
    [
        pytest.param(server_member("b", address="10.0.0.2"), id="server"),
        pytest.param(client_member("c"), id="client"),
        pytest.param(FACTS.as_member(), id="self"),
    ],
)
async def test_nothing_is_written_when_all_is_so_already(
    cluster: Cluster, member: PoolMember
) -> None:
    reconciler = cluster.reconciler(FakePool(member))
    await reconciler.handle(member)
    written = len(cluster.commands), len(cluster.changes)
    await reconciler.handle(member)
    assert (len(cluster.commands), len(cluster.changes)) == written


@pytest.mark.parametrize(
    ("changed", "address", "node_id"),
    [
        pytest.param(
            client_member("c", address="10.0.0.77"), "10.0.0.77", server_id("c"), id="address"
        ),
        pytest.param(
            client_member("c", id=server_id("other")), "10.0.0.9", server_id("other"), id="id"
        ),
    ],
)
async def test_a_change_is_written(
    cluster: Cluster, changed: PoolMember, address: str, node_id: str
) -> None:
    reconciler = cluster.reconciler(FakePool())
    await reconciler.handle(client_member("c"))
    await reconciler.handle(client_member("c", FAILED))
    await reconciler.handle(changed)
    node = get_node(cluster.backend.machine.reader, "c")
    assert node is not None
    assert (node.address, node.id) == (address, node_id)
    assert cluster.status("c") == "passing"


async def test_what_the_agent_said_of_its_node_is_kept(cluster: Cluster) -> None:
    reconciler = cluster.reconciler(FakePool())
    await reconciler.handle(client_member("c"))
    said = Register(
        node="c",
        id=server_id("c"),
        address="10.0.0.9",
        datacenter="dc1",
        tagged_addresses={"wan": "1.2.3.4"},
        node_meta={"os": "linux"},
    )
    await cluster.backend.write(said)
    await reconciler.handle(client_member("c", FAILED))
    await reconciler.handle(client_member("c", address="10.0.0.10"))
    node = get_node(cluster.backend.machine.reader, "c")
    assert node is not None
    assert node.address == "10.0.0.10"
    assert (node.tagged_addresses, node.meta) == ({"wan": "1.2.3.4"}, {"os": "linux"})


async def test_what_an_agent_says_before_the_command_is_applied_is_kept(
    cluster: Cluster,
) -> None:
    """The leader saw no node yet when it made its command."""
    machine = cluster.backend.machine
    command = catalog_command(client_member("c"), machine.reader, FACTS)
    assert command is not None
    said = Register(
        node="c", id=server_id("c"), address="10.0.0.9", node_meta={"os": "linux"}, datacenter="dc1"
    )
    await cluster.backend.write(said)
    await cluster.backend.write(command)
    node = get_node(machine.reader, "c")
    assert node is not None
    assert node.meta == {"os": "linux"}
    assert cluster.status("c") == "passing"


async def test_a_failed_member_turns_critical_and_keeps_its_data(cluster: Cluster) -> None:
    reconciler = cluster.reconciler(FakePool())
    await reconciler.handle(client_member("c"))
    await reconciler.handle(client_member("c", FAILED, address="10.9.9.9"))
    check = get_check(cluster.backend.machine.reader, "c", "serfHealth")
    assert check is not None
    assert (check.status, check.output) == ("critical", "Agent not live or unreachable")
    node = get_node(cluster.backend.machine.reader, "c")
    assert node is not None
    assert node.address == "10.0.0.9"
    written = len(cluster.commands)
    await reconciler.handle(client_member("c", FAILED))
    assert len(cluster.commands) == written


@pytest.mark.parametrize("status", [LEFT, REAPED])
async def test_who_left_goes_from_catalog_and_raft(cluster: Cluster, status: MemberStatus) -> None:
    reconciler = cluster.reconciler(FakePool())
    for member in (server_member("b", address="10.0.0.2"), client_member("c")):
        await reconciler.handle(member)
    assert cluster.nodes() == ["b", "c"]
    await reconciler.handle(server_member("b", status, address="10.0.0.2"))
    await reconciler.handle(client_member("c", status))
    assert cluster.nodes() == []
    assert cluster.configuration.servers == (server("a", 1),)


@pytest.mark.parametrize(
    "member",
    [
        pytest.param(client_member("c", FAILED), id="failed-unknown"),
        pytest.param(client_member("c", LEFT), id="left-unknown"),
        pytest.param(client_member("c", LEAVING), id="leaving"),
        pytest.param(client_member("c", role="proxy"), id="other-role"),
        pytest.param(client_member("c", dc="dc2"), id="other-datacenter"),
        pytest.param(server_member("b", segment="alpha"), id="server-of-a-segment"),
        pytest.param(server_member("b", port=0), id="unreadable-server"),
        pytest.param(server_member("a", LEFT), id="self-left"),
        pytest.param(server_member("A", REAPED), id="self-reaped"),
    ],
)
def test_members_that_nothing_follows_from(cluster: Cluster, member: PoolMember) -> None:
    assert catalog_command(member, cluster.backend.machine.reader, FACTS) is None
    assert raft_change(member, [member], cluster.configuration, FACTS) is None


THREE = Configuration((server("a", 1), server("b", 2), server("c", 3)), 7)


@pytest.mark.parametrize(
    ("member", "configuration", "expected"),
    [
        pytest.param(server_member("b", address="10.0.0.2"), THREE, None, id="all-is-right"),
        pytest.param(
            server_member("d", address="10.0.0.4"),
            THREE,
            AddLearner(id=server_id("d"), address="10.0.0.4:8300", based_on=7),
            id="new",
        ),
        pytest.param(
            server_member("b", address="10.0.0.22"),
            THREE,
            Remove(id=server_id("b"), based_on=7),
            id="same-id-elsewhere",
        ),
        pytest.param(
            server_member("d", address="10.0.0.2"),
            THREE,
            Remove(id=server_id("b"), based_on=7),
            id="same-address-another-id",
        ),
        pytest.param(
            server_member("d", address="10.0.0.1"), THREE, None, id="address-of-the-leader"
        ),
        pytest.param(
            server_member("a", address="10.0.0.11"),
            THREE,
            ChangeAddress(id=server_id("a"), address="10.0.0.11:8300", based_on=7),
            id="the-leader-itself-moved",
        ),
        pytest.param(
            server_member("a", address="10.0.0.3"),
            THREE,
            Remove(id=server_id("c"), based_on=7),
            id="the-leader-moved-where-another-was",
        ),
        pytest.param(
            server_member("b", FAILED, address="10.0.0.2"), THREE, None, id="failed-stays"
        ),
        pytest.param(server_member("d", id=""), THREE, None, id="without-an-id"),
        pytest.param(
            server_member("c", REAPED, address="10.0.0.3"),
            THREE,
            Remove(id=server_id("c"), based_on=7),
            id="reaped",
        ),
        pytest.param(server_member("e", LEFT), THREE, None, id="left-but-no-peer"),
        pytest.param(
            server_member("b", address="10.0.0.22"),
            Configuration((server("a", 1), server("b", 2), server("n", 9, Role.LEARNER)), 7),
            None,
            id="moved-voter-waits-for-a-learner",
        ),
    ],
)
def test_what_a_server_needs_of_the_configuration(
    member: PoolMember, configuration: Configuration, expected: ConfigChange | None
) -> None:
    others = [server_member("a"), server_member("n", address="10.0.0.9")]
    assert raft_change(member, [*others, member], configuration, FACTS) == expected


async def test_a_moved_server_is_taken_out_and_comes_back_as_a_learner(cluster: Cluster) -> None:
    cluster.configuration = THREE
    moved = server_member("b", address="10.0.0.22")
    await cluster.reconciler(FakePool(moved)).handle(moved)
    assert [type(change) for change in cluster.changes] == [Remove, AddLearner]
    assert server("b", 22, Role.LEARNER) in cluster.configuration.servers


async def test_two_servers_that_bootstrap_alone_are_refused(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    rival = server_member("b", address="10.0.0.2", bootstrap="1")
    pool = FakePool(server_member("a", bootstrap="1"), rival)
    await cluster.reconciler(pool).handle(rival)
    assert cluster.changes == []
    assert "only one may be started with -bootstrap" in caplog.text
    pool.put(server_member("a"))
    await cluster.reconciler(pool).handle(rival)
    assert isinstance(cluster.changes[0], AddLearner)


async def test_a_renamed_server_is_not_taken_out_with_its_old_name(cluster: Cluster) -> None:
    cluster.configuration = THREE
    pool = FakePool(server_member("b2", address="10.0.0.2", id=server_id("b")))
    await cluster.reconciler(pool).handle(server_member("b", REAPED, address="10.0.0.2"))
    assert cluster.changes == []


class TestPasses:
    async def test_a_pass_handles_all_members_after_a_barrier(self, cluster: Cluster) -> None:
        pool = FakePool(FACTS.as_member(), client_member("c"), server_member("b", address="::2"))
        assert await cluster.reconciler(pool).pass_over_all()
        assert cluster.barriers == 1
        assert cluster.nodes() == ["a", "b", "c"]

    async def test_nodes_that_are_no_members_go_with_the_second_pass(
        self, cluster: Cluster
    ) -> None:
        pool = FakePool(FACTS.as_member(), client_member("c"), server_member("b", address="::2"))
        reconciler = cluster.reconciler(pool)
        await reconciler.pass_over_all()
        await cluster.backend.write(Register(node="outside", address="10.0.0.200"))
        await cluster.backend.write(
            Register(node="web", address="1.1.1.1", checks=(Check(name="ping", status="passing"),))
        )
        del pool.by_name["b"], pool.by_name["c"]
        await reconciler.pass_over_all()
        assert cluster.nodes() == ["a", "b", "c", "outside", "web"]
        await reconciler.pass_over_all()
        assert cluster.nodes() == ["a", "outside", "web"]
        assert [s.id for s in cluster.configuration.servers] == [server_id("a")]

    async def test_a_member_that_came_back_between_two_passes_stays(self, cluster: Cluster) -> None:
        pool = FakePool(FACTS.as_member(), client_member("c"))
        reconciler = cluster.reconciler(pool)
        await reconciler.pass_over_all()
        member = pool.by_name.pop("c")
        await reconciler.pass_over_all()
        pool.put(member)
        await reconciler.pass_over_all()
        assert cluster.nodes() == ["a", "c"]

    async def test_a_failure_is_told_so_that_the_pass_is_repeated(self, cluster: Cluster) -> None:
        reconciler = cluster.reconciler(FakePool(client_member("c")))
        cluster.error = Unavailable("another membership change is not committed yet; retry")
        assert not await reconciler.pass_over_all()
        cluster.error = None
        assert await reconciler.pass_over_all()

    async def test_a_deposed_leader_stops(self, cluster: Cluster) -> None:
        """Scenario 36: what a leader begins, a deposed one must not finish."""
        cluster.error = NotLeader("b")
        with pytest.raises(NotLeader):
            await cluster.reconciler(FakePool(client_member("c"))).run()
        assert cluster.nodes() == []

    async def test_a_refusal_does_not_stop_the_others(
        self, cluster: Cluster, caplog: pytest.LogCaptureFixture
    ) -> None:
        impostor = client_member("A", id=server_id("x"))
        pool = FakePool(FACTS.as_member(), impostor, client_member("z"))
        assert await cluster.reconciler(pool).pass_over_all()
        assert cluster.nodes() == ["a", "z"]
        assert "member refused" in caplog.text


class TestRunning:
    async def run_until(self, reconciler: Reconciler, condition: Callable[[], bool]) -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(reconciler.run())
            await until(condition)
            running.cancel()

    async def test_news_are_followed_at_once(self, cluster: Cluster) -> None:
        pool = FakePool(FACTS.as_member())
        reconciler = cluster.reconciler(pool)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(reconciler.run())
            await until(lambda: cluster.nodes() == ["a"])
            reconciler.member_changed(pool.put(client_member("c")))
            await until(lambda: cluster.status("c") == "passing")
            reconciler.member_changed(pool.put(client_member("c", FAILED)))
            await until(lambda: cluster.status("c") == "critical")
            reconciler.member_changed(client_member("c", REAPED))
            await until(lambda: cluster.nodes() == ["a"])
            assert cluster.barriers == 1  # none of it took another pass
            running.cancel()

    async def test_a_failed_step_is_repeated_soon(self, cluster: Cluster) -> None:
        cluster.error = Unavailable("retry")
        reconciler = cluster.reconciler(FakePool(client_member("c")), retry_s=0.001)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(reconciler.run())
            await until(lambda: cluster.barriers > 1)
            cluster.error = None
            await until(lambda: cluster.nodes() == ["c"])
            running.cancel()

    async def test_passes_repeat(self, cluster: Cluster) -> None:
        reconciler = cluster.reconciler(FakePool(), interval_s=0.001)
        await self.run_until(reconciler, lambda: cluster.barriers >= 3)

    async def test_news_beyond_the_queue_bring_the_next_pass_forward(
        self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reconcile, "NEWS_MAX", 2)
        pool = FakePool()
        reconciler = cluster.reconciler(pool)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(reconciler.run())
            await until(lambda: cluster.barriers == 1)
            for name in ("c", "d", "e", "f"):
                reconciler.member_changed(pool.put(client_member(name)))
            assert reconciler.dropped == 2
            await until(lambda: cluster.nodes() == ["c", "d", "e", "f"])
            running.cancel()

    async def test_a_server_that_does_not_lead_ignores_news(self, cluster: Cluster) -> None:
        reconciler = cluster.reconciler(FakePool())
        reconciler.member_changed(client_member("c"))
        await self.run_until(reconciler, lambda: cluster.barriers == 1)
        assert cluster.nodes() == []


def test_changes_of_others_are_no_business_of_reconcile() -> None:
    """Votes are given by autopilot alone: a learner that is a member stays one."""
    configuration = Configuration((server("a", 1), server("b", 2, Role.LEARNER)), 3)
    member = server_member("b", address="10.0.0.2")
    assert raft_change(member, [member], configuration, FACTS) is None
