"""What a watch waits for: its type turned into a source of successive answers.

A source is asked for the answer that is newer than an index, and sleeps until there is one; no
source polls. Indexes come from the catalog, from events (where they only tell different from
equal), or, for an agent's own service, from counting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from registry.agent.definitions import WatchDefinition
from registry.agent.facade import AgentFacade, Events
from registry.agent.local.state import LocalState
from registry.errors import ConfigError
from registry.state.base import Query, ReadOptions
from registry.state.catalog_queries import ListNodes, ListServices
from registry.state.health import ChecksInState, ServiceChecks, ServiceHealth
from registry.state.kv import KvGet, KvList
from registry.watch_views import event_index

#: One blocking read; an unchanged answer after it costs one message.
WAIT_S = 300.0

#: Fields that each type takes, beside those of every watch.
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "key": ("key",),
    "keyprefix": ("prefix",),
    "services": (),
    "nodes": (),
    "service": ("service", "tags", "passing_only"),
    "checks": ("service", "state"),
    "event": ("name",),
    "agent_service": ("service_id",),
}
_REQUIRED = {
    "key": "key", "keyprefix": "prefix", "service": "service", "agent_service": "service_id",
}  # fmt: skip
_OWN_FIELDS = tuple(sorted({name for names in _FIELDS.values() for name in names}))
#: Where the definition's field is not spelt like the key that users write.
_SPELLING = {"tags": "tag", "passing_only": "passingonly"}


class Source(Protocol):
    """Where the answers of one watch come from."""

    async def next(self, index: int) -> tuple[int, Any]:
        """The first answer that is not the one of `index` (0: any), with its index.

        It may also be the same answer again. Raises `RegistryError`.
        """
        ...


def make_source(definition: WatchDefinition, facade: AgentFacade) -> Source:
    """Raises `ConfigError` for a watch that makes no sense."""
    _check_parameters(definition)
    if definition.datacenter and definition.datacenter.lower() != facade.datacenter.lower():
        raise ConfigError(f"No path to datacenter {definition.datacenter}", field="watches")
    if definition.type == "event":
        return EventSource(facade.events, definition.name)
    if definition.type == "agent_service":
        return AgentServiceSource(facade.local, definition.service_id)
    mode = "stale" if definition.stale else "default"
    options = ReadOptions(datacenter=facade.datacenter, mode=mode, wait_ms=int(WAIT_S * 1000))
    shape = _with_key(definition) if definition.type == "key" else None
    return QuerySource(facade, _QUERIES[definition.type](definition), options, shape)


def _check_parameters(definition: WatchDefinition) -> None:
    known = _FIELDS.get(definition.type)
    if known is None:
        raise ConfigError(f"Unsupported watch type: {definition.type}", field="watches")
    wrong = [name for name in _OWN_FIELDS if name not in known and getattr(definition, name)]
    if definition.stale and definition.type in ("event", "agent_service"):
        wrong.append("stale")
    if wrong:
        names = " ".join(_SPELLING.get(name, name) for name in wrong)
        raise ConfigError(f"Invalid parameters: [{names}]", field="watches")
    needed = _REQUIRED.get(definition.type)
    if needed is not None and not getattr(definition, needed):
        raise ConfigError(f"Must specify a single {needed} to watch", field="watches")
    if definition.type == "checks" and definition.service and definition.state:
        raise ConfigError("Cannot specify service and state", field="watches")


_QUERIES: Mapping[str, Callable[[WatchDefinition], Query]] = {
    "key": lambda watch: KvGet(key=watch.key.encode("utf-8", "surrogateescape")),
    "keyprefix": lambda watch: KvList(prefix=watch.prefix.encode("utf-8", "surrogateescape")),
    "services": lambda watch: ListServices(),
    "nodes": lambda watch: ListNodes(),
    "service": lambda watch: ServiceHealth(
        name=watch.service, tags=watch.tags or None, passing_only=watch.passing_only
    ),
    "checks": lambda watch: (
        ServiceChecks(name=watch.service)
        if watch.service
        else ChecksInState(state=watch.state or "any")
    ),
}


def _with_key(definition: WatchDefinition) -> Callable[[Any], Any]:
    """An entry does not know its key; it is shown as part of it."""
    key = definition.key.encode("utf-8", "surrogateescape")
    return lambda entry: None if entry is None else (key, entry)


class QuerySource:
    """Blocking reads of the replicated state."""

    def __init__(
        self,
        facade: AgentFacade,
        query: Query,
        options: ReadOptions,
        shape: Callable[[Any], Any] | None,
    ) -> None:
        self._facade = facade
        self._query = query
        self._options = options
        self._shape = shape

    async def next(self, index: int) -> tuple[int, Any]:
        options = ReadOptions(
            datacenter=self._options.datacenter,
            mode=self._options.mode,
            wait_ms=self._options.wait_ms,
            min_index=index,
        )
        result = await self._facade.read(self._query, options)
        value = result.value if self._shape is None else self._shape(result.value)
        return result.index, value


class EventSource:
    """Events of one name, or all: first those that are kept, then the new ones."""

    def __init__(self, events: Events, name: str) -> None:
        self._events = events
        self._name = name
        self._started = False

    async def next(self, index: int) -> tuple[int, Any]:
        while True:
            found = self._events.list(self._name)
            last = event_index(found[-1].id) if found else 0
            if last != index or not self._started:
                self._started = True
                indexes = [event_index(event.id) for event in found]
                new = indexes.index(index) + 1 if index in indexes else 0
                return last, found[new:]
            await self._events.wait(WAIT_S)


class AgentServiceSource:
    """A service of this agent; there is no answer while it is not registered."""

    def __init__(self, local: LocalState, service_id: str) -> None:
        self._local = local
        self._service_id = service_id
        self._seen: tuple[int, Any] | None = None
        self._count = 0

    async def next(self, index: int) -> tuple[int, Any]:
        while True:
            with self._local.waiting_for_service(self._service_id) as waiter:
                service = self._local.services.get(self._service_id)
                if service is not None:
                    seen = (service.version, service.definition)
                    if seen != self._seen or not index:
                        self._seen = seen
                        self._count += 1
                        return self._count, service
                await waiter.event.wait()
