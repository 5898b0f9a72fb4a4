"""Reads of this server's own state at a chosen consistency, blocking ones included.

A read is a loop of: make sure this server may answer, run the query, and either answer or sleep on
the query's change topics. Nothing polls: between two rounds the reader is one waiter in the hub.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from registry.errors import NoLeader
from registry.raft.reports import NEVER_MS
from registry.state.base import Query, ReadOptions, ReadResult
from registry.state.machine import StateMachine


class ReadGate(Protocol):
    """What a read asks of consensus (specs R-34 to R-36)."""

    def try_lease_read(self) -> bool:
        """Whether the local state may answer a default read right now."""
        ...

    async def read_barrier(self, consistent: bool) -> None:
        """Return once it may; raises `NotLeader`."""
        ...

    def last_contact_ms(self) -> int: ...

    @property
    def leader_id(self) -> str: ...


class Reads:
    """Answers queries from one state machine, as far as the gate lets it."""

    def __init__(self, machine: StateMachine, gate: ReadGate, *, hold_timeout_s: float) -> None:
        self._machine = machine
        self._gate = gate
        self._hold_timeout_s = hold_timeout_s
        #: Reads asleep at this moment, for the metrics (`rpc.queries_blocking`).
        self.blocking = 0

    async def read(self, query: Query, options: ReadOptions) -> ReadResult:
        """The answer of `query`; sleeps while its index is not above `options.min_index`.

        A blocking read ends by change, by its deadline (with the unchanged answer) or by
        cancellation. A snapshot restore ends it at once, since indexes start anew then.

        Raises `NotLeader` when, or as soon as, another server has to answer, and `NoLeader` when
        this one leads but could not make sure of it within the hold time.
        """
        if not options.min_index:
            mode = await self._admit(options)
            return self._answer(query, mode)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + options.wait_ms / 1000
        generation = self._machine.generation
        while True:
            with self._machine.topics.waiting(query.topics(self._machine.reader)) as waiter:
                mode = await self._admit(options)
                result = self._answer(query, mode)
                left = deadline - loop.time()
                restored = self._machine.generation != generation
                if result.index > options.min_index or left <= 0 or restored:
                    return result
                self.blocking += 1
                try:
                    async with asyncio.timeout(left):
                        await waiter.event.wait()
                except TimeoutError:
                    continue  # one last round gives the unchanged answer
                finally:
                    self.blocking -= 1

    async def admit(self) -> None:
        """Return once the local state may answer a default read. Raises like `read`."""
        await self._admit(ReadOptions())

    def _answer(self, query: Query, mode: str) -> ReadResult:
        index, value = query.run(self._machine.reader)
        stale = mode == "stale"
        return ReadResult(
            index=index or 1,
            value=value,
            known_leader=not stale or bool(self._gate.leader_id),
            last_contact_ms=self._gate.last_contact_ms() if stale else 0,
            mode=mode,
        )

    async def _admit(self, options: ReadOptions) -> str:
        """Wait until this server may answer; the mode that the answer will have been given in."""
        if options.mode == "stale":
            contact_ms = self._gate.last_contact_ms()
            # Who never heard a leader does not know how old its state is (section 7).
            limit_ms = NEVER_MS - 1 if options.max_stale_ms is None else options.max_stale_ms
            if contact_ms <= limit_ms:
                return "stale"
            await self._leader_barrier(consistent=False)
            return "default"
        if options.mode == "default" and self._gate.try_lease_read():
            return "default"
        await self._leader_barrier(consistent=options.mode == "consistent")
        return options.mode

    async def _leader_barrier(self, *, consistent: bool) -> None:
        """Hold the read until this leader may answer, up to the hold time (R-34)."""
        try:
            async with asyncio.timeout(self._hold_timeout_s):
                await self._gate.read_barrier(consistent)
        except TimeoutError as problem:
            raise NoLeader from problem
