"""What an agent is in its cluster: a server with a store and consensus, or a client of servers.

Either is a backend for the facade, follows the members of the LAN pool in its own way, and has its
own things to do before it leaves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Protocol

from registry.agent.autopilot import configured_autopilot
from registry.agent.client_backend import ClientBackend
from registry.agent.config import AgentConfig
from registry.agent.durations import MILLISECOND, SECOND
from registry.agent.facade import Backend, Datacenters
from registry.agent.gossip_events import PREFIX
from registry.agent.metrics import Metrics
from registry.agent.node_facts import node_meta, tagged_addresses
from registry.agent.pools import Pools, ServersView, WanView
from registry.errors import ConfigError, RegistryError
from registry.plugins import Plugins
from registry.raft.disk import Identity, bootstrap, holds_raft_state
from registry.raft.driver import RaftDriver
from registry.raft.messages import Configuration
from registry.raft.messages import Server as RaftServer
from registry.raft.settings import RaftSettings
from registry.rpc.pool import Pool
from registry.rpc.server import RpcServerSettings
from registry.rpc.stream import Hello
from registry.server.change_feed import Show
from registry.server.members import MemberStatus, PoolMember, server_of, servers_of
from registry.server.network import NetworkSettings, ServerNetwork
from registry.server.reconcile import LocalServerFacts
from registry.server.recovery import recover_from_file
from registry.server.server import Server, ServerSettings
from registry.state.machine import StateMachine
from registry.storage.store import Store

logger = logging.getLogger("registry.agent")

#: Raft's timing in `-dev`, where nobody waits for anybody.
DEV_ELECTION_TIMEOUT_MS = 52

#: How long a leader that leaves tries to hand over before it goes all the same.
HAND_OVER_S = 5.0

#: The same of one that only stops. A hand-over takes a few round trips, and where all servers are
#: stopped at once there is nobody to take over: that must not hold up the end of each.
STOP_HAND_OVER_S = 1.0


class Role(Protocol):
    """One agent's part in the cluster."""

    @property
    def backend(self) -> Backend: ...
    @property
    def datacenters(self) -> Datacenters: ...
    async def run(self) -> None:
        """Serve until cancelled; a failure that the process must not survive travels out."""
        ...

    def follow(self, pools: Pools) -> None:
        """The pools are up: their members count from now on."""
        ...

    def member_changed(self, member: PoolMember) -> None:
        """News of a member of the LAN pool; must not wait."""
        ...

    def use_plugins(self, plugins: Plugins) -> None:
        """What plugins contribute has changed."""
        ...

    async def stop(self, *, leave: bool) -> None:
        """Hand over what others should do from now on, while the faces still serve.

        With `leave` the pools are left after it, then comes `part`; without, the agent is expected
        back.
        """
        ...

    async def part(self) -> None:
        """The pools were left: stay until nobody relies on this agent any more."""
        ...

    def close(self) -> None:
        """After `run` has ended."""
        ...


class ClientRole:
    """No data of its own: everything is forwarded to live servers of the LAN pool."""

    def __init__(self, config: AgentConfig, metrics: Metrics) -> None:
        self._datacenter = config.datacenter
        self._pools: Pools | None = None
        self._backend = ClientBackend(
            Pool(Hello(datacenter=config.datacenter, node=config.node_name)),
            hold_timeout_s=config.performance.rpc_hold_timeout_ns / SECOND,
            rate=config.limits.rpc_rate,
            burst=config.limits.rpc_max_burst,
            count=metrics.count,
        )

    @property
    def backend(self) -> Backend:
        return self._backend

    @property
    def datacenters(self) -> Datacenters:
        return self._backend

    async def run(self) -> None:
        await self._backend.run()

    def follow(self, pools: Pools) -> None:
        self._pools = pools
        pools.ask_server_for_keys = self._backend.change_keys
        self._update()

    def member_changed(self, member: PoolMember) -> None:
        server = server_of(member)
        if server is None:
            return
        self._update()
        if member.status is MemberStatus.ALIVE:
            self._backend.server_is_alive(server.rpc_address)

    def _update(self) -> None:
        if self._pools is None:
            return
        members = ServersView(self._pools).members()
        alive = [
            server.rpc_address
            for server in servers_of(members, self._datacenter)
            if server.status is MemberStatus.ALIVE
        ]
        self._backend.set_servers(alive)

    def use_plugins(self, plugins: Plugins) -> None:
        """None of theirs is used here."""

    async def stop(self, *, leave: bool) -> None:
        """Nothing is kept here that others would need."""

    async def part(self) -> None:
        """Nobody asks here."""

    def close(self) -> None:
        """Nothing is open."""


class ServerRole:
    """A server: its store, its part in consensus, and what it does when it leads."""

    def __init__(
        self,
        config: AgentConfig,
        node_id: str,
        data_dir: Path | None,
        plugins: Plugins,
        metrics: Metrics,
        show_record: Show,
    ) -> None:
        """Open the store and bind the RPC port. Raises `ConfigError`, `StorageError`."""
        self._config = config
        self._store = _open_store(config, data_dir, plugins)
        try:
            self.server = _make_server(config, node_id, data_dir, self._store, plugins, show_record)
        except BaseException:
            self._store.close()
            raise
        self.server.count = metrics.count
        self.server.count_query = metrics.counter("rpc.query").add
        if self.server.network is not None:
            self.server.network.rpc.count = metrics.count
        metrics.collectors.append(self._set_gauges)

    @property
    def backend(self) -> Backend:
        return self.server

    @property
    def datacenters(self) -> Datacenters:
        return self.server.datacenters

    async def run(self) -> None:
        await self.server.run()

    def follow(self, pools: Pools) -> None:
        self.server.attach(ServersView(pools), WanView(pools))
        self.server.on_fire = lambda name, payload: pools.lan.user_event(PREFIX + name, payload)
        self.server.on_keys = pools.change_keys
        self.server.on_elected = lambda: pools.tell_new_leader(self._config.node_name)

    def member_changed(self, member: PoolMember) -> None:
        self.server.member_changed(member)

    def use_plugins(self, plugins: Plugins) -> None:
        self.server.use_plugins(sinks=plugins.change_sinks(), validators=plugins.kv_validators())

    async def stop(self, *, leave: bool) -> None:
        """Hand leadership over, then send who asks us to other servers.

        In this order, since peers have to be able to answer us until they have another leader. One
        that leaves goes on taking part until that leader has put it out, which it does when gossip
        tells it that we left: of two servers both are needed for that.
        """
        driver = self.server.driver
        if driver.is_leader and self.server.has_others:
            began = time.monotonic()
            try:
                async with asyncio.timeout(HAND_OVER_S if leave else STOP_HAND_OVER_S):
                    await driver.transfer()
                    leader = await driver.wait_for_leader()
            except (RegistryError, TimeoutError) as problem:
                logger.warning("leadership was not taken over: error=%s", problem or "no answer")
            else:
                took_ms = int((time.monotonic() - began) * 1000)
                logger.info("leadership was taken over: leader=%s took_ms=%d", leader, took_ms)
        if not leave:
            await self._send_away("stopping")

    async def part(self) -> None:
        await self.server.removed()
        await self._send_away("leaving")
        if self.server.has_others:
            await asyncio.sleep(self._config.performance.leave_drain_time_ns / SECOND)

    def _set_gauges(self, metrics: Metrics) -> None:
        driver, duties = self.server.driver, self.server.duties
        metrics.gauge("raft.last_index", driver.last_index)
        metrics.gauge("raft.applied_index", driver.applied_index)
        metrics.gauge("rpc.queries_blocking", self.server.reads.blocking)
        if driver.is_leader:  # the others would tell what was so when they led
            report = duties.autopilot.report()
            metrics.gauge("autopilot.healthy", float(report.healthy))
            metrics.gauge("autopilot.failure_tolerance", report.failure_tolerance)

    async def _send_away(self, reason: str) -> None:
        if self.server.network is not None:
            self.server.network.rpc.announce_end(reason)
            await self.server.network.rpc.drain()

    def close(self) -> None:
        self._store.close()


def _open_store(config: AgentConfig, data_dir: Path | None, plugins: Plugins) -> Store:
    name = config.storage_engine or ("memory" if config.dev_mode else "rocksdict")
    engine = plugins.storage_engine(name)
    if data_dir is None and engine.durable:
        raise ConfigError(f"the storage engine {name} needs a data_dir", field="data_dir")
    store: Store = engine.open((data_dir or Path()) / "store")
    return store


def _make_server(
    config: AgentConfig,
    node_id: str,
    data_dir: Path | None,
    store: Store,
    plugins: Plugins,
    show_record: Show,
) -> Server:
    address = f"{config.advertise_addr}:{config.ports.server}"
    if (config.bootstrap or config.dev_mode) and not holds_raft_state(store):
        first = Configuration((RaftServer(node_id, address),))
        bootstrap(store, first, Identity(node_id, ""))
    machine = StateMachine(store)
    if data_dir is not None:
        recover_from_file(data_dir / "raft", store, machine, node_id)
    network = _network(config, node_id)
    driver = RaftDriver(
        server_id=node_id,
        store=store,
        machine=machine,
        transport=network.transport,
        settings=_raft_settings(config),
        snapshot_directory=data_dir / "raft" / "snapshots" if data_dir else None,
    )
    facts = LocalServerFacts(
        node_id=node_id,
        node_name=config.node_name,
        address=config.advertise_addr,
        datacenter=config.datacenter,
        server_port=config.ports.server,
        tagged_addresses=tagged_addresses(config),
        node_meta=node_meta(config),
    )
    network.bind()
    settings = ServerSettings(
        facts,
        hold_timeout_s=config.performance.rpc_hold_timeout_ns / SECOND,
        autopilot=configured_autopilot(config),
        bootstrap_expect=0 if config.bootstrap else config.bootstrap_expect,
        bootstrap=config.bootstrap or config.dev_mode,
    )
    return Server(
        settings,
        machine,
        driver,
        network,
        sinks=plugins.change_sinks(),
        validators=plugins.kv_validators(),
        show=show_record,
    )


def _network(config: AgentConfig, node_id: str) -> ServerNetwork:
    return ServerNetwork(
        NetworkSettings(
            datacenter=config.datacenter,
            node_name=config.node_name,
            server_id=node_id,
            bind_host=config.bind_addr,
            port=config.ports.server,
            advertise_host=config.advertise_addr,
            rpc=RpcServerSettings(
                handshake_timeout_s=config.limits.rpc_handshake_timeout_ns / SECOND,
                connections_per_address_max=config.limits.rpc_max_conns_per_client,
            ),
        )
    )


def _raft_settings(config: AgentConfig) -> RaftSettings:
    settings = RaftSettings.scaled(config.performance.raft_multiplier)
    return RaftSettings(
        election_timeout_ms=(
            DEV_ELECTION_TIMEOUT_MS if config.dev_mode else settings.election_timeout_ms
        ),
        compaction_threshold_entries=config.raft_snapshot_threshold,
        compaction_interval_ms=config.raft_snapshot_interval_ns // MILLISECOND,
        trailing_entries=config.raft_trailing_logs,
    )
