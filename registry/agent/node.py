"""The composition root: how the parts of one agent are put together, started and ended.

    store ─ state machine ─ raft driver ─ server            replicated state
    local services, checks ─ anti-entropy                   this node's own
    facade ─ HTTP server, watches                           the faces
    configuration following ─ reload                        change without a restart

`Node.run` owns everything in one task group: what fails there ends the process, because a server
that cannot write must not go on (R-8).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

from registry.agent.alone import LonelyMembership
from registry.agent.anti_entropy import AntiEntropy, NodeFacts
from registry.agent.autopilot import configured_autopilot
from registry.agent.config import AgentConfig
from registry.agent.config_following import ConfigPaths, edits
from registry.agent.coordinates import CoordinateSync
from registry.agent.durations import MILLISECOND, SECOND
from registry.agent.events import LocalEvents, concerns
from registry.agent.facade import AgentFacade, Backend, Membership
from registry.agent.flags import AgentFlags
from registry.agent.identity import node_id
from registry.agent.joining import join_at_start, join_plans, keep_joining
from registry.agent.loading import LoadedConfig, file_formats
from registry.agent.local import LocalSettings, LocalState
from registry.agent.logs import LogTap
from registry.agent.metrics import Metrics
from registry.agent.persistence import Persistence
from registry.agent.reloading import Reloader
from registry.agent.remote_exec import RemoteExec
from registry.agent.watches import Render, Watches
from registry.errors import ConfigError, RegistryError, StorageError
from registry.plugins import Plugins
from registry.raft.disk import Identity, bootstrap, holds_raft_state
from registry.raft.driver import RaftDriver, RaftSettings
from registry.raft.messages import Configuration
from registry.raft.messages import Server as RaftServer
from registry.rpc.server import RpcServerSettings
from registry.server.network import NetworkSettings, ServerNetwork
from registry.server.reconcile import LocalServerFacts
from registry.server.server import Server, ServerSettings
from registry.state.coordinates import Coordinate
from registry.state.machine import StateMachine
from registry.storage.store import Store

logger = logging.getLogger("registry.agent")

#: Raft's timing in `-dev`, where nobody waits for anybody.
DEV_ELECTION_TIMEOUT_MS = 52


class Face(Protocol):
    """A face's life: it may refuse to start with a `ConfigError`, and ends with the node."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def configure(self, agent: AgentFacade) -> None: ...


class MakeFace(Protocol):
    """Makes a face for an agent; handed in from above, so that the agent knows no face.

    `Render` of the watches, which shows data the way the API does, is handed in likewise.
    """

    def __call__(self, agent: AgentFacade) -> Face: ...


class Node:
    """One agent, from its configuration to its end."""

    def __init__(
        self,
        loaded: LoadedConfig,
        *,
        flags: AgentFlags,
        plugins: Plugins,
        make_face: MakeFace,
        render_watch: Render,
        tap: LogTap,
    ) -> None:
        self.loaded = loaded
        self.plugins = plugins
        self._make_face = make_face
        self._render_watch = render_watch
        self._flags = flags
        self._tap = tap
        telemetry = loaded.config.telemetry
        self._metrics = Metrics(
            prefix=telemetry.metrics_prefix,
            host="" if telemetry.disable_hostname else loaded.config.node_name,
            filters=telemetry.prefix_filter,
            filter_default=telemetry.filter_default,
        )
        self._stopping = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        #: Set once the agent serves; what waits for a running agent waits for this.
        self.running = asyncio.Event()
        config = loaded.config
        self.data_dir = None if config.dev_mode or not config.data_dir else Path(config.data_dir)
        _make_directory(self.data_dir)
        self.node_id = node_id(self.data_dir, config.node_id)

    @property
    def config(self) -> AgentConfig:
        return self.loaded.config

    def stop(self, reason: str) -> None:
        """End the agent; `run` returns once all is put away."""
        if not self._stopping.is_set():
            logger.info("Gracefully shutting down agent: reason=%s", reason)
            self._stopping.set()

    def dump_metrics(self, out: TextIO) -> None:
        """The last interval's metrics as JSON lines, for an operator's SIGUSR1."""
        print(json.dumps(self._metrics.summary(), indent=2), file=out, flush=True)

    def request_reload(self) -> None:
        self._reload_wanted.set()

    async def run(self) -> None:
        """Run until `stop`; raises `ConfigError` or `StorageError` when it cannot go on."""
        store = self._open_store()
        try:
            server = self._make_server(store)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(server.run())]
                async with self._agent(server) as reloader:
                    tasks += [
                        group.create_task(self._follow_files(reloader)),
                        group.create_task(self._reload_on_request(reloader)),
                    ]
                    self.running.set()
                    await self._stopping.wait()
                for task in tasks:
                    task.cancel()
        finally:
            store.close()

    # Building

    def _open_store(self) -> Store:
        config = self.config
        name = config.storage_engine or ("memory" if config.dev_mode else "rocksdict")
        engine = self.plugins.storage_engine(name)
        if self.data_dir is None and engine.durable:
            raise ConfigError(f"the storage engine {name} needs a data_dir", field="data_dir")
        store: Store = engine.open((self.data_dir or Path()) / "store")
        return store

    def _make_server(self, store: Store) -> Server:
        config = self.config
        if not config.server:
            raise ConfigError(
                "an agent that is no server needs servers to forward to, which this version does "
                "not do yet; start it with -server or -dev"
            )
        address = f"{config.advertise_addr}:{config.ports.server}"
        if (config.bootstrap or config.dev_mode) and not holds_raft_state(store):
            first = Configuration((RaftServer(self.node_id, address),))
            bootstrap(store, first, Identity(self.node_id, ""))
        machine = StateMachine(store)
        network = ServerNetwork(
            NetworkSettings(
                datacenter=config.datacenter,
                node_name=config.node_name,
                server_id=self.node_id,
                bind_host=config.bind_addr,
                port=config.ports.server,
                advertise_host=config.advertise_addr,
                rpc=RpcServerSettings(
                    handshake_timeout_s=config.limits.rpc_handshake_timeout_ns / SECOND,
                    connections_per_address_max=config.limits.rpc_max_conns_per_client,
                ),
            )
        )
        driver = RaftDriver(
            server_id=self.node_id,
            store=store,
            machine=machine,
            transport=network.transport,
            settings=self._raft_settings(),
            snapshot_directory=self.data_dir / "raft" / "snapshots" if self.data_dir else None,
        )
        facts = LocalServerFacts(
            node_id=self.node_id,
            node_name=config.node_name,
            address=config.advertise_addr,
            datacenter=config.datacenter,
            server_port=config.ports.server,
            tagged_addresses=tagged_addresses(config),
            node_meta=node_meta(config),
        )
        network.bind()
        hold_s = config.performance.rpc_hold_timeout_ns / SECOND
        settings = ServerSettings(
            facts, hold_timeout_s=hold_s, autopilot=configured_autopilot(config)
        )
        return Server(settings, machine, driver, network)

    def _raft_settings(self) -> RaftSettings:
        config = self.config
        settings = RaftSettings.scaled(config.performance.raft_multiplier)
        return RaftSettings(
            election_timeout_ms=(
                DEV_ELECTION_TIMEOUT_MS if config.dev_mode else settings.election_timeout_ms
            ),
            compaction_threshold_entries=config.raft_snapshot_threshold,
            compaction_interval_ms=config.raft_snapshot_interval_ns // MILLISECOND,
            trailing_entries=config.raft_trailing_logs,
        )

    @asynccontextmanager
    async def _agent(self, server: Server) -> AsyncIterator[Reloader]:
        """The agent's own parts around a server, running; they end when the context does."""
        config = self.config
        local = LocalState(
            node_name=config.node_name,
            check_types=self.plugins.check_type,
            settings=LocalSettings.from_config(config),
            backend=server,
            persistence=Persistence(self.data_dir) if self.data_dir else None,
        )
        membership = LonelyMembership(config, self.node_id)
        sync = AntiEntropy(
            local,
            server,
            node_facts(config, self.node_id),
            interval_s=config.ae_interval_ns / SECOND,
            cluster_size=lambda: len(membership.members()),
        )
        facade = AgentFacade(
            config=config,
            node_name=config.node_name,
            node_id=self.node_id,
            datacenter=config.datacenter,
            backend=server,
            local=local,
            membership=membership,
            plugins=self.plugins,
            reload=self._not_yet,
            leave=self._leave,
            extras={},
            metrics=self._metrics,
            events=LocalEvents(
                lambda event: concerns(event, config.node_name, local.tags_by_service())
            ),
            log_tap=self._tap,
        )
        watches = Watches(facade, self.plugins, render=self._render_watch)
        face = self._make_face(facade)
        reloader = Reloader(
            self.loaded,
            flags=self._flags,
            plugins=self.plugins,
            local=local,
            sync=sync,
            watches=watches,
            facade=facade,
            facts=lambda config: node_facts(config, self.node_id),
            reconfigure=[face.configure],
            tap=self._tap,
        )
        facade.reload = reloader.reload
        await local.start(self.loaded.services, self.loaded.checks)
        await face.start()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(part.run()) for part in (local, sync, watches)]
                if not config.disable_coordinates:
                    tasks.append(group.create_task(self._coordinates(server, membership).run()))
                if not config.disable_remote_exec:
                    tasks.append(group.create_task(RemoteExec(facade).run()))
                watches.replace(self.loaded.watches)
                await self._join_at_start(membership)
                tasks += [
                    group.create_task(keep_joining(membership, plan)) for plan in join_plans(config)
                ]
                yield reloader
                for task in tasks:
                    task.cancel()
        finally:
            await face.stop()

    async def _join_at_start(self, membership: Membership) -> None:
        """Join what must be there; a signal ends the wait for it."""
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(self._stopping.wait())
            joining = [
                group.create_task(join_at_start(membership, plan))
                for plan in join_plans(self.config)
            ]
            joined = group.create_task(asyncio.wait(joining))
            await asyncio.wait((stopping, joined), return_when=asyncio.FIRST_COMPLETED)
            for task in (stopping, joined, *joining):
                task.cancel()

    def _coordinates(self, backend: Backend, membership: Membership) -> CoordinateSync:
        config = self.config
        return CoordinateSync(
            backend,
            node=config.node_name,
            datacenter=config.datacenter,
            own=Coordinate,  # nobody to measure: the origin, where every node starts
            interval_s=config.sync_coordinate_interval_min_ns / SECOND,
            rate=config.sync_coordinate_rate_target,
            cluster_size=lambda: len(membership.members()),
        )

    async def _not_yet(self) -> Any:
        raise ConfigError("the agent is still starting; try again")

    async def _leave(self) -> None:
        self.stop("leave")

    # Running

    async def _follow_files(self, reloader: Reloader) -> None:
        paths = ConfigPaths(self.loaded.paths, file_formats(self.plugins))
        async for names in edits(paths):
            logger.info("configuration was edited: files=[%s]", " ".join(sorted(names)))
            await self._reload(reloader, only_if_changed=True)

    async def _reload_on_request(self, reloader: Reloader) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            await self._reload(reloader, only_if_changed=False)

    async def _reload(self, reloader: Reloader, *, only_if_changed: bool) -> None:
        try:
            await reloader.reload(only_if_changed=only_if_changed)
        except RegistryError as problem:
            logger.error("reload failed, nothing was changed: error=%s", problem)


def _make_directory(data_dir: Path | None) -> None:
    if data_dir is None:
        return
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise StorageError(
            f"cannot make the data directory {data_dir}: {problem.strerror}; choose one that this "
            "user may write with -data-dir"
        ) from problem


def tagged_addresses(config: AgentConfig) -> dict[str, str]:
    """This node's addresses by tag: what was configured, over lan, wan and their IP versions."""
    lan, wan = config.advertise_addr, config.advertise_addr_wan or config.advertise_addr
    found = {"lan": lan, "wan": wan}
    for tag, address in (("lan", lan), ("wan", wan)):
        found[f"{tag}_ipv6" if ":" in address else f"{tag}_ipv4"] = address
    versions = {
        "lan_ipv4": config.advertise_addr_ipv4,
        "lan_ipv6": config.advertise_addr_ipv6,
        "wan_ipv4": config.advertise_addr_wan_ipv4,
        "wan_ipv6": config.advertise_addr_wan_ipv6,
    }
    found |= {tag: address for tag, address in versions.items() if address}
    return dict(sorted((found | config.tagged_addresses).items()))


def node_meta(config: AgentConfig) -> dict[str, str]:
    """This node's metadata, with the segment that every node has."""
    return {"consul-network-segment": "", **config.node_meta}


def node_facts(config: AgentConfig, node_id: str) -> NodeFacts:
    return NodeFacts(
        name=config.node_name,
        id=node_id,
        address=config.advertise_addr,
        datacenter=config.datacenter,
        tagged_addresses=tagged_addresses(config),
        meta=node_meta(config),
    )
