"""This node's coordinate in the catalog."""

from __future__ import annotations

import random

from registry.agent.coordinates import CoordinateSync
from registry.state.base import Command, ReadOptions
from registry.state.catalog_commands import Register
from registry.state.coordinates import Coordinate, GetCoordinates
from registry.testing.consensus import InstantBackend


class CountingBackend(InstantBackend):
    writes = 0

    async def write(self, command: Command) -> object:
        self.writes += 1
        return await super().write(command)


def sync_of(backend: InstantBackend, places: list[Coordinate], *, size: int = 1) -> CoordinateSync:
    return CoordinateSync(
        backend,
        node="node1",
        datacenter="dc1",
        own=lambda: places[0],
        interval_s=15,
        rate=64,
        cluster_size=lambda: size,
        chance=random.Random(1),
    )


async def stored(backend: InstantBackend) -> list[Coordinate]:
    found = await backend.read(GetCoordinates(node="node1"), ReadOptions())
    return [each.coord for each in found.value]


async def test_it_waits_for_the_node_and_writes_what_changed() -> None:
    backend, places = CountingBackend(), [Coordinate()]
    sync = sync_of(backend, places)
    assert await sync.send() is False, "the catalog does not know the node yet"
    await backend.write(Register(node="node1", address="127.0.0.1"))
    assert await sync.send() is True
    assert await stored(backend) == [Coordinate()]
    before = backend.writes
    assert await sync.send() is True
    assert backend.writes == before, "nothing changed, so nothing is written"
    places[0] = Coordinate(height=0.5)
    assert await sync.send() is True
    assert await stored(backend) == [Coordinate(height=0.5)]


def test_large_clusters_write_less_often() -> None:
    small = sync_of(InstantBackend(), [Coordinate()])
    large = sync_of(InstantBackend(), [Coordinate()], size=6400)
    assert 15 <= small.pause_s() <= 30
    assert 100 <= large.pause_s() <= 200
