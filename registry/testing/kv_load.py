"""Writers that keep a cluster busy over HTTP, and notice what must never happen.

Each writer counts up in a key of its own, and goes to another agent when one refuses, breaks the
connection or answers with an error of the server's. What it is told to be written stays written,
and what it reads by default is never older than that.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

from registry.testing.wire import Wire, WireResponse

#: Pause after every agent has failed once, in seconds.
RETRY_PAUSE_S = 0.05

#: A writer reads its key back after so many writes.
WRITES_PER_READ = 5


class NotCured(AssertionError):
    """A request that failed with one agent after another."""


class Answer(NamedTuple):
    """What came in the end. `began_at` is when the successful try began, on the loop's clock."""

    response: WireResponse
    began_at: float
    tries: int


class RetryingClient:
    """One connection that is kept, to whichever of the agents answers; `home` is tried first."""

    def __init__(self, addresses: Sequence[str], *, home: int = 0, limit_s: float = 20.0) -> None:
        """`limit_s` is how long a request may take, retries and all."""
        self._addresses = addresses
        self._home = self._at = home % len(addresses)
        self._limit_s = limit_s
        self._wire: Wire | None = None
        self._goes_home = False

    async def request(self, method: str, path: str, body: bytes = b"") -> Answer:
        """The first answer that is no error of the server's (status 500 and above).

        Raises `NotCured` when there was none in time.
        """
        failures: list[str] = []
        loop = asyncio.get_running_loop()
        if self._goes_home and self._at != self._home:
            self._at = self._home
            self.close()
        self._goes_home = False
        try:
            async with asyncio.timeout(self._limit_s):
                while True:
                    began_at = loop.time()
                    try:
                        response = await self._once(method, path, body)
                    except (OSError, asyncio.IncompleteReadError) as problem:
                        failures.append(f"{self._address}: {type(problem).__name__}")
                    else:
                        if response.status < 500:
                            return Answer(response, began_at, 1 + len(failures))
                        text = response.body.decode(errors="replace").strip()
                        failures.append(f"{self._address}: {response.status} {text}")
                    self._turn()
                    if not len(failures) % len(self._addresses):
                        await asyncio.sleep(RETRY_PAUSE_S)
        except TimeoutError:
            self.close()
            told = "; ".join(failures) or f"no answer from {self._address}"
            raise NotCured(f"{method} {path} failed for {self._limit_s:g} s: {told}") from None

    def go_home(self) -> None:
        """Turn to the first agent again, with the next request."""
        self._goes_home = True

    def close(self) -> None:
        if self._wire is not None:
            self._wire.writer.close()
            self._wire = None

    @property
    def _address(self) -> str:
        return self._addresses[self._at]

    def _turn(self) -> None:
        self.close()
        self._at = (self._at + 1) % len(self._addresses)

    async def _once(self, method: str, path: str, body: bytes) -> WireResponse:
        host, _, port = self._address.rpartition(":")
        if self._wire is None:
            self._wire = Wire(*await asyncio.open_connection(host, int(port)))
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
        wire = self._wire
        response = await wire.request(head.encode() + body)
        if (response.header("Connection") or "").lower() == "close":
            self.close()
        return response


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """One write: when the try that was acknowledged began, and when the answer came."""

    began_at: float
    at: float
    tries: int


class Writer:
    """Counts up in `key`, as fast as it is answered."""

    def __init__(self, key: str, client: RetryingClient) -> None:
        self.key = key
        self.client = client
        self.acknowledged = 0
        self.writes: list[Acknowledged] = []
        self.reads = 0

    async def run(self) -> None:
        """Until cancelled. Raises AssertionError for what must not be."""
        loop = asyncio.get_running_loop()
        path = f"/v1/kv/{self.key}"
        for number in range(1, 1 << 62):
            answer = await self.client.request("PUT", path, b"%d" % number)
            response = answer.response
            assert (response.status, response.body.strip()) == (200, b"true"), response
            self.acknowledged = number
            self.writes.append(Acknowledged(answer.began_at, loop.time(), answer.tries))
            if number % WRITES_PER_READ == 0:
                await self._read(path)

    async def _read(self, path: str) -> None:
        answer = await self.client.request("GET", f"{path}?raw")
        status, body = answer.response.status, answer.response.body
        assert status == 200, f"{self.key} is gone, though {self.acknowledged} was acknowledged"
        assert int(body) >= self.acknowledged, f"a stale default read: {int(body)} of {self.key}"
        self.reads += 1


class KvLoad:
    """Writers `prefix`0, `prefix`1, …, spread over the agents."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        writers: int,
        prefix: str = "load/",
        limit_s: float = 20.0,
    ) -> None:
        self._addresses, self._prefix, self._limit_s = addresses, prefix, limit_s
        self.writers = [
            Writer(f"{prefix}{number}", RetryingClient(addresses, home=number, limit_s=limit_s))
            for number in range(writers)
        ]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The writers write until the block ends; what one finds wrong ends the block."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(writer.run(), name=writer.key) for writer in self.writers]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
        for writer in self.writers:
            writer.client.close()

    def spread(self) -> None:
        """Send every writer back to the agent that it began with."""
        for writer in self.writers:
            writer.client.go_home()

    @property
    def total(self) -> int:
        return sum(len(writer.writes) for writer in self.writers)

    def first_after(self, moment: float) -> list[float | None]:
        """Per writer, when its first write that began after `moment` was acknowledged."""
        return [
            next((write.at for write in writer.writes if write.began_at > moment), None)
            for writer in self.writers
        ]

    def tries_max(self) -> int:
        """The most tries that a write took."""
        return max(write.tries for writer in self.writers for write in writer.writes)

    async def lost(self) -> dict[str, tuple[int, int]]:
        """Keys with less than was acknowledged: (acknowledged, found)."""
        client = RetryingClient(self._addresses, limit_s=self._limit_s)
        answer = await client.request("GET", f"/v1/kv/{self._prefix}?recurse")
        client.close()
        found = {
            entry["Key"]: int(base64.b64decode(entry["Value"]))
            for entry in json.loads(answer.response.body or b"[]")
        }
        return {
            writer.key: (writer.acknowledged, found.get(writer.key, -1))
            for writer in self.writers
            if found.get(writer.key, -1) < writer.acknowledged
        }
