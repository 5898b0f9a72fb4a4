"""HTTP/1.1 on one connection: uvicorn's httptools protocol, with a short way for hot requests.

Two ways lead to the same handlers. The *long way* is ASGI: uvicorn's request cycle, Starlette, the
rim. The *short way* skips the ASGI messages and Starlette: once such a request is read completely,
one task runs the rim and writes head and body at once (design, decision 4).

    data_received -> httptools -> on_headers_complete -+- short: collect body, then rim -> write
                                                       +- long:  uvicorn cycle -> ASGI -> rim

The short way takes plain requests only: HTTP/1.1, no upgrade, no `Expect`, no chunked body, nothing
else under way on the connection. All else, pipelined requests too, goes the long way, which knows
how to queue and to stream. Which operations are hot is a table, `SHORT`.

Deadlines are fields that one sweep a second compares with the clock (`registry.http.server`): a
timer per request would cost more than the lookup of a key.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from registry.http.api import ApiResponse
from registry.http.limits import BodyClock, ConnectionLimit, Deadlines, too_many_connections
from registry.http.rim import Incoming, Rim, encode_value

logger = logging.getLogger("registry.http")

#: Operations that go the short way: method and how the path begins.
SHORT: dict[bytes, tuple[bytes, ...]] = {
    b"GET": (b"/v1/kv/", b"/v1/health/service/", b"/v1/catalog/service/", b"/v1/status/"),
    b"PUT": (b"/v1/kv/",),
}

#: A body longer than this goes the long way, which reads as fast as its handler does.
SHORT_BODY_BYTES_MAX = 512 * 1024

#: Requests that may wait behind one another on a connection before it is not read any more.
PIPELINED_MAX = 64

#: How long a refused client is listened to, seconds.
LINGER_S = 1.0

#: Headers of one request, looked at after each packet; programs send a dozen.
HEADERS_MAX = 1000

TOO_MANY_HEADERS = b"431 Request Header Fields Too Large"

#: Request line and headers together, as Go's server has it.
HEADER_BYTES_MAX = 1 << 20


class LongCycle(RequestResponseCycle):
    """One request on the long way. Spells header names as given and ends when its client goes."""

    task: asyncio.Task[None] | None = None
    until_close = False
    head = b""

    async def run_asgi(self, app: Any) -> None:
        try:
            await app(self.scope, self.receive, self.send)
            if not self.response_complete and not self.disconnected:
                raise RuntimeError("the application ended without an answer")
        except Exception:
            logger.exception("Request failed: path=%s", self.scope["path"])
            if self.response_started or self.disconnected:
                self.transport.close()
            else:
                await self.send_500_response()
        finally:
            self.on_response = _nothing

    async def send(self, message: Any) -> None:
        if self.response_started or message["type"] != "http.response.start":
            if self.head:
                message = self._with_head(message)
            if message is not None:
                await (self._send_until_close if self.until_close else super().send)(message)
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        self.response_started = True
        self.waiting_for_100_continue = False
        self.head = self._head(message["status"], message.get("headers", ()))

    def _with_head(self, message: Any) -> Any:
        """Write the head, together with the body if this is all of it: one packet, one system call.

        The message when it is still to be sent, None when it has been.
        """
        head, self.head = self.head, b""
        body = message.get("body", b"")
        whole = len(body) == self.expected_content_length and not message.get("more_body", False)
        if self.chunked_encoding or self.until_close or not whole or self.scope["method"] == "HEAD":
            self.transport.write(head)
            return message
        self.transport.write(head + body)
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
        return None

    async def _send_until_close(self, message: Any) -> None:
        """A stream to a client that knows no chunks ends with the connection."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        self.transport.write(message.get("body", b""))
        if not message.get("more_body", False):
            self.response_complete = True
            self.transport.close()
            self.on_response()

    def _head(self, status: int, headers: Any) -> bytes:
        """Status line and headers; uvicorn's own would put all names in lower case."""
        parts = [STATUS_LINE[status]]
        for name, value in (*self.default_headers, *headers):
            lower = name.lower()
            if lower == b"content-length":
                self.expected_content_length = int(value)
                self.chunked_encoding = False
            parts += (name, b": ", value, b"\r\n")
        if not self.keep_alive:
            parts.append(b"Connection: close\r\n")
        if self.chunked_encoding is None and self.scope["http_version"] == "1.0":
            self.until_close = True
        elif self.chunked_encoding is None and self.scope["method"] != "HEAD":
            self.chunked_encoding = True
            parts.append(b"Transfer-Encoding: chunked\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)


def _nothing() -> None:
    """What a finished cycle calls instead of its protocol."""


class ShortCycle:
    """One request on the short way; the fields are those that uvicorn's protocol looks at."""

    __slots__ = (
        "body",
        "disconnected",
        "headers",
        "keep_alive",
        "message_event",
        "method",
        "more_body",
        "path",
        "query",
        "response_complete",
        "task",
    )

    def __init__(self, method: str, path: bytes, query: bytes, headers: dict[str, str]) -> None:
        self.method, self.path, self.query, self.headers = method, path, query, headers
        self.body: list[bytes] = []
        self.disconnected = False
        self.keep_alive = True
        self.message_event = _NO_EVENT
        self.more_body = True
        self.response_complete = False
        self.task: asyncio.Task[None] | None = None

    async def read_body(self, limit: int | None) -> bytes:
        """The body was read before the handler was called, and is below every limit."""
        return b"".join(self.body)


class _NoEvent:
    """Stands in for the event that the long way waits on."""

    def set(self) -> None:
        """Nobody waits."""


_NO_EVENT = _NoEvent()


class ApiProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        *,
        rim: Rim,
        limit: ConnectionLimit,
        deadlines: Deadlines,
        loop: asyncio.AbstractEventLoop,
        short_way: bool = True,
    ) -> None:
        super().__init__(config, server_state, {}, loop)
        self.rim = rim
        self.limit = limit
        self.deadlines = deadlines
        self.short_way = short_way
        self.cycle: Any = None
        #: The request that a handler works on; `cycle` is the one being read, maybe a later one.
        self.running: Any = None
        self.access_log = False
        self.remote: tuple[str, int] = ("", 0)
        self.over_limit = 0
        self.refused = False
        self._head_bytes = 0
        self._reading_head = True
        #: When the sweep closes this connection, by the loop's clock; 0 = not now.
        self.deadline_s = 0.0
        self._body_clock: BodyClock | None = None
        #: What the transport had still to send when it last had less to send, and until when it
        #: has to have less again; 0 = nothing waits.
        self._unsent_bytes = 0
        self._unsent_until_s = 0.0

    # Connection

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.remote = self.client or ("", 0)
        self.over_limit = self.limit.enter(self.remote[0])
        self.deadline_s = self.loop.time() + self.deadlines.head_s
        if self.over_limit > self.limit.refuse_silently_over():
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.limit.leave(self.remote[0])
        super().connection_lost(exc)
        self.pipeline.clear()
        running = self.running
        if running is not None and not running.response_complete:
            # Nobody is left to answer: a blocking query must not keep its place (surface 1.1).
            running.disconnected = True
            running.task.cancel()

    def data_received(self, data: bytes) -> None:
        if self.refused:
            return
        if self._reading_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEADER_BYTES_MAX:
                self._refuse(431, TOO_MANY_HEADERS)
                return
        super().data_received(data)
        if self._reading_head and len(self.headers) > HEADERS_MAX:
            self._refuse(431, TOO_MANY_HEADERS)

    def close_if_late(self, now_s: float) -> None:
        """Called by the sweep: close a connection that is past a deadline."""
        # Closing waits until all is sent, which a client that reads nothing never lets be.
        if self.flow.write_paused or self.transport.is_closing():
            self._take_note_of_unsent(now_s)
        if 0 < self._unsent_until_s < now_s:
            self.transport.abort()
        elif 0 < self.deadline_s < now_s:
            self.transport.close()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unsent_until_s = 0.0

    def _take_note_of_unsent(self, now_s: float) -> None:
        """While nothing is added to what waits, it gets less or the client takes nothing."""
        unsent_bytes = self.transport.get_write_buffer_size()
        if not self._unsent_until_s or unsent_bytes < self._unsent_bytes:
            self._unsent_bytes = unsent_bytes
            self._unsent_until_s = now_s + self.deadlines.answer_s

    def eof_received(self) -> None:
        """A client that closes its side is gone, as far as we can tell."""

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, b"400 Bad Request")

    def _unsupported_upgrade_warning(self) -> None:
        """The request is answered as if it had not asked for another protocol."""

    def _refuse(self, status: int, text: bytes, headers: bytes = b"") -> None:
        """Answer without having a request, and close.

        What the client still sends is thrown away until it closes, or `LINGER_S` long: closing with
        unread bytes would reset the connection, and the client would never see the answer.
        """
        if self.refused or self.transport.is_closing():
            return
        self.refused = True
        self.transport.write(
            b"%sContent-Type: text/plain; charset=utf-8\r\n%sContent-Length: %d\r\n"
            b"Connection: close\r\n\r\n%s" % (STATUS_LINE[status], headers, len(text), text)
        )
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        self.flow.resume_reading()
        self.deadline_s = self.loop.time() + LINGER_S

    # Parser callbacks

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        if not self.deadline_s or self.cycle is not None:
            self.deadline_s = self.loop.time() + self.deadlines.head_s

    def on_headers_complete(self) -> None:
        self._reading_head = False
        if self.refused:
            return
        if self.over_limit:
            status, text, headers = too_many_connections(self.limit.maximum, self.over_limit)
            self._refuse(status, text, headers)
            return
        cycle = self.cycle
        free = cycle is None or cycle.response_complete
        if free and self.short_way and not self.expect_100_continue and not self.pipeline:
            method = self.parser.get_method()
            starts = SHORT.get(method)
            if starts and self.url.startswith(starts) and self._begin_short(method.decode()):
                return
        self._begin_long(free)

    def _begin_short(self, method: str) -> bool:
        headers = {}
        for name, value in self.headers:
            headers[name.decode("latin-1")] = value.decode("utf-8", "surrogateescape")
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or "upgrade" in headers or not length.isdigit():
            return False
        if int(length) > min(SHORT_BODY_BYTES_MAX, self.rim.agent.config.limits.kv_max_value_size):
            return False
        if self.parser.get_http_version() != "1.1":
            return False
        path, _, query = self.url.partition(b"?")
        cycle = ShortCycle(method, path, query.partition(b"#")[0], headers)
        cycle.keep_alive = self.parser.should_keep_alive()
        self.cycle = cycle
        self._begin_body()
        return True

    def _begin_body(self) -> None:
        self._body_clock = None  # made by the first piece: most requests have no body
        self.deadline_s = self.loop.time() + self.deadlines.body_s

    def _begin_long(self, free: bool) -> None:
        http_version = self.parser.get_http_version()
        try:
            parsed = httptools.parse_url(self.url)
            raw_path, query = parsed.path or b"/", parsed.query or b""
        except httptools.HttpParserInvalidURLError:
            raw_path, _, query = self.url.partition(b"?")
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": http_version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "method": self.parser.get_method().decode("ascii"),
            "root_path": "",
            "path": raw_path.decode("latin-1"),
            "raw_path": raw_path,
            "query_string": query,
            "headers": self.headers,
            "state": {},
        }
        self.cycle = LongCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=logger,
            access_logger=logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=self._keeps_alive(http_version),
            on_response=self.on_response_complete,
        )
        self._begin_body()
        if free:
            self._start_asgi_task(self.cycle, self.app)
        else:
            # Reading goes on, or nobody would notice that the client of a blocking query is gone.
            if len(self.pipeline) >= PIPELINED_MAX:
                self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _keeps_alive(self, http_version: str) -> bool:
        plain = http_version == "1.1" and not self.parser.should_upgrade()
        return plain and self.parser.should_keep_alive()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._run(cycle, cycle.run_asgi(app))

    def _run(self, cycle: Any, work: Any) -> None:
        """Tasks belong to the server: it cancels and awaits them when it stops."""
        task: asyncio.Task[None] = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        cycle.task = task
        self.running = cycle

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if self.refused or cycle.response_complete:
            return
        now_s = self.loop.time()
        if self._body_clock is None:
            self._body_clock = BodyClock(self.deadlines, now_s)
        self.deadline_s = self._body_clock.received(len(body), now_s)
        if type(cycle) is ShortCycle:
            cycle.body.append(body)
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._reading_head = True
        self._head_bytes = 0
        cycle = self.cycle
        if self.refused or cycle is None or cycle.response_complete:
            return
        self.deadline_s = 0.0
        cycle.more_body = False
        if type(cycle) is ShortCycle:
            self._run(cycle, self._answer(cycle))
        else:
            cycle.message_event.set()

    # The short way

    async def _answer(self, cycle: ShortCycle) -> None:
        incoming = Incoming(
            cycle.method, cycle.path, cycle.query, cycle.headers, cycle.read_body, self.remote
        )
        try:
            wire = self._encode(cycle, await self.rim.answer(incoming))
        except Exception:
            logger.exception("Request failed: path=%s", cycle.path)
            cycle.response_complete = True
            self._refuse(500, b"Internal Server Error")
            return
        if self.flow.write_paused:
            await self.flow.drain()
        if cycle.disconnected:
            return
        self.transport.write(wire)
        cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _encode(self, cycle: ShortCycle, response: ApiResponse) -> bytes:
        parts = [STATUS_LINE[response.status]]
        for name, value in self.server_state.default_headers:
            parts += (name, b": ", value, b"\r\n")
        for header, text in response.headers:
            parts += (header.encode("ascii"), b": ", encode_value(text), b"\r\n")
        body = response.body
        parts.append(b"Content-Length: %d\r\n" % len(body))
        parts.append(b"\r\n" if cycle.keep_alive else b"Connection: close\r\n\r\n")
        parts.append(body)
        return b"".join(parts)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        else:
            self.deadline_s = self.loop.time() + self.deadlines.idle_s
