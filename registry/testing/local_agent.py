"""An agent's own services and checks without the agent around them, for tests."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from registry.agent.anti_entropy import AntiEntropy, NodeFacts
from registry.agent.checks import builtin_check_types
from registry.agent.definitions import CheckDefinition, ServiceDefinition
from registry.agent.local.settings import LocalSettings
from registry.agent.local.state import LocalState
from registry.agent.persistence import Persistence
from registry.testing.manual_clock import ManualClock

KINDS = {kind.key: kind for kind in builtin_check_types()}
FACTS = NodeFacts(
    name="n1",
    id="11111111-2222-3333-4444-555555555555",
    address="10.0.0.1",
    datacenter="dc1",
    tagged_addresses={"lan": "10.0.0.1"},
    meta={"rack": "r1"},
)
SECOND = 1_000_000_000


class Runs(Protocol):
    async def run(self) -> None: ...


def make_local(
    clock: ManualClock,
    *,
    data_dir: Path | None = None,
    backend: Any = None,
    settings: LocalSettings | None = None,
) -> LocalState:
    return LocalState(
        node_name="n1",
        check_types=KINDS.get,
        settings=settings or LocalSettings(scripts_from_api=True, scripts_from_files=True),
        backend=backend,
        persistence=Persistence(data_dir) if data_dir else None,
        clock=clock,
        chance=random.Random(1),
    )


def make_sync(local: LocalState, backend: Any, clock: ManualClock, **options: Any) -> AntiEntropy:
    return AntiEntropy(local, backend, FACTS, clock=clock, chance=random.Random(1), **options)


@asynccontextmanager
async def running(*parts: Runs) -> AsyncIterator[None]:
    """The parts' `run` in the background."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part.run()) for part in parts]
        await asyncio.sleep(0)  # a task that was cancelled before it began never ends anything
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


def service(name: str = "web", *checks: CheckDefinition, **fields: Any) -> ServiceDefinition:
    return ServiceDefinition(name=name, checks=checks, **fields)


def ttl(check_id: str = "", seconds: float = 60, **fields: Any) -> CheckDefinition:
    name = fields.pop("name", check_id)
    return CheckDefinition(id=check_id, name=name, ttl_ns=int(seconds * SECOND), **fields)


def state_of(local: LocalState, check_id: str) -> tuple[str, str]:
    check = local.checks[check_id]
    return check.status, check.output
