"""The backend of an agent that is no server: every read and write goes to one (design, decision 7).

An agent sticks to one server, so that its connection is reused and what it reads does not jump
between servers, and changes to another when that one fails, or now and then at random, so that
servers that were added or restarted get their share.

A request that was not sent, or only reads, is tried with the next server; a write whose answer was
lost is told as `OutcomeUnknown` (R-66). While no server answers, requests are held up to the hold
time, and fail with `NoLeader` then: never a hang. A server holds requests of its own while its
cluster has no leader, so its `NoLeader` is final.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec

from registry.agent.facade import Backend
from registry.errors import ConnectionLost, NoLeader, OutcomeUnknown, Overloaded, Unreachable
from registry.rpc.connection import Connection
from registry.rpc.pool import Pool
from registry.server import calls
from registry.server.autopilot import AutopilotReport
from registry.server.datacenters import RemoteBackend, fire_elsewhere
from registry.server.forwarding import Hold
from registry.server.gossip_keys import KeysCall, PoolKeys
from registry.server.server import DUMP_LIMIT_S
from registry.server.server_list import ServerList
from registry.state.base import Command, Query, ReadOptions, ReadResult
from registry.state.dump import StateDump

logger = logging.getLogger("registry.agent.client")

T = TypeVar("T")

#: An agent moves to another server after a time between these, in seconds.
REBALANCE_S = (120.0, 180.0)

#: Pause before the servers are gone through again after all of them failed; news of a server ends
#: it at once.
RETRY_S = 0.1

#: How long all members of both pools of a large datacenter may take to answer.
KEYS_LIMIT_S = 60.0

#: How much longer than the hold time an answer may take: the way there and back.
_WAY_S = 1.0


class RateLimit:
    """A token bucket: `rate` requests a second, up to `burst` at once; no limit below 0."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.configure(rate, burst)

    def configure(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._tokens = float(burst)
        self._counted_at = self._clock()

    def take(self) -> None:
        """Raises `Overloaded` when the agent asks too much."""
        if self._rate < 0:
            return
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._counted_at) * self._rate)
        self._counted_at = now
        if self._tokens < 1:
            raise Overloaded("rpc rate limit exceeded")
        self._tokens -= 1


class ClientBackend:
    """Implements `registry.agent.facade.Backend` over RPC; `run` owns the connections."""

    def __init__(
        self,
        pool: Pool,
        *,
        hold_timeout_s: float = 7.0,
        rate: float = -1,
        burst: int = 1000,
        rng: random.Random | None = None,
        count: Callable[[str], None] = lambda name: None,
    ) -> None:
        """`rate` and `burst` bound what this agent asks (`limits.rpc_rate`); `count` is told the
        name of each metric that goes up by one."""
        self._pool = pool
        self._count = count
        self._hold_timeout_s = hold_timeout_s
        self._random = rng or random.Random()
        self.servers = ServerList(self._random)
        self.limit = RateLimit(rate, burst, time.monotonic)
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Keep connections and rebalance until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pool.run(), name="rpc-pool")
            while True:
                await asyncio.sleep(self._random.uniform(*REBALANCE_S))
                self.servers.rebalance()

    def set_servers(self, addresses: Sequence[str]) -> None:
        """The servers that are alive ("ip:port" of their RPC listeners); called at every change."""
        for gone in set(self.servers.servers).difference(addresses):
            self._pool.forget(gone)
        if self.servers.update(addresses):
            self._tell_change()

    def server_is_alive(self, address: str) -> None:
        """A server that could not be reached is heard of again: do not wait to try it."""
        self._pool.revive(address)
        self._tell_change()

    # Backend

    async def write(self, command: Command) -> Any:
        return await self._ask(lambda server: calls.write(server, command, hop=0), repeatable=False)

    async def read(self, query: Query, options: ReadOptions) -> ReadResult:
        deadline = time.monotonic() + options.wait_ms / 1000

        def ask(server: Connection) -> Awaitable[ReadResult]:
            left_ms = max(0, int((deadline - time.monotonic()) * 1000))
            left = msgspec.structs.replace(options, wait_ms=left_ms)
            return calls.read(server, query, left, hop=0)

        waits_s = options.wait_ms / 1000 if options.min_index else 0.0
        return await self._ask(ask, waits_s=waits_s)

    async def leader_address(self) -> str:
        return (await self._ask(calls.facts)).leader_address

    async def peer_addresses(self) -> list[str]:
        return (await self._ask(calls.facts)).peer_addresses

    async def raft_configuration(self) -> tuple[int, list[dict[str, Any]]]:
        facts = await self._ask(calls.facts)
        return facts.configuration_index, facts.configuration

    async def remove_server(self, server_id: str) -> None:
        await self._ask(
            lambda server: calls.remove_server(server, server_id, hop=0), repeatable=False
        )

    async def autopilot_health(self) -> AutopilotReport:
        return await self._ask(lambda server: calls.autopilot_health(server, hop=0))

    async def open_dump(self) -> StateDump:
        return await self._ask(lambda server: calls.open_dump(server, hop=0), waits_s=DUMP_LIMIT_S)

    async def change_keys(self, call: KeysCall) -> list[PoolKeys]:
        """Have the pools of a server do it: a client agent is not in the WAN pool."""
        return await self._ask(lambda server: calls.change_keys(server, call), waits_s=KEYS_LIMIT_S)

    def statistics(self) -> dict[str, dict[str, str]]:
        return {
            "consul": {
                "acl": "disabled",
                "known_servers": str(len(self.servers)),
                "server": "false",
            }
        }

    # Other datacenters: `registry.agent.facade.Datacenters`

    def path(self, name: str) -> Backend:
        """Whether there is such a datacenter, only servers know: its backend raises `NoPath`."""
        return RemoteBackend(name, self._relay)

    async def known(self) -> list[calls.DatacenterServers]:
        return await self._ask(calls.datacenters)

    async def fire(self, datacenter: str, name: str, payload: bytes) -> None:
        await fire_elsewhere(self._relay, datacenter, name, payload)

    async def _relay(self, call: calls.RelayCall) -> bytes:
        return await self._ask(
            lambda server: calls.relay(server, call),
            repeatable=call.repeatable,
            waits_s=call.waits_ms / 1000,
        )

    # How

    async def _ask(
        self,
        ask: Callable[[Connection], Awaitable[T]],
        *,
        repeatable: bool = True,
        waits_s: float = 0.0,
    ) -> T:
        """The answer of one server; `waits_s` is how long the question itself may take there."""
        self._count("client.rpc")
        try:
            self.limit.take()
        except Overloaded:
            self._count("client.rpc.exceeded")
            raise
        hold = Hold(self._hold_timeout_s, self._random)
        limit_s = waits_s + self._hold_timeout_s + _WAY_S
        failed = 0
        while True:
            changed, server = self._changed, self.servers.current
            if server is None or failed >= len(self.servers):
                await hold.spend(changed.wait(), at_most_s=RETRY_S if server else None)
                failed = 0
                continue
            try:
                connection = await hold.spend(self._pool.connect(server))
                assert connection is not None, "all that was left was granted"
                async with asyncio.timeout(limit_s):
                    return await ask(connection)
            except NoLeader:
                self._count("client.rpc.failed")
                # It may be cut off from the others: let the next request try another one.
                self.servers.failed(server)
                raise
            except Unreachable as problem:
                self._count("client.rpc.failed")
                logger.debug("server is unreachable: server=%s error=%s", server, problem)
            except (ConnectionLost, TimeoutError) as problem:
                self._count("client.rpc.failed")
                logger.warning("server failed: server=%s error=%s", server, problem or "no answer")
                self.servers.failed(server)
                if not repeatable:
                    reason = str(problem) or f"no answer from {server} in {limit_s:g} s"
                    raise OutcomeUnknown(f"outcome unknown: {reason}") from problem
                if isinstance(problem, TimeoutError):
                    raise NoLeader from problem  # it was given all the time there is
            self.servers.failed(server)
            failed += 1

    def _tell_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
