"""Applying a new configuration to a running agent: all of it is judged before any of it changes.

`registry reload`, SIGHUP, `PUT /v1/agent/reload` and an edited file come here. Reading and judging
happen in a thread; a problem there changes nothing. Source: surface.md, section 4.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

from msgspec.structs import replace

from registry.agent.anti_entropy import AntiEntropy, NodeFacts
from registry.agent.config import AgentConfig
from registry.agent.facade import AgentFacade
from registry.agent.flags import AgentFlags
from registry.agent.loading import LoadedConfig, file_formats, load_flags, plugin_selection
from registry.agent.local.settings import LocalSettings
from registry.agent.local.state import LocalState
from registry.agent.logs import LogTap, level_of, set_level
from registry.agent.plugin_life import PluginLife
from registry.agent.reload import ReloadItem, ReloadReport, plan_reload, reloaded_config
from registry.agent.watches import Watches
from registry.errors import ConfigError
from registry.plugins import Plugins

logger = logging.getLogger("registry.agent")


class Reloader:
    """Holds the configuration in force and replaces it. One reload at a time."""

    def __init__(
        self,
        loaded: LoadedConfig,
        *,
        flags: AgentFlags,
        plugins: Plugins,
        local: LocalState,
        sync: AntiEntropy,
        watches: Watches,
        facade: AgentFacade,
        facts: Callable[[AgentConfig], NodeFacts],
        reconfigure: Sequence[Callable[[AgentFacade], None]],
        tap: LogTap,
        plugin_life: PluginLife,
    ) -> None:
        self.loaded = loaded
        self._flags = flags
        self._plugins = plugins
        self._local = local
        self._sync = sync
        self._watches = watches
        self._facade = facade
        self._facts = facts
        self._reconfigure = reconfigure
        self._tap = tap
        self._plugin_life = plugin_life
        self._reloading = asyncio.Lock()
        #: Hooks of plugins that wait for a restart.
        self._told: dict[str, list[str]] = {}

    async def reload(self, *, only_if_changed: bool = False) -> ReloadReport:
        """Read the configuration again and apply what may change without a restart.

        A reload that was asked for runs every watch handler again; one that follows an edit leaves
        everything alone when the edit changed nothing (`only_if_changed`). Raises `ConfigError`
        that names file, line and key; nothing is changed then.
        """
        async with self._reloading:
            before = self._plugins.settings
            try:
                new = await asyncio.to_thread(self._read)
                report = plan_reload(self.loaded, new)
                if only_if_changed and not report.items:
                    return report
                for warning in new.warnings:
                    logger.warning("%s", warning)
                in_force = reloaded_config(self._facade.config, new.config)
                await self._plugin_life.put_in_force(new.plugin_settings)
                await self._apply(in_force, new)
            except BaseException:
                await self._plugin_life.put_in_force(before)
                raise
            await self._plugin_life.tell(before)
            report = replace(report, items=(*report.items, *self._waiting_plugins()))
            # The report of the next reload compares with what was last read, so that a change
            # that waits for a restart is told once.
            self.loaded = new
        for line in report.lines():
            logger.info("reload: %s", line)
        return report

    def _read(self) -> LoadedConfig:
        """The files as they are now.

        Plugins that get the settings that they need are in use from here on: the same files may
        hold what only such a plugin knows.
        """
        selection = plugin_selection(self._flags, file_formats(self._plugins))
        in_force = self._plugins.settings
        with suppress(ConfigError):  # which is told in full when all is read
            judged = self._plugins.judged_settings(selection.settings)
            if new := {name: each for name, each in judged.items() if name not in in_force}:
                self._plugins.configure(in_force | new)
        return load_flags(self._flags, self._plugins)

    def _waiting_plugins(self) -> list[ReloadItem]:
        """Plugins that came into use now, but not with all that they have; each is told once."""
        told, self._told = self._told, self._plugins.needing_restart()
        return [
            ReloadItem("plugin", name, "added", "needs restart", ", ".join(hooks))
            for name, hooks in self._told.items()
            if name not in told
        ]

    async def _apply(self, config: AgentConfig, loaded: LoadedConfig) -> None:
        # The steps that may still refuse come first.
        self._watches.prepare(loaded.watches)
        await self._local.apply_definitions(loaded.services, loaded.checks)
        self._local.reconfigure(LocalSettings.from_config(config))
        self._facade.config = config
        self._sync.set_facts(self._facts(config))
        set_level(level_of(config.log_level), self._tap)
        for configure in self._reconfigure:
            configure(self._facade)
        self._watches.replace(loaded.watches)
