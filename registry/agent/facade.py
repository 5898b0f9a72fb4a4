"""What the faces (HTTP, DNS, UI, watches, plugins) may ask of an agent: one object, no driver.

The facade hides whether this agent is a server or a client: reads and writes are typed values that
are executed here or forwarded to a server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from registry.agent.events import LocalEvents, UserEvent
from registry.agent.gossip_events import EventsElsewhere
from registry.agent.logs import LogTap
from registry.agent.metrics import Metrics
from registry.errors import NoPath
from registry.server.autopilot import AutopilotReport
from registry.server.calls import DatacenterServers
from registry.server.gossip_keys import KeyOperation, PoolKeys
from registry.state.base import Command, Query, ReadOptions, ReadResult
from registry.state.coordinates import Coordinate
from registry.state.dump import StateDump

if TYPE_CHECKING:
    from registry.agent.config import AgentConfig
    from registry.agent.local.state import LocalState
    from registry.agent.reload import ReloadReport
    from registry.plugins import Plugins


class Backend(Protocol):
    """Where replicated reads and writes go: the server in this process, or one over RPC."""

    async def write(self, command: Command) -> Any:
        """The command's result after commit and apply; a `Refused` is returned, not raised.

        Raises `NoLeader`, `Overloaded`, `TooLarge`, `OutcomeUnknown`, `TimedOut`.
        """
        ...

    async def read(self, query: Query, options: ReadOptions) -> ReadResult:
        """Answer at the asked consistency; blocks while `options.min_index` is not exceeded.

        Raises `NoLeader`. Cancelling it (the client went away) ends the blocking read at once.
        """
        ...

    async def leader_address(self) -> str:
        """`ip:port` of the leader's RPC listener, "" when none is known.

        Raises `NoLeader` when no server can be asked, as the next two do.
        """
        ...

    async def peer_addresses(self) -> list[str]:
        """`ip:port` of every server in the Raft configuration."""
        ...

    async def raft_configuration(self) -> tuple[int, list[dict[str, Any]]]:
        """Index, and per server: ID, Node, Address, Leader, ProtocolVersion, Voter."""
        ...

    async def remove_server(self, server_id: str) -> None:
        """Put a server out of the Raft configuration. Raises `Rejected`, `NoLeader`."""
        ...

    async def autopilot_health(self) -> AutopilotReport:
        """How the leader sees the servers. Raises `NoLeader`."""
        ...

    async def open_dump(self) -> StateDump:
        """The state of now, with everything committed before the call. Raises `NoLeader`."""
        ...

    def statistics(self) -> dict[str, dict[str, str]]:
        """Blocks "consul", "raft", "runtime" … of `/v1/agent/self` Stats."""
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """One member of the gossip pool as `/v1/agent/members` shows it; status 1 alive … 4 failed."""

    name: str
    address: str
    port: int
    tags: Mapping[str, str]
    status: int = 1
    protocol_min: int = 1
    protocol_max: int = 5
    protocol_current: int = 2
    delegate_min: int = 2
    delegate_max: int = 5
    delegate_current: int = 4


class Membership(Protocol):
    """The gossip pool this agent is in (the serf port is bound by whoever implements it)."""

    def members(self, *, wan: bool = False) -> list[Member]: ...
    def local_member(self) -> Member: ...
    def coordinate(self) -> Coordinate:
        """Where this node is in the network; the origin until another was measured."""
        ...

    def statistics(self, *, wan: bool = False) -> dict[str, str]:
        """The block "serf_lan" or "serf_wan" of Stats; empty when this agent is in no such pool."""
        ...

    async def join(self, address: str, *, wan: bool = False) -> int:
        """Contact one address; the number of nodes reached. Raises `Unavailable`."""
        ...

    async def force_leave(self, node: str, *, prune: bool = False) -> None:
        """Raises `NotFound` when no member has that name."""
        ...

    async def keys(
        self, operation: KeyOperation, key: bytes = b"", *, relay_factor: int = 0
    ) -> list[PoolKeys]:
        """Do it in every pool this agent is in, the WAN pool first; none without encryption."""
        ...


class Datacenters(Protocol):
    """The way to other datacenters; names are in lower case."""

    def path(self, name: str) -> Backend | None:
        """The backend of another datacenter; None when no way there is known.

        One that is given may still raise `NoPath`: an agent without data has to ask.
        """
        ...

    async def known(self) -> list[DatacenterServers]:
        """All datacenters, the nearest first; none where there is no pool between datacenters."""
        ...

    async def fire(self, datacenter: str, name: str, payload: bytes) -> None:
        """Tell a user event to all agents of another datacenter. Raises `NoPath`."""
        ...


class NoDatacenters:
    """The `Datacenters` of an agent that knows no other."""

    def path(self, name: str) -> Backend | None:
        return None

    async def known(self) -> list[DatacenterServers]:
        return []

    async def fire(self, datacenter: str, name: str, payload: bytes) -> None:
        raise NoPath


class Events(Protocol):
    """User events of this agent: the last 256, newest last."""

    async def fire(self, event: UserEvent) -> UserEvent:
        """Give the event an id and send it out. Raises `Rejected`, `TooLarge`."""
        ...

    def list(self, name: str = "") -> list[UserEvent]:
        """Events of one name, or all, as far as they are kept."""
        ...

    async def wait(self, timeout_s: float) -> bool:
        """Until the next event comes; False when none did in time."""
        ...


@dataclass(slots=True)
class AgentFacade:
    """All of an agent that faces see. Built by `registry.agent.node`."""

    config: AgentConfig
    node_name: str
    node_id: str
    datacenter: str
    backend: Backend
    local: LocalState
    membership: Membership
    plugins: Plugins
    #: PUT /v1/agent/reload, SIGHUP, file change: raises ConfigError, or reports.
    reload: Callable[[], Awaitable[ReloadReport]]
    #: PUT /v1/agent/leave: leaves gracefully, then the process ends.
    leave: Callable[[], Awaitable[None]]
    metrics: Metrics = field(default_factory=Metrics)
    #: Whether writes say who asked for them even when they give no reason.
    wants_origin: bool = False
    events: Events = field(default_factory=LocalEvents)
    #: The agent's log as it is written, for `/v1/agent/monitor`.
    log_tap: LogTap = field(default_factory=LogTap)
    datacenters: Datacenters = field(default_factory=NoDatacenters)

    def elsewhere(self, name: str) -> AgentFacade | None:
        """This agent as it serves requests for another datacenter; None without a way there."""
        backend = self.datacenters.path(name)
        if backend is None:
            return None
        events = EventsElsewhere(self.events, partial(self.datacenters.fire, name))
        return replace(self, datacenter=name, backend=backend, events=events)

    async def write(self, command: Command) -> Any:
        return await self.backend.write(command)

    async def read(self, query: Query, options: ReadOptions) -> ReadResult:
        return await self.backend.read(query, options)
