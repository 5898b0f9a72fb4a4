"""The HTTP server: listening sockets for every configured address, on the loop that is running."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import ipaddress
import logging
import os
import pwd
import socket
import ssl
import stat
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from registry.agent.config import AgentConfig, UnixSockets
from registry.agent.facade import AgentFacade
from registry.errors import ConfigError
from registry.http.app import create_app, create_rim, refit
from registry.http.limits import ConnectionLimit, Deadlines
from registry.http.protocol import ApiProtocol
from registry.http.rim import Rim

logger = logging.getLogger("registry.http")

BACKLOG = 4096

#: How long a stopping server waits for requests under way, seconds.
DRAIN_S = 1.0

TLS_VERSIONS = {
    "tls10": ssl.TLSVersion.TLSv1,
    "tls11": ssl.TLSVersion.TLSv1_1,
    "tls12": ssl.TLSVersion.TLSv1_2,
    "tls13": ssl.TLSVersion.TLSv1_3,
}


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen: an IP address and port, or `unix://PATH`."""

    address: str
    port: int = 0
    tls: bool = False


def configured_listeners(config: AgentConfig) -> list[Listen]:
    return [
        *(Listen(address, config.ports.http) for address in config.listen_addresses("http")),
        *(
            Listen(address, config.ports.https, tls=True)
            for address in config.listen_addresses("https")
        ),
    ]


class HttpServer:
    """Serves the API of one agent.

    `start` opens every listener or none: it raises `ConfigError` with one line that names the
    address and says what to do. `stop` ends all requests. `listeners` replaces what the
    configuration says, for tests.
    """

    def __init__(
        self,
        agent: AgentFacade,
        *,
        listeners: list[Listen] | None = None,
        deadlines: Deadlines | None = None,
        rim: Rim | None = None,
        short_way: bool = True,
    ) -> None:
        self.agent = agent
        self.listeners = configured_listeners(agent.config) if listeners is None else listeners
        self.deadlines = deadlines or Deadlines()
        self.limit = ConnectionLimit(agent.config.limits.http_max_conns_per_client)
        self.rim = rim or create_rim(agent)
        self.app = create_app(agent, self.rim)
        self.state = ServerState()
        self.drain_s = DRAIN_S
        self._short_way = short_way
        self._servers: list[asyncio.Server] = []
        self._paths: list[Path] = []
        self._sweeper: asyncio.TimerHandle | None = None
        #: What is listened on, once started: `(address, port)` or a path.
        self.addresses: list[tuple[str, int] | str] = []

    @property
    def port(self) -> int:
        """The port of the first TCP listener, 0 when there is none."""
        return next((item[1] for item in self.addresses if isinstance(item, tuple)), 0)

    def configure(self, agent: AgentFacade) -> None:
        """Take over what may change without a restart."""
        self.agent = agent
        self.limit.maximum = agent.config.limits.http_max_conns_per_client
        self.rim.configure(agent)
        refit(self.rim)

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        config = Config(self.app, lifespan="off", log_config=None, ws="none", date_header=False)
        config.load()

        def connect() -> ApiProtocol:
            return ApiProtocol(
                config,
                self.state,
                rim=self.rim,
                limit=self.limit,
                deadlines=self.deadlines,
                loop=loop,
                short_way=self._short_way,
            )

        try:
            for listener in self.listeners:
                await self._listen(loop, connect, listener)
        except BaseException:
            await self.stop()
            raise
        self._sweep()

    async def _listen(
        self, loop: asyncio.AbstractEventLoop, connect: Any, listener: Listen
    ) -> None:
        config = self.agent.config
        context = tls_context(config) if listener.tls else None
        handshake_s = config.limits.https_handshake_timeout_ns / 1e9 if context else None
        sock = open_socket(listener, config.unix_sockets)
        try:
            server = await loop.create_server(
                connect,
                sock=sock,
                ssl=context,
                backlog=BACKLOG,
                ssl_handshake_timeout=handshake_s,
            )
        except BaseException:
            sock.close()
            raise
        self._servers.append(server)
        name = sock.getsockname()
        if sock.family == socket.AF_UNIX:
            self._paths.append(Path(name))
            self.addresses.append(name)
        else:
            self.addresses.append((name[0], name[1]))
            name = f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
        logger.info("Started HTTP server: address=%s tls=%s", name, str(listener.tls).lower())

    async def run(self) -> None:
        """Nothing more than what its connections do."""
        await asyncio.get_running_loop().create_future()

    async def stop(self) -> None:
        """Close the listeners, let requests under way end for a moment, then cancel them."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for server in self._servers:
            server.close()
        for path in self._paths:
            with contextlib.suppress(OSError):
                path.unlink()
        for connection in list(self.state.connections):
            connection.shutdown()
        tasks = set(self.state.tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self.drain_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for connection in list(self.state.connections):
            connection.transport.abort()
        self._servers.clear()
        self._paths.clear()

    def _sweep(self) -> None:
        """Close connections past their deadline, renew the date, and come again."""
        loop = asyncio.get_running_loop()
        self.state.default_headers = [(b"Date", formatdate(usegmt=True).encode())]
        now = loop.time()
        for connection in list(self.state.connections):
            connection.close_if_late(now)  # type: ignore[union-attr]
        self._sweeper = loop.call_later(self.deadlines.sweep_s, self._sweep)


def open_socket(listener: Listen, unix: UnixSockets) -> socket.socket:
    """A bound socket. Raises `ConfigError` that names the address and the remedy."""
    if listener.address.startswith("unix://"):
        return _open_unix(Path(listener.address.removeprefix("unix://")), unix)
    key = "ports.https" if listener.tls else "ports.http"
    try:
        ip = ipaddress.ip_address(listener.address.strip("[]"))
    except ValueError:
        raise ConfigError(f'"{listener.address}" is no IP address', field="client_addr") from None
    family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it: an answer in two pieces must not wait for a delayed ACK.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not ip.is_unspecified))
        sock.bind((str(ip), listener.port))
        sock.setblocking(False)
    except OSError as problem:
        sock.close()
        where = f"{listener.address}:{listener.port}"
        raise ConfigError(f"cannot listen on {where}: {_reason(problem)}", field=key) from problem
    return sock


def _reason(problem: OSError) -> str:
    if problem.errno == errno.EADDRINUSE:
        return "the port is taken; stop the other program or choose another port"
    if problem.errno == errno.EADDRNOTAVAIL:
        return "no interface of this host has that address"
    if problem.errno == errno.EACCES:
        return "no permission for that port"
    return problem.strerror or str(problem)


def _open_unix(path: Path, unix: UnixSockets) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(str(path))
        sock.setblocking(False)
        if unix.mode:
            path.chmod(int(unix.mode, 8))
        if unix.user or unix.group:
            os.chown(path, _user_id(unix.user), _group_id(unix.group))
    except (OSError, ValueError, KeyError) as problem:
        sock.close()
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise ConfigError(
            f"cannot listen on unix://{path}: {reason}", field="addresses"
        ) from problem
    return sock


def _remove_stale(path: Path) -> None:
    """Remove the socket of a process that is gone; whatever else is there stays."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink()


def _user_id(user: str) -> int:
    if not user:
        return -1
    return int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid


def _group_id(group: str) -> int:
    if not group:
        return -1
    return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid


def tls_context(config: AgentConfig) -> ssl.SSLContext:
    """TLS as configured. Raises `ConfigError` when certificate or key cannot be used."""
    if not config.cert_file or not config.key_file:
        raise ConfigError("HTTPS needs cert_file and key_file", field="ports.https")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = TLS_VERSIONS.get(config.tls_min_version, ssl.TLSVersion.TLSv1_2)
    try:
        context.load_cert_chain(config.cert_file, config.key_file)
        if config.ca_file or config.ca_path:
            context.load_verify_locations(config.ca_file or None, config.ca_path or None)
        if config.tls_cipher_suites:
            context.set_ciphers(config.tls_cipher_suites.replace(",", ":"))
    except (OSError, ssl.SSLError) as problem:
        raise ConfigError(f"TLS: {problem}", field="cert_file") from problem
    if config.verify_incoming or config.verify_incoming_https:
        context.verify_mode = ssl.CERT_REQUIRED
    return context
