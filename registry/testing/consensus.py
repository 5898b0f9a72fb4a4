"""A backend that commits at once: the state machine without Raft, for tests above it."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

from registry.errors import Rejected
from registry.raft.messages import Entry, EntryKind
from registry.server.autopilot import AutopilotReport
from registry.state.base import Command, Query, ReadOptions, ReadResult
from registry.state.dump import StateDump
from registry.state.machine import StateMachine, encode_command
from registry.storage.memory import MemoryStore


class InstantBackend:
    """Implements `registry.agent.facade.Backend` on one state machine; every write is index + 1."""

    def __init__(self, machine: StateMachine | None = None) -> None:
        self.machine = machine or StateMachine(MemoryStore())
        self._indexes = itertools.count(self.machine.applied_index + 1)

    async def write(self, command: Command) -> Any:
        stamped = command.stamped(int(time.time() * 1000))
        entry = Entry(next(self._indexes), 1, EntryKind.COMMAND, encode_command(stamped))
        return self.machine.apply([entry])[0]

    async def read(self, query: Query, options: ReadOptions) -> ReadResult:
        deadline = asyncio.get_running_loop().time() + options.wait_ms / 1000
        while True:
            with self.machine.topics.waiting(query.topics(self.machine.reader)) as waiter:
                index, value = query.run(self.machine.reader)
                left = deadline - asyncio.get_running_loop().time()
                if not options.min_index or (index or 1) > options.min_index or left <= 0:
                    return ReadResult(index=index or 1, value=value, mode=options.mode)
                try:
                    async with asyncio.timeout(left):
                        await waiter.event.wait()
                except TimeoutError:
                    continue

    async def leader_address(self) -> str:
        return "127.0.0.1:8300"

    async def peer_addresses(self) -> list[str]:
        return ["127.0.0.1:8300"]

    async def raft_configuration(self) -> tuple[int, list[dict[str, Any]]]:
        return 1, []

    async def remove_server(self, server_id: str) -> None:
        raise Rejected(f"{server_id} is the last voter; promote another server first")

    async def autopilot_health(self) -> AutopilotReport:
        """Of no server, since there is no consensus."""
        return AutopilotReport(False, 0, ())

    async def open_dump(self) -> StateDump:
        snapshot = self.machine.snapshot()
        chunks = self.machine.dump(snapshot)
        return StateDump(self.machine.applied_index, 1, chunks, snapshot.close)

    def statistics(self) -> dict[str, dict[str, str]]:
        return {}
