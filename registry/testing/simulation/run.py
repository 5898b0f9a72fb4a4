"""One run: a cluster works while it is broken, and recovers once it is not."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from registry.testing.simulation.client import Client
from registry.testing.simulation.cluster import Cluster
from registry.testing.simulation.nemesis import Nemesis
from registry.testing.simulation.operator import Operator
from registry.testing.simulation.options import Options
from registry.testing.simulation.recovery import Recovery
from registry.testing.simulation.world import World


@dataclass(frozen=True, slots=True)
class Summary:
    """What happened in a run that ended well; `fingerprint` is equal when the run is."""

    seed: int
    options: Options
    events: int
    elections: int
    committed: int
    operations: int
    crashes: int
    changes: int
    snapshots: int
    fingerprint: int


class Simulation:
    """One run. `run` raises `Violation`, or whatever a core raised: that is one too."""

    def __init__(
        self,
        seed: int,
        options: Options | None = None,
        *,
        servers: int | None = None,
        disabled_guards: frozenset[str] = frozenset(),
        trace: Callable[[str], None] | None = None,
    ) -> None:
        """Without `options` they are random; `servers` is how many there are then at first."""
        self._seed = seed
        rng = random.Random(seed)
        self._world = World(
            options or Options.swarm(rng, servers),
            rng,
            deliver=lambda message: self._cluster.deliver(message),
            disabled_guards=disabled_guards,
            trace=trace,
        )
        self._cluster = Cluster(self._world)
        self._nemesis = Nemesis(self._world, self._cluster)
        self._operator = Operator(self._world, self._cluster)

    @property
    def now(self) -> int:
        """Virtual time, in microseconds."""
        return self._world.schedule.now

    def run(self) -> Summary:
        world = self._world
        self._cluster.start()
        for number in range(world.options.clients):
            Client(world, self._cluster, number)
        self._nemesis.start()
        self._operator.start()
        world.schedule.run_until(world.options.duration, self._cluster.check)
        self._nemesis.stop()
        Recovery(world, self._cluster).expect()
        world.history.check()
        return self._summary()

    def _summary(self) -> Summary:
        world = self._world
        return Summary(
            seed=self._seed,
            options=world.options,
            events=world.schedule.happened,
            elections=world.checker.elections,
            committed=len(world.checker.committed),
            operations=len(world.history),
            crashes=self._cluster.crashes,
            changes=self._operator.changes,
            snapshots=len(world.snapshots),
            fingerprint=world.trace.fingerprint,
        )
