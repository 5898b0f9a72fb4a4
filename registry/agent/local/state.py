"""`LocalState`: this node's services and checks as the rest of the agent holds them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from registry.agent.clock import Clock, LoopClock
from registry.agent.definitions import CheckDefinition, ServiceDefinition
from registry.agent.http_clients import HttpClients
from registry.agent.local.check_factory import CheckFactory
from registry.agent.local.check_runs import CheckRuns
from registry.agent.local.check_states import CheckStates
from registry.agent.local.deferred_outputs import DeferredOutputs
from registry.agent.local.file_definitions import DefinitionChanges
from registry.agent.local.installer import Installer
from registry.agent.local.keeping import Keeper
from registry.agent.local.maintenance import Maintenance
from registry.agent.local.reaper import Reaper
from registry.agent.local.records import FROM_API, LocalCheck, LocalService, Records
from registry.agent.local.registrations import Registrations
from registry.agent.local.restoring import Restorer
from registry.agent.local.settings import LocalSettings
from registry.agent.local.sync_marks import SyncMarks
from registry.agent.persistence import Persistence
from registry.hooks import CheckType
from registry.state.topics import Waiter

if TYPE_CHECKING:
    from registry.agent.facade import Backend


class LocalState:
    """Services and checks of this node.

    Args:
        node_name: this node, as checks show it.
        check_types: gives the kind of check registered under a key, or None.
        settings: see `LocalSettings`.
        backend: where alias checks ask for other nodes; None: nowhere.
        persistence: None keeps nothing across restarts.
        clock, chance: time and randomness; tests hand in their own.

    Use: `await start(services, checks)` once, then `await run()` in a task for as long as checks
    are to run. Registrations are possible in between and after.
    """

    def __init__(
        self,
        *,
        node_name: str,
        check_types: Callable[[str], CheckType | None],
        settings: LocalSettings | None = None,
        backend: Backend | None = None,
        persistence: Persistence | None = None,
        clock: Clock | None = None,
        chance: random.Random | None = None,
    ) -> None:
        clock, chance = clock or LoopClock(), chance or random.Random()
        self.node_name = node_name
        self.settings = settings or LocalSettings()
        self.http_clients = HttpClients(self.settings.tls)
        self._records = records = Records()
        #: What the catalog does not have yet, and when more of it is due: for anti-entropy.
        self.sync_marks = SyncMarks(records)
        self.deferred_outputs = DeferredOutputs(
            records, self.sync_marks, clock=clock, chance=chance
        )
        self._keeper = Keeper(persistence, clock)
        self._states = CheckStates(
            records,
            self.sync_marks,
            self.deferred_outputs,
            self._keeper,
            settings=self._settings_in_force,
            clock=clock,
        )
        self._runs = CheckRuns(
            self._states,
            node_name=node_name,
            local=records,
            backend=backend,
            http=self.http_clients,
            clock=clock,
            chance=chance,
        )
        factory = CheckFactory(check_types, self._settings_in_force)
        installer = Installer(records, self.sync_marks, self._states, self._runs, self._keeper)
        self._registrations = Registrations(records, factory, installer, self._keeper)
        self._restorer = Restorer(records, factory, installer, self._keeper, self._registrations)
        self._reaper = Reaper(
            records, self._registrations, settings=self._settings_in_force, clock=clock
        )
        self.maintenance = Maintenance(records, self._registrations)

    def _settings_in_force(self) -> LocalSettings:
        return self.settings

    # Reading

    @property
    def services(self) -> Mapping[str, LocalService]:
        return self._records.services

    @property
    def checks(self) -> Mapping[str, LocalCheck]:
        return self._records.checks

    def tags_by_service(self) -> dict[str, list[str]]:
        """Names of services with the tags of all their instances."""
        return self._records.tags_by_service()

    def checks_of(self, service_id: str, *, with_node: bool = False) -> list[LocalCheck]:
        """The service's checks, with those of the node itself if asked for."""
        return self._records.checks_of(service_id, with_node=with_node)

    def waiting_for_service(self, service_id: str) -> AbstractContextManager[Waiter]:
        """Woken when the service's own definition changes, comes or goes."""
        return self._records.waiting_for_service(service_id)

    # Life

    async def start(
        self, services: Iterable[ServiceDefinition] = (), checks: Iterable[CheckDefinition] = ()
    ) -> None:
        """Put in place what files define, then what was registered over HTTP before a restart.

        A file wins over a registration of the same id, which is then forgotten. Raises
        `ConfigError` for definitions that can not be run.
        """
        await self._restorer.restore(services, checks)

    async def run(self) -> None:
        """Run checks, write TTL states and remove services that stay critical, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for part in (self._runs, self._reaper, self._keeper):
                    group.create_task(part.run())
        finally:
            await self.http_clients.aclose()
            await self._keeper.aclose()

    def reconfigure(self, settings: LocalSettings) -> None:
        """Take reloaded settings; checks that run keep the limits they were started with."""
        self.settings = settings
        if settings.discard_output:
            self._states.discard_outputs()

    async def flush(self) -> None:
        """Bring what changed to the catalog now, as far as that is possible.

        A failure is logged, not raised: the registration itself is done and safe, and
        anti-entropy goes on trying.
        """
        await self.sync_marks.flush()

    # Registering

    async def add_service(
        self,
        definition: ServiceDefinition,
        *,
        source: str = FROM_API,
        replace_checks: bool = False,
    ) -> None:
        """Register a service with its checks, or change the one with this id.

        Checks that it has already stay, with their state, unless `replace_checks`; maintenance
        mode stays in any case. Raises `Rejected` or `DefinitionRefused` for what can not be run,
        and `StorageError` when it can not be kept; then nothing has changed.
        """
        await self._registrations.add_service(definition, source, replace_checks=replace_checks)

    async def remove_service(self, service_id: str) -> bool:
        """Remove a service and its checks; False when there is none. Raises `Rejected`."""
        return await self._registrations.remove_service(service_id)

    async def add_check(self, definition: CheckDefinition, *, source: str = FROM_API) -> None:
        """Register a check, of the node or of a service that is there. Raises as `add_service`."""
        await self._registrations.add_check(definition, source)

    async def remove_check(self, check_id: str) -> bool:
        """Remove a check; False when there is none. Raises `Rejected`."""
        return await self._registrations.remove_check(check_id)

    def update_ttl(self, check_id: str, status: str, output: str) -> None:
        """The application reports. Raises `Rejected` when the check has no TTL."""
        self._states.update_ttl(check_id, status, output)

    async def apply_definitions(
        self, services: Iterable[ServiceDefinition], checks: Iterable[CheckDefinition]
    ) -> DefinitionChanges:
        """Make these the definitions that come from files: a difference, not a new beginning.

        What is unchanged is not touched: its checks run on and keep their state. A changed check
        keeps its state too, until its next run. What a file defined before and no longer does is
        removed; what was registered over HTTP stays, unless a file now defines the same id.

        Raises `ConfigError` when a definition can not be run; then nothing has changed.
        """
        return await self._registrations.apply_definitions(services, checks)
