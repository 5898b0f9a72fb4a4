"""How a cluster begins: servers that know each other settle on one first list, each by itself.

A server started with `-bootstrap-expect=N` waits until it knows N servers, asks every one of them
whether there is a cluster already, and if not writes the first configuration. All do the same, so
nobody needs a leader for it; any of them may be late, and finds the cluster there.

                                     somebody has peers
    blank ──asks all that gossip knows──────────────────────> JOIN: wait for the leader to add us
      ^            │
      │            ├─ too few, no answer, another view, a conflict ──> WAIT for news, ask again
      └────────────┤
                   └─ N, all blank, all with the same list ──> FOUND the cluster with that list

Two clusters must never come out of it (R-57, R-58), so all is asked for that could make two lists
differ: every server must answer, and must itself be about to write the very same list. Consul
takes a server that does not answer for one without peers, and asks nobody for its view; with more
servers than expected, two groups could then found a cluster each.

A server that expects nothing asks as well: a cluster that was recovered by hand has a new id, which
a server has to take over before its leader can add it (R-60).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from registry.errors import RegistryError, Rejected, Unavailable
from registry.raft.messages import Configuration, Role, Server
from registry.server.members import MemberPool, MemberStatus, ServerMember, servers_of

logger = logging.getLogger("registry.server.bootstrap")

#: Pauses between rounds of questions, in seconds; the last one repeats. News of a member ends any.
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)

#: How long a server may take to answer.
ANSWER_TIMEOUT_S = 2.0

#: Who has just founded a cluster campaigns after so long for each server before it in the list.
STAGGER_S = 0.3


class PeersAnswer(msgspec.Struct, frozen=True, array_like=True):
    """What a server says of itself to one that asks before it begins."""

    server_id: str
    cluster_id: str
    is_blank: bool  # has no log, no snapshot and no vote
    peers: tuple[Server, ...]
    #: What it would found a cluster with.
    candidates: tuple[Server, ...]


class Blank(Protocol):
    """A server's consensus before it has begun; `registry.raft.driver.RaftDriver`."""

    @property
    def server_id(self) -> str: ...
    @property
    def cluster_id(self) -> str: ...
    @property
    def is_blank(self) -> bool: ...
    @property
    def configuration(self) -> Configuration: ...
    async def bootstrap(self, configuration: Configuration) -> None: ...
    async def adopt_cluster(self, cluster_id: str) -> None: ...
    def campaign(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be done now."""

    reason: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """Servers were started in ways that do not go together: an operator must act."""

    reason: str


@dataclass(frozen=True, slots=True)
class Join:
    """There is a cluster with this id: its leader will add us."""

    cluster_id: str


@dataclass(frozen=True, slots=True)
class Found:
    """Write this list as the first entry."""

    configuration: Configuration


Decision = Wait | Conflict | Join | Found


# The rules


def candidates(servers: Sequence[ServerMember]) -> tuple[Server, ...]:
    """The list that a cluster would be founded with: live servers by id."""
    alive = (server for server in servers if server.status is MemberStatus.ALIVE)
    return tuple(
        Server(s.id, s.rpc_address, Role.LEARNER if s.non_voter else Role.VOTER)
        for s in sorted(alive, key=lambda s: (s.id, s.name))
    )


def peers_answer(consensus: Blank, servers: Sequence[ServerMember]) -> PeersAnswer:
    """What this server answers; `servers` are those of its pool."""
    return PeersAnswer(
        server_id=consensus.server_id,
        cluster_id=consensus.cluster_id,
        is_blank=consensus.is_blank,
        peers=consensus.configuration.servers,
        candidates=candidates(servers),
    )


def decide(
    own_id: str,
    expect: int,
    servers: Sequence[ServerMember],
    answers: Mapping[str, PeersAnswer],
) -> Decision:
    """What a blank server is to do, that knows `servers` and has these answers by server id."""
    clusters = sorted({answer.cluster_id for answer in answers.values() if answer.peers})
    if len(clusters) > 1:
        return Conflict(
            "the servers that were found belong to different clusters; wipe those that a recovery "
            "left out"
        )
    if clusters:
        return Join(clusters[0])
    if not expect:
        return Wait("no server that was found belongs to a cluster")
    alive = [server for server in servers if server.status is MemberStatus.ALIVE]
    for server in alive:
        if server.id != own_id and (reason := _conflict(server, expect)):
            return Conflict(reason)
    return _decide_alone(own_id, expect, alive, answers)


def _conflict(server: ServerMember, expect: int) -> str:
    if server.bootstrap:
        return f"{server.name} was started with -bootstrap, and this server with -bootstrap-expect"
    if server.expect and server.expect != expect:
        return f"{server.name} expects {server.expect} servers, and this server {expect}"
    return ""


def _decide_alone(
    own_id: str, expect: int, alive: Sequence[ServerMember], answers: Mapping[str, PeersAnswer]
) -> Wait | Conflict | Found:
    """Whether a cluster may be founded, there being none."""
    ids = [server.id for server in alive]
    if len(set(ids)) < len(ids) or "" in ids:
        return Conflict("two servers have the same node id, or one has none")
    if own_id not in ids:
        return Wait("the pool does not show this server yet")
    voters = sum(not server.non_voter for server in alive)
    if voters < expect:
        return Wait(f"{voters} of {expect} expected servers are here")
    ours = candidates(alive)
    for server in alive:
        answer = answers.get(server.id)
        if server.id == own_id:
            continue
        if answer is None:
            return Wait(f"{server.name} has not answered")
        if not answer.is_blank:
            return Wait(f"{server.name} has voted for somebody already")
        if answer.candidates != ours:
            return Wait(f"{server.name} knows other servers than this one")
    return Found(Configuration(ours))


# Carrying them out


class Bootstrap:
    """Brings a blank server into a cluster; does nothing on one that has begun."""

    def __init__(
        self,
        *,
        expect: int,
        datacenter: str,
        consensus: Blank,
        pool: Callable[[], MemberPool],
        ask: Callable[[ServerMember], Awaitable[PeersAnswer]],
        pauses_s: Sequence[float] = PAUSES_S,
    ) -> None:
        """`ask` puts the question `raft.peers` to a server; what it raises is no answer."""
        self._expect = expect
        self._datacenter = datacenter
        self._consensus = consensus
        self._pool = pool
        self._ask = ask
        self._pauses_s = pauses_s
        self._changed = asyncio.Event()
        self._said = ""

    def members_changed(self) -> None:
        """The pool has news of a server: look again at once."""
        self._changed.set()

    async def run(self) -> None:
        """Return once this server has founded a cluster, or found one, or was found by one."""
        if self._expect > 1 and self._expect % 2 == 0:
            logger.warning(
                "an even number of servers survives no more failures than one less: expect=%d",
                self._expect,
            )
        rounds = 0
        while self._consensus.is_blank:
            self._changed.clear()
            if await self.round():
                return
            pause_s = self._pauses_s[min(rounds, len(self._pauses_s) - 1)]
            rounds += 1
            try:
                async with asyncio.timeout(pause_s):
                    await self._changed.wait()
                rounds = 0
            except TimeoutError:
                continue

    async def round(self) -> bool:
        """Ask everybody and do what follows; whether that was the end of it."""
        answers = await self._ask_all()
        # Looked at again after the questions, which take time: only what holds now counts, and from
        # here to the first entry nothing else runs.
        decision = decide(self._consensus.server_id, self._expect, self._servers(), answers)
        if isinstance(decision, Wait | Conflict):
            self._say(decision)
            return False
        try:
            if isinstance(decision, Join):
                await self._consensus.adopt_cluster(decision.cluster_id)
                logger.info("found a cluster to join: cluster=%s", decision.cluster_id or "unnamed")
            else:
                await self._found(decision.configuration)
        except Rejected:
            logger.info("this server was reached by a cluster before it could begin one")
        except Unavailable:
            return False  # consensus is not running: starting up, or on its way down
        return True

    async def _found(self, configuration: Configuration) -> None:
        await self._consensus.bootstrap(configuration)
        ids = [server.id for server in configuration.servers]
        logger.info("founded a cluster: servers=[%s]", " ".join(ids))
        # Somebody has to be first, or all would wait for an election timeout; one after the other,
        # so that they do not split the votes.
        await asyncio.sleep(ids.index(self._consensus.server_id) * STAGGER_S)
        self._consensus.campaign()

    def _servers(self) -> list[ServerMember]:
        return servers_of(self._pool().members(), self._datacenter)

    async def _ask_all(self) -> dict[str, PeersAnswer]:
        others = [
            server
            for server in self._servers()
            if server.status is MemberStatus.ALIVE and server.id != self._consensus.server_id
        ]
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self._ask_one(server)) for server in others]
        answers = (task.result() for task in asked)
        return {answer.server_id: answer for answer in answers if answer is not None}

    async def _ask_one(self, server: ServerMember) -> PeersAnswer | None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                answer = await self._ask(server)
        except (RegistryError, TimeoutError) as problem:
            logger.debug("no answer about peers: server=%s error=%s", server.name, problem)
            return None
        return answer if answer.server_id == server.id else None

    def _say(self, decision: Wait | Conflict) -> None:
        if decision.reason != self._said:
            self._said = decision.reason
            level = logging.ERROR if isinstance(decision, Conflict) else logging.INFO
            logger.log(level, "not part of a cluster yet: %s", decision.reason)
