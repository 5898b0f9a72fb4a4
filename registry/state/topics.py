"""Change topics: what an apply touched, and who waits for it.

A topic is a tuple, the kind first: `("kv", b"app/a")`, `("service", "web")`,
`("table", "nodes")`. `apply` collects the topics that it touched and publishes them once per
committed batch. Waiting is a future in one dictionary entry per topic, so publishing costs
what was touched plus who is woken, whatever the number of sleepers. A prefix wait (KV trees) is
kept by prefix and found by cutting a touched key at each length that somebody waits for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

#: The kind, then what tells topics of a kind apart; keys of the KV store are bytes.
Topic = tuple[str | bytes, ...]

#: Touched when a snapshot replaced the whole state: wakes everybody.
ALL: Topic = ("*",)


def kv_topic(key: bytes) -> Topic:
    return ("kv", key)


def kv_prefix_topic(prefix: bytes) -> Topic:
    """Wakes on any key that starts with `prefix`; wait for it, never publish it."""
    return ("kv-prefix", prefix)


def table_topic(table: str) -> Topic:
    """Wakes on any change in a table."""
    return ("table", table)


class Waiter:
    """One sleeper on any number of topics; `event` is set when one of them is published."""

    __slots__ = ("event", "topics")

    def __init__(self, topics: tuple[Topic, ...]) -> None:
        self.topics = topics
        self.event = asyncio.Event()


class TopicHub:
    """Who waits for what. Single-threaded: belongs to the event loop that applies entries."""

    def __init__(self) -> None:
        self._waiters: dict[Topic, dict[Waiter, None]] = {}
        self._prefix_lengths: dict[int, int] = {}  # length -> how many waiters' prefixes have it
        self._listeners: list[Callable[[frozenset[Topic]], None]] = []

    @contextmanager
    def waiting(self, topics: Iterable[Topic]) -> Iterator[Waiter]:
        """Register before reading what the topics are about, so that no change falls between."""
        waiter = Waiter(tuple(topics))
        self._add(waiter)
        try:
            yield waiter
        finally:
            self._remove(waiter)

    def listen(self, listener: Callable[[frozenset[Topic]], None]) -> None:
        """Call `listener` with every published set before waiters run; it may not raise or wait."""
        self._listeners.append(listener)

    def publish(self, topics: frozenset[Topic]) -> None:
        for listener in self._listeners:
            listener(topics)
        if ALL in topics:
            for waiters in self._waiters.values():
                for waiter in waiters:
                    waiter.event.set()
            return
        for topic in topics:
            self._wake(topic)
            if topic[0] == "kv" and self._prefix_lengths:
                key = topic[1]
                for length in self._prefix_lengths:
                    if length <= len(key):
                        self._wake(("kv-prefix", key[:length]))

    def _wake(self, topic: Topic) -> None:
        if waiters := self._waiters.get(topic):
            for waiter in waiters:
                waiter.event.set()

    def _add(self, waiter: Waiter) -> None:
        for topic in waiter.topics:
            self._waiters.setdefault(topic, {})[waiter] = None
            if topic[0] == "kv-prefix":
                length = len(topic[1])
                self._prefix_lengths[length] = self._prefix_lengths.get(length, 0) + 1

    def _remove(self, waiter: Waiter) -> None:
        for topic in waiter.topics:
            waiters = self._waiters[topic]
            del waiters[waiter]
            if not waiters:
                del self._waiters[topic]
            if topic[0] == "kv-prefix":
                length = len(topic[1])
                self._prefix_lengths[length] -= 1
                if not self._prefix_lengths[length]:
                    del self._prefix_lengths[length]

    def __len__(self) -> int:
        """Distinct topics waited for; what the metrics show."""
        return len(self._waiters)
