"""Applying a new configuration to a running agent: all of it is judged before any of it changes.

`registry reload`, SIGHUP, `PUT /v1/agent/reload` and an edited file come here. Reading and judging
happen in a thread; a problem there changes nothing. Source: surface.md, section 4.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from registry.agent.anti_entropy import AntiEntropy, NodeFacts
from registry.agent.config import AgentConfig
from registry.agent.facade import AgentFacade
from registry.agent.flags import AgentFlags
from registry.agent.loading import LoadedConfig, load_flags
from registry.agent.local import LocalSettings, LocalState
from registry.agent.logs import LogTap, level_of, set_level
from registry.agent.reload import ReloadReport, plan_reload, reloaded_config
from registry.agent.watches import Watches
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
        settings_changed: Callable[[LoadedConfig], Awaitable[None]],
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
        self._settings_changed = settings_changed
        self._reloading = asyncio.Lock()

    async def reload(self, *, only_if_changed: bool = False) -> ReloadReport:
        """Read the configuration again and apply what may change without a restart.

        A reload that was asked for runs every watch handler again; one that follows an edit leaves
        everything alone when the edit changed nothing (`only_if_changed`). Raises `ConfigError`
        that names file, line and key; nothing is changed then.
        """
        async with self._reloading:
            new = await asyncio.to_thread(load_flags, self._flags, self._plugins)
            report = plan_reload(self.loaded, new)
            if only_if_changed and not report.items:
                return report
            for warning in new.warnings:
                logger.warning("%s", warning)
            in_force = reloaded_config(self._facade.config, new.config)
            await self._apply(in_force, new)
            await self._settings_changed(new)
            # The report of the next reload compares with what was last read, so that a change
            # that waits for a restart is told once.
            self.loaded = new
        for line in report.lines():
            logger.info("reload: %s", line)
        return report

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
