"""A whole cluster in one process, on virtual time, with everything that can go wrong.

The real cores run; disk, network, clocks and clients are simulated. One seed decides everything,
so a run is a pure function of (code, seed, options) and replays exactly. Each run switches a random
subset of faults on, some to extremes ("swarm"), for then rare combinations get their turn. After
every event the checkers look at the true state of all servers. At the end the faults stop and the
cluster must show that it lives: elect, commit, agree (I-17).

A server's life follows `registry.raft.loop`: group commit with one sync under way, messages that
promise something held back until it is durable, ticks counted off a clock of its own rate.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from zlib import crc32

from registry.errors import Rejected, Unavailable
from registry.raft.core import RaftConfig, RaftCore
from registry.raft.membership import (
    AddLearner,
    ConfigChange,
    Demote,
    Promote,
    Remove,
    decode_configuration,
    encode_configuration,
)
from registry.raft.messages import (
    AnyMessage,
    AppendReply,
    AppendRequest,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Role,
    Server,
    SnapshotChunk,
    SnapshotMeta,
    VoteReply,
    VoteRequest,
)
from registry.raft.ready import RaftRole, Ready, RoleChange
from registry.testing.checkers import Checker, Promise, Violation, voters
from registry.testing.clock import MS, Event, Schedule
from registry.testing.disk import Record, SimulatedDisk, State
from registry.testing.linearizability import NEVER, Operation, explain_violation
from registry.testing.network import NetworkFaults, SimulatedNetwork

TICK = 50 * MS
ELECTION_TICKS = 20
T = TICK * ELECTION_TICKS  # the election timeout
CLUSTER = "simulated"

#: What a client waits before it gives an operation up as unknown.
CLIENT_TIMEOUT = 4 * T
MESSAGES_WAITING_MAX = 2000
SERVERS_MAX = 7
TRAILING_FOR_PROMOTION = 10
PARTITIONS = ("isolate", "halves", "bridge", "link", "deaf", "mute", "votes", "appends")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """One run's dose of everything. `…_every` are mean intervals in microseconds, 0 is never."""

    servers: int = 3
    duration: int = 20 * T
    network: NetworkFaults = field(default_factory=NetworkFaults)
    crash_every: int = 0
    crash_all: float = 0.0  # share of crashes that hit every server at once
    crash_point: float = 0.0  # chance of a crash at each boundary within a step
    crash_elected: float = 0.0  # chance that a new leader crashes soon after its election
    partition_every: int = 0
    partitions: tuple[str, ...] = PARTITIONS
    pause_every: int = 0
    change_every: int = 0
    transfer_every: int = 0
    compact_after: int = 0
    trailing: int = 5
    clients: int = 3
    keys: int = 2
    think_time: int = 60 * MS
    reads: float = 0.5
    consistent: float = 0.5
    sync_max: int = 5 * MS
    stall: float = 0.0  # chance that a sync takes up to `stall_max`
    stall_max: int = 4 * T
    apply_delay_max: int = 0
    clock_drift: float = 0.0  # rates lie within 1 ± half of it
    aligned_timers: bool = False
    wander: float = 0.1  # share of operations that go to any server, leader or not
    deaf_when_paused: bool = False  # what is sent to a paused server is lost
    without_pre_vote: float = 0.0  # share of servers that campaign without asking first
    entries_per_append: int = 8
    inflight_messages: int = 16
    sticky_ticks: int = 0
    #: Chance that a server is told of another's crash; and, wrongly, of one that is cut off.
    told_of_crashes: float = 0.0
    told_wrongly: float = 0.0

    @classmethod
    def swarm(cls, rng: random.Random, servers: int | None = None) -> Options:
        """A random subset of faults, each at a random strength."""

        def maybe(probability: float, value: float) -> float:
            return value if rng.random() < probability else 0.0

        def interval(probability: float, low: float, high: float) -> int:
            return int(maybe(probability, rng.uniform(low, high) * T))

        network = NetworkFaults(
            drop=maybe(0.5, rng.choice((0.01, 0.05, 0.2))),
            duplicate=maybe(0.4, rng.choice((0.02, 0.2))),
            delay_min=rng.choice((MS // 10, MS, 10 * MS)),
            delay_max=rng.choice((10 * MS, 20 * MS, 80 * MS)),
            tail=maybe(0.3, rng.choice((0.01, 0.1))),
            tail_delay_max=rng.choice((100 * MS, T, 5 * T)),
            slow_link_factor=rng.choice((1, 1, 5)),
            cuts_lose_under_way=rng.random() < 0.5,
        )
        aligned = rng.random() < 0.2
        return cls(
            servers=servers or rng.choice((1, 3, 3, 3, 4, 5, 5)),
            duration=rng.choice((12, 20, 30)) * T,
            network=network,
            crash_every=interval(0.6, 0.5, 6),
            crash_all=maybe(0.3, 0.3),
            crash_point=maybe(0.3, rng.choice((0.0005, 0.003))),
            crash_elected=maybe(0.2, 0.5),
            partition_every=interval(0.6, 1, 6),
            partitions=(*rng.sample(PARTITIONS, rng.randint(1, len(PARTITIONS))), "heal"),
            pause_every=interval(0.3, 1, 8),
            change_every=interval(0.4, 0.3, 4),
            transfer_every=interval(0.3, 1, 6),
            compact_after=rng.choice((0, 0, 15, 40)),
            trailing=rng.choice((0, 3, 10)),
            clients=rng.choice((1, 3, 6, 12)),
            keys=rng.choice((1, 2, 5)),
            think_time=rng.choice((20 * MS, 60 * MS, 200 * MS, 400 * MS)),
            reads=rng.choice((0.2, 0.5, 0.8)),
            consistent=rng.choice((0.0, 0.5, 1.0)),
            sync_max=rng.choice((MS, 5 * MS, 60 * MS)),
            stall=maybe(0.2, rng.choice((0.002, 0.02))),
            apply_delay_max=int(maybe(0.2, 100 * MS)),
            clock_drift=0.0 if aligned else rng.choice((0.0, 0.02, 0.09)),
            aligned_timers=aligned,
            wander=rng.choice((0.05, 0.1, 0.4)),
            deaf_when_paused=rng.random() < 0.5,
            without_pre_vote=maybe(0.15, rng.choice((0.3, 1.0))),
            entries_per_append=rng.choice((1, 2, 8, 64)),
            inflight_messages=rng.choice((1, 4, 16, 256)),
            sticky_ticks=rng.choice((0, ELECTION_TICKS // 2, ELECTION_TICKS // 4)),
            told_of_crashes=rng.choice((0.0, 0.5, 1.0)),
            told_wrongly=rng.choice((0.0, 0.5)),
        )


class _CrashPoint(Exception):
    """Thrown within a step to crash the server right there."""


@dataclass(slots=True)
class _Attempt:
    """One client operation under way; `finish` takes the value seen, `refuse` ends it undone."""

    key: str
    value: str | None  # to write; None reads
    consistent: bool
    start: int
    finish: Callable[[str | None], None]
    refuse: Callable[[str], None]
    position: tuple[int, int] | None = None  # index, term once appended


class SimulatedServer:
    """One server: the real core, a simulated disk, a clock of its own rate."""

    def __init__(self, simulation: Simulation, server_id: str, rng: random.Random) -> None:
        self.simulation = simulation
        self.id = server_id
        self.disk = SimulatedDisk()
        self.core: RaftCore | None = None
        self.paused = False
        self._random = rng
        drift = simulation.options.clock_drift
        self._pre_vote = rng.random() >= simulation.options.without_pre_vote
        self._rate = 1 + rng.uniform(-drift / 2, drift / 2)
        self._forget()
        self._life = 0

    def _forget(self) -> None:
        """Everything that is not on disk."""
        self._waiting: deque[Callable[[], None]] = deque()  # while paused
        self._unsynced: deque[tuple[Ready, list[Promise]]] = deque()
        self._syncing = False
        self._syncing_since: int | None = None
        self._writes: dict[int, _Attempt] = {}
        self._reads: dict[int, _Attempt] = {}
        self._reads_ready: list[tuple[int, _Attempt]] = []
        self._contexts = itertools.count(1)
        self._to_apply: list[Entry] = []
        self._applying = False
        self._transfers: dict[str, tuple[SnapshotMeta, Event]] = {}

    # -- life --------------------------------------------------------------------------------

    def bootstrap(self, configuration: Configuration) -> None:
        entry = Entry(1, 1, EntryKind.CONFIGURATION, encode_configuration(configuration))
        self.disk.write(Record(hard_state=HardState(term=1), entries=(entry,)))
        self.disk.synced(self.disk.mark())

    def start(self) -> None:
        image = self.disk.written
        fresh = image.last_index <= 1 and image.hard_state.term <= 1
        self._ticked_at = self._local_time()
        seed = 0 if self.simulation.options.aligned_timers else self._random.random()
        self.core = RaftCore(
            self.simulation.config(self.id, pre_vote=self._pre_vote),
            self.disk,
            image.hard_state,
            image.configuration_at(image.last_index, decode_configuration),
            image.applied_index,
            random.Random(f"{self.id} {seed}"),  # salted, as the driver does
            restarted=not fresh,
        )
        self._life += 1
        self.paused = False
        self.simulation.checker.started(self.id, self.core)
        self._next_tick(self._life)

    def crash(self) -> None:
        """Lose memory, and what the disk had not synced."""
        self.core = None
        self._life += 1
        self.disk.crash(self._random)
        self._forget()
        self.simulation.checker.synced(self.id)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        if self._syncing_since is not None:
            self._syncing_since = self.simulation.schedule.now  # it has not seen the time go by
        while self._waiting and self.core is not None and not self.paused:
            self.handle(self._waiting.popleft())

    def _local_time(self) -> int:
        return int(self.simulation.schedule.now * self._rate)

    def _next_tick(self, life: int) -> None:
        def tick() -> None:
            if self._life == life and self.core is not None:
                self.handle(lambda: None)
                self._next_tick(life)

        self.simulation.schedule.after(int(TICK / self._rate) + 1, tick)

    # -- one step ----------------------------------------------------------------------------

    def handle(self, action: Callable[[], None]) -> None:
        """Count due ticks, take one input, do what the core wants; as the driver's step."""
        if self.core is None:
            return
        if self.paused:
            if len(self._waiting) < MESSAGES_WAITING_MAX:
                self._waiting.append(action)
            return
        core = self.core
        try:
            self._advance_clock(core)
            action()
            while core.has_ready():
                self._execute(core, core.ready())
        except _CrashPoint:
            self.simulation.crashed_at_point(self)
            return
        self.simulation.checker.check(self.id, core)

    def later(self, delay: int, action: Callable[[], None]) -> Event:
        """An input of this life of the server, some time from now."""
        life = self._life

        def act() -> None:
            if self._life == life:
                self.handle(action)

        return self.simulation.schedule.after(delay, act)

    def _advance_clock(self, core: RaftCore) -> None:
        ticks = (self._local_time() - self._ticked_at) // TICK
        if ticks <= 0:
            return
        self._ticked_at += ticks * TICK
        if ticks > ELECTION_TICKS // 2:
            core.clock_jumped()
            ticks = ELECTION_TICKS // 2
        core.tick(ticks)

    def _execute(self, core: RaftCore, ready: Ready) -> None:
        self.simulation.note(self.id, ready)
        if ready.role_change is not None:
            self._change_role(core, ready.role_change)
        self._send([self._promise(message) for message in ready.now])
        self._crash_point()
        if ready.must_sync:
            self._write(core, ready)
            self._crash_point()
        promises = [self._promise(message) for message in ready.after]
        if ready.must_sync or self._unsynced:
            self._unsynced.append((ready, promises))
            if not self._syncing:
                self._start_sync()
        else:
            self._complete(core, ready, promises)
        for peer in ready.snapshots_wanted:
            self._send_snapshot(core, peer)
        if ready.committed:
            self._commit(core, ready.committed)
        for context in ready.failed_reads:
            self._reads.pop(context).refuse(core.leader_id or "")
        for read in ready.reads:
            self._reads_ready.append((read.index, self._reads.pop(read.context)))
        self._answer_reads(core)

    def _change_role(self, core: RaftCore, change: RoleChange) -> None:
        if change.reason == "removed" and core.commit_index < core.configuration.index:
            # it leads on until its removal is committed, and the others know.
            raise Violation("I-11", f"{self.id} stops leading before its removal is committed")
        if change.role is not RaftRole.LEADER:
            # Appended, then leadership lost: the clients learn no outcome.
            self._writes.clear()
        elif self._random.random() < self.simulation.options.crash_elected:
            self.later(self._random.randint(0, 100 * MS), self._crash_if_faulty)

    def _crash_if_faulty(self) -> None:
        if self.simulation.faulty:
            raise _CrashPoint

    def _crash_point(self) -> None:
        chance = self.simulation.crash_point
        if chance and self._random.random() < chance:
            raise _CrashPoint

    def _write(self, core: RaftCore, ready: Ready) -> None:
        state: State | None = None
        if ready.snapshot is not None:
            state = self.simulation.snapshots[ready.snapshot.id]
            self._to_apply.clear()
        record = Record(
            hard_state=ready.hard_state,
            base=ready.snapshot,
            state=state,
            applied_index=ready.snapshot.index if ready.snapshot else None,
        )
        if record != Record():
            self.disk.write(record)
        if ready.entries:
            self.simulation.checker.appending(self.id, core, ready.entries)
            self.disk.write(Record(entries=ready.entries))

    def _promise(self, message: AnyMessage) -> Promise:
        if isinstance(message, AppendReply) and message.success:
            return Promise(message, self.disk.term(message.match_index))
        return Promise(message)

    def _start_sync(self) -> None:
        self._syncing = True
        self._syncing_since = self.simulation.schedule.now
        mark, token = self.disk.mark(), self._unsynced[-1][0].token
        options = self.simulation.options
        stalls = self.simulation.faulty and self._random.random() < options.stall
        delay = self._random.randint(MS // 10, options.stall_max if stalls else options.sync_max)
        life = self._life

        def durable() -> None:
            # A paused process does not stop its disk.
            if self._life == life:
                self.disk.synced(mark)
                self.simulation.checker.synced(self.id)
                self.later(self._random.randint(0, MS), lambda: self._finish_sync(token))

        self.simulation.schedule.after(delay, durable)

    def _finish_sync(self, token: int) -> None:
        assert self.core is not None
        self._syncing = False
        self._syncing_since = None
        while self._unsynced:
            ready, promises = self._unsynced[0]
            if ready.must_sync and ready.token > token:
                break
            self._unsynced.popleft()
            self._complete(self.core, ready, promises)
            self._crash_point()
        if self._unsynced:
            self._start_sync()

    def _complete(self, core: RaftCore, ready: Ready, promises: list[Promise]) -> None:
        core.persisted(ready.token)
        self._send([promise for promise in promises if promise.message.term >= core.term])

    def _send(self, promises: list[Promise]) -> None:
        self.simulation.checker.sending(self.id, promises)
        self.simulation.network.send([promise.message for promise in promises])

    # -- applying ----------------------------------------------------------------------------

    def _commit(self, core: RaftCore, entries: tuple[Entry, ...]) -> None:
        self._to_apply.extend(entries)
        delay = self.simulation.options.apply_delay_max
        if not delay:
            self._apply(core)
        elif not self._applying:
            self._applying = True
            self.later(self._random.randint(0, delay), self._apply_later)

    def _apply_later(self) -> None:
        assert self.core is not None
        self._applying = False
        self._apply(self.core)
        self._answer_reads(self.core)

    def _apply(self, core: RaftCore) -> None:
        entries, self._to_apply = self._to_apply, []
        if not entries:
            return
        self.simulation.checker.applying(self.id, core, entries, self.disk.written.applied_index)
        changes = tuple(decode_write(entry) for entry in entries if entry.kind is EntryKind.COMMAND)
        self.disk.write(Record(changes=changes, applied_index=entries[-1].index))
        core.applied(entries[-1].index)
        for entry in entries:
            attempt = self._writes.pop(entry.index, None)
            if attempt is None or attempt.position is None:
                continue
            if attempt.position[1] == entry.term:
                self.simulation.checker.acknowledged(self.id, *attempt.position)
                attempt.finish(attempt.value)
            else:
                attempt.refuse(core.leader_id or "")
        self._crash_point()
        self._compact(core)

    def _compact(self, core: RaftCore) -> None:
        options = self.simulation.options
        image = self.disk.written
        if not options.compact_after or len(image.entries) < options.compact_after:
            return
        index = image.applied_index - options.trailing
        if index <= image.base_index:
            return
        meta = self._meta(index)
        self.disk.write(Record(base=meta))
        core.compacted(meta)

    def _meta(self, index: int) -> SnapshotMeta:
        image = self.disk.written
        term = image.term(index)
        assert term is not None
        configuration = image.configuration_at(index, decode_configuration)
        return SnapshotMeta(f"{term}-{index}", index, term, configuration)

    # -- snapshots ---------------------------------------------------------------------------

    def _send_snapshot(self, core: RaftCore, peer: str) -> None:
        if peer in self._transfers:
            self._transfers[peer][1].cancel()
        meta = self._meta(self.disk.written.applied_index)
        # The same index is the same state on every server, so one name does for all of them.
        self.simulation.snapshots[meta.id] = dict(self.disk.written.state)

        def give_up() -> None:
            self._transfers.pop(peer, None)
            core.snapshot_finished(peer, False, meta.index)

        self._transfers[peer] = meta, self.later(2 * T, give_up)
        chunk = SnapshotChunk(
            sender=self.id,
            receiver=peer,
            term=core.term,
            cluster_id=CLUSTER,
            meta=meta,
            done=True,
        )
        self.simulation.network.send([chunk])

    def receive(self, message: AnyMessage) -> None:
        """A message has arrived."""
        assert self.core is not None
        self.core.receive(message)
        if isinstance(message, SnapshotChunk) and self._accepts(message):
            self.core.snapshot_received(message.meta, message.sender)
        if isinstance(message, AppendReply) and message.sender in self._transfers:
            meta, timer = self._transfers[message.sender]
            if message.success and message.match_index >= meta.index:
                timer.cancel()
                del self._transfers[message.sender]
                self.core.snapshot_finished(message.sender, True, meta.index)

    def _accepts(self, chunk: SnapshotChunk) -> bool:
        assert self.core is not None
        return self.core.leader_id == chunk.sender and self.core.term == chunk.term

    # -- clients -----------------------------------------------------------------------------

    def write(self, attempt: _Attempt) -> None:
        assert self.core is not None
        try:
            [(term, index)] = self.core.propose([encode_write(attempt.key, attempt.value or "")])
        except (Rejected, Unavailable):
            attempt.refuse(self.core.leader_id or "")
            return
        attempt.position = index, term
        self._writes[index] = attempt

    def read(self, attempt: _Attempt) -> None:
        assert self.core is not None
        if not attempt.consistent and self.may_answer():
            attempt.finish(self.disk.written.state.get(attempt.key))
            return
        context = next(self._contexts)
        try:
            self.core.read(context, consistent=attempt.consistent)
        except (Rejected, Unavailable):
            attempt.refuse(self.core.leader_id or "")
        else:
            self._reads[context] = attempt

    def may_answer(self) -> bool:
        """Whether a default read would be answered at this instant, under the lease."""
        if self.core is None or self.paused:
            return False
        index = self.core.lease_read_index()
        return index is not None and index <= self.core.applied_index

    def holds_lease(self) -> bool:
        up = self.core is not None and not self.paused
        return up and self.core is not None and self.core.lease_read_index() is not None

    def check_disk(self) -> None:
        """A leader whose disk hangs must not go on leading (R-29)."""
        since = self._syncing_since
        if since is None or self.paused or self.core is None:
            return
        hangs = self.simulation.schedule.now - since > 2 * T
        could_hand_over = len(voters(self.core.configuration)) > 1
        if hangs and could_hand_over and self.core.role is RaftRole.LEADER:
            raise Violation("I-17", f"{self.id} leads although its disk hangs")

    def _answer_reads(self, core: RaftCore) -> None:
        waiting = self._reads_ready
        self._reads_ready = []
        for index, attempt in waiting:
            if index <= core.applied_index:
                attempt.finish(self.disk.written.state.get(attempt.key))
            else:
                self._reads_ready.append((index, attempt))


def encode_write(key: str, value: str) -> bytes:
    return f"{key}={value}".encode()


def decode_write(entry: Entry) -> tuple[str, str]:
    key, _, value = entry.data.decode().partition("=")
    return key, value


class _Client:
    """Does one operation at a time, on the server that it believes to lead, and remembers all."""

    def __init__(self, simulation: Simulation, number: int) -> None:
        self._simulation = simulation
        self._number = number
        self._count = 0
        self._target = ""
        self._current = 0
        self._pause()

    def _pause(self) -> None:
        think = self._simulation.options.think_time
        self._simulation.schedule.after(self._simulation.random.randint(1, 2 * think), self._act)

    def _act(self) -> None:
        simulation = self._simulation
        if not simulation.loaded:
            return
        rng, options = simulation.random, simulation.options
        self._current += 1
        number = self._current
        is_read = rng.random() < options.reads
        self._count += not is_read
        key = f"k{rng.randrange(options.keys)}"
        value = None if is_read else f"{self._number}.{self._count}"
        start = simulation.schedule.now
        if value is not None:
            simulation.unknown_writes[value] = (key, start)

        def finish(seen: str | None) -> None:
            # However late: what was acknowledged was acknowledged.
            simulation.record(key, not is_read, seen, start)
            proceed()

        def refuse(leader: str) -> None:
            if value is not None:
                simulation.unknown_writes.pop(value, None)
            self._target = leader
            proceed()

        def proceed() -> None:
            if self._current == number:
                self._current += 1
                self._pause()

        simulation.schedule.after(CLIENT_TIMEOUT, proceed)
        attempt = _Attempt(key, value, rng.random() < options.consistent, start, finish, refuse)
        server = simulation.pick_server(self._target)
        if server is None:
            refuse("")
            return
        action = server.read if is_read else server.write
        server.handle(lambda: action(attempt))


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
        self.seed = seed
        self.random = random.Random(seed)
        self.options = options or Options.swarm(self.random, servers)
        self.schedule = Schedule()
        self.servers: dict[str, SimulatedServer] = {}
        self.checker = Checker(_Disks(self.servers))
        self.network = SimulatedNetwork(
            self.schedule, self.random, self.options.network, self._deliver
        )
        self.snapshots: dict[str, State] = {}
        self.faulty = True
        self.loaded = True
        self.crash_point = self.options.crash_point
        self.history: dict[str, list[Operation]] = {}
        self.unknown_writes: dict[str, tuple[str, int]] = {}
        self._guards = disabled_guards
        self._trace = trace
        self._fingerprint = 0
        self._crashes = self._changes = 0
        self._numbers = itertools.count(1)

    def config(self, server_id: str, *, pre_vote: bool) -> RaftConfig:
        return RaftConfig(
            id=server_id,
            cluster_id=CLUSTER,
            election_ticks=ELECTION_TICKS,
            sticky_ticks=self.options.sticky_ticks,
            heartbeat_ticks=2,
            max_entries_per_append=self.options.entries_per_append,
            max_inflight_messages=self.options.inflight_messages,
            max_trailing_for_promotion=TRAILING_FOR_PROMOTION,
            pre_vote=pre_vote,
            disabled_guards=self._guards,
        )

    def run(self) -> Summary:
        self._start_servers()
        for number in range(self.options.clients):
            _Client(self, number)
        self._start_faults()
        self.schedule.run_until(self.options.duration, self._check)
        self._stop_faults()
        self._expect_recovery()
        self._check_history()
        return Summary(
            seed=self.seed,
            options=self.options,
            events=self.schedule.happened,
            elections=self.checker.elections,
            committed=len(self.checker.committed),
            operations=sum(map(len, self.history.values())),
            crashes=self._crashes,
            changes=self._changes,
            snapshots=len(self.snapshots),
            fingerprint=self._fingerprint,
        )

    # -- what servers and clients report -----------------------------------------------------

    def note(self, server: str, ready: Ready) -> None:
        """Everything a core wants goes into the fingerprint, and into the trace if there is one."""
        line = f"{self.schedule.now} {server} {ready}"
        self._fingerprint = crc32(line.encode(), self._fingerprint)
        if self._trace is not None:
            self._trace(line)

    def say(self, line: str) -> None:
        if self._trace is not None:
            self._trace(f"{self.schedule.now} ---- {line}")

    def record(self, key: str, is_write: bool, value: str | None, start: int) -> None:
        if is_write and value is not None:
            self.unknown_writes.pop(value, None)
        self.history.setdefault(key, []).append(
            Operation(is_write, value, start, self.schedule.now)
        )

    def crashed_at_point(self, server: SimulatedServer) -> None:
        self._crash([server])

    def pick_server(self, wanted: str) -> SimulatedServer | None:
        """The wanted one, or sometimes any: deposed leaders must be asked too."""
        up = [server for server in self.servers.values() if server.core is not None]
        if not up:
            return None
        if wanted in self.servers and self.random.random() >= self.options.wander:
            server = self.servers[wanted]
            return server if server.core is not None else None
        return self.random.choice(up)

    def _deliver(self, message: AnyMessage) -> None:
        server = self.servers.get(message.receiver)
        lost = server is None or (server.paused and self.options.deaf_when_paused)
        if server is not None and not lost:
            server.handle(lambda: server.receive(message))

    def _check(self) -> None:
        self.checker.leases([s.id for s in self.servers.values() if s.holds_lease()])
        for server in self.servers.values():
            server.check_disk()

    # -- the cluster -------------------------------------------------------------------------

    def _start_servers(self) -> None:
        ids = [self._add_server().id for _ in range(self.options.servers)]
        first = Configuration(tuple(Server(id_, address(id_)) for id_ in ids), index=1)
        for server in list(self.servers.values()):
            server.bootstrap(first)
            server.start()
        self.checker.bootstrapped(next(iter(self.servers.values())).disk.written.entries[0])

    def _add_server(self) -> SimulatedServer:
        server_id = f"s{next(self._numbers)}"
        seed = self.options.servers if self.options.aligned_timers else self.random.random()
        server = SimulatedServer(self, server_id, random.Random(seed))
        self.servers[server_id] = server
        return server

    def _leader(self) -> SimulatedServer | None:
        leading = [
            (server.core.term, server.id)
            for server in self.servers.values()
            if server.core is not None and server.core.role is RaftRole.LEADER
        ]
        return self.servers[max(leading)[1]] if leading else None

    # -- faults ------------------------------------------------------------------------------

    def _start_faults(self) -> None:
        options = self.options
        self._now_and_then(options.crash_every, self._crash_some)
        self._now_and_then(options.partition_every, self._partition)
        self._now_and_then(options.pause_every, self._pause_one)
        self._now_and_then(options.change_every, self._change_configuration)
        self._now_and_then(options.transfer_every, self._transfer)

    def _now_and_then(self, every: int, act: Callable[[], None]) -> None:
        if not every:
            return

        def happen() -> None:
            if self.faulty:
                act()
                self._now_and_then(every, act)

        self.schedule.after(int(self.random.expovariate(1 / every)), happen)

    def _crash_some(self) -> None:
        up = [server for server in self.servers.values() if server.core is not None]
        if not up:
            return
        if self.random.random() < self.options.crash_all:
            self._crash(up)
        elif (leader := self._leader()) is not None and self.random.random() < 0.4:
            self._crash([leader])
        else:
            self._crash([self.random.choice(up)])

    def _crash(self, servers: list[SimulatedServer]) -> None:
        for server in servers:
            self.say(f"crash {server.id}")
            self._crashes += 1
            server.crash()
            self._tell_gone(server, self.options.told_of_crashes)
            delay = self.random.choice((1, MS, T // 4, T, 4 * T))
            self.schedule.after(self.random.randint(0, delay), self._restarter(server))

    def _tell_gone(self, gone: SimulatedServer, chance: float) -> None:
        """Some of the others learn, or believe, that the process of `gone` has ended."""
        if not chance:
            return
        for server in self.servers.values():
            if server is not gone and self.random.random() < chance:
                server.later(self.random.randint(0, T // 10), self._teller(server, gone.id))

    def _teller(self, server: SimulatedServer, gone: str) -> Callable[[], None]:
        def tell() -> None:
            assert server.core is not None, "an input of a life of the server"
            server.core.gone(gone)

        return tell

    def _restarter(self, server: SimulatedServer) -> Callable[[], None]:
        def restart() -> None:
            if server.core is None:
                self.say(f"start {server.id}")
                server.start()

        return restart

    def _partition(self) -> None:
        self.network.heal()
        ids = list(self.servers)
        leader = self._leader()
        one = leader.id if leader and self.random.random() < 0.5 else self.random.choice(ids)
        others = [id_ for id_ in ids if id_ != one]
        kind = self.random.choice(self.options.partitions)
        self.say(f"partition {kind} {one}")
        self._tell_gone(self.servers[one], self.options.told_wrongly)
        match kind:
            case "isolate":
                self.network.cut_between([one], others)
            case "halves":
                half = self.random.sample(ids, len(ids) // 2)
                self.network.cut_between(half, [id_ for id_ in ids if id_ not in half])
            case "bridge":
                # Two groups that only `one` can reach both of.
                group = self.random.sample(others, len(others) // 2)
                self.network.cut_between(group, [id_ for id_ in others if id_ not in group])
            case "link" if others:
                self.network.cut_between([one], [self.random.choice(others)])
            case "deaf":
                for other in others:
                    self.network.cut(other, one)
            case "mute":
                for other in others:
                    self.network.cut(one, other)
            case "votes":
                self.network.mute(VoteRequest, VoteReply)
            case "appends":
                self.network.mute(AppendRequest, AppendReply)
        self.schedule.after(self.random.randint(T // 4, 5 * T), self.network.heal)

    def _pause_one(self) -> None:
        leader = self._leader()
        server = leader if leader and self.random.random() < 0.6 else None
        server = server or self.random.choice(list(self.servers.values()))
        self.say(f"pause {server.id}")
        server.pause()
        self.schedule.after(self.random.randint(T // 8, 4 * T), server.resume)

    def _transfer(self) -> None:
        leader = self._leader()
        if leader is None or leader.core is None:
            return
        target = self.random.choice([None, *self.servers])
        self.say(f"transfer {leader.id} -> {target}")

        def begin() -> None:
            assert leader.core is not None
            with contextlib.suppress(Rejected, Unavailable):
                leader.core.transfer(target)

        leader.handle(begin)

    def _change_configuration(self) -> None:
        leader = self._leader()
        if leader is None or leader.core is None:
            return
        change = self._random_change(leader.core.configuration)
        self.say(f"change {leader.id}: {change}")

        def begin() -> None:
            assert leader.core is not None
            try:
                leader.core.propose_configuration(change)
                self._changes += 1
                self.checker.changing(leader.id, leader.core, change)
            except (Rejected, Unavailable) as error:
                self.say(f"refused: {error}")

        leader.handle(begin)

    def _random_change(self, configuration: Configuration) -> ConfigChange:
        members = {server.id: server for server in configuration.servers}
        outside = [id_ for id_ in self.servers if id_ not in members]
        learners = [s.id for s in configuration.servers if s.role is Role.LEARNER]
        electors = voters(configuration)
        based_on = configuration.index
        kind = self.random.choice(("add", "add", "promote", "promote", "demote", "remove"))
        if kind == "promote" and learners:
            return Promote(based_on=based_on, id=self.random.choice(learners))
        if kind == "demote" and len(electors) > 1:
            return Demote(based_on=based_on, id=self.random.choice(electors))
        if kind == "remove" and len(members) > 1:
            return Remove(based_on=based_on, id=self.random.choice(list(members)))
        if len(self.servers) < SERVERS_MAX:
            server = self._add_server()
            server.start()
            return AddLearner(based_on=based_on, id=server.id, address=address(server.id))
        if outside:
            id_ = self.random.choice(outside)
            return AddLearner(based_on=based_on, id=id_, address=address(id_))
        return Remove(based_on=based_on, id=self.random.choice(list(members)))

    # -- the end -----------------------------------------------------------------------------

    def _stop_faults(self) -> None:
        """Heal everything; whoever was down or paused comes back."""
        self.say("faults stop")
        self.faulty = False
        self.crash_point = 0.0
        self.network.heal()
        self.network.faults = NetworkFaults()
        for server in self.servers.values():
            server.resume()
            self._restarter(server)()

    def _expect_recovery(self) -> None:
        """One leader within 10 T, all equal soon after, and then calm (I-17)."""
        self._run_until(lambda: self._leader() is not None, 10 * T, "no leader")
        self._run_until(self._commits, 10 * T, "nothing is committed")
        self.loaded = False
        self._run_until(self._all_equal, 30 * T, "servers do not become equal")
        calm_since = self.checker.elections
        self.schedule.run_until(self.schedule.now + 10 * T, self._check)
        if self.checker.elections > calm_since + self._disturbances:
            raise Violation("I-17", "elections go on although nothing is wrong any more")
        self._expect_stability()
        self._expect_resignation()

    @property
    def _disturbances(self) -> int:
        """Elections to put up with in calm: a server that does not ask before it campaigns, cut
        off or removed, may come back with a higher term, and ends one leadership (R-18)."""
        return 2 if self.options.without_pre_vote else 0

    def _expect_stability(self) -> None:
        """A voter that only the leader can not reach deposes nobody, neither while the link is
        broken nor when it heals, and the others go on (regression scenario 18)."""
        leader = self._leader()
        assert leader is not None
        assert leader.core is not None
        others = [v for v in voters(leader.core.configuration) if v != leader.id]
        if len(others) < 2:
            return
        elections = self.checker.elections
        self.network.cut_between([leader.id], [self.random.choice(others)])
        self.schedule.run_until(self.schedule.now + 15 * T, self._check)
        self._run_until(self._commits, 5 * T, "nothing is committed beside a broken link")
        self.network.heal()
        self.schedule.run_until(self.schedule.now + 3 * T, self._check)
        if self.checker.elections > elections + self._disturbances:
            raise Violation("I-17", "one broken link deposed a leader")

    def _expect_resignation(self) -> None:
        """A leader that hears nobody steps down within 2 T (regression scenario 19)."""
        self._run_until(self._commits, 10 * T, "nothing is committed after a broken link")
        leader = self._leader()
        if leader is None or leader.core is None or len(voters(leader.core.configuration)) < 2:
            return
        for other in self.servers:
            self.network.cut(other, leader.id)
        self.schedule.run_until(self.schedule.now + 2 * T + 2 * TICK, self._check)
        term = leader.core.term
        if leader.core.role is RaftRole.LEADER and self.checker.leaders.get(term) == leader.id:
            raise Violation("I-17", f"{leader.id} leads without hearing anybody")

    def _run_until(self, condition: Callable[[], bool], limit: int, otherwise: str) -> None:
        deadline = self.schedule.now + limit
        while not condition():
            if self.schedule.now >= deadline:
                raise Violation("I-17", f"{otherwise} within {limit // T} T of calm")
            self.schedule.run_until(self.schedule.now + TICK, self._check)

    def _commits(self) -> bool:
        """Whether a leader commits something proposed just now."""
        leader = self._leader()
        if leader is None or leader.core is None:
            return False
        before = leader.core.commit_index
        done: list[str | None] = []
        attempt = _Attempt("calm", "x", False, self.schedule.now, done.append, lambda _: None)
        leader.handle(lambda: leader.write(attempt))
        self.schedule.run_until(self.schedule.now + T, self._check)
        return bool(done) and leader.core is not None and leader.core.commit_index > before

    def _all_equal(self) -> bool:
        leader = self._leader()
        if leader is None or leader.core is None:
            return False
        expected = leader.disk.written
        if expected.applied_index != expected.last_index:
            return False
        members = [self.servers[server.id] for server in leader.core.configuration.servers]
        for member in members:
            image = member.disk.written
            if image.applied_index != expected.applied_index:
                return False
            if image.state != expected.state:
                raise Violation("I-18", f"{member.id} and {leader.id} have different states")
        return True

    def _check_history(self) -> None:
        for value, (key, start) in self.unknown_writes.items():
            self.history.setdefault(key, []).append(Operation(True, value, start, NEVER))
        for key, history in sorted(self.history.items()):
            reason = explain_violation(history)
            if reason:
                raise Violation("I-13", f"the history of {key} is not linearizable: {reason}")


class _Disks(Mapping[str, SimulatedDisk]):
    """The disks of all servers, as they come."""

    def __init__(self, servers: dict[str, SimulatedServer]) -> None:
        self._servers = servers

    def __getitem__(self, server_id: str) -> SimulatedDisk:
        return self._servers[server_id].disk

    def __iter__(self) -> Iterator[str]:
        return iter(self._servers)

    def __len__(self) -> int:
        return len(self._servers)


def address(server_id: str) -> str:
    return f"{server_id}:8300"
