"""One message each way by TCP, and how to find whom to talk to.

Source: gossip sheet, section 2.7.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from contextlib import suppress

from registry.membership.addresses import Address
from registry.membership.seam import OpenStream
from registry.membership.stream_buffer import StreamBuffer

_CHUNK_BYTES = 64 << 10


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """One whole message; empty when the peer closed before. May raise `RemoteProtocolError`."""
    buffer = StreamBuffer()
    while chunk := await reader.read(_CHUNK_BYTES):
        message = buffer.feed(chunk)
        if message is not None:
            return message
    return b""


async def converse(request: OpenStream) -> bytes:
    """Say one thing and hear the answer. May raise `OSError` and `RemoteProtocolError`."""
    reader, writer = await asyncio.open_connection(*request.address)
    try:
        writer.write(request.data)
        await writer.drain()
        reply = await read_message(reader) if request.expects_reply else b""
        writer.close()
        await writer.wait_closed()
        return reply
    finally:
        writer.transport.abort()


def dial_error(problem: Exception) -> str:
    """Why nobody could be reached, in the words of the API."""
    if isinstance(problem, ConnectionRefusedError):
        return "connect: connection refused"
    if isinstance(problem, OSError):
        return problem.strerror or str(problem)
    return str(problem)


async def resolve(text: str, default_port: int) -> list[Address]:
    """The addresses behind `host`, `host:port`, `[v6]:port` or a bare IP address."""
    host, port = _split(text, default_port)
    with suppress(ValueError):
        return [(str(ipaddress.ip_address(host)), port)]
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    return list(dict.fromkeys((str(info[4][0]), int(info[4][1])) for info in found))


def _split(text: str, default_port: int) -> Address:
    with suppress(ValueError):
        return str(ipaddress.ip_address(text.strip("[]"))), default_port
    host, colon, port = text.rpartition(":")
    if not colon:
        return text, default_port
    if not port.isdigit() or not 0 < int(port) <= 65535:
        raise ValueError(f"invalid port {port!r}")
    return host.strip("[]"), int(port)
