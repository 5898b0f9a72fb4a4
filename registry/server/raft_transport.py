"""Raft's messages over `registry.rpc`: a connection of its own to each peer, one-way both ways.

Each server dials its peers and only tells them things; answers come over the connection that the
peer has dialled. So a big listing that is being forwarded never stands in the way of a heartbeat.
Loss is allowed (R-5): what does not fit into a peer's queue, or was waiting when its connection
broke, is dropped, and the driver is told that the peer is unreachable, so that it probes first. A
peer whose process has ended closes its connections and refuses new ones, unlike one that is cut off
or stuck; the driver is told that too.

A server that joins does not know the others' addresses before it has their configuration, but has
to answer them: addresses are therefore also learned from whoever calls (`learn`). That a peer calls
also tells that it is up again, and so ends the pause after failed attempts to reach it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from registry.errors import TooLarge, Unreachable
from registry.raft.messages import AnyMessage, Configuration
from registry.raft.transport import decode_message, encode_message
from registry.rpc.connection import Connection
from registry.rpc.pool import Pool
from registry.rpc.server import Caller

logger = logging.getLogger("registry.server.raft")

#: The notice that carries one message.
METHOD = "raft"

#: What may wait for one peer. Raft itself has at most a few hundred messages under way to each.
MESSAGES_MAX = 4096
BYTES_MAX = 64 << 20


class Receiver(Protocol):
    """What the driver offers to a transport."""

    def receive(self, message: AnyMessage) -> None: ...
    def unreachable(self, peer: str) -> None: ...
    def gone(self, peer: str) -> None: ...


class _Link:
    """The way to one peer. The task that runs `run` owns the connection's use."""

    def __init__(
        self, peer: str, address: str, pool: Pool, unreachable: Callable[[str, bool], None]
    ) -> None:
        """`unreachable` is called with the peer, and whether its process seems to have ended."""
        self.peer = peer
        self.address = address
        self._pool = pool
        self._unreachable = unreachable
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._connection: Connection | None = None
        self._wake = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.dropped = 0

    def send(self, messages: list[bytes]) -> None:
        """At once if the peer keeps up, else queued, else dropped."""
        if not self._queue and self._connection is not None and self._tell(messages):
            return
        for message in messages:
            if len(self._queue) >= MESSAGES_MAX or self._queued_bytes + len(message) > BYTES_MAX:
                self.dropped += 1
                continue
            self._queue.append(message)
            self._queued_bytes += len(message)
        self._wake.set()

    async def run(self) -> None:
        """Keep a connection and empty the queue into it, until cancelled."""
        while True:
            try:
                connection = self._connection = await self._pool.connect(self.address)
            except Unreachable as problem:
                logger.debug("raft peer is unreachable: peer=%s error=%s", self.peer, problem)
                is_gone = problem.refused
            else:
                await self._use(connection)
                self._connection = None
                is_gone = connection.ended_by_peer
            self._clear()
            self._unreachable(self.peer, is_gone)
            await self._pool.ready(self.address)

    async def _use(self, connection: Connection) -> None:
        """Until it ends."""
        connection.when_ended(self._wake.set)
        while connection.is_open:
            if self._queue and connection.is_writable:
                batch = list(self._queue)
                self._clear()
                self._tell(batch)
            elif self._queue:
                await connection.writable()
            else:
                self._wake.clear()
                await self._wake.wait()

    def _tell(self, messages: list[bytes]) -> bool:
        assert self._connection is not None
        try:
            return self._connection.notify(METHOD, messages)
        except TooLarge as problem:
            # Entries and chunks are bounded far below: only a broken setting leads here.
            logger.error("raft message is dropped: peer=%s error=%s", self.peer, problem)
            return True

    def _clear(self) -> None:
        self._queue.clear()
        self._queued_bytes = 0


class RpcTransport:
    """Implements `registry.raft.transport.Transport`; `run` owns the links."""

    def __init__(self, server_id: str, pool: Pool) -> None:
        self._server_id = server_id
        self._pool = pool
        self._receiver: Receiver | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._links: dict[str, _Link] = {}
        self._learned: dict[str, str] = {}
        self._configured: dict[str, str] = {}
        self._undecodable = 0

    def attach(self, receiver: Receiver) -> None:
        """Give what comes in to `receiver`, and tell it whom we cannot reach."""
        self._receiver = receiver

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                for link in self._links.values():
                    link.task = tasks.create_task(link.run(), name=f"raft-link-{link.peer}")
                await asyncio.get_running_loop().create_future()
        finally:
            self._tasks = None

    # The driver's side

    def set_peers(self, configuration: Configuration) -> None:
        peers = {
            server.id: server.address
            for server in configuration.servers
            if server.id != self._server_id
        }
        for peer, address in peers.items():
            if self._configured.get(peer) != address:
                self._point(peer, address)
        for gone in self._configured.keys() - peers.keys():
            self._drop(gone)
        self._configured = peers

    def send(self, messages: Sequence[AnyMessage]) -> None:
        by_receiver: dict[str, list[bytes]] = {}
        for message in messages:
            by_receiver.setdefault(message.receiver, []).append(encode_message(message))
        for receiver, raw in by_receiver.items():
            if (link := self._link_to(receiver)) is not None:
                link.send(raw)

    # The network's side

    def hear(self, caller: Caller, body: bytes) -> None:
        """A peer has told us something."""
        try:
            message = decode_message(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
            self._undecodable += 1
            logger.debug("not a raft message: peer=%s error=%s", caller.address, problem)
            return
        if self._receiver is not None:
            self._receiver.receive(message)

    def learn(self, server_id: str, address: str) -> None:
        """A server has called and said where it listens."""
        if not server_id or server_id == self._server_id or not address:
            return
        self._learned[server_id] = address
        link = self._links.get(server_id)
        if link is not None and link.address != address:
            self._point(server_id, address)
        self._pool.revive(address)

    def statistics(self) -> dict[str, int]:
        """Messages dropped for want of room, and what was no message."""
        return {
            "dropped": sum(link.dropped for link in self._links.values()),
            "undecodable": self._undecodable,
        }

    def _link_to(self, peer: str) -> _Link | None:
        if peer not in self._links and peer in self._learned:
            self._point(peer, self._learned[peer])
        return self._links.get(peer)

    def _point(self, peer: str, address: str) -> None:
        """Reach `peer` at `address` from now on."""
        self._drop(peer)
        link = self._links[peer] = _Link(peer, address, self._pool, self._tell_unreachable)
        if self._tasks is not None:
            link.task = self._tasks.create_task(link.run(), name=f"raft-link-{peer}")

    def _drop(self, peer: str) -> None:
        link = self._links.pop(peer, None)
        if link is None:
            return
        if link.task is not None:
            link.task.cancel()
        self._pool.forget(link.address)

    def _tell_unreachable(self, peer: str, is_gone: bool) -> None:
        if self._receiver is None:
            return
        self._receiver.unreachable(peer)
        if is_gone:
            self._receiver.gone(peer)
