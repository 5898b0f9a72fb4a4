"""A server: the state machine behind consensus, as the agent facade's backend.

Life of a write: typed command, stamped by the leader with the time and with ids, encoded, proposed,
grouped with others into one fsync, committed, applied as one store write, answered (design,
decision 3). Life of a read: `registry.server.reads`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

from registry.errors import NoLeader, NotLeader
from registry.raft.driver import RaftDriver
from registry.raft.membership import Remove
from registry.raft.messages import Role
from registry.server.leader import LeaderDuties
from registry.server.reads import Reads
from registry.server.reconcile import LocalServerFacts
from registry.state.base import Command, Query, ReadOptions, ReadResult
from registry.state.dump import StateDump
from registry.state.machine import StateMachine, encode_command

logger = logging.getLogger("registry.server")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What a server needs to know beside its store. Times in seconds."""

    facts: LocalServerFacts
    hold_timeout_s: float = 7.0
    leave_drain_s: float = 5.0


class Server:
    """Implements `registry.agent.facade.Backend`. `run` owns everything it started."""

    def __init__(self, settings: ServerSettings, machine: StateMachine, driver: RaftDriver) -> None:
        self.settings = settings
        self.machine = machine
        self.driver = driver
        self.reads = Reads(machine, driver, hold_timeout_s=settings.hold_timeout_s)
        self.duties = LeaderDuties(settings.facts, machine, self)
        driver.on_role_change = self.duties.role_changed

    async def run(self) -> None:
        """Serve until cancelled. A storage failure travels out: the process must then stop."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.driver.run())
            group.create_task(self.duties.run())

    async def write(self, command: Command) -> Any:
        """Propose on this server's log; holds the request while there is no leader (R-67).

        Only what was refused before it was appended is tried again; an unknown outcome is told.
        """
        try:
            return await self.propose(command)
        except NotLeader:
            pass
        try:
            async with asyncio.timeout(self.settings.hold_timeout_s):
                while True:
                    await self.driver.wait_for_leader()
                    try:
                        return await self.propose(command)
                    except NotLeader:
                        continue
        except TimeoutError as problem:
            raise NoLeader from problem

    async def propose(self, command: Command) -> Any:
        """Propose once, as the leader; raises `NotLeader` elsewhere."""
        stamped = command.stamped(time.time_ns() // 1_000_000)
        result = await self.driver.propose(encode_command(stamped))
        self.duties.observe(stamped, result)
        return result

    async def barrier(self) -> None:
        """Return once everything committed before is applied here; raises `NotLeader`."""
        await self.driver.barrier()

    async def read(self, query: Query, options: ReadOptions) -> ReadResult:
        return await self.reads.read(query, options)

    def leader_address(self) -> str:
        return self.driver.leader_address

    def peer_addresses(self) -> list[str]:
        return [server.address for server in self.driver.configuration.servers]

    def raft_configuration(self) -> tuple[int, list[dict[str, Any]]]:
        configuration = self.driver.configuration
        names = {self.settings.facts.node_id: self.settings.facts.node_name}
        return configuration.index, [
            {
                "ID": server.id,
                "Node": names.get(server.id, "(unknown)"),
                "Address": server.address,
                "Leader": server.id == self.driver.leader_id,
                "ProtocolVersion": "3",
                "Voter": server.role is Role.VOTER,
            }
            for server in configuration.servers
        ]

    async def remove_server(self, server_id: str) -> None:
        """Raises `Rejected` for the last voter, `NoLeader` when this server does not lead."""
        try:
            index = self.driver.configuration.index
            await self.driver.change_configuration(Remove(id=server_id, based_on=index))
        except NotLeader as problem:
            raise NoLeader from problem

    async def open_dump(self) -> StateDump:
        """The state with everything committed before the call. Raises `NoLeader`."""
        await self.reads.admit()
        snapshot = self.machine.snapshot()
        chunks = self.machine.dump(snapshot)
        return StateDump(self.machine.applied_index, self.driver.term, chunks, snapshot.close)

    def statistics(self) -> dict[str, dict[str, str]]:
        """Blocks for `/v1/agent/self` and `registry info`; every value is text."""
        leader = self.driver.is_leader
        return {
            "consul": {
                "acl": "disabled",
                "bootstrap": str(len(self.driver.configuration.servers) == 1).lower(),
                "known_datacenters": "1",
                "leader": str(leader).lower(),
                "leader_addr": self.leader_address(),
                "server": "true",
            },
            "raft": {
                **self.driver.statistics(),
                "state": self.driver.role.value.capitalize(),
                "num_peers": str(max(0, len(self.driver.configuration.servers) - 1)),
            },
        }
