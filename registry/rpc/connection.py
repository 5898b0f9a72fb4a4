"""The dialling shell: one connection to a peer, shared by everybody who asks it something."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import cast

from registry.errors import ConnectionLost, RemoteProtocolError, Unreachable
from registry.rpc.faults import error_of
from registry.rpc.stream import (
    AnyFrame,
    Failure,
    Goodbye,
    Hello,
    Limits,
    Phase,
    Response,
    Side,
    Stream,
)

logger = logging.getLogger("registry.rpc")

#: Bytes that may wait for the peer to read before askers have to wait too.
SEND_BUFFER_BYTES = 1 << 20

#: Where nothing is asked, the peer is asked for a sign of life this often.
IDLE_PING_S = 10.0


class Connection(asyncio.Protocol):
    """An open connection; made by `dial`. Belongs to the loop that made it."""

    def __init__(self, address: str, hello: Hello, limits: Limits | None = None) -> None:
        self.address = address
        self._loop = asyncio.get_running_loop()
        self._stream = Stream(Side.DIALLER, hello, limits)
        self._transport: asyncio.Transport | None = None
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self._writable = asyncio.Event()
        self._writable.set()
        self._reason = "it was closed"
        self._pings = 0
        self._pinged_at: float | None = None  # of the ping that nothing has come after
        #: Loop times: when dialling began, when the peer was last heard, and was last used.
        self.opened_at = self.heard_at = self.used_at = self._loop.time()
        self._on_end: list[Callable[[], None]] = []
        #: Whether the peer's side closed it, as happens when its process ends.
        self.ended_by_peer = False

    # What users call

    @property
    def is_open(self) -> bool:
        """Whether requests may be made now."""
        return self._stream.phase is Phase.OPEN

    @property
    def has_ended(self) -> bool:
        return self._stream.phase is Phase.CLOSED

    @property
    def is_writable(self) -> bool:
        """Whether the peer keeps up with reading."""
        return self._writable.is_set()

    @property
    def peer(self) -> Hello:
        """What the peer said of itself."""
        assert self._stream.peer is not None, "a connection is handed out once it is open"
        return self._stream.peer

    @property
    def calls_open(self) -> int:
        return self._stream.requests_open

    def when_ended(self, call: Callable[[], None]) -> None:
        """Have `call` called once, when no further request can be made."""
        if self.is_open:
            self._on_end.append(call)
        else:
            self._loop.call_soon(call)

    async def call(self, method: str, body: bytes) -> bytes:
        """Ask and wait for the answer; cancelling it tells the peer.

        Raises `Unreachable` when nothing was sent, `ConnectionLost` when the connection ended
        before the answer, and whatever `RegistryError` the peer raised.
        """
        while not self._writable.is_set() and self.is_open:
            await self._writable.wait()
        if not self.is_open:
            raise Unreachable(self.address, self._reason)
        request_id = self._stream.request(method, body)
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._answers[request_id] = answer
        self.used_at = self._loop.time()
        self._flush()
        try:
            return await answer
        finally:
            if self._answers.pop(request_id, None) is not None:
                self._stream.cancel(request_id)
                self._flush()

    def notify(self, method: str, bodies: Iterable[bytes]) -> bool:
        """Tell the peer, in order, without waiting; False when nothing can be taken right now."""
        if not self.is_open or not self._writable.is_set():
            return False
        for body in bodies:
            self._stream.notice(method, body)
        self.used_at = self._loop.time()
        self._flush()
        return True

    async def writable(self) -> None:
        """Return once the peer keeps up with reading, or the connection has ended."""
        await self._writable.wait()

    def check(self, silence_max_s: float) -> None:
        """Give up a peer that has left a ping unanswered for so long; ping where it matters."""
        now = self._loop.time()
        if self._pinged_at is not None:
            if now - self._pinged_at > silence_max_s:
                self._end(f"no sign of life for {silence_max_s:g} s")
            return
        expected = self.calls_open > 0 or self.used_at >= self.heard_at
        if expected or now - self.heard_at > IDLE_PING_S:
            self._pinged_at = now
            self._pings += 1
            self._stream.ping(self._pings)
            self._flush()

    def close(self) -> None:
        """End it now; calls under way are lost."""
        self._end(self._reason)

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=SEND_BUFFER_BYTES)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        self._pinged_at = None
        try:
            frames = self._stream.receive(data)
        except RemoteProtocolError as problem:
            logger.warning("peer broke the protocol: peer=%s error=%s", self.address, problem)
            self._end(str(problem))
            return
        for frame in frames:
            self._take(frame)
        self._flush()

    def connection_lost(self, problem: Exception | None) -> None:
        if not self.has_ended:
            # Else by a time-out of TCP: a silent peer, of whom nothing is known.
            self.ended_by_peer = problem is None or isinstance(problem, ConnectionError)
        self._end(str(problem) if problem else "the peer closed it")

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def opened(self) -> None:
        """Return once the peer has said Hello. Raises `Unreachable`."""
        await self._opened

    def _take(self, frame: AnyFrame) -> None:
        if isinstance(frame, Response | Failure):
            # The asker may be cancelled and not have run since: its future is done then.
            answer = self._answers.pop(frame.id)
            if answer.done():
                pass
            elif isinstance(frame, Response):
                answer.set_result(frame.body)
            else:
                answer.set_exception(error_of(frame.fault))
            self._end_if_left()
        elif isinstance(frame, Hello):
            if not self._opened.done():
                self._opened.set_result(None)
        elif isinstance(frame, Goodbye):
            self._reason = frame.reason
            self._refuse_opening()
            self._tell_end()
            self._end_if_left()

    def _end_if_left(self) -> None:
        """After a Goodbye the connection is kept only for what is still to be answered."""
        if self._stream.phase is Phase.LEAVING and not self._answers:
            self._end(self._reason)

    def _flush(self) -> None:
        if self._transport is not None and (data := self._stream.data_to_send()):
            self._transport.write(data)

    def _end(self, reason: str) -> None:
        if self._stream.phase is Phase.CLOSED and self._transport is None:
            return
        self._reason = reason
        self._stream.close()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        self._refuse_opening()
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            if not answer.done():
                answer.set_exception(ConnectionLost(self.address, reason))
        self._writable.set()
        self._tell_end()

    def _refuse_opening(self) -> None:
        if not self._opened.done():
            self._opened.set_exception(Unreachable(self.address, self._reason))
            self._opened.exception()  # the dialler may have gone away by now

    def _tell_end(self) -> None:
        calls, self._on_end = self._on_end, []
        for call in calls:
            call()


async def dial(
    address: str,
    hello: Hello,
    *,
    limits: Limits | None = None,
    timeout_s: float = 5.0,
    tls: ssl.SSLContext | None = None,
) -> Connection:
    """A connection to `address` ("ip:port") on which both sides have said Hello.

    Raises `Unreachable`.
    """
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    connection: Connection | None = None

    def make() -> Connection:
        nonlocal connection
        connection = Connection(address, hello, limits)
        return connection

    try:
        async with asyncio.timeout(timeout_s):
            await loop.create_connection(make, host.strip("[]"), int(port), ssl=tls)
            assert connection is not None
            await connection.opened()
            return connection
    except TimeoutError as problem:
        raise Unreachable(address, f"no answer within {timeout_s:g} s") from problem
    except (OSError, ValueError, OverflowError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else None
        refused = isinstance(problem, ConnectionRefusedError)
        raise Unreachable(address, reason or str(problem), refused=refused) from problem
    finally:
        if connection is not None and not connection.is_open:
            with suppress(Unreachable):
                connection.close()
