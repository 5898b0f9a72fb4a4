"""What check kinds have in common: what the agent lends to a runner, and the ways to be more than
a function called every interval.

The least a kind must do is `registry.hooks.CheckRunner`: `run` once, return a result. Two further
protocols are optional, for built-in kinds and plugins alike; the scheduler looks for them:

* `NeedsContext`: `bind` hands over what the agent lends, before the first run;
* `Follower`: the kind reports by itself when something changes (TTL, alias) and has no interval;
* `TellsTimeout`: what a run that was cut off at its timeout is reported as.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from registry.agent.clock import Clock
from registry.agent.definitions import CheckDefinition
from registry.agent.durations import format_duration
from registry.agent.http_clients import HttpClients
from registry.hooks import CheckResult
from registry.state.topics import Waiter

if TYPE_CHECKING:
    from registry.agent.facade import Backend

PASSING, WARNING, CRITICAL = "passing", "warning", "critical"
STATUSES = (PASSING, WARNING, CRITICAL)

#: What a run may take when its definition does not say (surface 9).
SCRIPT_TIMEOUT_NS = 30_000_000_000
TIMEOUT_NS = 10_000_000_000

Report = Callable[[CheckResult], None]


class CheckView(Protocol):
    """A check of this node as alias checks see it."""

    @property
    def check_id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def service_id(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def output(self) -> str: ...


class LocalView(Protocol):
    """What a runner may know of this node's services and checks."""

    def has_service(self, service_id: str) -> bool: ...
    def check_views(self) -> Mapping[str, CheckView]: ...
    def waiting(self, service_id: str) -> AbstractContextManager[Waiter]:
        """Woken when a check of the service or of the node, or the service itself, changes."""
        ...


@dataclass(frozen=True, slots=True)
class CheckContext:
    """What the agent lends to one check."""

    check_id: str
    node_name: str
    output_bytes_max: int
    local: LocalView
    backend: Backend | None  # None: no servers can be asked
    clock: Clock
    http: HttpClients


@runtime_checkable
class NeedsContext(Protocol):
    def bind(self, context: CheckContext) -> None:
        """Called once, before anything else; must not wait."""
        ...


@runtime_checkable
class Follower(Protocol):
    async def follow(self, report: Report) -> None:
        """Report each new state until cancelled; there is no interval and no timeout."""
        ...


@runtime_checkable
class TellsTimeout(Protocol):
    def timed_out(self, timeout_ns: int) -> CheckResult:
        """Called after `run` was cancelled because `timeout_ns` had passed."""
        ...


def timeout_of(definition: CheckDefinition) -> int:
    """Nanoseconds that one run of the check may take."""
    return definition.timeout_ns or (SCRIPT_TIMEOUT_NS if definition.args else TIMEOUT_NS)


def timed_out_text(timeout_ns: int) -> str:
    return f"Timed out ({format_duration(timeout_ns)}) running check"
