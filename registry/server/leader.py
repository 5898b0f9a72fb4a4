"""A leader's work: begun after a barrier, ended before the loss of leadership is told (R-68).

All effects go through proposals of the term in which the work began, so a deposed leader's work
fails instead of doing harm.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from registry.errors import RegistryError
from registry.raft.ready import RaftRole, RoleChange
from registry.server.expiry import SessionTimers
from registry.server.reconcile import reconcile_self
from registry.state.base import Command
from registry.state.machine import StateMachine

logger = logging.getLogger("registry.server.leader")

#: Pause before leadership work that failed at its start is tried again.
RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class LocalServerFacts:
    """Who this server is, as the catalog shows it."""

    node_id: str
    node_name: str
    address: str  # ip without port
    datacenter: str
    server_port: int
    tagged_addresses: Mapping[str, str] = field(default_factory=dict)
    node_meta: Mapping[str, str] = field(default_factory=dict)


class Writer(Protocol):
    """What the duties need of the server: proposals and the barrier."""

    async def write(self, command: Command) -> Any: ...
    async def barrier(self) -> None: ...
