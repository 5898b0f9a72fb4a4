"""Keeping this node's network coordinate in the catalog, where `near=` and `rtt` look for it.

Coordinates are worked out by gossip, which moves them all the time; the catalog gets one now and
then. The rate is bounded over the whole cluster, so that large ones do not write without end.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from registry.agent.facade import Backend
from registry.errors import RegistryError
from registry.state.base import ReadOptions
from registry.state.coordinates import (
    Coordinate,
    GetCoordinates,
    NodeCoordinate,
    UpdateCoordinates,
)

logger = logging.getLogger("registry.agent")

#: Until the catalog has the node, and with it a place for the coordinate.
RETRY_SECONDS = 1.0


class CoordinateSync:
    """Writes this node's coordinate whenever the catalog has another.

    Args:
        own: gives the coordinate of now.
        interval_s: least time between two looks.
        rate: updates a second that all nodes together may make.
        cluster_size: how many nodes share that rate.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        node: str,
        datacenter: str,
        own: Callable[[], Coordinate],
        interval_s: float,
        rate: float,
        cluster_size: Callable[[], int],
        chance: random.Random | None = None,
    ) -> None:
        self._backend, self._node, self._own = backend, node, own
        self._options = ReadOptions(datacenter=datacenter)
        self._interval_s, self._rate, self._cluster_size = interval_s, rate, cluster_size
        self._chance = chance or random.Random()

    async def run(self) -> None:
        """Until cancelled; what cannot be written now is tried again."""
        while True:
            try:
                stored = await self.send()
            except RegistryError as problem:
                logger.debug("coordinate was not written: error=%s", problem)
                stored = False
            await asyncio.sleep(self.pause_s() if stored else RETRY_SECONDS)

    def pause_s(self) -> float:
        """Seconds to the next look: spread, so that nodes do not write in step."""
        interval = max(self._interval_s, self._cluster_size() / self._rate)
        return interval * (1 + self._chance.random())

    async def send(self) -> bool:
        """Whether the catalog has the coordinate now; it has none of nodes that it does not know.

        Raises `RegistryError` when nobody can be asked.
        """
        own = self._own()
        if await self._known() == own:
            return True
        update = NodeCoordinate(node=self._node, coord=own)
        await self._backend.write(UpdateCoordinates(updates=(update,)))
        return await self._known() == own

    async def _known(self) -> Coordinate | None:
        found = await self._backend.read(GetCoordinates(node=self._node), self._options)
        return next((each.coord for each in found.value if not each.segment), None)
