"""Snapshots on their way between servers: one peer sends in chunks, the other puts them together.

The receiver acknowledges every chunk with the offset up to which it has the bytes, so a lost chunk
or answer costs one repetition, and a transfer that was interrupted goes on where it stopped as long
as the sender still offers the same snapshot (R-53). Heartbeats and appends go on beside it.

A receiver that has all of it may be at work with it for longer than any answer should take. Asked
meanwhile, it acknowledges the whole size, and as long as it does so the sender waits.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from registry.errors import RegistryError
from registry.raft.messages import SnapshotChunk, SnapshotMeta, SnapshotReply
from registry.raft.snapshots import Incoming, SnapshotStore

logger = logging.getLogger("registry.raft")

#: A chunk that is not acknowledged is sent again this often before the transfer is given up.
ATTEMPTS_MAX = 10
#: Chunks that may wait for the receiver's disk; a sender never has more than one under way.
_WAITING_MAX = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """Pace of a transfer."""

    chunk_bytes: int
    bytes_per_second: int
    answer_timeout_s: float


class Sending:
    """One transfer to one peer; the task that runs `run` owns it."""

    def __init__(
        self,
        meta: SnapshotMeta,
        snapshots: SnapshotStore,
        settings: StreamSettings,
        executor: Executor,
        send: Callable[[int, bytes, bool], None],
    ) -> None:
        """`send(offset, data, done)` makes a chunk of the current term and queues it."""
        self.meta = meta
        self._snapshots = snapshots
        self._settings = settings
        self._executor = executor
        self._send = send
        self._answer: SnapshotReply | None = None
        self._answered = asyncio.Event()
        self._cancelled = False
        self._reached = 0  # the index up to which the peer is known to have everything

    def answer(self, reply: SnapshotReply) -> None:
        """The peer has acknowledged something."""
        if reply.snapshot_id == self.meta.id:
            self._answer = reply
            self._answered.set()

    def reached(self, index: int) -> None:
        """The peer's log is durable up to `index`: perhaps it has installed the snapshot."""
        self._reached = max(self._reached, index)
        if self._reached >= self.meta.index:
            self._answered.set()

    def cancel(self) -> None:
        """Give up: this server does not lead any more."""
        self._cancelled = True
        self._answered.set()

    async def run(self) -> bool:
        """Send until the peer has installed it; False when it refused, or stopped answering."""
        loop = asyncio.get_running_loop()
        offset = attempts = 0
        while attempts < ATTEMPTS_MAX and not self._cancelled:
            size = self._settings.chunk_bytes
            data = await loop.run_in_executor(
                self._executor, self._snapshots.read, self.meta.id, offset, size
            )
            done = offset + len(data) >= self.meta.size
            self._answer = None
            if self._reached >= self.meta.index:
                return True
            self._answered.clear()
            self._send(offset, data, done)
            # The pause is the bandwidth bound: what is sent must not crowd out the log.
            await asyncio.sleep(len(data) / self._settings.bytes_per_second)
            reply = await self._next_answer()
            if self._reached >= self.meta.index:
                return True
            if reply is None:
                attempts += 1
                continue
            if reply.refused:
                return False
            attempts = attempts + 1 if reply.offset == offset < self.meta.size else 0
            offset = min(reply.offset, self.meta.size)
            if offset == self.meta.size:
                # It is at work with the whole; ask again when an answer could be overdue.
                self._answered.clear()
                await self._next_answer()
        return False

    async def _next_answer(self) -> SnapshotReply | None:
        try:
            async with asyncio.timeout(self._settings.answer_timeout_s):
                await self._answered.wait()
        except TimeoutError:
            return None
        return self._answer


class Receiving:
    """What this server is being sent: at most one snapshot at a time, written by one task."""

    def __init__(
        self,
        snapshots: SnapshotStore,
        executor: Executor,
        acknowledge: Callable[[str, SnapshotMeta, int, bool], None],
        received: Callable[[SnapshotMeta, str], Awaitable[None]],
    ) -> None:
        """`acknowledge(sender, meta, offset, refused)` answers a chunk; `received(meta, sender)`
        is told once all of it is durable here, and may take its time."""
        self._snapshots = snapshots
        self._executor = executor
        self._acknowledge = acknowledge
        self._received = received
        self._chunks: asyncio.Queue[SnapshotChunk] = asyncio.Queue(_WAITING_MAX)
        self._meta: SnapshotMeta | None = None
        self._incoming: Incoming | None = None
        self._at_work_with: SnapshotMeta | None = None

    def accept(self, chunk: SnapshotChunk) -> None:
        """Take a chunk that the core let through; dropped when too many wait (it comes again)."""
        if chunk.meta == self._at_work_with:
            self._acknowledge(chunk.sender, chunk.meta, chunk.meta.size, False)
        elif not self._chunks.full():
            self._chunks.put_nowait(chunk)

    async def run(self) -> None:
        """Put chunks together until cancelled."""
        while True:
            chunk = await self._chunks.get()
            try:
                await self._take(chunk)
            except RegistryError as error:
                # Nothing of ours is harmed: the peer is told, and may try again later.
                logger.warning("snapshot %s refused: %s", chunk.meta.id, error)
                self._drop()
                self._acknowledge(chunk.sender, chunk.meta, 0, True)

    async def _take(self, chunk: SnapshotChunk) -> None:
        loop = asyncio.get_running_loop()
        if zlib.crc32(chunk.data) != chunk.checksum:
            return  # damaged on the way; it will come again
        if self._snapshots.find(chunk.meta.id) is not None:
            await self._hand_over(chunk)
            return
        if self._incoming is None or self._meta != chunk.meta:
            self._drop()
            self._incoming = await loop.run_in_executor(
                self._executor, self._snapshots.receive, chunk.meta
            )
            self._meta = chunk.meta
        incoming = self._incoming
        if chunk.offset == incoming.offset:
            await loop.run_in_executor(self._executor, incoming.write, chunk.data)
        if incoming.offset < chunk.meta.size or not chunk.done:
            self._acknowledge(chunk.sender, chunk.meta, incoming.offset, False)
            return
        self._incoming = None
        await loop.run_in_executor(self._executor, incoming.finish)
        await self._hand_over(chunk)

    async def _hand_over(self, chunk: SnapshotChunk) -> None:
        self._at_work_with = chunk.meta
        try:
            await self._received(chunk.meta, chunk.sender)
        finally:
            self._at_work_with = None

    def _drop(self) -> None:
        if self._incoming is not None:
            self._incoming.abort()
        self._incoming = self._meta = None
