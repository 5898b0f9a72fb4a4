"""Callers that wait for something, each with a future of its own: answering one, or all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from registry.errors import NotLeader


class Waiters:
    """Who waits for the same thing."""

    __slots__ = ("_futures",)

    def __init__(self) -> None:
        self._futures: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._futures)

    def join(self) -> asyncio.Future[None]:
        """A future to await, for one who waits from now on."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._futures.append(future)
        return future

    def add(self, future: asyncio.Future[None]) -> None:
        self._futures.append(future)

    def resolve(self) -> None:
        """It has come about: wake everybody."""
        for future in self._futures:
            if not future.done():
                future.set_result(None)
        self._futures.clear()

    def fail(self, error: Exception) -> None:
        for future in self._futures:
            fail(future, error)

    def refuse(self, leader_id: str | None) -> None:
        """Tell everybody that this server does not lead."""
        refuse(self._futures, leader_id)


def fail(future: asyncio.Future[Any], error: Exception) -> None:
    """Unless its caller has gone."""
    if not future.done():
        future.set_exception(error)


def refuse(futures: Iterable[asyncio.Future[Any]], leader_id: str | None) -> None:
    """Tell these that this server does not lead, each with an exception of its own."""
    for future in futures:
        fail(future, NotLeader(leader_id))
