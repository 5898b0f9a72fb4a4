"""A client that reads and writes, and remembers what it saw."""

from __future__ import annotations

from registry.testing.simulation.cluster import Cluster
from registry.testing.simulation.options import T
from registry.testing.simulation.requests import Attempt
from registry.testing.simulation.world import World

#: What a client waits before it gives an operation up as unknown.
CLIENT_TIMEOUT = 4 * T


class Client:
    """Does one operation at a time, on the server that it believes to lead, and remembers all."""

    def __init__(self, world: World, cluster: Cluster, number: int) -> None:
        self._world = world
        self._cluster = cluster
        self._number = number
        self._count = 0
        self._target = ""
        self._current = 0
        self._pause()

    def _pause(self) -> None:
        think = self._world.options.think_time
        self._world.schedule.after(self._world.random.randint(1, 2 * think), self._act)

    def _act(self) -> None:
        world = self._world
        if not world.loaded:
            return
        rng, options, history = world.random, world.options, world.history
        self._current += 1
        number = self._current
        is_read = rng.random() < options.reads
        self._count += not is_read
        key = f"k{rng.randrange(options.keys)}"
        value = None if is_read else f"{self._number}.{self._count}"
        start = world.schedule.now
        if value is not None:
            history.write_begins(key, value)

        def finish(seen: str | None) -> None:
            # However late: what was acknowledged was acknowledged.
            history.finished(key, not is_read, seen, start)
            proceed()

        def refuse(leader: str) -> None:
            if value is not None:
                history.write_refused(value)
            self._target = leader
            proceed()

        def proceed() -> None:
            if self._current == number:
                self._current += 1
                self._pause()

        world.schedule.after(CLIENT_TIMEOUT, proceed)
        attempt = Attempt(key, value, rng.random() < options.consistent, finish, refuse)
        server = self._cluster.pick(self._target)
        if server is None:
            refuse("")
        else:
            server.ask(attempt)
