"""The catalog and the Raft configuration follow the members of the gossip pool.

A member that comes alive becomes a node with a passing check; a server among them also a learner of
the Raft configuration, which autopilot promotes. One that fails turns critical and stays. One that
left, or that the pool has forgotten, goes from both. This happens as the pool tells it, and for all
members when leadership is gained and every minute, for news get lost: the queue is bounded, and
what happens between two leaders nobody hears.

    pool ──news──> queue ─┐
                          ├─> plan (what differs from the state?) ──> proposals, one by one
    pool ──members every minute─┘

`catalog_command` and `raft_change` are the rules, pure; `Reconciler` carries them out. Only a
leader's proposals count: those of a deposed one fail (R-68).

Source: gossip sheet, section 12.5; requirements R-43, R-56, R-65.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from registry.errors import NotLeader, RegistryError
from registry.raft.membership import AddLearner, ChangeAddress, ConfigChange, Remove
from registry.raft.messages import Configuration, Role
from registry.server.members import (
    MemberPool,
    MemberStatus,
    PoolMember,
    ServerMember,
    is_client,
    lone_server,
    server_of,
    servers_of,
)
from registry.state.base import Command, Refused
from registry.state.catalog_commands import Deregister, Register
from registry.state.catalog_queries import ListNodes
from registry.state.catalog_records import (
    CRITICAL,
    PASSING,
    SERF_CHECK_ID,
    Check,
    Node,
    Service,
    Weights,
    fold,
    get_check,
    get_node,
    get_service,
)
from registry.state.machine import StateMachine
from registry.storage.store import Reader

logger = logging.getLogger("registry.server.reconcile")

SERF_CHECK_NAME = "Serf Health Status"
ALIVE_OUTPUT = "Agent alive and reachable"
FAILED_OUTPUT = "Agent not live or unreachable"

#: Name and id of the service that every server registers for itself.
SERVER_SERVICE = "consul"

#: Time between two passes over all members.
PASS_INTERVAL_S = 60.0

#: Pause before a pass in which something failed is made again.
RETRY_S = 2.0

#: Members with news that are not yet handled; more are dropped, and seen by the next pass.
NEWS_MAX = 256

#: Members that a pass looks at before it lets others have a turn: most need nothing.
_MEMBERS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class LocalServerFacts:
    """Who this server is, as the catalog shows it."""

    node_id: str
    node_name: str
    address: str  # ip without port
    datacenter: str
    server_port: int
    tagged_addresses: Mapping[str, str] = field(default_factory=dict)
    node_meta: Mapping[str, str] = field(default_factory=dict)

    def as_member(self) -> PoolMember:
        """This server as the one member of a pool."""
        return lone_server(
            name=self.node_name,
            node_id=self.node_id,
            address=self.address,
            port=0,
            rpc_port=self.server_port,
            datacenter=self.datacenter,
        )


class Proposer(Protocol):
    """Proposals that fail with `NotLeader` once this server does not lead."""

    async def propose(self, command: Command) -> Any: ...
    async def barrier(self) -> None: ...


class Peers(Protocol):
    """The Raft configuration; `registry.raft.driver.RaftDriver`."""

    @property
    def server_id(self) -> str: ...
    @property
    def configuration(self) -> Configuration: ...
    async def change_configuration(self, change: ConfigChange) -> None: ...


# The rules


def catalog_command(member: PoolMember, reader: Reader, facts: LocalServerFacts) -> Command | None:
    """What is to be written into the catalog about `member`; None when all is so already."""
    server = server_of(member)
    if server is None and not is_client(member):
        return None
    if member.tags.get("dc") != facts.datacenter or (server is not None and server.segment):
        return None
    node = get_node(reader, member.name)
    if member.status is MemberStatus.ALIVE:
        return _alive(member, server, node, reader, facts)
    if member.status is MemberStatus.FAILED:
        return _failed(member, node, reader)
    if member.status.is_gone and node is not None and not _is_self(member.name, facts):
        return Deregister(node=node.node)
    return None


def _is_self(name: str, facts: LocalServerFacts) -> bool:
    return fold(name) == fold(facts.node_name)


def _alive(
    member: PoolMember,
    server: ServerMember | None,
    node: Node | None,
    reader: Reader,
    facts: LocalServerFacts,
) -> Register | None:
    is_self = _is_self(member.name, facts)
    wanted = Register(
        node=member.name,
        id=member.tags.get("id", ""),
        address=member.address,
        datacenter=facts.datacenter,
        tagged_addresses=dict(facts.tagged_addresses) if is_self else None,
        node_meta=dict(facts.node_meta) if is_self else None,
        # An agent says the rest of its node with its own registrations; gossip knows no more than
        # an address, and must not take that away, even if it comes between here and the log.
        keep_node_details=True,
        service=None if server is None else _server_service(member, server),
        checks=(_serf_check(PASSING, ALIVE_OUTPUT),),
    )
    return None if node is not None and _is_registered(wanted, node, reader) else wanted


def _failed(member: PoolMember, node: Node | None, reader: Reader) -> Register | None:
    if node is None:
        return None
    check = get_check(reader, node.node, SERF_CHECK_ID)
    if check is not None and (check.status, check.output) == (CRITICAL, FAILED_OUTPUT):
        return None
    return Register(
        node=node.node,
        skip_node_update=True,
        checks=(_serf_check(CRITICAL, FAILED_OUTPUT),),
    )


def _serf_check(status: str, output: str) -> Check:
    return Check(check_id=SERF_CHECK_ID, name=SERF_CHECK_NAME, status=status, output=output)


def _server_service(member: PoolMember, server: ServerMember) -> Service:
    return Service(
        id=SERVER_SERVICE,
        name=SERVER_SERVICE,
        port=server.port,
        meta={
            "raft_version": str(server.raft_version),
            "serf_protocol_current": str(member.protocol_current),
        },
        weights=Weights(1, 1),
    )


def _is_registered(wanted: Register, node: Node, reader: Reader) -> bool:
    """Whether the catalog says just this, as far as gossip has a say."""
    check = get_check(reader, node.node, SERF_CHECK_ID)
    if (node.id, node.address) != (wanted.id, wanted.address):
        return False
    if check is None or (check.status, check.output) != (PASSING, ALIVE_OUTPUT):
        return False
    if wanted.service is None:
        return True
    service = get_service(reader, node.node, SERVER_SERVICE)
    return service is not None and (service.port, service.meta) == (
        wanted.service.port,
        wanted.service.meta,
    )


def raft_change(
    member: PoolMember,
    members: Sequence[PoolMember],
    configuration: Configuration,
    facts: LocalServerFacts,
) -> ConfigChange | None:
    """The next single step that the configuration needs because of `member`; None: it is right.

    Asked again after each step: an entry that stands in the way goes first (R-39).
    """
    server = server_of(member)
    if server is None or server.datacenter != facts.datacenter or server.segment or not server.id:
        return None
    if server.status is MemberStatus.ALIVE:
        return _joining(server, members, configuration, facts)
    if server.status.is_gone:
        return _leaving(server, members, configuration, facts)
    return None


def _joining(
    server: ServerMember,
    members: Sequence[PoolMember],
    configuration: Configuration,
    facts: LocalServerFacts,
) -> ConfigChange | None:
    based_on, address = configuration.index, server.rpc_address
    # Who has the address first: nobody else can move there before that one is gone.
    for entry in sorted(configuration.servers, key=lambda s: s.address != address):
        if (entry.id == server.id) == (entry.address == address):
            continue
        if entry.id == facts.node_id:
            # We lead, so we are who we were: whoever else has our id or address is not.
            is_own = server.id == entry.id and _is_self(server.name, facts)
            return (
                ChangeAddress(id=entry.id, address=address, based_on=based_on) if is_own else None
            )
        # A server that comes back elsewhere may have lost its disk under the same id, and then must
        # not vote as if it had not: it starts anew as a learner. One at a time, so that a
        # cluster that moved as a whole keeps its voters.
        if entry.role is Role.VOTER and _awaits_promotion(configuration, members, facts):
            return None
        return Remove(id=entry.id, based_on=based_on)
    if any(entry.id == server.id for entry in configuration.servers):
        return None
    if server.bootstrap and (rival := _other_bootstrap(server, members, facts)):
        logger.error(
            "two servers bootstrap on their own; only one may be started with -bootstrap, so this "
            "one is kept out: server=%s other=%s",
            server.name,
            rival,
        )
        return None
    return AddLearner(id=server.id, address=address, based_on=based_on)


def _awaits_promotion(
    configuration: Configuration, members: Sequence[PoolMember], facts: LocalServerFacts
) -> bool:
    """Whether a learner is alive and on its way to a vote."""
    coming = {
        server.id
        for server in servers_of(members, facts.datacenter)
        if server.status is MemberStatus.ALIVE and not server.non_voter
    }
    return any(s.id in coming for s in configuration.servers if s.role is Role.LEARNER)


def _other_bootstrap(
    server: ServerMember, members: Sequence[PoolMember], facts: LocalServerFacts
) -> str:
    """Another server that was told to bootstrap alone, which must not be (R-56); "" for none."""
    rivals = (
        other.name
        for other in servers_of(members, facts.datacenter)
        if other.bootstrap and other.name != server.name and not other.status.is_gone
    )
    return next(rivals, "")


def _leaving(
    server: ServerMember,
    members: Sequence[PoolMember],
    configuration: Configuration,
    facts: LocalServerFacts,
) -> Remove | None:
    """Never ourselves (R-65), nor a server that goes on under another name."""
    if server.id == facts.node_id or _is_self(server.name, facts):
        return None
    if all(entry.id != server.id for entry in configuration.servers):
        return None
    heirs = servers_of(members, facts.datacenter)
    if any(o.id == server.id and o.name != server.name and not o.status.is_gone for o in heirs):
        return None
    return Remove(id=server.id, based_on=configuration.index)


def strays(reader: Reader, members: Sequence[PoolMember]) -> list[Node]:
    """Catalog nodes that have a gossip check and are no members (any more), by name."""
    known = {fold(member.name) for member in members}
    _, nodes = ListNodes().run(reader)
    return [
        node
        for node in nodes
        if fold(node.node) not in known and get_check(reader, node.node, SERF_CHECK_ID) is not None
    ]


def stray_member(node: Node, reader: Reader, facts: LocalServerFacts) -> PoolMember:
    """The member that a stray node once was, so that it is reaped like one."""
    service = get_service(reader, node.node, SERVER_SERVICE)
    member = lone_server(
        name=node.node,
        node_id=node.id,
        address=node.address,
        port=0,
        rpc_port=service.port if service else 0,
        datacenter=facts.datacenter,
    )
    tags = member.tags if service else {"dc": facts.datacenter, "role": "node", "id": node.id}
    return PoolMember(node.node, node.address, 0, MemberStatus.REAPED, tags)


# Carrying them out


class Reconciler:
    """Keeps catalog and configuration in step with the pool while this server leads."""

    def __init__(
        self,
        facts: LocalServerFacts,
        machine: StateMachine,
        proposer: Proposer,
        peers: Peers,
        pool: Callable[[], MemberPool],
        *,
        on_server_added: Callable[[], None] = lambda: None,
        interval_s: float = PASS_INTERVAL_S,
        retry_s: float = RETRY_S,
    ) -> None:
        """`on_server_added` is told of each new learner, since dead servers may now go (R-63)."""
        self._facts = facts
        self._machine = machine
        self._proposer = proposer
        self._peers = peers
        self._pool = pool
        self._on_server_added = on_server_added
        self._interval_s = interval_s
        self._retry_s = retry_s
        self._news: dict[str, PoolMember] = {}  # by name: only the latest of a member counts
        self._is_pass_due = False
        self._wake = asyncio.Event()
        self._is_running = False
        self._strays: set[str] = set()
        #: News that did not fit into the queue.
        self.dropped = 0

    def member_changed(self, member: PoolMember) -> None:
        """Take news of a member; never waits. Of no interest to a server that does not lead."""
        if not self._is_running:
            return
        if member.name not in self._news and len(self._news) >= NEWS_MAX:
            self.dropped += 1
            self._is_pass_due = True
        else:
            self._news.pop(member.name, None)  # the order is that of the latest news
            self._news[member.name] = member
        self._wake.set()

    def pass_due(self) -> None:
        """Something happened to the state or the pool as a whole: look at everything soon."""
        self._is_pass_due = True
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled, which is when leadership ends; ends by itself with `NotLeader`."""
        self._news.clear()
        self._strays.clear()
        self._is_running = True
        loop = asyncio.get_running_loop()
        try:
            while True:
                is_done = await self.pass_over_all()
                next_pass = loop.time() + (self._interval_s if is_done else self._retry_s)
                await self._follow_news(next_pass)
        finally:
            self._is_running = False

    async def _follow_news(self, until: float) -> None:
        """Handle news until the next pass is due, which is soon when one of them failed."""
        loop = asyncio.get_running_loop()
        while not self._is_pass_due and loop.time() < until:
            self._wake.clear()
            while self._news:
                name = next(iter(self._news))
                if not await self.handle(self._news.pop(name)):
                    until = min(until, loop.time() + self._retry_s)
            try:
                async with asyncio.timeout_at(until):
                    await self._wake.wait()
            except TimeoutError:
                break

    async def pass_over_all(self) -> bool:
        """Handle every member and what the pool does not know; whether all of it succeeded.

        After a barrier, since the state of a leader that is behind would show differences that
        there are not.
        """
        self._is_pass_due = False
        await self._proposer.barrier()
        members = self._pool().members()
        is_done = True
        for position, member in enumerate(members):
            if position % _MEMBERS_AT_ONCE == 0:
                await asyncio.sleep(0)
            is_done &= await self.handle(member)
        return await self._reap_strays() and is_done

    async def _reap_strays(self) -> bool:
        """Deregister nodes that are no members, seen so by two passes in a row: a server may lead
        before its pool has found the others again, and must not throw them all out for it."""
        reader = self._machine.reader
        found = {node.node: node for node in strays(reader, self._pool().members())}
        confirmed = [node for name, node in found.items() if name in self._strays]
        self._strays = set(found)
        results = [await self.handle(stray_member(node, reader, self._facts)) for node in confirmed]
        return all(results)

    async def handle(self, member: PoolMember) -> bool:
        """Do what `member` needs; False when it has to be tried again."""
        try:
            await self._change_raft(member)
            command = catalog_command(member, self._machine.reader, self._facts)
            if command is not None:
                await self._write(member, command)
        except NotLeader:
            raise
        except RegistryError as problem:
            logger.warning("could not reconcile a member: member=%s error=%s", member.name, problem)
            return False
        return True

    async def _change_raft(self, member: PoolMember) -> None:
        if server_of(member) is None:
            return
        # Each step makes the next one possible: whoever has its id, and whoever has its address,
        # are put out before it is let in.
        for _ in range(3):
            change = raft_change(
                member, self._pool().members(), self._peers.configuration, self._facts
            )
            if change is None:
                return
            await self._peers.change_configuration(change)
            logger.info("raft configuration changed: member=%s change=%s", member.name, change)
            if isinstance(change, AddLearner):
                self._on_server_added()

    async def _write(self, member: PoolMember, command: Command) -> None:
        result = await self._proposer.propose(command)
        if isinstance(result, Refused):
            # Saying it again would not help; the next pass finds out whether it still holds.
            logger.error("member refused: member=%s reason=%s", member.name, result.reason)
            return
        word = _WORDS[MemberStatus.LEFT if isinstance(command, Deregister) else member.status]
        logger.info("%s: member=%s", word, member.name)


_WORDS = {
    MemberStatus.ALIVE: "member joined, marking health alive",
    MemberStatus.FAILED: "member failed, marking health critical",
    MemberStatus.LEFT: "deregistering member",
}
