"""Autopilot: the leader looks after the servers, so that nobody has to.

It collects how each server does, gives those that joined a vote once they have been well for a
while, and puts out dead ones while that is no risk.

    pool (alive?) ─┐
    progress ──────┼─> judge ─> health, since when ─┬─> report (`/v1/operator/autopilot/health`)
    settings ──────┘                                ├─> next_promotion ─> Promote
                                                    └─> next_removal ───> force-leave, Remove

The rules are pure functions of an `Outlook`; `Autopilot` carries them out, one step at a time, and
looks again before the next. Source: requirements, section 12 (R-61 to R-64).

One thing differs from Consul: followers here hear from their leader every tenth of an election
timeout, not every 50 ms, so the last contact that the threshold is compared with is how long an
answer to a heartbeat is *overdue* (`registry.raft.reports.FollowerView`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from registry.errors import NotLeader, RegistryError
from registry.raft.membership import ConfigChange, Promote, Remove
from registry.raft.messages import Configuration, Role, Server
from registry.raft.reports import FollowerView
from registry.server.members import MemberPool, MemberStatus, ServerMember, servers_of
from registry.state.operator import AutopilotSettings

logger = logging.getLogger("registry.server.autopilot")

HEALTH_INTERVAL_S = 2.0
ACT_INTERVAL_S = 10.0

_MILLISECOND_NS = 1_000_000
_SECOND_NS = 1_000_000_000

#: What holds while neither the configuration nor an operator says otherwise.
DEFAULT_SETTINGS = AutopilotSettings(
    cleanup_dead_servers=True,
    last_contact_threshold_ns=200 * _MILLISECOND_NS,
    max_trailing_logs=250,
    server_stabilization_time_ns=10 * _SECOND_NS,
)


class Consensus(Protocol):
    """The leader's own view; `registry.raft.driver.RaftDriver`."""

    @property
    def server_id(self) -> str: ...
    @property
    def configuration(self) -> Configuration: ...
    @property
    def last_index(self) -> int: ...
    @property
    def last_term(self) -> int: ...
    def followers(self) -> dict[str, FollowerView]: ...
    async def change_configuration(self, change: ConfigChange) -> None: ...


class ServerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How one server does. Times of day in milliseconds since 1970."""

    id: str
    name: str
    address: str
    serf_status: str
    version: str
    leader: bool
    last_contact_ms: int  # -1: never heard
    last_term: int
    last_index: int
    healthy: bool
    voter: bool
    stable_since_ms: int


class AutopilotReport(msgspec.Struct, frozen=True):
    """All servers of the Raft configuration, in its order (R-64)."""

    healthy: bool
    failure_tolerance: int
    servers: tuple[ServerHealth, ...]


class Since(msgspec.Struct, frozen=True):
    """Since when a server has been as it is: by the clock that never jumps, and by the day's."""

    healthy: bool
    at_s: float
    at_ms: int


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """All that the rules look at, as of one moment."""

    settings: AutopilotSettings
    leader_id: str
    last_index: int
    last_term: int
    configuration: Configuration
    followers: Mapping[str, FollowerView]
    members: Sequence[ServerMember]

    def member(self, server_id: str) -> ServerMember | None:
        """The member that a server of the configuration is: a live one before a former one."""
        found = [member for member in self.members if member.id == server_id]
        return min(found, key=lambda m: m.status is not MemberStatus.ALIVE, default=None)


# The rules


def is_healthy(outlook: Outlook, server_id: str) -> bool:
    """R-61."""
    member, settings = outlook.member(server_id), outlook.settings
    if member is None or member.status is not MemberStatus.ALIVE:
        return False
    if server_id == outlook.leader_id:
        return True
    follower = outlook.followers.get(server_id)
    if follower is None or not follower.match:
        return False
    trailing = outlook.last_index - follower.match
    return (
        follower.silence_ms * _MILLISECOND_NS <= settings.last_contact_threshold_ns
        and follower.match_term == outlook.last_term
        and trailing <= settings.max_trailing_logs
    )


def failure_tolerance(servers: Iterable[ServerHealth]) -> int:
    """How many more voters may fail with writes going on (R-64)."""
    voters = [server for server in servers if server.voter]
    healthy = sum(server.healthy for server in voters)
    return max(0, healthy - (len(voters) // 2 + 1))


def next_promotion(outlook: Outlook, since: Mapping[str, Since], now_s: float) -> Promote | None:
    """The first learner that has been well for long enough to vote (R-62)."""
    wait_s = outlook.settings.server_stabilization_time_ns / _SECOND_NS
    for server in outlook.configuration.servers:
        member, known = outlook.member(server.id), since.get(server.id)
        if server.role is not Role.LEARNER or member is None or member.non_voter:
            continue
        if known is not None and known.healthy and now_s - known.at_s >= wait_s:
            return Promote(id=server.id, based_on=outlook.configuration.index)
    return None


class Removal(msgspec.Struct, frozen=True):
    """A server to put out: by its member's name when gossip knows it, else by its entry."""

    server: Server
    member_name: str = ""


def next_removal(outlook: Outlook) -> Removal | None:
    """The next dead server to put out (R-63); None when there is none, or it were a risk.

    Learners that gossip has seen fail go without further ado. Of voters that it has seen fail, and
    of servers that it does not know, one goes only while enough voters are left and the dead are a
    minority: who is cut off from most of the servers must not mistake them for dead.
    """
    if not outlook.settings.cleanup_dead_servers:
        return None
    dead = [found for server in outlook.configuration.servers if (found := _dead(outlook, server))]
    for removal in dead:
        if removal.member_name and removal.server.role is Role.LEARNER:
            return removal
    voters = sum(server.role is Role.VOTER for server in outlook.configuration.servers)
    is_risk = voters - len(dead) < outlook.settings.min_quorum or len(dead) > (voters - 1) // 2
    if dead and is_risk:
        logger.debug("too many dead servers to remove: dead=%d voters=%d", len(dead), voters)
    return None if is_risk or not dead else dead[0]


def _dead(outlook: Outlook, server: Server) -> Removal | None:
    if server.id == outlook.leader_id:
        return None
    member = outlook.member(server.id)
    if member is not None and member.status is MemberStatus.FAILED:
        return Removal(server, member.name)
    # One that has left is taken out by reconcile; should that not come about, here.
    return Removal(server) if member is None or member.status.is_gone else None


# Carrying them out


class Autopilot:
    """Works while this server leads; all it knows of servers' pasts is of this leadership."""

    def __init__(
        self,
        datacenter: str,
        consensus: Consensus,
        pool: Callable[[], MemberPool],
        settings: Callable[[], AutopilotSettings],
        *,
        monotonic: Callable[[], float],
        wall_ms: Callable[[], int],
    ) -> None:
        self._datacenter = datacenter
        self._consensus = consensus
        self._pool = pool
        self._settings = settings
        self._monotonic = monotonic
        self._wall_ms = wall_ms
        self._since: dict[str, Since] = {}
        self._wake = asyncio.Event()

    def begin(self) -> None:
        """A new leadership: forget what was seen in an earlier one."""
        self._since.clear()

    def act_soon(self) -> None:
        """A server has joined, so that a dead one may go now."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled, which is when leadership ends."""
        act_at = self._monotonic() + ACT_INTERVAL_S
        while True:
            self.report()
            if self._wake.is_set() or self._monotonic() >= act_at or self._is_promotion_due():
                self._wake.clear()
                act_at = self._monotonic() + ACT_INTERVAL_S
                await self.act()
            try:
                async with asyncio.timeout(HEALTH_INTERVAL_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _is_promotion_due(self) -> bool:
        """Whether a server has just been well for long enough; its vote may be needed soon."""
        return next_promotion(self.outlook(), self._since, self._monotonic()) is not None

    def outlook(self) -> Outlook:
        consensus = self._consensus
        return Outlook(
            settings=self._settings(),
            leader_id=consensus.server_id,
            last_index=consensus.last_index,
            last_term=consensus.last_term,
            configuration=consensus.configuration,
            followers=consensus.followers(),
            members=servers_of(self._pool().members(), self._datacenter),
        )

    def report(self) -> AutopilotReport:
        """How the servers do now; each look counts for how long they have been stable."""
        outlook = self.outlook()
        self._judge(outlook)
        servers = tuple(self._shown(outlook, s) for s in outlook.configuration.servers)
        is_healthy_all = bool(servers) and all(server.healthy for server in servers)
        return AutopilotReport(is_healthy_all, failure_tolerance(servers), servers)

    def _judge(self, outlook: Outlook) -> None:
        now = self._monotonic(), self._wall_ms()
        ids = [server.id for server in outlook.configuration.servers]
        self._since = {
            server_id: since for server_id, since in self._since.items() if server_id in ids
        }
        for server_id in ids:
            healthy, known = is_healthy(outlook, server_id), self._since.get(server_id)
            if known is None or known.healthy != healthy:
                self._since[server_id] = Since(healthy, *now)
                if known is not None:
                    word = "well again" if healthy else "not well"
                    logger.info("a server is %s: server=%s", word, server_id)

    def _shown(self, outlook: Outlook, server: Server) -> ServerHealth:
        member, since = outlook.member(server.id), self._since[server.id]
        is_leader = server.id == outlook.leader_id
        follower = outlook.followers.get(server.id, FollowerView(0, 0, -1, False))
        return ServerHealth(
            id=server.id,
            name=member.name if member else "",
            address=server.address,
            serf_status=(member.status if member else MemberStatus.NONE).name.lower(),
            version=member.build if member else "",
            leader=is_leader,
            last_contact_ms=0 if is_leader else follower.silence_ms,
            last_term=outlook.last_term if is_leader else follower.match_term,
            last_index=outlook.last_index if is_leader else follower.match,
            healthy=since.healthy,
            voter=server.role is Role.VOTER,
            stable_since_ms=since.at_ms,
        )

    async def act(self) -> None:
        """At most one promotion and one removal; what could not be done is left to the next time.

        Promoted first: it is what makes room for a removal.
        """
        try:
            promotion = next_promotion(self.outlook(), self._since, self._monotonic())
            if promotion is not None:
                await self._consensus.change_configuration(promotion)
                logger.info("promoted a server to voter: server=%s", promotion.id)
            removal = next_removal(self.outlook())
            if removal is not None:
                await self._remove(removal)
        except NotLeader:
            raise
        except RegistryError as problem:
            logger.warning("autopilot could not go on: error=%s", problem)

    async def _remove(self, removal: Removal) -> None:
        server = removal.server
        logger.info(
            "removing a dead server: server=%s member=%s", server.id, removal.member_name or "none"
        )
        if removal.member_name:
            # Everybody is to know, and the leader's own news of it takes the server out of Raft.
            await self._pool().force_leave(removal.member_name)
            return
        index = self._consensus.configuration.index
        await self._consensus.change_configuration(Remove(id=server.id, based_on=index))
