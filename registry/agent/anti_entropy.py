"""Anti-entropy: the catalog follows the local state, whatever happened to either.

Two movements. A *partial* sync runs at once on every change and writes what is marked as not yet in
the catalog. A *full* sync runs now and then, reads what the catalog has of this node, marks what
differs, and does the same; it heals what others changed. Both run under one lock, so that a
comparison never sees half of a write of our own.

Of a service with EnableTagOverride the catalog's tags win. What the catalog has and this node does
not is removed, except the gossip check and the servers' own service, which the leader keeps.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from msgspec.structs import replace

from registry.agent.clock import Clock, LoopClock, Wakeup
from registry.agent.facade import Backend
from registry.agent.local.records import LocalCheck, LocalService
from registry.agent.local.state import LocalState
from registry.agent.services import SERF_CHECK_ID, SERVERS_SERVICE_ID
from registry.errors import RegistryError, Rejected
from registry.state.base import Command, ReadOptions, Refused
from registry.state.catalog_commands import Deregister, Register
from registry.state.catalog_queries import NodeServices, NodeServicesResult
from registry.state.catalog_records import Check, Node, Service, ServiceAddress, Weights
from registry.state.health import NodeChecks

logger = logging.getLogger("registry.agent")

Write = Callable[[], Awaitable[None]]

INTERVAL_S = 60.0
#: Pause after a failed sync, doubled with each further one. Short at first: the usual failure is
#: an election, which is over in a second; long in the end: a thousand agents must not add to an
#: outage.
RETRY_S, RETRY_S_MAX = 0.25, 15.0
#: Up to this many nodes the interval is not stretched.
UNSCALED_NODES = 128
#: Writes under way at once: enough to share the servers' group commits, few enough not to crowd
#: out other writers when an agent with thousands of services starts.
WRITES_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the catalog is to say of this node."""

    name: str
    id: str
    address: str
    datacenter: str
    tagged_addresses: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)


def scale_factor(nodes: int) -> int:
    """How much longer the interval is in a pool of that size: once more for each doubling."""
    if nodes <= UNSCALED_NODES:
        return 1
    return math.ceil(math.log2(nodes) - math.log2(UNSCALED_NODES)) + 1


class AntiEntropy:
    """Keeps the catalog equal to `local`.

    Args:
        local: the truth; this object attaches itself to it.
        backend: where the catalog is.
        facts: this node; replaced by `set_facts` when a reload changes its metadata.
        interval_s: between full syncs, before scaling.
        cluster_size: how many nodes the pool has now.

    Use: `await run()` in a task. `sync_changes` may be awaited from anywhere.
    """

    def __init__(
        self,
        local: LocalState,
        backend: Backend,
        facts: NodeFacts,
        *,
        interval_s: float = INTERVAL_S,
        cluster_size: Callable[[], int] = lambda: 1,
        clock: Clock | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self._local = local
        self._marks = local.sync_marks
        self._outputs = local.deferred_outputs
        self._backend = backend
        self._facts = facts
        self._interval_s = interval_s
        self._cluster_size = cluster_size
        self._clock = clock or LoopClock()
        self._chance = chance or random.Random()
        self._wakeup = Wakeup(self._clock)
        self._syncing = asyncio.Lock()
        self._node_in_sync = False
        self._full_due = self._clock.monotonic()
        self._failures = 0
        self._marks.attach(self)

    # Telling it

    def wake(self) -> None:
        self._wakeup.set()

    def trigger_full(self) -> None:
        """Do a full sync now: a server was found, or somebody has reason to think it is needed."""
        self._full_due = self._clock.monotonic()
        self._failures = 0
        self._wakeup.set()

    def set_facts(self, facts: NodeFacts) -> None:
        if facts != self._facts:
            self._facts = facts
            self._node_in_sync = False
            self._wakeup.set()

    # Running

    async def run(self) -> None:
        """Sync on changes and at intervals until cancelled."""
        while True:
            try:
                await self._sync_what_is_due()
                self._failures = 0
            except RegistryError as problem:
                self._failures += 1
                logger.warning("failed to sync, will try again: error=%s", problem)
                await self._back_off()
                continue
            await self._wakeup.wait(self._until_next())

    async def _sync_what_is_due(self) -> None:
        if self._clock.monotonic() >= self._full_due:
            await self.sync_full()
            interval = self._interval_s * scale_factor(self._cluster_size())
            self._full_due = self._clock.monotonic() + interval * self._chance.uniform(1.0, 2.0)
        else:
            self._outputs.release_due()
            await self.sync_changes()

    def _until_next(self) -> float:
        due = self._outputs.next_due()
        next_due = self._full_due if due is None else min(due, self._full_due)
        return max(0.0, next_due - self._clock.monotonic())

    async def _back_off(self) -> None:
        """Wait before the next try. Changes meanwhile do not shorten it; `trigger_full` does."""
        longest = min(RETRY_S * 2 ** (self._failures - 1), RETRY_S_MAX)
        until = self._clock.monotonic() + longest * self._chance.uniform(1.0, 2.0)
        while self._failures and (left := until - self._clock.monotonic()) > 0:
            await self._wakeup.wait(left)

    # Syncing

    async def sync_changes(self) -> None:
        """Write everything that is marked. Raises the first `RegistryError`; the rest is done.

        A refusal can mean that the catalog is not what we believe (somebody removed the service
        of a check, say), so a failure brings the next full sync forward.
        """
        async with self._syncing:
            try:
                await self._write_marked()
            except RegistryError:
                self._full_due = self._clock.monotonic()
                self._wakeup.set()
                raise

    async def sync_full(self) -> None:
        """Compare with the catalog, then write what differs. Raises `RegistryError`."""
        async with self._syncing:
            await self._compare()
            await self._write_marked()

    async def _compare(self) -> None:
        options = ReadOptions(datacenter=self._facts.datacenter)
        known = (await self._backend.read(NodeServices(node=self._facts.name), options)).value
        checks = (await self._backend.read(NodeChecks(node=self._facts.name), options)).value
        # Nothing waits between here and the end: local changes can not fall in between.
        self._node_in_sync = known is not None and self._is_same_node(known)
        self._compare_services({} if known is None else {each.id: each for each in known.services})
        self._compare_checks({check.check_id: check for check in checks})

    def _is_same_node(self, known: NodeServicesResult) -> bool:
        node: Node = known.node
        return (node.id, node.address) == (self._facts.id, self._facts.address) and (
            node.tagged_addresses or {},
            node.meta or {},
        ) == (self._facts.tagged_addresses, self._facts.meta)

    def _compare_services(self, remote: Mapping[str, Service]) -> None:
        for service_id, service in self._local.services.items():
            there = remote.get(service_id)
            if there is not None and service.definition.enable_tag_override:
                self._marks.take_tags(service_id, there.tags or ())
            if there is None or not same_service(catalog_service(service), there):
                self._marks.service_differs(service_id)
        for service_id in remote.keys() - self._local.services.keys():
            if service_id != SERVERS_SERVICE_ID:
                self._marks.removed_services.add(service_id)

    def _compare_checks(self, remote: Mapping[str, Check]) -> None:
        for check_id, check in self._local.checks.items():
            there = remote.get(check_id)
            if there is None or not same_check(check, there):
                self._marks.check_differs(check_id)
        for check_id in remote.keys() - self._local.checks.keys():
            there = remote[check_id]
            if check_id != SERF_CHECK_ID and there.service_id != SERVERS_SERVICE_ID:
                self._marks.removed_checks[check_id] = there.service_id

    async def _write_marked(self) -> None:
        await self._all(self._removals())
        if not self._node_in_sync:
            # Alone and first: the others then need not repeat it, and may go side by side.
            await self._register_node()
        await self._all(self._registrations())

    def _removals(self) -> list[Write]:
        """Services first: their checks in the catalog go with them."""
        services = set(self._marks.removed_services)
        alone = [
            check_id
            for check_id, service_id in self._marks.removed_checks.items()
            if service_id not in services
        ]
        return [
            *(partial(self._remove_service, service_id) for service_id in sorted(services)),
            *(partial(self._remove_check, check_id) for check_id in alone),
        ]

    async def _remove_service(self, service_id: str) -> None:
        await self._write(Deregister(node=self._facts.name, service_id=service_id))
        if service_id in self._local.services:
            # Registered again while it was being removed.
            self._marks.service_differs(service_id)
            for check in self._local.checks_of(service_id):
                self._marks.check_differs(check.check_id)
        self._marks.removed_services.discard(service_id)
        for check_id, owner in list(self._marks.removed_checks.items()):
            if owner == service_id:
                del self._marks.removed_checks[check_id]
        logger.info("Deregistered service: service=%s", service_id)

    async def _remove_check(self, check_id: str) -> None:
        await self._write(Deregister(node=self._facts.name, check_id=check_id))
        if check_id in self._local.checks:
            self._marks.check_differs(check_id)
        self._marks.removed_checks.pop(check_id, None)
        logger.info("Deregistered check: check=%s", check_id)

    async def _register_node(self) -> None:
        facts = self._facts
        await self._write(self._register())
        self._node_in_sync = facts == self._facts
        logger.info("Synced node info")

    def _registrations(self) -> list[Write]:
        marked: dict[str, list[LocalCheck]] = {}
        for check in self._marks.unsynced_checks():
            marked.setdefault(check.service_id, []).append(check)
        writes: list[Write] = [
            partial(self._register_together, None, [check]) for check in marked.pop("", ())
        ]
        services = {service.definition.id: service for service in self._marks.unsynced_services()}
        services |= {service_id: self._local.services[service_id] for service_id in marked}
        for service_id, service in services.items():
            writes.append(partial(self._register_together, service, marked.get(service_id, [])))
        return writes

    async def _register_together(
        self, service: LocalService | None, checks: list[LocalCheck]
    ) -> None:
        """One write for a service with its checks: nobody sees the one without the others."""
        writes_service = service is not None and not service.in_sync
        version = service.version if service is not None else 0
        versions = [(check.check_id, check.version) for check in checks]
        await self._write(
            replace(
                self._register(),
                service=catalog_service(service)
                if service is not None and writes_service
                else None,
                checks=tuple(catalog_check(check, self._facts.name) for check in checks),
                skip_node_update=True,
            )
        )
        if service is not None and writes_service:
            self._marks.service_synced(service.definition.id, version)
            logger.info("Synced service: service=%s", service.definition.id)
        for check_id, check_version in versions:
            self._marks.check_synced(check_id, check_version)
            logger.info("Synced check: check=%s", check_id)

    def _register(self) -> Register:
        facts = self._facts
        return Register(
            node=facts.name,
            id=facts.id,
            address=facts.address,
            datacenter=facts.datacenter,
            tagged_addresses=dict(facts.tagged_addresses),
            node_meta=dict(facts.meta),
        )

    async def _write(self, command: Command) -> None:
        result: Any = await self._backend.write(command)
        if isinstance(result, Refused):
            raise Rejected(result.reason)

    async def _all(self, writes: Sequence[Write]) -> None:
        """Do all, some at once; one that fails does not keep the others from being done."""
        places = asyncio.Semaphore(WRITES_AT_ONCE)
        problems: list[RegistryError] = []

        async def guarded(write: Write) -> None:
            async with places:
                try:
                    await write()
                except RegistryError as problem:
                    problems.append(problem)

        if len(writes) == 1:  # the usual case is not worth a task
            await writes[0]()
            return
        async with asyncio.TaskGroup() as group:
            for write in writes:
                group.create_task(guarded(write))
        if problems:
            raise problems[0]


# The local records in the catalog's form, and when that is the same as what the catalog has.


def catalog_service(service: LocalService) -> Service:
    given = service.definition
    weights = given.weights
    return Service(
        id=given.id,
        name=given.name,
        kind=given.kind,
        tags=given.tags or None,
        address=given.address,
        tagged_addresses={
            name: ServiceAddress(each.address, each.port)
            for name, each in given.tagged_addresses.items()
        }
        or None,
        meta=given.meta or None,
        port=given.port,
        weights=Weights(weights.passing, weights.warning) if weights else Weights(),
        enable_tag_override=given.enable_tag_override,
        proxy=given.proxy,
        connect=given.connect,
    )


def catalog_check(check: LocalCheck, node: str) -> Check:
    return Check(
        check_id=check.check_id,
        name=check.name,
        node=node,
        status=check.status,
        notes=check.definition.notes,
        output=check.output,
        service_id=check.service_id,
        service_name=check.service_name,
        service_tags=check.service_tags or None,
        type=check.type_name,
    )


def same_service(ours: Service, theirs: Service) -> bool:
    """Equal but for what the catalog adds itself, and for empty against absent."""
    return _plain(ours) == _plain(theirs)


def _plain(service: Service) -> Service:
    return replace(
        service,
        node="",
        tags=service.tags or None,
        tagged_addresses=service.tagged_addresses or None,
        meta=service.meta or None,
        proxy=service.proxy or None,
        connect=service.connect or None,
        create_index=0,
        modify_index=0,
    )


def same_check(ours: LocalCheck, theirs: Check) -> bool:
    """Output that is held back for later does not count; the service's name and tags are the
    catalog's own copies."""
    output = theirs.output if ours.output_due is not None else ours.output
    return (
        ours.check_id, ours.name, ours.status, ours.definition.notes,
        output, ours.service_id, ours.type_name,
    ) == (
        theirs.check_id, theirs.name, theirs.status, theirs.notes,
        theirs.output, theirs.service_id, theirs.type,
    )  # fmt: skip
