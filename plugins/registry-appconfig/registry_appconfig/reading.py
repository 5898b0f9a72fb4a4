"""The keys of one moment, and waiting for the next one.

Layers are several reads, between which somebody may write. So they are read twice, and when both
times show the same, that is how everything was in between. The index told is the highest of the
first reading: whatever changes later has a higher one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from msgspec.structs import replace

from registry.http.queries import KvGet, KvList, ReadOptions, ReadResult

from .layers import ConfigProblem, Value, as_text, merge
from .references import KV, stored_paths
from .settings import Settings

Query = KvList | KvGet

#: Readings that may differ before one is taken as it is, when keys are written all the time.
READINGS_MAX = 5

#: Keys elsewhere that a configuration may refer to: each is a read, and one more while waiting.
STORED_MAX = 256


class Agent(Protocol):
    async def read(self, query: Any, options: ReadOptions) -> ReadResult: ...


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What an application's configuration is made of, at one moment."""

    values: dict[str, Value]
    stored: dict[str, str | None]  # keys that are referred to; None: not there
    #: What is wrong with the keys, if they make no configuration.
    problem: ConfigProblem | None
    queries: tuple[Query, ...]
    #: How it was read, without a value; from its index on a change is waited for.
    meta: ReadResult


async def take_snapshot(
    agent: Agent, prefixes: Sequence[str], settings: Settings, options: ReadOptions
) -> Snapshot:
    """What the layers of these prefixes, the lowest first, are now, with all they refer to."""
    now = replace(options, min_index=0, wait_ms=0)
    layers = [KvList(prefix=prefix.encode("utf-8", "surrogateescape")) for prefix in prefixes]
    queries: list[Query] = [*layers]
    results = await _read(agent, queries, now)
    for _ in range(READINGS_MAX):
        # What values refer to is known once they are read, and may refer to more.
        while more := _Material(prefixes, queries, results, settings).unread:
            results += await _read(agent, more, now)
            queries += more
        again = await _read(agent, queries, now)
        if [each.value for each in again] == [each.value for each in results]:
            break
        results = again
    else:
        # Each layer as it was at its own index: waiting from the lowest misses nothing.
        material = _Material(prefixes, queries, results, settings)
        return material.snapshot(min(each.index for each in results))
    material = _Material(prefixes, queries, results, settings)
    return material.snapshot(max(each.index for each in results))


async def wait_for_change(
    agent: Agent, snapshot: Snapshot, index: int, wait_ms: int, options: ReadOptions
) -> None:
    """Until something that the snapshot was made of has a higher index, or time is up."""
    waiting = replace(options, min_index=index, wait_ms=wait_ms)
    await _together([agent.read(query, waiting) for query in snapshot.queries], _end_with_the_first)


class _Material:
    """Results of reads as values."""

    def __init__(
        self,
        prefixes: Sequence[str],
        queries: Sequence[Query],
        results: Sequence[ReadResult],
        settings: Settings,
    ) -> None:
        self._queries, self._results = queries, results
        self._values: dict[str, Value] = {}
        self._stored: dict[str, str | None] = {}
        self._problem: ConfigProblem | None = None
        #: What is referred to and was not read.
        self.unread: list[KvGet] = []
        try:
            self._interpret(prefixes, settings)
        except ConfigProblem as problem:
            self._problem = problem

    def _interpret(self, prefixes: Sequence[str], settings: Settings) -> None:
        found = [[(key, entry.value) for key, entry in result.value] for result in self._layers()]
        self._values = merge(zip(prefixes, found, strict=True), settings.separator)
        for query, result in zip(self._queries, self._results, strict=True):
            if isinstance(query, KvGet):
                key, entry = query.key.decode(), result.value
                self._stored[key] = (
                    None if entry is None else as_text(entry.value, f"the value of {key}")
                )
        texts = [value.text for value in self._values.values()]
        texts += filter(None, self._stored.values())
        paths = set().union(*map(stored_paths, texts)) - self._stored.keys()
        for path in paths:
            if not path.startswith(settings.reach):
                raise ConfigProblem(f"${{{KV}{path}}} is out of reach (plugins.settings.appconfig)")
        if len(self._stored) + len(paths) > STORED_MAX:
            raise ConfigProblem(f"more than {STORED_MAX} keys are referred to by ${{{KV}…}}")
        self.unread = [KvGet(key=path.encode()) for path in sorted(paths) if path]

    def _layers(self) -> list[ReadResult]:
        pairs = zip(self._queries, self._results, strict=True)
        return [result for query, result in pairs if isinstance(query, KvList)]

    def snapshot(self, index: int) -> Snapshot:
        results = self._results
        meta = ReadResult(
            index=index,
            value=None,
            known_leader=all(each.known_leader for each in results),
            last_contact_ms=max(each.last_contact_ms for each in results),
        )
        return Snapshot(self._values, self._stored, self._problem, tuple(self._queries), meta)


async def _read(agent: Agent, queries: Sequence[Query], options: ReadOptions) -> list[ReadResult]:
    tasks = await _together([agent.read(query, options) for query in queries])
    return [task.result() for task in tasks]


Reads = list[asyncio.Task[ReadResult]]


async def _together(
    reads: Iterable[Coroutine[Any, Any, ReadResult]],
    attend: Callable[[Reads], Coroutine[Any, Any, None]] | None = None,
) -> Reads:
    """All of them, ended; the first failure cancels the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in reads]
            if attend is not None:
                await attend(tasks)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return tasks


async def _end_with_the_first(reads: Reads) -> None:
    await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
    for read in reads:
        read.cancel()
