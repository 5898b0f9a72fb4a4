"""What everything in a run shares: chance, time, network, checkers, and whether faults happen.

There is one source of chance for all, so the order in which it is asked is part of a run: another
order is another run, with another fingerprint.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from registry.raft.messages import AnyMessage
from registry.testing.checkers import Checker
from registry.testing.clock import Schedule
from registry.testing.disk import SimulatedDisk, State
from registry.testing.network import SimulatedNetwork
from registry.testing.simulation.history import History
from registry.testing.simulation.options import Options
from registry.testing.simulation.trace import Trace

CLUSTER_ID = "simulated"


class World:
    """The surroundings of all servers and clients of one run."""

    def __init__(
        self,
        options: Options,
        rng: random.Random,
        *,
        deliver: Callable[[AnyMessage], None],
        disabled_guards: frozenset[str] = frozenset(),
        trace: Callable[[str], None] | None = None,
    ) -> None:
        self.options = options
        self.random = rng
        self.disabled_guards = disabled_guards
        self.schedule = Schedule()
        self.network = SimulatedNetwork(self.schedule, rng, options.network, deliver)
        self.trace = Trace(self.schedule, trace)
        self.history = History(self.schedule)
        #: Every disk there ever was, by its server; the checker sees through them.
        self.disks: dict[str, SimulatedDisk] = {}
        self.checker = Checker(self.disks)
        #: What snapshots hold, by their ids; the messages carry only the ids.
        self.snapshots: dict[str, State] = {}
        #: Whether faults may happen.
        self.faulty = True
        #: Whether clients begin operations.
        self.loaded = True

    def now_and_then(self, every: int, act: Callable[[], None]) -> None:
        """Do it at random moments, `every` microseconds on average (0: never), while faulty."""
        if not every:
            return

        def happen() -> None:
            if self.faulty:
                act()
                self.now_and_then(every, act)

        self.schedule.after(int(self.random.expovariate(1 / every)), happen)
