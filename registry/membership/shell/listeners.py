"""Events to whoever listens: in order, each listener at its own pace, none holding up the pool."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType

from registry.membership.serf_values import Event

logger = logging.getLogger("registry.membership")

#: Events that wait for one listener; the oldest is dropped for a new one, and counted.
BACKLOG_MAX = 8192


class EventStream:
    """An async iterator over events from `GossipPool.listen` on; use it as a context manager."""

    def __init__(self, listeners: Listeners) -> None:
        self._listeners = listeners
        self._waiting: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._is_closed = False
        self.dropped = 0

    def __enter__(self) -> EventStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def put(self, event: Event) -> None:
        if len(self._waiting) >= BACKLOG_MAX:
            self._waiting.popleft()
            self.dropped += 1
            if self.dropped & (self.dropped - 1) == 0:  # at 1, 2, 4, 8 … so that it is no flood
                logger.warning("a listener is too slow for its events dropped=%d", self.dropped)
        self._waiting.append(event)
        self._wake.set()

    def close(self) -> None:
        """No more events; who iterates gets what waits, then the end."""
        self._is_closed = True
        self._listeners.remove(self)
        self._wake.set()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while not self._waiting:
            if self._is_closed:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return self._waiting.popleft()


class Listeners:
    """Everybody who listens."""

    def __init__(self) -> None:
        self._streams: list[EventStream] = []

    def add(self) -> EventStream:
        stream = EventStream(self)
        self._streams.append(stream)
        return stream

    def remove(self, stream: EventStream) -> None:
        if stream in self._streams:
            self._streams.remove(stream)

    def put(self, event: Event) -> None:
        for stream in self._streams:
            stream.put(event)

    def close(self) -> None:
        for stream in list(self._streams):
            stream.close()
