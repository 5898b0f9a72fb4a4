"""A server: the state machine behind consensus, as the agent facade's backend.

Life of a write: typed command, stamped by the leader with the time and with ids, encoded, proposed,
grouped with others into one fsync, committed, applied as one store write, answered (design,
decision 3). Life of a read: `registry.server.reads`. On a follower both go to the leader
(`forwarding`); stale reads stay.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from registry.errors import NotLeader
from registry.hooks import ChangeSink, KvValidator
from registry.raft.driver import RaftDriver
from registry.raft.membership import ChangeRejected, Remove
from registry.raft.messages import Role
from registry.raft.ready import RaftRole, RoleChange
from registry.rpc.pool import Pool
from registry.rpc.stream import Hello
from registry.server import calls
from registry.server.autopilot import DEFAULT_SETTINGS, AutopilotReport
from registry.server.bootstrap import Bootstrap, PeersAnswer, peers_answer
from registry.server.change_feed import ChangeFeed, Show
from registry.server.datacenters import Datacenters, WanPool
from registry.server.endpoint import Endpoint
from registry.server.forwarding import NOT_YET, Forwarding
from registry.server.gossip_keys import KeysCall, PoolKeys
from registry.server.leader import LeaderDuties
from registry.server.members import (
    MemberPool,
    MemberStatus,
    PoolMember,
    ServerMember,
    server_of,
    servers_of,
)
from registry.server.network import ServerNetwork
from registry.server.reads import Reads
from registry.server.reconcile import LocalServerFacts
from registry.server.validation import Validation
from registry.state.base import Command, Query, ReadOptions, ReadResult
from registry.state.dump import StateDump
from registry.state.machine import StateMachine, encode_command
from registry.state.operator import AutopilotSettings

logger = logging.getLogger("registry.server")

#: How long the whole state may be under way from the leader.
DUMP_LIMIT_S = 600.0


#: How long a server that leaves waits to be put out of the Raft configuration.
REMOVAL_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What a server needs to know beside its store. Times in seconds."""

    facts: LocalServerFacts
    hold_timeout_s: float = 7.0
    #: Holds until an operator sets something else for the whole cluster.
    autopilot: AutopilotSettings = DEFAULT_SETTINGS
    #: With how many servers a cluster is founded, if there is none; 0: wait to be added to one.
    bootstrap_expect: int = 0
    #: Whether it founds one by itself.
    bootstrap: bool = False


class Server:
    """Implements `registry.agent.facade.Backend`. `run` owns everything it started."""

    def __init__(
        self,
        settings: ServerSettings,
        machine: StateMachine,
        driver: RaftDriver,
        network: ServerNetwork | None = None,
        *,
        sinks: Sequence[ChangeSink] = (),
        validators: Sequence[KvValidator] = (),
        show: Show = msgspec.to_builtins,
    ) -> None:
        """`network` is the one that `driver` has its transport from; None: a server without peers
        that nobody can call."""
        self.settings = settings
        self.machine = machine
        self.driver = driver
        self.network = network
        self.reads = Reads(machine, driver, hold_timeout_s=settings.hold_timeout_s)
        #: Tells plugins what changes, as far as they want to know.
        self.feed = ChangeFeed(machine, self, sinks, show)
        self._validation = Validation(validators) if validators else None
        self.duties = LeaderDuties(
            settings.facts,
            machine,
            self,
            driver,
            autopilot=settings.autopilot,
            more=(self.feed.lead,),
        )
        self.bootstrap = Bootstrap(
            expect=settings.bootstrap_expect,
            datacenter=settings.facts.datacenter,
            consensus=driver,
            pool=lambda: self.duties.pool,
            ask=self._ask_peers,
        )
        self._connections = network.pool if network else Pool(Hello("", ""))
        self.forwarding = Forwarding(
            driver, self._connections, hold_timeout_s=settings.hold_timeout_s
        )
        facts = settings.facts
        self.datacenters = Datacenters(
            facts.datacenter,
            facts.node_name,
            hold_timeout_s=settings.hold_timeout_s,
            count=lambda name: self.count(name),
        )
        #: Told the name of each metric that goes up by one.
        self.count: Callable[[str], None] = lambda name: None
        #: Told of each read that this server was asked for; apart, since there are very many.
        self.count_query: Callable[[float], None] = lambda amount: None
        #: Called with name and payload of a user event that another datacenter has fired here.
        self.on_fire: Callable[[str, bytes], None] | None = None
        #: Called to have all pools of this server do something with a gossip key.
        self.on_keys: Callable[[KeysCall], Awaitable[list[PoolKeys]]] | None = None
        #: Called when this server becomes the leader.
        self.on_elected: Callable[[], None] | None = None
        driver.on_role_change = self._role_changed
        if network is not None:
            network.transport.attach(driver)
            network.rpc.serve(Endpoint(self).handlers())

    async def run(self) -> None:
        """Serve until cancelled. A storage failure travels out: the process must then stop."""
        async with asyncio.TaskGroup() as group:
            if self.network is not None:
                group.create_task(self.network.run())
            group.create_task(self.driver.run())
            group.create_task(self.duties.run())
            group.create_task(self.bootstrap.run())
            group.create_task(self.feed.run())
            group.create_task(self.datacenters.run())

    def use_plugins(
        self, *, sinks: Sequence[ChangeSink], validators: Sequence[KvValidator]
    ) -> None:
        """Tell these of changes, and ask these about writes, from now on."""
        self.feed.replace(sinks)
        self._validation = Validation(validators) if validators else None

    def attach(self, pool: MemberPool, wan: WanPool | None = None) -> None:
        """Follow these gossip pools from now on; until then the server is a pool of its own."""
        self.duties.attach(pool)
        self.bootstrap.members_changed()
        if wan is not None:
            self.datacenters.attach(wan)

    def fire(self, name: str, payload: bytes) -> None:
        """Tell a user event, that comes from another datacenter, to all agents of this one."""
        if self.on_fire is not None:
            self.on_fire(name, payload)

    async def change_keys(self, call: KeysCall) -> list[PoolKeys]:
        """Do what a client agent asks, which is not in all of the pools itself."""
        return [] if self.on_keys is None else await self.on_keys(call)

    def member_changed(self, member: PoolMember) -> None:
        """News of a member of the pool; one that it has forgotten comes as REAPED. Never waits."""
        server = server_of(member)
        if self.network is not None and server is not None and member.status is MemberStatus.ALIVE:
            self.network.revive(server.rpc_address)
        self.duties.member_changed(member)
        self.bootstrap.members_changed()

    def peers(self) -> PeersAnswer:
        """What is answered to a server that has not begun yet."""
        members = self.duties.pool.members()
        return peers_answer(self.driver, servers_of(members, self.settings.facts.datacenter))

    async def _ask_peers(self, server: ServerMember) -> PeersAnswer:
        return await calls.raft_peers(await self._connections.connect(server.rpc_address))

    def _role_changed(self, change: RoleChange) -> None:
        self.duties.role_changed(change)
        self.forwarding.leader_changed()
        if change.role is RaftRole.LEADER and self.on_elected is not None:
            self.on_elected()

    async def write(self, command: Command) -> Any:
        """Propose on the leader's log; holds the request while there is no leader (R-67).

        Only what was refused before it was appended is tried again; an unknown outcome is told.
        """
        if self._validation is not None and (refused := await self._validation.judge(command)):
            return refused
        try:
            return await self.propose(command)
        except (NotLeader, *NOT_YET):
            return await self.forwarding.to_leader(
                lambda: self.propose(command),
                lambda leader: calls.write(leader, command, hop=1),
                repeatable=False,
                limit_s=self.settings.hold_timeout_s,
            )

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
        """The answer of this server if it may give it in the asked mode, else of the leader."""
        self.count_query(1)
        deadline = time.monotonic() + options.wait_ms / 1000
        if self.driver.is_leader or options.mode == "stale":
            try:
                return await self.reads.read(query, options)
            except NotLeader:
                pass
        # What is too old to be given here is asked of the leader, which is never stale.
        mode = "default" if options.mode == "stale" else options.mode

        def left() -> ReadOptions:
            wait_ms = max(0, int((deadline - time.monotonic()) * 1000))
            return msgspec.structs.replace(options, mode=mode, wait_ms=wait_ms)

        return await self.forwarding.to_leader(
            lambda: self.reads.read(query, left()),
            lambda leader: calls.read(leader, query, left(), hop=1),
            repeatable=True,
            limit_s=options.wait_ms / 1000 + self.settings.hold_timeout_s,
        )

    async def read_here(self, query: Query, options: ReadOptions) -> ReadResult:
        """The answer of this server, or `NotLeader`."""
        return await self.reads.read(query, options)

    async def leader_address(self) -> str:
        return self.driver.leader_address

    async def peer_addresses(self) -> list[str]:
        return [server.address for server in self.driver.configuration.servers]

    async def raft_configuration(self) -> tuple[int, list[dict[str, Any]]]:
        configuration = self.driver.configuration
        facts = self.settings.facts
        members = servers_of(self.duties.pool.members(), facts.datacenter)
        names = {server.id: server.name for server in members} | {facts.node_id: facts.node_name}
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

    async def facts(self) -> calls.ServerFacts:
        """What an agent without data asks about the cluster."""
        index, servers = await self.raft_configuration()
        leader, peers = await self.leader_address(), await self.peer_addresses()
        return calls.ServerFacts(leader, peers, index, servers)

    async def remove_server(self, server_id: str) -> None:
        """Raises `Rejected` for the last voter, `NoLeader`, `OutcomeUnknown`, and `ChangePending`
        when another change was not through within the hold time."""
        await self.forwarding.to_leader(
            lambda: self.remove_server_here(server_id),
            lambda leader: calls.remove_server(leader, server_id, hop=1),
            repeatable=False,
            limit_s=self.settings.hold_timeout_s,
        )

    @property
    def has_others(self) -> bool:
        """Whether there are other servers in the Raft configuration."""
        servers = self.driver.configuration.servers
        return any(server.id != self.driver.server_id for server in servers)

    async def removed(self) -> None:
        """After the pool was left: wait, but not for ever, until the others have put this server
        out. At once if there are none."""
        if not self.has_others:
            return
        try:
            async with asyncio.timeout(REMOVAL_LIMIT_S):
                await self.driver.wait_until_removed()
            logger.info("this server is out of the raft configuration")
        except TimeoutError:
            logger.warning(
                "the others have not put this server out of the raft configuration; if it stays "
                "listed there, use: operator raft remove-peer -id=%s",
                self.driver.server_id,
            )

    async def remove_server_here(self, server_id: str) -> None:
        """As the leader; raises `NotLeader` elsewhere."""
        while True:
            index = self.driver.configuration.index
            try:
                return await self.driver.change_configuration(Remove(id=server_id, based_on=index))
            except ChangeRejected:
                if self.driver.configuration.index == index:
                    raise
                # Others changed it in between, which is no objection to this change.

    async def autopilot_health(self) -> AutopilotReport:
        """How the leader sees the servers. Raises `NoLeader`."""
        return await self.forwarding.to_leader(
            self.autopilot_health_here,
            lambda leader: calls.autopilot_health(leader, hop=1),
            repeatable=True,
            limit_s=self.settings.hold_timeout_s,
        )

    async def autopilot_health_here(self) -> AutopilotReport:
        """The same as the leader; raises `NotLeader` elsewhere."""
        if not self.driver.is_leader:
            raise NotLeader(self.driver.leader_id)
        return self.duties.autopilot.report()

    async def open_dump(self) -> StateDump:
        """The leader's state with everything committed before the call. Raises `NoLeader`."""
        return await self.forwarding.to_leader(
            self.open_dump_here,
            lambda leader: calls.open_dump(leader, hop=1),
            repeatable=True,
            limit_s=DUMP_LIMIT_S,
        )

    async def open_dump_here(self) -> StateDump:
        """The same of this server, as the leader; raises `NotLeader` elsewhere."""
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
                "bootstrap": str(self.settings.bootstrap).lower(),
                "known_datacenters": str(self.datacenters.count),
                "leader": str(leader).lower(),
                "leader_addr": self.driver.leader_address,
                "server": "true",
            },
            "raft": self.driver.statistics(),
        }
