"""What is registered with this agent, by id, and who waits for a change of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType

from registry.agent.definitions import CheckDefinition, ServiceDefinition
from registry.errors import NotFound, Rejected
from registry.hooks import CheckRunner
from registry.state.quote import quote
from registry.state.topics import Topic, TopicHub, Waiter

#: Where a record comes from.
FROM_API, FROM_FILE = "api", "file"


@dataclass(slots=True)
class LocalService:
    """One service instance. Read it; only the parts of `LocalState` change it.

    `version` grows with every change, which is how a sync that was overtaken is noticed.
    """

    definition: ServiceDefinition  # complete; tags may be the catalog's (EnableTagOverride)
    given: ServiceDefinition  # complete, as registered
    source: str
    version: int
    in_sync: bool = False


@dataclass(slots=True)
class LocalCheck:
    """One check and its state. Read it; only the parts of `LocalState` change it."""

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


class Records:
    """The services and checks of this node; a `LocalView` for those checks that follow others."""

    def __init__(self) -> None:
        self._services: dict[str, LocalService] = {}
        self._checks: dict[str, LocalCheck] = {}
        self._check_ids: dict[str, dict[str, None]] = {}  # by service id, "" = the node's own
        self._versions = 0
        #: Changes here: ("service", id) and ("checks", service id or "").
        self._topics = TopicHub()
        self.services: Mapping[str, LocalService] = MappingProxyType(self._services)
        self.checks: Mapping[str, LocalCheck] = MappingProxyType(self._checks)

    # Reading

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

    def require_service(self, service_id: str) -> None:
        """Raises `NotFound`."""
        if service_id not in self._services:
            raise NotFound(f"No service registered with ID {quote(service_id)}")

    def require_owner(self, service_id: str) -> None:
        """Raises `Rejected` unless a check may belong there: to a service, or "" for the node."""
        if service_id and service_id not in self._services:
            raise Rejected(f"ServiceID {quote(service_id)} does not exist")

    def checks_of(self, service_id: str, *, with_node: bool = False) -> list[LocalCheck]:
        """The service's checks, with those of the node itself if asked for."""
        owners = (service_id, "") if with_node else (service_id,)
        return [self._checks[each] for owner in owners for each in self._check_ids.get(owner, ())]

    # Changing

    def next_version(self) -> int:
        self._versions += 1
        return self._versions

    def put_service(self, service: LocalService) -> None:
        self._services[service.definition.id] = service

    def put_check(self, check: LocalCheck) -> None:
        if (before := self._checks.get(check.check_id)) is not None:
            self._unlist(before)
        self._checks[check.check_id] = check
        self._check_ids.setdefault(check.service_id, {})[check.check_id] = None

    def drop_service(self, service_id: str) -> None:
        del self._services[service_id]

    def drop_check(self, check_id: str) -> LocalCheck | None:
        """The check that was there."""
        check = self._checks.pop(check_id, None)
        if check is not None:
            self._unlist(check)
        return check

    def _unlist(self, check: LocalCheck) -> None:
        siblings = self._check_ids[check.service_id]
        del siblings[check.check_id]
        if not siblings:
            del self._check_ids[check.service_id]

    # Waiting

    def waiting(self, service_id: str) -> AbstractContextManager[Waiter]:
        """Woken when the service, a check of it or a check of the node changes."""
        return self._topics.waiting(
            (("service", service_id), ("checks", service_id), ("checks", ""))
        )

    def waiting_for_service(self, service_id: str) -> AbstractContextManager[Waiter]:
        """Woken when the service's own definition changes, comes or goes."""
        return self._topics.waiting((("service", service_id),))

    def publish(self, topic: Topic) -> None:
        """Wake who waits for that."""
        self._topics.publish(frozenset({topic}))
