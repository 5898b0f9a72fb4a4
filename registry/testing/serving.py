"""An API server on a free port over a facade of parts that a test chooses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from registry.agent.config import AgentConfig
from registry.agent.facade import AgentFacade, Backend, Member
from registry.agent.reload import ReloadReport
from registry.errors import NotFound, Unavailable
from registry.http.limits import Deadlines
from registry.http.rim import Rim
from registry.http.server import HttpServer, Listen
from registry.server.gossip_keys import KeyOperation, PoolKeys
from registry.state.coordinates import Coordinate
from registry.testing.consensus import InstantBackend

NODE_ID = "11111111-2222-3333-4444-555555555555"


class OneMember:
    """A gossip pool of this node alone."""

    def __init__(self, name: str = "node1") -> None:
        self._member = Member(name=name, address="127.0.0.1", port=8301, tags={"role": "consul"})

    def members(self, *, wan: bool = False) -> list[Member]:
        return [self._member]

    def local_member(self) -> Member:
        return self._member

    def coordinate(self) -> Coordinate:
        return Coordinate()

    def statistics(self, *, wan: bool = False) -> dict[str, str]:
        return {} if wan else {"members": "1"}

    async def join(self, address: str, *, wan: bool = False) -> int:
        if " " in address:
            raise Unavailable(f"Failed to resolve {address}: no such host")
        if address == "localhost":
            raise Unavailable("Failed to join ::1: refused; Failed to join 127.0.0.1: refused")
        raise Unavailable(f"Failed to join {address}: connection refused")

    async def force_leave(self, node: str, *, prune: bool = False) -> None:
        raise NotFound(f"No node found with name '{node}'")

    async def keys(
        self, operation: KeyOperation, key: bytes = b"", *, relay_factor: int = 0
    ) -> list[PoolKeys]:
        return []


async def _nothing() -> None:
    """A leave that does nothing."""


async def _nothing_changed() -> ReloadReport:
    return ReloadReport()


def make_facade(
    *,
    backend: Backend | None = None,
    config: AgentConfig | None = None,
    local: Any = None,
    plugins: Any = None,
    **more: Any,
) -> AgentFacade:
    """A facade of an agent "node1" in dc1; what is not given is the simplest there is."""
    return AgentFacade(
        config=config or AgentConfig(node_name="node1"),
        node_name="node1",
        node_id=NODE_ID,
        datacenter="dc1",
        backend=backend or InstantBackend(),
        local=local,
        membership=more.pop("membership", None) or OneMember(),
        plugins=cast("Any", plugins),
        reload=more.pop("reload", _nothing_changed),
        leave=more.pop("leave", _nothing),
        **more,
    )


@asynccontextmanager
async def serving(
    facade: AgentFacade,
    *,
    deadlines: Deadlines | None = None,
    rim: Rim | None = None,
    short_way: bool = True,
) -> AsyncIterator[HttpServer]:
    """The API on 127.0.0.1 at `server.port`, until the block ends."""
    listeners = [Listen("127.0.0.1", 0)]
    server = HttpServer(
        facade, listeners=listeners, deadlines=deadlines, rim=rim, short_way=short_way
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
