"""What goes wrong in a run, and how much of it: each option is the dose of one fault or load."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from registry.testing.clock import MS
from registry.testing.network import NetworkFaults

TICK = 50 * MS
ELECTION_TICKS = 20
T = TICK * ELECTION_TICKS  # the election timeout
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
