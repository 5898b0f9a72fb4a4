"""UDP and TCP on one port, as a pool needs them."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from registry.errors import ConfigError
from registry.membership.addresses import Address, format_address

#: Datagrams that wait for the core; more are dropped, as the kernel would.
INBOX_MAX = 4096

#: What the kernel should hold for us while we are busy.
_RECEIVE_BUFFER_BYTES = 2 << 20

#: Attempts to find a port that is free for both, when any will do.
_ATTEMPTS = 16


def bind(address: Address) -> tuple[socket.socket, socket.socket]:
    """The UDP and the TCP socket of `address`; port 0 means any that is free for both.

    Raises `ConfigError` in one line when the port is taken or the address not ours.
    """
    for attempt in range(_ATTEMPTS):
        stream = _bound(address, socket.SOCK_STREAM)
        port = stream.getsockname()[1]
        try:
            return _bound((address[0], port), socket.SOCK_DGRAM), stream
        except ConfigError:
            stream.close()
            if address[1] != 0 or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def _bound(address: Address, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    made = socket.socket(family, kind)
    made.setblocking(False)
    try:
        if kind is socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            with suppress(OSError):  # a smaller buffer only loses packets sooner
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        made.bind(address)
        if kind is socket.SOCK_STREAM:
            made.listen(128)
    except OSError as problem:
        made.close()
        raise _explained(address, kind, problem) from problem
    return made


def _explained(address: Address, kind: socket.SocketKind, problem: OSError) -> ConfigError:
    name = "TCP" if kind is socket.SOCK_STREAM else "UDP"
    where = f"{name} {format_address(address)}"
    if problem.errno == errno.EADDRINUSE:
        return ConfigError(
            f"gossip cannot listen on {where}: the port is in use by another process"
        )
    return ConfigError(f"gossip cannot listen on {where}: {problem.strerror}")


class PacketInbox(asyncio.DatagramProtocol):
    """Collects datagrams; the pool takes them when it turns to its core."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._waiting: deque[tuple[bytes, Address]] = deque()
        self.dropped = 0
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not every loop's datagram transports derive from the class that describes them.
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        if len(self._waiting) >= INBOX_MAX:
            self.dropped += 1
            return
        self._waiting.append((data, (addr[0], addr[1])))
        self._wake()

    def error_received(self, exc: Exception) -> None:
        """An earlier packet met a closed port: its node is probed and found out in due time."""

    def take(self, most: int) -> list[tuple[bytes, Address]]:
        """The oldest that wait; wakes again when there are more."""
        taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        if self._waiting:
            self._wake()
        return taken

    def send(self, data: bytes, address: Address) -> bool:
        """False when there is no way there from here."""
        if self.transport is None or self.transport.is_closing():
            return False
        try:
            self.transport.sendto(data, address)
        except (OSError, ValueError):
            return False
        return True

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()
