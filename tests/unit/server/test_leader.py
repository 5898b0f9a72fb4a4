"""A leader's work on a real driver: from taking office to a restored state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from registry.raft.disk import Identity, bootstrap
from registry.raft.driver import RaftDriver
from registry.raft.messages import Configuration, Role
from registry.raft.messages import Server as RaftServer
from registry.raft.settings import RaftSettings
from registry.server.members import MemberStatus
from registry.server.reconcile import LocalServerFacts
from registry.server.server import Server, ServerSettings
from registry.state.base import ReadOptions
from registry.state.catalog_commands import Register
from registry.state.catalog_queries import ListNodes
from registry.state.catalog_records import get_check, get_service
from registry.state.machine import StateMachine
from registry.state.operator import SetAutopilot
from registry.state.sessions import SessionCreate
from registry.storage.memory import MemoryStore
from registry.testing.pool import FakePool, client_member, server_id, server_member
from registry.testing.servers import until

ME = server_id("a")


@asynccontextmanager
async def one_server(*, started_at: str = "10.0.0.1:8300") -> AsyncIterator[Server]:
    """A cluster of one, that had `started_at` when it was founded."""
    store = MemoryStore()
    bootstrap(store, Configuration((RaftServer(ME, started_at),)), Identity(ME))
    machine = StateMachine(store)
    facts = LocalServerFacts(
        node_id=ME, node_name="a", address="10.0.0.1", datacenter="dc1", server_port=8300
    )
    driver = RaftDriver(
        server_id=ME, store=store, machine=machine, settings=RaftSettings(election_timeout_ms=200)
    )
    server = Server(ServerSettings(facts), machine, driver)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(server.run())
        await driver.wait_for_leader()
        yield server
        running.cancel()


def status(server: Server, node: str) -> str:
    check = get_check(server.machine.reader, node, "serfHealth")
    return "none" if check is None else check.status


async def test_a_server_by_itself_registers_itself() -> None:
    async with one_server() as server:
        await until(lambda: status(server, "a") == "passing")
        service = get_service(server.machine.reader, "a", "consul")
        assert service is not None
        assert service.port == 8300


async def test_a_leader_follows_the_pool_that_it_is_given() -> None:
    async with one_server() as server:
        pool = FakePool(server_member("a"), client_member("c"))
        server.attach(pool)
        await until(lambda: status(server, "c") == "passing")
        server.member_changed(pool.put(client_member("c", MemberStatus.FAILED)))
        await until(lambda: status(server, "c") == "critical")
        server.member_changed(pool.put(server_member("b", address="10.0.0.2")))
        await until(lambda: len(server.driver.configuration.servers) == 2)
        assert server.driver.configuration.servers[1].role is Role.LEARNER
        _, shown = await server.raft_configuration()
        assert [entry["Node"] for entry in shown] == ["a", "b"]


async def test_a_server_that_has_moved_tells_its_new_address() -> None:
    async with one_server(started_at="10.9.9.9:8300") as server:
        await until(lambda: server.driver.leader_address == "10.0.0.1:8300")
        assert server.driver.configuration.servers[0].role is Role.VOTER


async def test_restored_sessions_are_timed_again() -> None:
    """What an operator restores may hold sessions that this leader never saw, and lack others."""
    async with one_server() as server:
        await until(lambda: status(server, "a") == "passing")
        await server.write(SessionCreate(node="a", ttl_ns=60 * 10**9))
        dump = await server.open_dump()
        raw = b"".join(dump.chunks)
        dump.close()
        await server.write(SessionCreate(node="a", ttl_ns=60 * 10**9))
        assert len(server.duties.timers) == 2
        server.machine.restore([raw])
        await until(lambda: len(server.duties.timers) == 1)


async def test_a_restored_catalog_is_reconciled() -> None:
    async with one_server() as server:
        await until(lambda: status(server, "a") == "passing")
        dump = await server.open_dump()
        raw = b"".join(dump.chunks)
        dump.close()
        pool = FakePool(server_member("a"), client_member("c"))
        server.attach(pool)
        await until(lambda: status(server, "c") == "passing")
        server.machine.restore([raw])
        assert status(server, "c") == "none"
        await until(lambda: status(server, "c") == "passing")


async def test_the_health_of_one_server() -> None:
    async with one_server() as server:
        await until(lambda: status(server, "a") == "passing")
        report = await server.autopilot_health()
        assert (report.healthy, report.failure_tolerance) == (True, 0)
        (health,) = report.servers
        assert (health.name, health.leader, health.voter) == ("a", True, True)
        assert health.last_index == server.driver.last_index


async def test_autopilot_heeds_what_an_operator_sets() -> None:
    async with one_server() as server:
        await until(lambda: status(server, "a") == "passing")
        assert server.duties.autopilot.outlook().settings.cleanup_dead_servers
        settings = server.settings.autopilot
        await server.write(SetAutopilot(settings=type(settings)(max_trailing_logs=7)))
        outlook = server.duties.autopilot.outlook()
        assert outlook.settings.max_trailing_logs == 7
        assert not outlook.settings.cleanup_dead_servers


async def test_nodes_that_others_register_are_left_alone() -> None:
    async with one_server() as server:
        await server.write(Register(node="external", address="1.2.3.4"))
        assert await server.duties.reconciler.pass_over_all()
        assert await server.duties.reconciler.pass_over_all()
        result = await server.read(ListNodes(), ReadOptions())
        assert [node.node for node in result.value] == ["a", "external"]


@pytest.mark.parametrize("expect", [0, 3])
async def test_a_server_of_a_cluster_does_not_begin_another(expect: int) -> None:
    async with one_server() as server:
        configuration = server.driver.configuration
        assert not server.peers().is_blank
        assert server.peers().peers == configuration.servers
        await server.bootstrap.run()  # returns at once
        assert server.driver.configuration == configuration
