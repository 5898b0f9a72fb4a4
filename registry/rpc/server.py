"""The accepting shell: a listener, and a task for every request that came in.

A handler takes the caller and the request's body and returns the answer's; what it raises of
`registry.errors` crosses to the asker. It is cancelled when the asker gives up or goes away. A peer
that does not read its answers is not read from either, so that neither side gathers without bound.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from registry.errors import (
    ConfigError,
    LocalProtocolError,
    NotFound,
    RegistryError,
    RemoteProtocolError,
)
from registry.rpc.connection import SEND_BUFFER_BYTES
from registry.rpc.faults import fault_of
from registry.rpc.stream import (
    AnyFrame,
    Cancel,
    Goodbye,
    Hello,
    Limits,
    Notice,
    Phase,
    Request,
    Side,
    Stream,
)

logger = logging.getLogger("registry.rpc")

_BACKLOG = 1024

#: How long an ending server gives the requests under way. Most take milliseconds; those that wait
#: for a change take minutes, and are asked again elsewhere by who wants to know.
DRAIN_S = 0.5


@dataclass(slots=True, eq=False)
class Caller:
    """Who asks: one connection. `hello` is what it said of itself."""

    hello: Hello
    address: str
    #: Called when the connection ends, for what was kept on its behalf.
    on_end: list[Callable[[], None]] = field(default_factory=list)


Handler = Callable[[Caller, bytes], Awaitable[bytes]]
NoticeHandler = Callable[[Caller, bytes], None]
#: Why a peer is not talked to; "" when it is.
Admit = Callable[[Hello], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcServerSettings:
    """Times in seconds."""

    handshake_timeout_s: float = 5.0
    #: Diallers ping every few seconds: one that was silent for so long is gone.
    silence_max_s: float = 30.0
    connections_per_address_max: int = 100
    limits: Limits = field(default_factory=Limits)


class RpcServer:
    """The listener of one agent: `bind`, then `run` until cancelled."""

    def __init__(
        self,
        hello: Hello,
        *,
        admit: Admit = lambda hello: "",
        settings: RpcServerSettings | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.hello = hello
        self.settings = settings or RpcServerSettings()
        self.handlers: dict[str, Handler] = {}
        self.notices: dict[str, NoticeHandler] = {}
        #: Told the name of each metric that goes up by one.
        self.count: Callable[[str], None] = lambda name: None
        self._admit = admit
        self._tls = tls
        self._socket: socket.socket | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._sessions: set[_Session] = set()
        self._per_address: Counter[str] = Counter()
        self._ending = ""
        self._over = False

    def serve(
        self,
        handlers: Mapping[str, Handler],
        notices: Mapping[str, NoticeHandler] | None = None,
    ) -> None:
        """Add what is answered. A method has one handler."""
        for method in [*handlers, *(notices or {})]:
            if method in self.handlers or method in self.notices:
                raise LocalProtocolError(f"{method} has a handler already")
        self.handlers.update(handlers)
        self.notices.update(notices or {})

    def bind(self, host: str, port: int) -> int:
        """Take the port (0: any), and return it. Raises `ConfigError` when it cannot be had."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except (OSError, OverflowError) as problem:
            reason = problem.strerror if isinstance(problem, OSError) else str(problem)
            raise ConfigError(
                f"listen tcp {host}:{port}: bind: {(reason or '').lower()}"
            ) from problem
        taken: int = self._socket.getsockname()[1]
        return taken

    async def run(self) -> None:
        """Serve until cancelled; then every connection ends and every handler is cancelled."""
        if self._socket is None:
            raise LocalProtocolError("bind first")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                listener = await loop.create_server(
                    lambda: _Session(self), sock=self._socket, ssl=self._tls
                )
                try:
                    await self._look_after()
                finally:
                    self._over = True
                    listener.close()
                    self.close_all()
        finally:
            self._tasks = None
            self._socket.close()

    def announce_end(self, reason: str) -> None:
        """Tell all peers, and who comes now, to turn to others; what is under way is answered."""
        self._ending = reason
        for session in list(self._sessions):
            session.say_goodbye(reason)

    async def drain(self, limit_s: float = DRAIN_S) -> None:
        """Return once nothing is being answered, or after `limit_s`."""
        answering = [task for session in self._sessions for task in session.answering]
        if answering:
            await asyncio.wait(answering, timeout=limit_s)

    def close_all(self) -> None:
        """End every connection at once."""
        for session in list(self._sessions):
            session.end()

    @property
    def connections(self) -> int:
        return len(self._sessions)

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(self.settings.silence_max_s / 2)
            for session in list(self._sessions):
                session.check(self.settings.silence_max_s)

    # What sessions need

    @property
    def is_ending(self) -> bool:
        return bool(self._ending)

    def admission(self, hello: Hello) -> str:
        return self._ending or self._admit(hello)

    def enter(self, session: _Session, address: str) -> bool:
        """Whether the address may have one connection more."""
        if self._over:  # accepted before, but told of only now
            return False
        if self._per_address[address] >= self.settings.connections_per_address_max:
            logger.warning("too many connections from one address: peer=%s", address)
            return False
        self._per_address[address] += 1
        self._sessions.add(session)
        self.count("rpc.accept_conn")
        return True

    def depart(self, session: _Session, address: str) -> None:
        self._sessions.remove(session)
        self._per_address[address] -= 1
        if not self._per_address[address]:
            del self._per_address[address]

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._tasks is not None, "sessions end before the tasks do"
        return self._tasks.create_task(work)


class _Session(asyncio.Protocol):
    """One accepted connection."""

    def __init__(self, server: RpcServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._stream = Stream(Side.ACCEPTOR, server.hello, server.settings.limits)
        self._transport: asyncio.Transport | None = None
        self._caller: Caller | None = None
        self._entered = False
        self._host = ""
        self._answering: dict[int, asyncio.Task[None]] = {}
        self._heard_at = self._loop.time()
        self._handshake: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peername = transport.get_extra_info("peername") or ("", 0)
        self._host = str(peername[0])
        self._entered = self._server.enter(self, self._host)
        if not self._entered:
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=SEND_BUFFER_BYTES)
        self._handshake = self._loop.call_later(
            self._server.settings.handshake_timeout_s, self._hurry
        )

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        try:
            frames = self._stream.receive(data)
        except RemoteProtocolError as problem:
            logger.warning("peer broke the protocol: peer=%s error=%s", self._host, problem)
            self.end()
            return
        for frame in frames:
            self._take(frame)
        self._flush()

    def connection_lost(self, problem: Exception | None) -> None:
        self._transport = None
        self.end()

    def pause_writing(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def check(self, silence_max_s: float) -> None:
        if self._loop.time() - self._heard_at > silence_max_s:
            logger.info("peer fell silent: peer=%s", self._host)
            self.end()

    @property
    def answering(self) -> list[asyncio.Task[None]]:
        """Requests that are not answered yet."""
        return list(self._answering.values())

    def say_goodbye(self, reason: str) -> None:
        self._stream.goodbye(reason)
        self._flush()

    def end(self) -> None:
        """Close, cancel what is being answered, and tell who kept something for this caller."""
        self._stream.close()
        if self._handshake is not None:
            self._handshake.cancel()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        if not self._entered:
            return
        self._entered = False
        self._server.depart(self, self._host)
        for task in list(self._answering.values()):
            task.cancel()
        if self._caller is not None:
            for call in self._caller.on_end:
                call()

    def _hurry(self) -> None:
        if self._stream.phase is Phase.OPENING:
            self.end()

    def _take(self, frame: AnyFrame) -> None:
        if isinstance(frame, Request):
            task = self._server.spawn(self._answer(frame))
            self._answering[frame.id] = task
        elif isinstance(frame, Notice):
            self._hear(frame)
        elif isinstance(frame, Cancel):
            if frame.id in self._answering:
                self._answering.pop(frame.id).cancel()
        elif isinstance(frame, Hello):
            self._greet(frame)
        elif isinstance(frame, Goodbye) and not self._answering:
            self.end()

    def _greet(self, hello: Hello) -> None:
        reason = self._server.admission(hello)
        if reason:
            # Once the server ends, every peer tries again and again: that is no news.
            level = logging.DEBUG if self._server.is_ending else logging.WARNING
            logger.log(level, "peer refused: peer=%s reason=%s", self._host, reason)
            self._stream.goodbye(reason)
            self._flush()
            if self._transport is not None:
                self._transport.close()  # what is written still goes out
            return
        self._caller = Caller(hello, self._host)
        self._stream.welcome()

    def _hear(self, notice: Notice) -> None:
        assert self._caller is not None, "notices come after Hello"
        handler = self._server.notices.get(notice.method)
        if handler is None:
            logger.debug("unknown notice: peer=%s method=%s", self._host, notice.method)
            return
        try:
            handler(self._caller, notice.body)
        except Exception:
            # The rim of a connection: one bad notice must not end the others' listener.
            logger.exception("notice failed: peer=%s method=%s", self._host, notice.method)

    async def _answer(self, request: Request) -> None:
        assert self._caller is not None, "requests come after Hello"
        self._server.count("rpc.request")
        try:
            handler = self._server.handlers.get(request.method)
            if handler is None:
                raise NotFound(f"this server knows no request {request.method!r}")
            body = await handler(self._caller, request.body)
        except RegistryError as problem:
            self._server.count("rpc.request_error")
            self._stream.fail(request.id, fault_of(problem))
        except Exception as problem:
            # The rim of a request: a bug is reported, and ends this request alone.
            logger.exception("request failed: peer=%s method=%s", self._host, request.method)
            self._server.count("rpc.request_error")
            node, kind = self._server.hello.node, type(problem).__name__
            bug = RegistryError(f"internal error: {kind}; the log of {node} has more")
            self._stream.fail(request.id, fault_of(bug))
        else:
            self._stream.respond(request.id, body)
        finally:
            with suppress(KeyError):  # given up, or the connection has ended
                del self._answering[request.id]
        self._flush()

    def _flush(self) -> None:
        if self._transport is not None and (data := self._stream.data_to_send()):
            self._transport.write(data)
