"""HTTP on a bare socket: for requests that no client library would send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WireResponse:
    """One response as it came; header names keep their spelling."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first value of a header, its name in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.headers]


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, raw: bytes) -> None:
        self.writer.write(raw)
        await self.writer.drain()

    async def request(self, raw: bytes) -> WireResponse:
        """Send the bytes as they are and read one response."""
        await self.send(raw)
        return await self.response(head_only=raw.startswith(b"HEAD"))

    async def response(self, *, head_only: bool = False) -> WireResponse:
        head = await self.reader.readuntil(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = [
            (name, value.strip()) for name, _, value in (line.partition(":") for line in lines)
        ]
        answer = WireResponse(int(status_line.split()[1]), headers, b"")
        if head_only or answer.status == 100:
            return answer
        return WireResponse(answer.status, headers, await self._body(answer))

    async def _body(self, answer: WireResponse) -> bytes:
        if answer.header("Transfer-Encoding") == "chunked":
            return b"".join([chunk async for chunk in self.chunks()])
        length = answer.header("Content-Length")
        return await self.reader.readexactly(int(length)) if length else await self.reader.read()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The chunks of a streamed body, as they come."""
        while size := int(await self.reader.readline(), 16):
            yield await self.reader.readexactly(size)
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)

    async def ended(self) -> bool:
        """Wait for the server to close; False if it sends something first."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionResetError:
            return True


async def until(condition: Callable[[], bool]) -> None:
    """Poll a condition on the server's side, at most 5 s long."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is asked has no event of its own
            await asyncio.sleep(0.002)


@asynccontextmanager
async def connect(port: int) -> AsyncIterator[Wire]:
    """A connection to 127.0.0.1."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        with suppress(OSError):  # the server was faster
            await writer.wait_closed()
