"""The listeners: UDP and TCP on every configured address, on the loop that is running."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from registry.agent.config import AgentConfig
from registry.agent.facade import AgentFacade
from registry.dns.answering import Answerer
from registry.dns.messages import QUESTION_BYTES_MAX
from registry.errors import ConfigError

logger = logging.getLogger("registry.dns")

#: Questions over UDP that are being answered or wait for their turn; more are dropped, and asked
#: again by those who wait. While no leader is known each may take seconds.
QUESTIONS_MAX = 2048

#: Questions that are begun at a time: a flood leaves the loop to others in between.
TURN_MAX = 32

#: Connections over TCP; one more is closed at once. They are for answers that are too long for
#: UDP, so few are open at a time.
CONNECTIONS_MAX = 512

#: How long a connection may be silent, or take to bring or fetch one message (RFC 7766, 6.2.3).
IDLE_S = 10.0

BACKLOG = 128


@dataclass(frozen=True, slots=True)
class Listen:
    address: str
    port: int = 0


def configured_listeners(config: AgentConfig) -> list[Listen]:
    return [Listen(address, config.ports.dns) for address in config.listen_addresses("dns")]


class DnsServer:
    """Serves the names of one agent.

    `start` opens every listener or none: it raises `ConfigError` with one line that names the
    address and says what to do. `run` answers, until it is cancelled. `stop` closes the listeners.
    `listeners` replaces what the configuration says, for tests.
    """

    def __init__(self, agent: AgentFacade, *, listeners: list[Listen] | None = None) -> None:
        self.listeners = configured_listeners(agent.config) if listeners is None else listeners
        self.answerer = Answerer(agent)
        self._waiting: deque[_Datagram] = deque()
        self._arrived = asyncio.Event()
        self._under_way = 0
        self._connections = 0
        self._datagrams: list[_Datagrams] = []
        self._accepting: list[socket.socket] = []
        #: What is listened on, once started.
        self.addresses: list[tuple[str, int]] = []

    @property
    def port(self) -> int:
        """The port of the first listener, 0 when there is none."""
        return next((port for _, port in self.addresses), 0)

    def configure(self, agent: AgentFacade) -> None:
        """Take over what may change without a restart. Raises `ConfigError`."""
        self.answerer.configure(agent)

    async def start(self) -> None:
        try:
            for listener in self.listeners:
                self._listen(listener)
        except BaseException:
            await self.stop()
            raise

    def _listen(self, listener: Listen) -> None:
        stream = open_socket(listener, socket.SOCK_STREAM)
        self._accepting.append(stream)
        host, port = stream.getsockname()[:2]
        datagrams = open_socket(Listen(listener.address, port), socket.SOCK_DGRAM)
        self._datagrams.append(_Datagrams(datagrams, self._received))
        self.addresses.append((host, port))
        name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        for network in ("tcp", "udp"):
            logger.info("Started DNS server: address=%s network=%s", name, network)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for each in self._accepting:
                group.create_task(self._accept(each, group), name="dns-accept")
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                while self._waiting:
                    for _ in range(min(len(self._waiting), TURN_MAX)):
                        self._under_way += 1
                        group.create_task(self._answer(self._waiting.popleft()))
                    await asyncio.sleep(0)

    async def stop(self) -> None:
        """The ports are free when it returns."""
        for stream in self._accepting:
            stream.close()
        for datagrams in self._datagrams:
            datagrams.close()
        self._datagrams.clear()
        self._accepting.clear()
        self._waiting.clear()

    # UDP

    def _received(self, datagram: _Datagram) -> None:
        if len(self._waiting) + self._under_way < QUESTIONS_MAX:
            self._waiting.append(datagram)
            self._arrived.set()

    async def _answer(self, datagram: _Datagram) -> None:
        try:
            client = _shown(datagram.client)
            answer = await self.answerer.answer(datagram.packet, client, over_tcp=False)
            if answer is not None:
                datagram.listener.send(answer, datagram)
        except Exception as problem:
            # As when the client's network is gone; whatever it is, it concerns this client alone.
            logger.debug("answer was not sent: error=%s", problem)
        finally:
            self._under_way -= 1

    # TCP

    async def _accept(self, listening: socket.socket, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, client = await loop.sock_accept(listening)
            except OSError as problem:
                if problem.errno in (errno.EBADF, errno.EINVAL):
                    return  # closed by `stop`
                # Out of files, or a client that is gone already.
                await asyncio.sleep(0.1)
                continue
            if self._connections >= CONNECTIONS_MAX:
                connection.close()
                continue
            self._connections += 1
            group.create_task(self._converse(connection, _shown(client)), name="dns-connection")

    async def _converse(self, connection: socket.socket, client: tuple[str, int]) -> None:
        """Answer what comes over a connection, one after another, until it ends or is silent."""
        try:
            reader, writer = await asyncio.open_connection(sock=connection)
            try:
                while await self._exchange(reader, writer, client):
                    pass
            finally:
                # What was not fetched in time is not waited for any longer.
                writer.transport.abort()
        except (asyncio.IncompleteReadError, OSError, TimeoutError):
            return
        except Exception:
            logger.exception("connection failed: client=%s", client[0])
        finally:
            self._connections -= 1
            connection.close()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: tuple[str, int]
    ) -> bool:
        """One question and its answer; False for what is no question. Raises `TimeoutError`."""
        async with asyncio.timeout(IDLE_S):
            size = int.from_bytes(await reader.readexactly(2))
            packet = await reader.readexactly(size)
        answer = await self.answerer.answer(packet, client, over_tcp=True)
        if answer is None:
            return False
        writer.write(len(answer).to_bytes(2) + answer)
        async with asyncio.timeout(IDLE_S):
            await writer.drain()
        return True


class _Datagrams:
    """One UDP listener: hands over what comes, and sends answers.

    An answer leaves from the address that was asked, or its client would not take it. Where all
    addresses are listened on, the kernel tells with each packet which that was, and is told with
    the answer (RFC 3542, 6.2; ip(7), IP_PKTINFO).
    """

    def __init__(self, sock: socket.socket, receive: Callable[[_Datagram], None]) -> None:
        self._sock, self._receive = sock, receive
        asyncio.get_running_loop().add_reader(sock, self._read)

    def _read(self) -> None:
        for _ in range(TURN_MAX):
            try:
                # One byte more than is read of any question, so that a longer one is refused.
                packet, told, _, client = self._sock.recvmsg(QUESTION_BYTES_MAX + 1, _TOLD_BYTES)
            except OSError:
                return  # nothing more, or news of a client that is gone
            self._receive(_Datagram(packet, client, self, told))

    def send(self, packet: bytes, asked: _Datagram) -> None:
        """Raises `OSError`; where the kernel has no room, the answer is lost like any packet."""
        self._sock.sendmsg([packet], list(map(_back, asked.told)), 0, asked.client)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()


@dataclass(frozen=True, slots=True)
class _Datagram:
    packet: bytes
    client: tuple[Any, ...]
    listener: _Datagrams
    told: list[tuple[int, int, bytes]]  # with the packet, by the kernel


#: Room for what the kernel tells.
_TOLD_BYTES = socket.CMSG_SPACE(32) if hasattr(socket, "CMSG_SPACE") else 0

#: Interface, the local address, and the address in the packet's header; not in `socket` everywhere.
_IP_PKTINFO = 8
_PKTINFO = struct.Struct("=I4s4s")


def _tell_addresses(sock: socket.socket) -> None:
    """Have the kernel tell which of this host's addresses a packet was sent to."""
    if sys.platform != "linux":
        return
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


def _back(told: tuple[int, int, bytes]) -> tuple[int, int, bytes]:
    """What was told with a packet as it is told with the answer: from the same address, by
    whatever interface leads to the client. An IPv6 address may need its interface."""
    level, kind, data = told
    if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
        _, local, _ = _PKTINFO.unpack(data)
        data = _PKTINFO.pack(0, local, bytes(4))
    return level, kind, data


def _shown(client: tuple[Any, ...]) -> tuple[str, int]:
    """Address and port; an IPv4 client of a listener on both families as what it is."""
    host, port = client[:2]
    return (host.removeprefix("::ffff:") if "." in host else host), port


def open_socket(listener: Listen, kind: socket.SocketKind) -> socket.socket:
    """A bound socket, listening if it is for TCP. Raises `ConfigError` that names the address and
    the remedy."""
    ip = ipaddress.ip_address(listener.address.strip("[]"))
    family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
    sock: socket.socket | None = None
    try:
        sock = socket.socket(family, kind)
        _set_up(sock, kind, is_any=ip.is_unspecified)
        sock.bind((str(ip), listener.port))
        if kind == socket.SOCK_STREAM:
            sock.listen(BACKLOG)
    except OSError as problem:
        if sock is not None:
            sock.close()
        network = "TCP" if kind == socket.SOCK_STREAM else "UDP"
        where = f"{listener.address}:{listener.port} ({network})"
        raise ConfigError(
            f"cannot listen on {where}: {_reason(problem)}", field="ports.dns"
        ) from problem
    return sock


def _set_up(sock: socket.socket, kind: socket.SocketKind, *, is_any: bool) -> None:
    sock.setblocking(False)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not is_any))
    if kind == socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it: an answer must not wait for a delayed ACK.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    elif is_any:
        _tell_addresses(sock)


_REASONS = {
    errno.EADDRINUSE: "the port is taken; stop the other program or choose another port",
    errno.EADDRNOTAVAIL: "no interface of this host has that address",
    errno.EACCES: "no permission for that port",
}


def _reason(problem: OSError) -> str:
    return _REASONS.get(problem.errno or 0) or problem.strerror or str(problem)
