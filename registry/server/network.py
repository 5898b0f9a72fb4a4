"""A server's end of the network among agents: its listener, and its connections to its peers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from registry.errors import ConfigError
from registry.rpc.pool import Pool, PoolSettings, check_hello
from registry.rpc.server import RpcServer, RpcServerSettings
from registry.rpc.stream import Hello
from registry.server.raft_transport import METHOD, RpcTransport

#: The longest pause between attempts to reach a Raft peer. After a partition a server is out of the
#: cluster until it is dialled, though gossip may never have missed it; and peers are few, so that
#: trying them all the while costs next to nothing.
RAFT_BACKOFF_MAX_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """Where a server listens, and who it says it is. `advertise` is the ip that peers dial."""

    datacenter: str
    node_name: str
    server_id: str
    bind_host: str
    port: int
    advertise_host: str
    rpc: RpcServerSettings = field(default_factory=RpcServerSettings)
    pool: PoolSettings = field(default_factory=PoolSettings)


class ServerNetwork:
    """Made before consensus, which it is the transport of: `bind`, then `run`, which owns it."""

    def __init__(self, settings: NetworkSettings) -> None:
        self.settings = settings
        host = settings.advertise_host
        self.hello = Hello(
            datacenter=settings.datacenter,
            node=settings.node_name,
            server_id=settings.server_id,
            address=f"[{host}]:{settings.port}" if ":" in host else f"{host}:{settings.port}",
        )
        self.rpc = RpcServer(self.hello, admit=self._admit, settings=settings.rpc)
        #: For requests to other servers; Raft has connections of its own.
        self.pool = Pool(self.hello, settings.pool)
        raft_settings = replace(settings.pool, backoff_max_s=RAFT_BACKOFF_MAX_S)
        self._raft_pool = Pool(self.hello, raft_settings)
        self.transport = RpcTransport(settings.server_id, self._raft_pool)
        self.rpc.serve({}, {METHOD: self.transport.hear})

    def bind(self) -> None:
        """Take the port. Raises `ConfigError` when somebody else has it."""
        try:
            self.rpc.bind(self.settings.bind_host, self.settings.port)
        except ConfigError as problem:
            raise ConfigError(
                f"{problem.reason}; another program has the port: stop it, or choose one with "
                "-server-port",
                field="ports.server",
            ) from problem

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.pool.run(), name="rpc-pool")
            group.create_task(self._raft_pool.run(), name="raft-pool")
            group.create_task(self.transport.run(), name="raft-transport")
            group.create_task(self.rpc.run(), name="rpc-server")

    def revive(self, address: str) -> None:
        """The server at `address` is known to be up: do not wait any longer to try it."""
        self.pool.revive(address)
        self._raft_pool.revive(address)

    def _admit(self, hello: Hello) -> str:
        if reason := check_hello(self.hello, hello):
            return reason
        if hello.server_id:
            self.transport.learn(hello.server_id, hello.address)
            self.pool.revive(hello.address)
        return ""
