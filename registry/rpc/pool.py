"""One connection per peer, dialled when it is needed and given up when it is dead.

Everybody who asks the same peer shares its connection, and a dial under way. A peer that could not
be reached is left alone for a while (`backoff`); asking it meanwhile fails at once, so that the
asker can turn to another one. A task of the pool looks for peers that fell silent without closing
(a cut cable, a frozen process), and closes what nobody used for long.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from registry.errors import RegistryError, Unreachable
from registry.rpc.backoff import MAX_S, Backoff
from registry.rpc.connection import Connection, dial
from registry.rpc.stream import Hello, Limits

logger = logging.getLogger("registry.rpc")


#: A connection that ends sooner counts as a failed attempt.
SHORT_LIFE_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """Times in seconds."""

    connect_timeout_s: float = 3.0
    #: How often a peer that owes an answer is asked for a sign of life, and how long it may take. A
    #: cut cable is noticed after one to two intervals more than that.
    ping_interval_s: float = 0.5
    silence_max_s: float = 3.0
    #: An unused connection is closed after so long.
    idle_max_s: float = 120.0
    #: The longest pause after failed attempts to reach a peer.
    backoff_max_s: float = MAX_S
    limits: Limits = field(default_factory=Limits)


Dial = Callable[[str], Awaitable[Connection]]


class _Peer:
    __slots__ = ("backoff", "connection", "dialling", "revived")

    def __init__(self, backoff: Backoff) -> None:
        self.backoff = backoff
        self.connection: Connection | None = None
        self.dialling: asyncio.Future[Connection] | None = None
        self.revived = asyncio.Event()


class Pool:
    """Connections of one agent. `run` owns what happens in the background."""

    def __init__(
        self,
        hello: Hello,
        settings: PoolSettings | None = None,
        *,
        rng: random.Random | None = None,
        tls: ssl.SSLContext | None = None,
        dial_peer: Dial | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`clock` gives seconds for the back-off; the loop's own unless a test has another."""
        self._hello = hello
        self._settings = settings or PoolSettings()
        self._random = rng or random.Random()
        self._tls = tls
        self._dial_peer = dial_peer or self._dial_tcp
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._peers: dict[str, _Peer] = {}
        #: All that have not ended, those that their peer is about to end included.
        self._connections: set[Connection] = set()
        self._tasks: asyncio.TaskGroup | None = None
        self._begun = asyncio.Event()

    async def run(self) -> None:
        """Dial and watch over connections until cancelled; then all of them are closed."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._begun.set()
                while True:
                    await asyncio.sleep(self._settings.ping_interval_s)
                    self._look_after()
        finally:
            self._tasks = None
            for connection in self._connections:
                connection.close()
            self._connections.clear()
            self._peers.clear()

    async def connect(self, address: str) -> Connection:
        """The connection to `address`, dialled if need be; waits until `run` has begun.

        Raises `Unreachable`, at once while the peer is being left alone.
        """
        await self._begun.wait()
        peer = self._peer(address)
        if peer.connection is not None:
            if peer.connection.is_open:
                return peer.connection
            self._part(peer, peer.connection)
        if peer.dialling is None:
            if (pause := peer.backoff.remaining(self._clock())) > 0:
                raise Unreachable(address, f"it did not answer; next try in {pause:.3f} s")
            if self._tasks is None:
                raise Unreachable(address, "this agent is stopping")
            peer.dialling = asyncio.get_running_loop().create_future()
            self._tasks.create_task(self._dial(address, peer), name=f"rpc-dial-{address}")
        # Shielded: whoever waits may go away, the others still want the connection.
        return await asyncio.shield(peer.dialling)

    async def call(self, address: str, method: str, body: bytes) -> bytes:
        """`Connection.call` on the connection to `address`."""
        connection = await self.connect(address)
        return await connection.call(method, body)

    def retry_in(self, address: str) -> float:
        """Seconds for which `address` is left alone; 0 when it may be tried."""
        peer = self._peers.get(address)
        return peer.backoff.remaining(self._clock()) if peer else 0.0

    def revive(self, address: str) -> None:
        """The peer is known to be there (it called us, gossip says so): try it without a pause."""
        if (peer := self._peers.get(address)) is not None:
            peer.backoff.reset()
            peer.revived.set()

    async def ready(self, address: str) -> None:
        """Return once `address` may be tried."""
        peer = self._peer(address)
        peer.revived.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.retry_in(address)):
                await peer.revived.wait()

    def forget(self, address: str) -> None:
        """The peer is none any more: close its connection, once what is under way is answered."""
        peer = self._peers.pop(address, None)
        if peer is not None and peer.connection is not None and not peer.connection.calls_open:
            peer.connection.close()

    def _part(self, peer: _Peer, ended: Connection) -> None:
        """A connection has ended. One that did so at once is as good as none: without a pause we
        would dial a peer that drops everybody as fast as we can."""
        peer.connection = None
        if ended.heard_at - ended.opened_at >= SHORT_LIFE_S:
            peer.backoff.reset()
        else:
            peer.backoff.failed(self._clock())

    def _peer(self, address: str) -> _Peer:
        if address not in self._peers:
            self._peers[address] = _Peer(Backoff(self._random, self._settings.backoff_max_s))
        return self._peers[address]

    async def _dial(self, address: str, peer: _Peer) -> None:
        waiting = peer.dialling
        assert waiting is not None, "made by whoever began to dial"
        try:
            peer.connection = await self._dial_peer(address)
        except RegistryError as problem:
            pause = peer.backoff.failed(self._clock())
            logger.debug(
                "peer is not reached: peer=%s error=%s pause=%.3f", address, problem, pause
            )
            waiting.set_exception(problem)
            waiting.exception()  # nobody may be waiting any more
        else:
            self._connections.add(peer.connection)
            waiting.set_result(peer.connection)
        finally:
            peer.dialling = None
            if not waiting.done():
                waiting.set_exception(Unreachable(address, "this agent is stopping"))
                waiting.exception()
        if self._peers.get(address) is not peer and peer.connection is not None:
            peer.connection.close()  # forgotten meanwhile

    async def _dial_tcp(self, address: str) -> Connection:
        settings = self._settings
        return await dial(
            address,
            self._hello,
            limits=settings.limits,
            timeout_s=settings.connect_timeout_s,
            tls=self._tls,
        )

    def _look_after(self) -> None:
        now = asyncio.get_running_loop().time()
        settings = self._settings
        for connection in list(self._connections):
            idle = not connection.calls_open and now - connection.used_at > settings.idle_max_s
            if connection.has_ended or idle:
                connection.close()
                self._connections.remove(connection)
            else:
                connection.check(settings.silence_max_s)


def check_hello(ours: Hello, theirs: Hello) -> str:
    """Why a peer that says `theirs` is not talked to; "" when it is."""
    if ours.datacenter.casefold() != theirs.datacenter.casefold():
        return f"this is datacenter {ours.datacenter!r}, not {theirs.datacenter!r}"
    return ""
