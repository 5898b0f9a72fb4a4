"""All servers of a run, those that are down among them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

from registry.raft.messages import AnyMessage, Configuration, Server
from registry.raft.ready import RaftRole
from registry.testing.clock import MS
from registry.testing.simulation.options import T
from registry.testing.simulation.server import SimulatedServer
from registry.testing.simulation.world import World


class Cluster:
    """`servers` by their ids, in the order in which they came; none ever leaves."""

    def __init__(self, world: World) -> None:
        self.servers: dict[str, SimulatedServer] = {}
        self.crashes = 0
        self._world = world
        self._numbers = itertools.count(1)

    def start(self) -> None:
        """Bootstrap and start the first servers, as one cluster."""
        ids = [self.add().id for _ in range(self._world.options.servers)]
        first = Configuration(tuple(Server(id_, address(id_)) for id_ in ids), index=1)
        for server in list(self.servers.values()):
            server.bootstrap(first)
            server.start()
        self._world.checker.bootstrapped(self.servers[ids[0]].disk.written.entries[0])

    def add(self) -> SimulatedServer:
        """A new server, blank and not started yet."""
        world = self._world
        server_id = f"s{next(self._numbers)}"
        seed = world.options.servers if world.options.aligned_timers else world.random.random()
        server = SimulatedServer(world, server_id, random.Random(seed), self.crash)
        self.servers[server_id] = server
        return server

    def deliver(self, message: AnyMessage) -> None:
        if (server := self.servers.get(message.receiver)) is not None:
            server.receive(message)

    def check(self) -> None:
        """What is looked at after every event. Raises `Violation`."""
        self._world.checker.leases([s.id for s in self.servers.values() if s.holds_lease()])
        for server in self.servers.values():
            server.check_disk()

    # -- who is up, who leads ----------------------------------------------------------------

    def up(self) -> list[SimulatedServer]:
        return [server for server in self.servers.values() if server.core is not None]

    def leader(self) -> SimulatedServer | None:
        """The leader of the latest term that has one."""
        leading = [
            (server.core.term, server.id)
            for server in self.servers.values()
            if server.core is not None and server.core.role is RaftRole.LEADER
        ]
        return self.servers[max(leading)[1]] if leading else None

    def pick(self, wanted: str) -> SimulatedServer | None:
        """The wanted one, or sometimes any: deposed leaders must be asked too. None: it is down."""
        up = self.up()
        if not up:
            return None
        if wanted in self.servers and self._world.random.random() >= self._world.options.wander:
            server = self.servers[wanted]
            return server if server.core is not None else None
        return self._world.random.choice(up)

    # -- crashes -----------------------------------------------------------------------------

    def crash(self, server: SimulatedServer) -> None:
        """Crash it; it starts again after a while."""
        rng = self._world.random
        self._world.trace.say(f"crash {server.id}")
        self.crashes += 1
        server.crash()
        self.tell_gone(server, self._world.options.told_of_crashes)
        delay = rng.choice((1, MS, T // 4, T, 4 * T))
        self._world.schedule.after(rng.randint(0, delay), lambda: self.restart(server))

    def restart(self, server: SimulatedServer) -> None:
        """Start it if it is down."""
        if server.core is None:
            self._world.trace.say(f"start {server.id}")
            server.start()

    def tell_gone(self, gone: SimulatedServer, chance: float) -> None:
        """Some of the others learn, or believe, that the process of `gone` has ended."""
        if not chance:
            return
        rng = self._world.random
        for server in self.servers.values():
            if server is not gone and rng.random() < chance:
                server.later(rng.randint(0, T // 10), _teller(server, gone.id))


def _teller(server: SimulatedServer, gone: str) -> Callable[[], None]:
    def tell() -> None:
        assert server.core is not None, "an input of a life of the server"
        server.core.gone(gone)

    return tell


def address(server_id: str) -> str:
    return f"{server_id}:8300"
