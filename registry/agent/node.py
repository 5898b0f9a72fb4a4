"""The composition root: how the parts of one agent are put together, started and ended.

    role: a server (store, consensus) or a client           replicated state (`roles`)
    gossip pools                                            who else is there (`pools`)
    local services, checks ─ anti-entropy                   this node's own
    facade ─ HTTP and DNS servers, watches                  the faces
    configuration following ─ reload                        change without a restart

`Node.run` owns everything in one task group: what fails there ends the process, because a server
that cannot write must not go on (R-8).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

from registry.agent.anti_entropy import AntiEntropy
from registry.agent.config import AgentConfig
from registry.agent.config_following import ConfigPaths, edits
from registry.agent.coordinates import CoordinateSync
from registry.agent.durations import SECOND
from registry.agent.events import concerns
from registry.agent.facade import AgentFacade, Membership
from registry.agent.flags import AgentFlags
from registry.agent.gossip_events import NEW_LEADER, PREFIX, GossipEvents
from registry.agent.identity import node_id
from registry.agent.joining import join_at_start, join_plans, keep_joining
from registry.agent.loading import LoadedConfig, file_formats
from registry.agent.local.settings import LocalSettings
from registry.agent.local.state import LocalState
from registry.agent.logs import LogTap
from registry.agent.metrics import Metrics
from registry.agent.metrics_sinks import MetricsFeed
from registry.agent.node_facts import node_facts
from registry.agent.persistence import Persistence
from registry.agent.plugin_life import PluginLife
from registry.agent.pool_settings import lan_settings, wan_settings
from registry.agent.pools import Pools
from registry.agent.reloading import Reloader
from registry.agent.remote_exec import RemoteExec
from registry.agent.roles import ClientRole, Role, ServerRole
from registry.agent.watches import Render, Watches
from registry.errors import ConfigError, RegistryError, StorageError
from registry.plugins import Plugins
from registry.server.change_feed import Show

logger = logging.getLogger("registry.agent")

#: A graceful leave gives up after so long.
LEAVE_S_MAX = 30.0


class Face(Protocol):
    """A face's life: it may refuse to start with a `ConfigError`, and ends with the node."""

    async def start(self) -> None: ...
    async def run(self) -> None:
        """What it does while it serves, until cancelled."""
        ...

    async def stop(self) -> None: ...
    def configure(self, agent: AgentFacade) -> None: ...


class MakeFace(Protocol):
    """Makes a face for an agent; handed in from above, so that the agent knows no face.

    `Render` of the watches and `Show` of the change feed, which show data the way the API does, are
    handed in likewise.
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
        make_faces: Sequence[MakeFace],
        render_watch: Render,
        show_record: Show,
        tap: LogTap,
    ) -> None:
        self.loaded = loaded
        self.plugins = plugins
        self._make_faces = make_faces
        self._render_watch = render_watch
        self._show_record = show_record
        self._flags = flags
        self._tap = tap
        telemetry = loaded.config.telemetry
        self._metrics = Metrics(
            prefix=telemetry.metrics_prefix,
            host="" if telemetry.disable_hostname else loaded.config.node_name,
            filters=telemetry.prefix_filter,
            filter_default=telemetry.filter_default,
        )
        plugins.count_in(self._metrics)
        self._stopping = asyncio.Event()
        self._leaving = False
        self._left = asyncio.Event()
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

    def stop(self, reason: str, *, leave: bool = False) -> None:
        """End the agent; `run` returns once all is put away. With `leave` the others are told."""
        if not self._stopping.is_set():
            logger.info("Gracefully shutting down agent: reason=%s", reason)
            self._leaving = leave
            self._stopping.set()

    def dump_metrics(self, out: TextIO) -> None:
        """The last interval's metrics as JSON lines, for an operator's SIGUSR1."""
        print(json.dumps(self._metrics.summary(), indent=2), file=out, flush=True)

    def request_reload(self) -> None:
        self._reload_wanted.set()

    async def run(self) -> None:
        """Run until `stop`; raises `ConfigError` or `StorageError` when it cannot go on."""
        role = self._role()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(role.run())]
                async with self._agent(role) as reloader:
                    tasks += [
                        group.create_task(self._follow_files(reloader)),
                        group.create_task(self._reload_on_request(reloader)),
                    ]
                    self.running.set()
                    await self._stopping.wait()
                for task in tasks:
                    task.cancel()
        finally:
            role.close()

    # Building

    def _role(self) -> Role:
        if not self.config.server:
            return ClientRole(self.config, self._metrics)
        return ServerRole(
            self.config,
            self.node_id,
            self.data_dir,
            self.plugins,
            self._metrics,
            self._show_record,
        )

    def _pools(self, role: Role, on_event: Callable[[str, bytes], None]) -> Pools:
        config = self.config
        has_wan = config.server and config.ports.serf_wan > 0
        arguments = (config, self.node_id, self.data_dir, self._metrics)
        return Pools(
            lan_settings(*arguments),
            wan_settings(*arguments) if has_wan else None,
            datacenter=config.datacenter,
            on_member=role.member_changed,
            on_event=on_event,
        )

    @asynccontextmanager
    async def _agent(self, role: Role) -> AsyncIterator[Reloader]:
        """The agent's own parts around its role, running; they end when the context does."""
        config = self.config
        backend = role.backend
        local = LocalState(
            node_name=config.node_name,
            check_types=self.plugins.check_type,
            settings=LocalSettings.from_config(config),
            backend=backend,
            persistence=Persistence(self.data_dir) if self.data_dir else None,
        )
        sync = AntiEntropy(
            local,
            backend,
            node_facts(config, self.node_id),
            interval_s=config.ae_interval_ns / SECOND,
            cluster_size=lambda: len(pools.members()),
        )

        def on_event(name: str, payload: bytes) -> None:
            if name == NEW_LEADER:
                sync.trigger_full()
            elif name.startswith(PREFIX):
                events.receive_gossip(name, payload)

        pools = self._pools(role, on_event)
        events = GossipEvents(
            pools.lan.user_event,
            lambda event: concerns(event, config.node_name, local.tags_by_service()),
        )
        facade = AgentFacade(
            config=config,
            node_name=config.node_name,
            node_id=self.node_id,
            datacenter=config.datacenter,
            backend=backend,
            local=local,
            membership=pools,
            plugins=self.plugins,
            reload=self._not_yet,
            leave=self._leave,
            metrics=self._metrics,
            wants_origin=self._wants_origin(),
            events=events,
            log_tap=self._tap,
            datacenters=role.datacenters,
        )
        watches = Watches(facade, self.plugins, render=self._render_watch)
        faces = [make(facade) for make in self._make_faces]
        metrics_feed = MetricsFeed(self._metrics, self.plugins.metrics_sinks())

        def follow_plugins() -> None:
            role.use_plugins(self.plugins)
            metrics_feed.replace(self.plugins.metrics_sinks())
            facade.wants_origin = self._wants_origin()
            for face in faces:
                face.configure(facade)

        life = PluginLife(self.plugins, config, self.node_id, self.data_dir, follow=follow_plugins)
        reloader = Reloader(
            self.loaded,
            flags=self._flags,
            plugins=self.plugins,
            local=local,
            sync=sync,
            watches=watches,
            facade=facade,
            facts=lambda config: node_facts(config, self.node_id),
            reconfigure=[face.configure for face in faces],
            tap=self._tap,
            plugin_life=life,
        )
        facade.reload = reloader.reload
        await local.start(self.loaded.services, self.loaded.checks)
        await pools.start()
        role.follow(pools)
        try:
            for face in faces:
                await face.start()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(part.run()) for part in (pools, local, sync, watches)]
                tasks += [group.create_task(face.run()) for face in faces]
                tasks.append(group.create_task(metrics_feed.run()))
                if not config.disable_coordinates:
                    tasks.append(group.create_task(self._coordinates(facade, pools).run()))
                if not config.disable_remote_exec:
                    tasks.append(group.create_task(RemoteExec(facade).run()))
                watches.replace(self.loaded.watches)
                await self._join_at_start(pools)
                tasks += [
                    group.create_task(keep_joining(pools, plan)) for plan in join_plans(config)
                ]
                async with life.running():
                    yield reloader
                await self._hand_over(role, pools)
                self._left.set()
                for task in tasks:
                    task.cancel()
        finally:
            for face in faces:
                await face.stop()
            pools.close()
            self.plugins.close()

    def _wants_origin(self) -> bool:
        return any(sink.wants_origin for sink in self.plugins.change_sinks())

    async def _hand_over(self, role: Role, pools: Pools) -> None:
        """Tell the others; what cannot be told in time they find out themselves."""
        try:
            async with asyncio.timeout(LEAVE_S_MAX):
                await role.stop(leave=self._leaving)
                if self._leaving:
                    await pools.leave()
            if self._leaving:
                await role.part()
        except (RegistryError, TimeoutError) as problem:
            logger.warning("could not leave gracefully: error=%s", problem or "not done in time")

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

    def _coordinates(self, facade: AgentFacade, pools: Pools) -> CoordinateSync:
        config = self.config
        return CoordinateSync(
            facade.backend,
            node=config.node_name,
            datacenter=config.datacenter,
            own=pools.coordinate,
            interval_s=config.sync_coordinate_interval_min_ns / SECOND,
            rate=config.sync_coordinate_rate_target,
            cluster_size=lambda: len(pools.members()),
        )

    async def _not_yet(self) -> Any:
        raise ConfigError("the agent is still starting; try again")

    async def _leave(self) -> None:
        """Returns once the others know; the process ends after that."""
        self.stop("leave", leave=True)
        await self._left.wait()

    # Running

    async def _follow_files(self, reloader: Reloader) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_edits(reloader))
            # Its first step begins the watching; what was edited between the reading of the files
            # at the start and now is picked up here.
            await asyncio.sleep(0)
            await self._reload(reloader, only_if_changed=True)

    async def _follow_edits(self, reloader: Reloader) -> None:
        paths = ConfigPaths(self.loaded.paths, lambda: file_formats(self.plugins).keys())
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
