"""The services and checks of this node: the truth that the catalog is kept equal to.

`LocalState` owns them. It takes registrations (from files and over HTTP), turns check definitions
into running checks, takes their results, and remembers what must survive a restart. What of it
the catalog does not have yet is marked, and `registry.agent.anti_entropy` brings it there.

Life of a registration: completed (`services`), its checks' runners made (which is where bad
settings are refused), written to the data directory, put in place, runners started; then the caller
awaits `flush`, so that a reader of the catalog who is told "done" also sees it.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from registry.agent.checks.base import CRITICAL, CheckContext, NeedsContext
from registry.agent.checks.scheduler import CheckScheduler, run_check
from registry.agent.checks.ttl import TtlRunner
from registry.agent.clock import Clock, LoopClock, pause
from registry.agent.definition_rules import (
    DefinitionRefused,
    check_problem,
    refuse_scripts,
    with_minimums,
)
from registry.agent.definitions import MINUTE, SECOND, CheckDefinition, ServiceDefinition
from registry.agent.http_clients import ClientTls, HttpClients
from registry.agent.persistence import (
    Changes,
    Persistence,
    Stored,
    StoredCheck,
    StoredService,
    TtlState,
)
from registry.agent.services import (
    NODE_MAINTENANCE_ID,
    SERVICE_MAINTENANCE_PREFIX,
    check_key,
    complete_check,
    complete_service,
    complete_service_checks,
    is_maintenance_id,
    node_maintenance_check,
    service_maintenance_check,
)
from registry.errors import ConfigError, NotFound, RegistryError, Rejected
from registry.hooks import CheckResult, CheckRunner, CheckType
from registry.state.quote import quote
from registry.state.topics import Topic, TopicHub, Waiter

if TYPE_CHECKING:
    from registry.agent.config import AgentConfig
    from registry.agent.facade import Backend

logger = logging.getLogger("registry.agent")

FROM_API, FROM_FILE = "api", "file"

#: Room for a kind's own words around the output that is limited.
_WORDS_BYTES_MAX = 1024


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """The agent's settings that services and checks depend on."""

    scripts_from_files: bool = False
    scripts_from_api: bool = False
    output_bytes_max: int = 4096
    discard_output: bool = False
    update_interval_ns: int = 5 * MINUTE
    deregister_after_min_ns: int = MINUTE
    reap_interval_ns: int = 30 * SECOND
    tls: ClientTls | None = None

    @classmethod
    def from_config(cls, config: AgentConfig) -> LocalSettings:
        tls = ClientTls(config.ca_file, config.ca_path, config.cert_file, config.key_file)
        return cls(
            scripts_from_files=config.enable_local_script_checks or config.enable_script_checks,
            scripts_from_api=config.enable_script_checks,
            output_bytes_max=config.check_output_max_size,
            discard_output=config.discard_check_output,
            update_interval_ns=config.check_update_interval_ns,
            deregister_after_min_ns=config.check_deregister_interval_min_ns,
            reap_interval_ns=config.check_reap_interval_ns,
            tls=tls if config.enable_agent_tls_for_checks else None,
        )


@dataclass(slots=True)
class LocalService:
    """One service instance. Read it; only `LocalState` changes it.

    `version` grows with every change, which is how a sync that was overtaken is noticed.
    """

    definition: ServiceDefinition  # complete; tags may be the catalog's (EnableTagOverride)
    given: ServiceDefinition  # complete, as registered
    source: str
    version: int
    in_sync: bool = False


@dataclass(slots=True)
class LocalCheck:
    """One check and its state. Read it; only `LocalState` changes it."""

    definition: CheckDefinition  # complete
    type_name: str
    source: str
    runner: CheckRunner | None  # None: maintenance
    status: str
    output: str
    service_name: str
    service_tags: tuple[str, ...]
    version: int
    in_sync: bool = False
    critical_since: float | None = None  # on the clock's monotonic time
    #: When output that changed without the status is to be written to the catalog.
    output_due: float | None = None

    @property
    def check_id(self) -> str:
        return self.definition.id

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def service_id(self) -> str:
        return self.definition.service_id


@dataclass(frozen=True, slots=True)
class DefinitionChanges:
    """What a reload did, as `service ID` and `check ID`."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class Synchroniser(Protocol):
    """Brings changes to the catalog."""

    def wake(self) -> None:
        """Something changed; must not wait."""
        ...

    async def sync_changes(self) -> None:
        """Bring all changes there now. Raises `RegistryError`."""
        ...


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A check that passed every test and can be put in place without fail."""

    definition: CheckDefinition
    type_name: str
    runner: CheckRunner | None


@dataclass(slots=True)
class _Plan:
    """A reload, worked out in full before anything is changed."""

    services: dict[str, ServiceDefinition] = field(default_factory=dict)
    checks: dict[str, _Prepared] = field(default_factory=dict)
    gone_services: list[str] = field(default_factory=list)
    gone_checks: list[str] = field(default_factory=list)


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
        self.node_name = node_name
        self.settings = settings or LocalSettings()
        #: Changes here: ("service", id) and ("checks", service id or "").
        self.topics = TopicHub()
        #: Taken out here, and perhaps still in the catalog; a check with its service's id.
        self.removed_services: set[str] = set()
        self.removed_checks: dict[str, str] = {}
        self._check_types = check_types
        self._backend = backend
        self._persistence = persistence
        self._clock = clock or LoopClock()
        self._chance = chance or random.Random()
        self.http_clients = HttpClients(self.settings.tls)
        self._scheduler = CheckScheduler()
        self._services: dict[str, LocalService] = {}
        self._checks: dict[str, LocalCheck] = {}
        self._check_ids: dict[str, dict[str, None]] = {}  # by service id, "" = the node's own
        # What the catalog does not have yet, in order: a sync costs what changed, not what is.
        self._unsynced_services: dict[str, None] = {}
        self._unsynced_checks: dict[str, None] = {}
        self._states: dict[str, TtlState] = {}  # as stored, until their checks are registered
        self._outputs_due: list[tuple[float, str]] = []  # heap; outdated entries are skipped
        self._versions = 0
        self._synchroniser: Synchroniser | None = None
        # Registrations wait for the disk between reading and changing the state.
        self._registering = asyncio.Lock()

    # Reading

    @property
    def services(self) -> Mapping[str, LocalService]:
        return MappingProxyType(self._services)

    @property
    def checks(self) -> Mapping[str, LocalCheck]:
        return MappingProxyType(self._checks)

    def tags_by_service(self) -> dict[str, list[str]]:
        """Names of services with the tags of all their instances."""
        tags: dict[str, list[str]] = {}
        for service in self._services.values():
            tags.setdefault(service.definition.name, []).extend(service.definition.tags)
        return tags

    def check_views(self) -> Mapping[str, LocalCheck]:
        return self.checks

    def has_service(self, service_id: str) -> bool:
        return service_id in self._services

    def checks_of(self, service_id: str, *, with_node: bool = False) -> list[LocalCheck]:
        """The service's checks, with those of the node itself if asked for."""
        owners = (service_id, "") if with_node else (service_id,)
        return [self._checks[each] for owner in owners for each in self._check_ids.get(owner, ())]

    def waiting(self, service_id: str) -> AbstractContextManager[Waiter]:
        """Woken when the service, a check of it or a check of the node changes."""
        return self.topics.waiting(
            (("service", service_id), ("checks", service_id), ("checks", ""))
        )

    def waiting_for_service(self, service_id: str) -> AbstractContextManager[Waiter]:
        """Woken when the service's own definition changes, comes or goes."""
        return self.topics.waiting((("service", service_id),))

    # Life

    async def start(
        self, services: Iterable[ServiceDefinition] = (), checks: Iterable[CheckDefinition] = ()
    ) -> None:
        """Put in place what files define, then what was registered over HTTP before a restart.

        A file wins over a registration of the same id, which is then forgotten. Raises
        `ConfigError` for definitions that can not be run.
        """
        stored = Stored() if self._persistence is None else await self._persistence.load()
        now = self._clock.wall()
        self._states = {
            check_id: state for check_id, state in stored.states.items() if state.expires > now
        }
        for service in stored.services:
            self._put_service(service.service, FROM_API)
        await self.apply_definitions(services, checks)
        await self._restore_checks(stored.checks)
        if self._persistence is not None:
            for check_id in stored.states.keys() - self._checks.keys():
                self._persistence.drop_state(check_id)
        self._states = {}

    async def run(self) -> None:
        """Run checks, write TTL states and remove services that stay critical, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._scheduler.run())
                group.create_task(self._reap())
                if self._persistence is not None:
                    group.create_task(self._persistence.run())
        finally:
            await self.http_clients.aclose()
            if self._persistence is not None:
                await self._persistence.aclose()

    def attach(self, synchroniser: Synchroniser) -> None:
        """From now on this one is told of changes."""
        self._synchroniser = synchroniser

    async def flush(self) -> None:
        """Bring what changed to the catalog now, as far as that is possible.

        A failure is logged, not raised: the registration itself is done and safe, and
        anti-entropy goes on trying.
        """
        if self._synchroniser is None:
            return
        try:
            await self._synchroniser.sync_changes()
        except RegistryError as problem:
            logger.error("failed to sync changes: error=%s", problem)

    def reconfigure(self, settings: LocalSettings) -> None:
        """Take reloaded settings; checks that run keep the limits they were started with."""
        self.settings = settings
        if settings.discard_output:
            for check in self._checks.values():
                self._set_state(check, check.status, "")

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
        service = complete_service(definition)
        async with self._registering:
            prepared = [self._prepare(check, source) for check in self._complete_of(definition)]
            new_ids = {check.definition.id for check in prepared}
            stale = [
                check.check_id
                for check in self.checks_of(service.id)
                if replace_checks
                and check.check_id not in new_ids
                and not is_maintenance_id(check.check_id)
            ]
            await self._store(
                Changes(
                    save_services=(StoredService(service=service),),
                    save_checks=tuple(StoredCheck(check=check.definition) for check in prepared),
                    drop_checks=tuple(stale),
                ),
                source,
            )
            self._put_service(service, source)
            for check_id in stale:
                self._drop_check(check_id)
            for check in prepared:
                self._put_check(check, source)

    async def remove_service(self, service_id: str) -> bool:
        """Remove a service and its checks; False when there is none. Raises `Rejected`."""
        if not service_id:
            raise Rejected("ServiceID missing")
        async with self._registering:
            if service_id not in self._services:
                logger.warning(
                    "Failed to deregister service, it is not there: service=%s", service_id
                )
                return False
            check_ids = tuple(check.check_id for check in self.checks_of(service_id))
            await self._store(Changes(drop_services=(service_id,), drop_checks=check_ids))
            self._drop_service(service_id)
        return True

    async def add_check(self, definition: CheckDefinition, *, source: str = FROM_API) -> None:
        """Register a check, of the node or of a service that is there. Raises as `add_service`."""
        async with self._registering:
            prepared = self._prepare(self._complete(definition), source)
            self._require_service(prepared.definition.service_id)
            await self._store(
                Changes(save_checks=(StoredCheck(check=prepared.definition),)), source
            )
            self._put_check(prepared, source)

    async def remove_check(self, check_id: str) -> bool:
        """Remove a check; False when there is none. Raises `Rejected`."""
        if not check_id:
            raise Rejected("CheckID missing")
        async with self._registering:
            if check_id not in self._checks:
                return False
            await self._store(Changes(drop_checks=(check_id,)))
            self._drop_check(check_id)
        return True

    def update_ttl(self, check_id: str, status: str, output: str) -> None:
        """The application reports. Raises `Rejected` when the check has no TTL."""
        check = self._checks.get(check_id)
        if check is None or not isinstance(check.runner, TtlRunner):
            raise Rejected(f"CheckID {quote(check_id)} does not have associated TTL")
        output = _capped(output, self._output_bytes_max(check.definition))
        check.runner.refresh(output)
        self._set_state(check, status, output)
        if self._persistence is not None:
            expires = self._clock.wall() + check.definition.ttl_ns / SECOND
            self._persistence.note_state(
                TtlState(check_id=check_id, status=status, output=output, expires=expires)
            )

    # Maintenance mode

    async def enable_service_maintenance(self, service_id: str, reason: str = "") -> None:
        """Raises `NotFound`. Asked for twice, the first reason stays."""
        self._require_maintainable(service_id)
        if SERVICE_MAINTENANCE_PREFIX + service_id not in self._checks:
            await self._add_maintenance(service_maintenance_check(service_id, reason))
            logger.info("Service entered maintenance mode: service=%s", service_id)

    async def disable_service_maintenance(self, service_id: str) -> None:
        """Raises `NotFound`."""
        self._require_maintainable(service_id)
        if await self.remove_check(SERVICE_MAINTENANCE_PREFIX + service_id):
            logger.info("Service left maintenance mode: service=%s", service_id)

    async def enable_node_maintenance(self, reason: str = "") -> None:
        if NODE_MAINTENANCE_ID not in self._checks:
            await self._add_maintenance(node_maintenance_check(reason))
            logger.info("Node entered maintenance mode")

    async def disable_node_maintenance(self) -> None:
        if await self.remove_check(NODE_MAINTENANCE_ID):
            logger.info("Node left maintenance mode")

    def _require_maintainable(self, service_id: str) -> None:
        if service_id not in self._services:
            raise NotFound(f"No service registered with ID {quote(service_id)}")

    async def _add_maintenance(self, definition: CheckDefinition) -> None:
        prepared = _Prepared(definition, "maintenance", None)
        async with self._registering:
            if definition.service_id:
                self._require_maintainable(definition.service_id)
            stored = StoredCheck(check=definition, type=prepared.type_name)
            await self._store(Changes(save_checks=(stored,)))
            self._put_check(prepared, FROM_API)

    # Files

    async def apply_definitions(
        self, services: Iterable[ServiceDefinition], checks: Iterable[CheckDefinition]
    ) -> DefinitionChanges:
        """Make these the definitions that come from files: a difference, not a new beginning.

        What is unchanged is not touched: its checks run on and keep their state. A changed check
        keeps its state too, until its next run. What a file defined before and no longer does is
        removed; what was registered over HTTP stays, unless a file now defines the same id.

        Raises `ConfigError` when a definition can not be run; then nothing has changed.
        """
        async with self._registering:
            plan = self._plan(services, checks)
            forgotten = self._forgotten(plan)
            if forgotten != Changes():
                await self._store(forgotten)
            return self._carry_out(plan)

    def _forgotten(self, plan: _Plan) -> Changes:
        """Stored registrations that the plan replaces, or that go with a service."""
        checks = {*plan.checks, *plan.gone_checks}
        for service_id in plan.gone_services:
            checks.update(check.check_id for check in self.checks_of(service_id))
        return Changes(
            drop_services=tuple(_registered_over_http(self._services, plan.services)),
            drop_checks=tuple(_registered_over_http(self._checks, checks)),
        )

    def _plan(
        self, services: Iterable[ServiceDefinition], checks: Iterable[CheckDefinition]
    ) -> _Plan:
        plan = _Plan()
        wanted_services: dict[str, ServiceDefinition] = {}
        wanted_checks: dict[str, CheckDefinition] = {}
        for service in services:
            complete = complete_service(service)
            wanted_services[complete.id] = complete
            wanted_checks |= {check.id: check for check in self._complete_of(service)}
        wanted_checks |= {each.id: each for each in map(self._complete, checks)}
        for service_id, service in wanted_services.items():
            present = self._services.get(service_id)
            if present is None or present.source != FROM_FILE or present.given != service:
                plan.services[service_id] = service
        for check_id, check in wanted_checks.items():
            found = self._checks.get(check_id)
            if found is None or found.source != FROM_FILE or found.definition != check:
                plan.checks[check_id] = self._prepare_from_file(check, wanted_services)
        plan.gone_services = [
            service_id
            for service_id, present in self._services.items()
            if present.source == FROM_FILE and service_id not in wanted_services
        ]
        plan.gone_checks = [
            check_id
            for check_id, found in self._checks.items()
            if found.source == FROM_FILE and check_id not in wanted_checks
        ]
        return plan

    def _prepare_from_file(
        self, check: CheckDefinition, services: Mapping[str, ServiceDefinition]
    ) -> _Prepared:
        where = f"check {check.id or check.name}"
        try:
            if check.service_id not in services:
                self._require_service(check.service_id)
            return self._prepare(check, FROM_FILE)
        except (Rejected, DefinitionRefused) as problem:
            raise ConfigError(str(problem), field=where) from problem

    def _carry_out(self, plan: _Plan) -> DefinitionChanges:
        before = {f"service {each}" for each in self._services}
        before |= {f"check {each}" for each in self._checks}
        put = [f"service {each}" for each in plan.services]
        put += [f"check {each}" for each in plan.checks]
        removed = [f"service {each}" for each in plan.gone_services]
        removed += [f"check {each}" for each in plan.gone_checks]
        for service in plan.services.values():
            self._put_service(service, FROM_FILE)
        for check in plan.checks.values():
            self._put_check(check, FROM_FILE)
        for check_id in plan.gone_checks:
            self._drop_check(check_id)
        for service_id in plan.gone_services:
            self._drop_service(service_id)
        return DefinitionChanges(
            added=tuple(item for item in put if item not in before),
            changed=tuple(item for item in put if item in before),
            removed=tuple(removed),
        )

    # After a restart

    async def _restore_checks(self, stored: Iterable[StoredCheck]) -> None:
        overridden: list[str] = []
        for item in stored:
            if item.check.id in self._checks:
                overridden.append(item.check.id)
            else:
                self._restore_check(item)
        if overridden:
            logger.info("files define checks that were registered over HTTP: checks=%s", overridden)
            await self._store(Changes(drop_checks=tuple(overridden)))

    def _restore_check(self, stored: StoredCheck) -> None:
        """Critical until its first run: what it was before the restart may long be untrue."""
        definition = replace(stored.check, status="")
        try:
            self._require_service(definition.service_id)
            if stored.type:
                prepared = _Prepared(definition, stored.type, None)
            else:
                prepared = self._prepare(definition, FROM_API)
        except (Rejected, DefinitionRefused) as problem:
            logger.error(
                "cannot restore a check, it is skipped and kept on disk: check=%s error=%s",
                definition.id,
                problem,
            )
            return
        self._put_check(prepared, FROM_API)

    # The parts of a change. None of them waits, so nobody sees half of one.

    def _prepare(self, definition: CheckDefinition, source: str) -> _Prepared:
        if not definition.id:
            raise Rejected("CheckID missing")
        refuse_scripts(
            definition,
            source="file" if source == FROM_FILE else "http",
            enable_script_checks=self.settings.scripts_from_api,
            enable_local_script_checks=self.settings.scripts_from_files,
        )
        if reason := check_problem(definition):
            raise DefinitionRefused(f"Check is not valid: {reason}")
        key = check_key(definition)
        kind = self._check_types(key)
        if kind is None:
            raise DefinitionRefused(f'check {definition.id}: there is no check type "{key}"')
        try:
            runner = kind.create(definition)
        except ValueError as problem:
            raise DefinitionRefused(f"Check is not valid: {problem}") from problem
        return _Prepared(definition, kind.type_name, runner)

    def _require_service(self, service_id: str) -> None:
        if service_id and service_id not in self._services:
            raise Rejected(f"ServiceID {quote(service_id)} does not exist")

    def _complete(self, definition: CheckDefinition) -> CheckDefinition:
        """With its times raised to the least that is allowed."""
        complete, warnings = with_minimums(
            complete_check(definition),
            deregister_after_ns_min=self.settings.deregister_after_min_ns,
        )
        for warning in warnings:
            logger.warning("%s", warning)
        return complete

    def _complete_of(self, service: ServiceDefinition) -> list[CheckDefinition]:
        return [self._complete(check) for check in complete_service_checks(service)]

    async def _store(self, changes: Changes, source: str = FROM_API) -> None:
        if self._persistence is not None and source == FROM_API:
            await self._persistence.apply(changes)

    def _put_service(self, service: ServiceDefinition, source: str) -> None:
        self._services[service.id] = LocalService(service, service, source, self._next_version())
        self.removed_services.discard(service.id)
        if source == FROM_FILE:
            # A file tells of all checks; whoever registers only of those that come along, and
            # the others go on showing what they were registered with.
            for check in self.checks_of(service.id):
                check.service_name, check.service_tags = service.name, service.tags
        self._unsynced_services[service.id] = None
        self._changed(("service", service.id))

    def _put_check(self, prepared: _Prepared, source: str) -> None:
        definition = prepared.definition
        service = self._services.get(definition.service_id)
        before = self._checks.get(definition.id)
        check = LocalCheck(
            definition=definition,
            type_name=prepared.type_name,
            source=source,
            runner=prepared.runner,
            status=definition.status or CRITICAL,
            output="",
            service_name=service.definition.name if service else "",
            service_tags=service.definition.tags if service else (),
            version=self._next_version(),
        )
        if before is not None:
            check.status, check.output = before.status, before.output
            check.critical_since = before.critical_since
        elif (state := self._states.get(definition.id)) is not None and definition.ttl_ns:
            check.status, check.output = state.status, state.output
        if check.status == CRITICAL and check.critical_since is None:
            check.critical_since = self._clock.monotonic()
        if before is not None:
            self._unlist(before)
        self._checks[definition.id] = check
        self._check_ids.setdefault(definition.service_id, {})[definition.id] = None
        self.removed_checks.pop(definition.id, None)
        self._unsynced_checks[definition.id] = None
        self._start_runner(check)
        self._changed(("checks", definition.service_id))

    def _start_runner(self, check: LocalCheck) -> None:
        runner, definition = check.runner, check.definition
        if runner is None:
            self._scheduler.stop(check.check_id)
            return
        if isinstance(runner, NeedsContext):
            runner.bind(self._context(definition))
        if isinstance(runner, TtlRunner):
            runner.remember(check.output)

        def report(result: CheckResult) -> None:
            if self._checks.get(check.check_id) is check:  # else: a run of before a change
                limit = self._output_bytes_max(definition) + _WORDS_BYTES_MAX
                self._set_state(check, result.status, _capped(result.output, limit))

        self._scheduler.start(
            check.check_id,
            lambda: run_check(runner, definition, report, clock=self._clock, chance=self._chance),
        )

    def _context(self, definition: CheckDefinition) -> CheckContext:
        return CheckContext(
            check_id=definition.id,
            node_name=self.node_name,
            output_bytes_max=self._output_bytes_max(definition),
            local=self,
            backend=self._backend,
            clock=self._clock,
            http=self.http_clients,
        )

    def _output_bytes_max(self, definition: CheckDefinition) -> int:
        limit = self.settings.output_bytes_max
        return min(definition.output_max_size or limit, limit)

    def _drop_service(self, service_id: str) -> None:
        for check in self.checks_of(service_id):
            self._drop_check(check.check_id)
        del self._services[service_id]
        self._unsynced_services.pop(service_id, None)
        self.removed_services.add(service_id)
        self._changed(("service", service_id))

    def _drop_check(self, check_id: str) -> None:
        check = self._checks.pop(check_id, None)
        if check is None:
            return
        self._scheduler.stop(check_id)
        self._unlist(check)
        self._unsynced_checks.pop(check_id, None)
        self.removed_checks[check_id] = check.service_id
        if self._persistence is not None and isinstance(check.runner, TtlRunner):
            self._persistence.drop_state(check_id)
        self._changed(("checks", check.service_id))

    def _unlist(self, check: LocalCheck) -> None:
        siblings = self._check_ids[check.service_id]
        del siblings[check.check_id]
        if not siblings:
            del self._check_ids[check.service_id]

    def _next_version(self) -> int:
        self._versions += 1
        return self._versions

    def _changed(self, topic: Topic) -> None:
        self.topics.publish(frozenset({topic}))
        if self._synchroniser is not None:
            self._synchroniser.wake()

    # States of checks

    def _set_state(self, check: LocalCheck, status: str, output: str) -> None:
        """Take a result. Changed output alone reaches the catalog only after a while."""
        if self.settings.discard_output:
            output = ""
        if status != CRITICAL:
            check.critical_since = None
        elif check.critical_since is None:
            check.critical_since = self._clock.monotonic()
        if (check.status, check.output) == (status, output):
            return
        output_only = check.status == status
        check.status, check.output = status, output
        check.version = self._next_version()
        if output_only and check.in_sync and self.settings.update_interval_ns > 0:
            self._defer_output(check)
        else:
            check.output_due = None
            self._mark_check(check)
            self._changed(("checks", check.service_id))

    def _defer_output(self, check: LocalCheck) -> None:
        """Between a half and one and a half intervals from the first change on, so that the checks
        of many agents, which all change at once after an incident, do not write at once too."""
        if check.output_due is not None:
            return
        interval_s = self.settings.update_interval_ns / SECOND
        due = self._clock.monotonic() + interval_s * self._chance.uniform(0.5, 1.5)
        check.output_due = due
        heapq.heappush(self._outputs_due, (due, check.check_id))
        if self._synchroniser is not None:
            self._synchroniser.wake()

    async def _reap(self) -> None:
        """Remove services whose check has been critical for longer than the check allows."""
        while True:
            await pause(self._clock, self.settings.reap_interval_ns / SECOND)
            for check in self._overdue():
                await self._give_up(check)

    async def _give_up(self, check: LocalCheck) -> None:
        try:
            removed = await self.remove_service(check.service_id)
        except RegistryError as problem:
            logger.error(
                "failed to deregister a critical service: service=%s error=%s",
                check.service_id,
                problem,
            )
            return
        if removed:
            logger.info(
                "Check for service has been critical for too long; deregistered service: "
                "service=%s check=%s",
                check.service_id,
                check.check_id,
            )

    def _overdue(self) -> list[LocalCheck]:
        now = self._clock.monotonic()
        return [check for check in self._checks.values() if self._is_overdue(check, now)]

    def _is_overdue(self, check: LocalCheck, now: float) -> bool:
        after_ns = check.definition.deregister_critical_service_after_ns
        if not after_ns or not check.service_id or check.critical_since is None:
            return False
        after_s = max(after_ns, self.settings.deregister_after_min_ns) / SECOND
        return now - check.critical_since >= after_s

    # What anti-entropy tells and asks

    def next_output_due(self) -> float | None:
        """When deferred output is next to be written, on the clock's monotonic time."""
        return self._outputs_due[0][0] if self._outputs_due else None

    def release_due_outputs(self) -> None:
        """Mark checks whose deferred output is due."""
        now = self._clock.monotonic()
        while self._outputs_due and self._outputs_due[0][0] <= now:
            due, check_id = heapq.heappop(self._outputs_due)
            check = self._checks.get(check_id)
            if check is not None and check.output_due == due:
                check.output_due = None
                self._mark_check(check)

    def _mark_check(self, check: LocalCheck) -> None:
        check.in_sync = False
        self._unsynced_checks[check.check_id] = None

    def unsynced_services(self) -> list[LocalService]:
        return [self._services[each] for each in self._unsynced_services]

    def unsynced_checks(self) -> list[LocalCheck]:
        return [self._checks[each] for each in self._unsynced_checks]

    def service_synced(self, service_id: str, version: int) -> None:
        """The catalog has the service as it was at `version`."""
        service = self._services.get(service_id)
        if service is not None and service.version == version:
            service.in_sync = True
            self._unsynced_services.pop(service_id, None)

    def check_synced(self, check_id: str, version: int) -> None:
        check = self._checks.get(check_id)
        if check is not None and check.version == version:
            check.in_sync = True
            check.output_due = None
            self._unsynced_checks.pop(check_id, None)

    def service_differs(self, service_id: str) -> None:
        """The catalog does not have it, or has something else."""
        if (service := self._services.get(service_id)) is not None:
            service.in_sync = False
            self._unsynced_services[service_id] = None

    def check_differs(self, check_id: str) -> None:
        if (check := self._checks.get(check_id)) is not None:
            self._mark_check(check)

    def take_tags(self, service_id: str, tags: tuple[str, ...]) -> None:
        """The catalog's tags win over the agent's, for a service with EnableTagOverride."""
        service = self._services.get(service_id)
        if service is not None and service.definition.tags != tags:
            service.definition = replace(service.definition, tags=tags)
            for check in self.checks_of(service_id):
                check.service_tags = tags
            self.topics.publish(frozenset({("service", service_id)}))


def _registered_over_http(
    items: Mapping[str, LocalService] | Mapping[str, LocalCheck], ids: Iterable[str]
) -> list[str]:
    return sorted(each for each in ids if each in items and items[each].source == FROM_API)


def _capped(output: str, limit: int) -> str:
    """The beginning of an output that is over the limit, saying so."""
    raw = output.encode("utf-8", "replace")
    if len(raw) <= limit:
        return output
    beginning = raw[:limit].decode("utf-8", "ignore")
    return f"{beginning} ... (captured {limit} of {len(raw)} bytes)"
