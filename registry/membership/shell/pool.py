"""One member of one pool, as the rest of the agent holds it: the parts of the shell put together.

Use: `start` binds the port and makes us a member of a pool of one; `run`, in a task of the owner's
group, serves until `leave` is through or the task is cancelled (which leaves nothing behind, and
looks to the others like a crash).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence

from registry.errors import NotFound, Rejected
from registry.membership.addresses import Address, format_address
from registry.membership.coordinate import Coordinate
from registry.membership.filters import Filter
from registry.membership.query_desk import Question
from registry.membership.serf_values import Member, QueryAnswer, QueryEvent
from registry.membership.settings import PoolSettings
from registry.membership.shell.answers import Answers
from registry.membership.shell.delivery import Delivery
from registry.membership.shell.effects import Effects
from registry.membership.shell.files import PoolFiles
from registry.membership.shell.joins import Joins
from registry.membership.shell.key_manager import KeyManager
from registry.membership.shell.listeners import EventStream, Listeners
from registry.membership.shell.live_core import LiveCore, now_ms
from registry.membership.shell.loop import CoreLoop
from registry.membership.shell.networks import AllowedNetworks, NetworkRules
from registry.membership.shell.sockets import PacketInbox, bind
from registry.membership.shell.startup import Kept, build
from registry.membership.shell.streams import Streams
from registry.membership.shell.tasks import PoolTasks


class GossipPool:
    """One member of one pool."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._log = log = logging.getLogger(f"registry.membership.{settings.label}")
        self._kept = Kept()
        self._tcp: asyncio.Server | None = None
        self._live = live = LiveCore(settings.label.upper())
        self._tasks = tasks = PoolTasks()
        self._inbox = PacketInbox(live.wake.set)
        self._networks = networks = AllowedNetworks(settings.allowed_networks)
        self._listeners = Listeners()
        self._files = PoolFiles(settings, live, tasks, log)
        self._streams = Streams(settings, live, tasks, networks, log)
        self._joins = Joins(live, self._streams, log)
        self._answers = Answers(live)
        #: The pool's encryption keys.
        self.keys = KeyManager(live, self._answers)
        effects = Effects(
            live=live,
            inbox=self._inbox,
            streams=self._streams,
            joins=self._joins,
            answers=self._answers,
            files=self._files,
            delivery=Delivery(self._listeners, settings.meter, log),
            meter=settings.meter,
            log=log,
        )
        self._loop = CoreLoop(live, self._inbox, networks, effects)

    # Life.

    async def start(self) -> None:
        """Read what is on disk, bind, and be a pool of one. Raises `ConfigError`."""
        self._kept = await self._files.read()
        udp, tcp = bind(self._settings.bind)
        bound = (self._settings.bind[0], tcp.getsockname()[1])
        host, port = self._settings.advertise or bound
        try:
            self._begin((host, port or bound[1]))
            loop = asyncio.get_running_loop()
            await loop.create_datagram_endpoint(lambda: self._inbox, sock=udp)
            self._tcp = await asyncio.start_server(self._streams.accept, sock=tcp)
        except BaseException:
            udp.close()
            tcp.close()
            self.close()
            raise
        self._log.info(
            "gossip is up: address=%s encrypted=%s", format_address(bound), self.is_encrypted
        )

    def _begin(self, advertise: Address) -> None:
        rules = NetworkRules(self._networks, self._settings.rules)
        self._live.begin(
            build(self._settings, self._kept, address=advertise, rules=rules, now_ms=now_ms())
        )

    async def run(self) -> None:
        """Serve until we have left.

        Raises `Rejected` when most of the pool knows somebody else by our name: such a member
        stops without leaving, because a leave would carry the other's name.
        """
        try:
            async with asyncio.TaskGroup() as group:
                self._tasks.open(group)
                writer = group.create_task(self._files.run_snapshot_writes())
                rejoin = group.create_task(self._joins.rejoin(self._last_addresses()))
                try:
                    await self._loop.run()
                finally:
                    self._tasks.close()
                rejoin.cancel()
                self._tasks.cancel()
                self._files.end_snapshot_writes()
                await writer
        finally:
            self.close()
        if (lost := self._live.lost) is not None:
            raise Rejected(
                f"the name {self._settings.name} belongs to another member of the"
                f" {self._settings.label.upper()} pool: {lost.matching} of {lost.answers} answers"
                " were for us; choose another node name"
            )

    def _last_addresses(self) -> list[str]:
        """Of the others who were alive when we last ran."""
        alive = self._kept.previous.alive
        return [address for name, address in alive.items() if name != self._settings.name]

    def close(self) -> None:
        """Close the sockets and end whatever waits, without leaving. `run` does so when it ends."""
        self._inbox.close()
        if self._tcp is not None:
            self._tcp.close()
        self._joins.close()
        self._answers.close()
        self._live.left.set()
        self._listeners.close()
        self._files.close()

    # Joining and leaving.

    async def join(
        self, addresses: Sequence[str], *, default_port: int = 8301, ignore_old: bool = True
    ) -> int:
        """Join through each of these (`host`, `host:port`); the number of nodes reached.

        With `ignore_old` events from before are not delivered. Raises `Unavailable`, saying for
        each address why, when none was reached. A pool that refuses us says so only in its own log;
        then a warning follows here some seconds later.
        """
        return await self._joins.join(addresses, default_port, ignore_old=ignore_old)

    async def leave(self) -> None:
        """Leave gracefully; returns when the news had time to get around, and `run` ends."""
        if not self._live.left.is_set():
            self._live.now().serf.leave()
            await self._live.left.wait()

    async def force_leave(self, name: str, *, prune: bool = False) -> None:
        """Declare that a member has left. Raises `NotFound`."""
        core = self._live.now()
        if name not in (member.name for member in core.serf.members):
            raise NotFound(f"No node found with name '{name}'")
        core.serf.force_leave(name, prune=prune)

    # Looking.

    @property
    def address(self) -> Address:
        """Where others reach us."""
        member = self.local_member()
        return member.address, member.port

    @property
    def is_encrypted(self) -> bool:
        return self._kept.ring is not None

    def members(self) -> list[Member]:
        """Everybody, whatever their state, by name."""
        return sorted(self._live.running.serf.members, key=lambda member: member.name)

    def local_member(self) -> Member:
        return self._live.running.serf.local_member

    def coordinate(self, name: str | None = None) -> Coordinate | None:
        """Our own coordinate, or the last one that a member told us."""
        serf = self._live.running.serf
        return serf.coordinate if name is None else serf.coordinate_of(name)

    def statistics(self) -> dict[str, int]:
        core = self._live.running
        return {
            **core.serf.statistics(),
            "health_score": core.swim.health_score,
            "packets_dropped": self._inbox.dropped,
        }

    def listen(self) -> EventStream:
        """Member, user and query events from now on, in order; a context manager."""
        return self._listeners.add()

    # Telling and asking.

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Raises `TooLarge`."""
        self._live.now().serf.set_tags(tags)

    def user_event(self, name: str, payload: bytes = b"", *, coalesce: bool = False) -> None:
        """Raises `TooLarge`."""
        self._live.now().serf.user_event(name, payload, coalesce=coalesce)

    def respond(self, query: QueryEvent, payload: bytes) -> None:
        """Answer a query. Raises `TooLarge`, `TimedOut`, and `LocalProtocolError` a second time."""
        self._live.now().serf.respond(query, payload)

    def query(
        self,
        name: str,
        payload: bytes = b"",
        *,
        filters: Sequence[Filter] = (),
        timeout_s: float = 0.0,
        wants_acks: bool = False,
        relay_factor: int = 0,
    ) -> AsyncGenerator[QueryAnswer, None]:
        """Answers (and acknowledgements) as they come, until the timeout. Raises `TooLarge`.

        0 is the pool's default timeout. Close the iterator to stop earlier.
        """
        question = Question(
            name=name,
            payload=payload,
            filters=tuple(filters),
            timeout_ms=round(timeout_s * 1000),
            wants_acks=wants_acks,
            relay_factor=relay_factor,
        )
        return self._answers.ask(question)
