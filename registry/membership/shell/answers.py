"""Queries of ours, and whoever waits for the answers to each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from registry.membership.query_desk import Question
from registry.membership.serf_values import QueryAnswer, QueryClosed
from registry.membership.shell.live_core import LiveCore


class Answers:
    def __init__(self, live: LiveCore) -> None:
        self._live = live
        self._waiting: dict[int, asyncio.Queue[QueryAnswer | QueryClosed]] = {}

    async def ask(self, question: Question) -> AsyncGenerator[QueryAnswer, None]:
        """See `GossipPool.query`."""
        self._live.check_not_left()
        query_id = self._live.now().serf.query(question)
        queue: asyncio.Queue[QueryAnswer | QueryClosed] = asyncio.Queue()
        self._waiting[query_id] = queue
        try:
            while isinstance(output := await queue.get(), QueryAnswer):
                yield output
        finally:
            del self._waiting[query_id]
            self._live.running.serf.close_query(query_id)

    def put(self, output: QueryAnswer | QueryClosed) -> None:
        queue = self._waiting.get(output.query_id)
        if queue is not None:
            queue.put_nowait(output)

    def close(self) -> None:
        """Nobody waits for more."""
        for query_id, queue in self._waiting.items():
            queue.put_nowait(QueryClosed(query_id))
