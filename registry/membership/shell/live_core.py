"""The cores at the present time: what callers and tasks hold while the loop drives them."""

from __future__ import annotations

import asyncio
import time

from registry.errors import LocalProtocolError, Unavailable
from registry.membership.pool_core import PoolCore
from registry.membership.serf_values import NameLost


class LiveCore:
    """A `PoolCore` from `begin` until we have left, or lost our name."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._core: PoolCore | None = None
        #: Set when there is something to do; the loop waits for it.
        self.wake = asyncio.Event()
        self.left = asyncio.Event()
        self.lost: NameLost | None = None

    def begin(self, core: PoolCore) -> None:
        self._core = core

    @property
    def running(self) -> PoolCore:
        """To look at, or to be told the time with the input. Raises `LocalProtocolError`."""
        if self._core is None:
            raise LocalProtocolError("the pool was not started")
        return self._core

    def now(self) -> PoolCore:
        """The core, at the present time; what it then wants is done in the loop's next turn."""
        core = self.running
        core.at(now_ms())
        self.wake.set()
        return core

    @property
    def has_ended(self) -> bool:
        return self.left.is_set() or self.lost is not None

    def check_not_left(self) -> None:
        """Raises `Unavailable` when we have."""
        if self.left.is_set():
            raise Unavailable(f"this agent is in the {self._label} pool no more")


def now_ms() -> float:
    return time.monotonic() * 1000.0
