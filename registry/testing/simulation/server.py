"""One server: a disk and a clock of its own rate, and the lives of the process between crashes."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from registry.raft.config import RaftConfig
from registry.raft.core import RaftCore
from registry.raft.membership import decode_configuration, encode_configuration
from registry.raft.messages import AnyMessage, Configuration, Entry, EntryKind, HardState
from registry.testing.clock import Event
from registry.testing.disk import Record, SimulatedDisk
from registry.testing.simulation.life import CrashPoint, Life
from registry.testing.simulation.loop import Loop
from registry.testing.simulation.options import ELECTION_TICKS
from registry.testing.simulation.requests import Attempt
from registry.testing.simulation.ticks import DriftingClock, Ticks
from registry.testing.simulation.world import CLUSTER_ID, World

MESSAGES_WAITING_MAX = 2000
TRAILING_FOR_PROMOTION = 10


class SimulatedServer:
    """The real core on a simulated disk. `core` is None while the server is down."""

    def __init__(
        self,
        world: World,
        server_id: str,
        rng: random.Random,
        crashed: Callable[[SimulatedServer], None],
    ) -> None:
        """`crashed` is called at a crash point within a step; it is to call `crash`."""
        self.id = server_id
        self.disk = world.disks[server_id] = SimulatedDisk()
        self._world = world
        self._random = rng
        self._crashed = crashed
        self._is_paused = False
        self._waiting: deque[Callable[[], None]] = deque()  # while paused
        self._loop: Loop | None = None
        drift = world.options.clock_drift
        self._pre_vote = rng.random() >= world.options.without_pre_vote
        self._clock = DriftingClock(world.schedule, 1 + rng.uniform(-drift / 2, drift / 2))

    @property
    def core(self) -> RaftCore | None:
        loop = self._loop
        return loop.life.core if loop is not None and not loop.life.is_over else None

    # -- life --------------------------------------------------------------------------------

    def bootstrap(self, configuration: Configuration) -> None:
        """Before the first start: the log begins with this configuration."""
        entry = Entry(1, 1, EntryKind.CONFIGURATION, encode_configuration(configuration))
        self.disk.write(Record(hard_state=HardState(term=1), entries=(entry,)))
        self.disk.synced(self.disk.mark())

    def start(self) -> None:
        """Begin a life with what is on the disk."""
        core = self._recover()
        life = Life(
            world=self._world,
            server_id=self.id,
            disk=self.disk,
            random=self._random,
            core=core,
            handle=self.handle,
        )
        self._loop = Loop(life, Ticks(self._clock))
        self._is_paused = False
        self._world.checker.started(self.id, core)
        self._next_tick(life)

    def _recover(self) -> RaftCore:
        image = self.disk.written
        is_fresh = image.last_index <= 1 and image.hard_state.term <= 1
        seed = 0 if self._world.options.aligned_timers else self._random.random()
        return RaftCore(
            self._config(),
            self.disk,
            image.hard_state,
            image.configuration_at(image.last_index, decode_configuration),
            image.applied_index,
            random.Random(f"{self.id} {seed}"),  # salted, as the driver does
            restarted=not is_fresh,
        )

    def _config(self) -> RaftConfig:
        options = self._world.options
        return RaftConfig(
            id=self.id,
            cluster_id=CLUSTER_ID,
            election_ticks=ELECTION_TICKS,
            sticky_ticks=options.sticky_ticks,
            heartbeat_ticks=2,
            max_entries_per_append=options.entries_per_append,
            max_inflight_messages=options.inflight_messages,
            max_trailing_for_promotion=TRAILING_FOR_PROMOTION,
            pre_vote=self._pre_vote,
            disabled_guards=self._world.disabled_guards,
        )

    def _next_tick(self, life: Life) -> None:
        def tick() -> None:
            if not life.is_over:
                self.handle(lambda: None)
                self._next_tick(life)

        self._world.schedule.after(self._clock.true_time_of_a_tick(), tick)

    def crash(self) -> None:
        """Lose memory, and what the disk had not synced."""
        if self._loop is not None:
            self._loop.life.is_over = True
        self.disk.crash(self._random)
        self._waiting.clear()
        self._world.checker.synced(self.id)

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        if self._loop is not None:
            self._loop.commit.resumed()
        while self._waiting and self.core is not None and not self._is_paused:
            self.handle(self._waiting.popleft())

    # -- inputs ------------------------------------------------------------------------------

    def handle(self, action: Callable[[], None]) -> None:
        """Take one input, or keep it until the pause is over."""
        if self._loop is None or self._loop.life.is_over:
            return
        if self._is_paused:
            if len(self._waiting) < MESSAGES_WAITING_MAX:
                self._waiting.append(action)
            return
        core = self._loop.life.core
        try:
            self._loop.step(action)
        except CrashPoint:
            self._crashed(self)
            return
        self._world.checker.check(self.id, core)

    def later(self, delay: int, action: Callable[[], None]) -> Event:
        """An input of this life of the server, some time from now."""
        assert self._loop is not None, "it was started"
        return self._loop.life.later(delay, action)

    def receive(self, message: AnyMessage) -> None:
        """A message has arrived."""
        if self._loop is None or (self._is_paused and self._world.options.deaf_when_paused):
            return
        loop = self._loop
        self.handle(lambda: loop.receive(message))

    def ask(self, attempt: Attempt) -> None:
        """A client's operation has arrived."""
        if self._loop is not None:
            requests = self._loop.requests
            self.handle(lambda: requests.take(attempt))

    # -- what checks look at -----------------------------------------------------------------

    def holds_lease(self) -> bool:
        core = self.core
        return core is not None and not self._is_paused and core.lease_read_index() is not None

    def check_disk(self) -> None:
        """A leader whose disk hangs must not go on leading (R-29)."""
        if self._loop is not None and not self._loop.life.is_over and not self._is_paused:
            self._loop.commit.check()
