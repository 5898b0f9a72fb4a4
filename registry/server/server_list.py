"""Servers to choose from where any will do: one is stuck to, the next comes in when it fails."""

from __future__ import annotations

import random
from collections.abc import Sequence


class ServerList:
    """The servers to choose from, the one in use first. Knows no clock and no network."""

    def __init__(self, rng: random.Random) -> None:
        self._random = rng
        self._servers: list[str] = []

    def __len__(self) -> int:
        return len(self._servers)

    @property
    def servers(self) -> Sequence[str]:
        return tuple(self._servers)

    @property
    def current(self) -> str | None:
        """The server in use; None when there is none to choose from."""
        return self._servers[0] if self._servers else None

    def update(self, servers: Sequence[str]) -> bool:
        """What servers there are now; whether any is new. The one in use stays if it is there;
        new ones come in at random places behind it."""
        there = set(servers)
        kept = [server for server in self._servers if server in there]
        new = sorted(there.difference(kept))
        self._random.shuffle(new)
        first = 1 if kept else 0
        for server in new:
            kept.insert(self._random.randint(first, len(kept)), server)
        self._servers = kept
        return bool(new)

    def failed(self, server: str) -> None:
        """Go on to the next; `server` is tried last."""
        if server in self._servers:
            self._servers.remove(server)
            self._servers.append(server)

    def rebalance(self) -> None:
        """Choose anew."""
        self._random.shuffle(self._servers)
