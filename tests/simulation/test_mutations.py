"""The simulation notices what it is there to notice: each safety rule, switched off, is missed.

For every guard of the core there is a kind of run that must fail without it, and that ends well
with it (requirements, section 15, "mutation check"). What fails is named too: a checker that finds
something else than expected has probably found its own mistake.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from registry.raft.config import GUARDS
from registry.raft.invariants import BrokenPromise
from registry.testing.checkers import Violation
from registry.testing.clock import MS
from registry.testing.network import NetworkFaults
from registry.testing.simulation import Options, Simulation, T

#: Runs that are tried before the check gives up; the first few are enough for nearly all.
SEEDS = range(80)

#: A bit of everything.
ROUGH = Options(
    servers=3,
    duration=15 * T,
    crash_every=2 * T,
    crash_point=0.001,
    partition_every=2 * T,
    pause_every=6 * T,
    transfer_every=4 * T,
    change_every=2 * T,
    compact_after=15,
    trailing=3,
    clients=4,
    network=NetworkFaults(drop=0.05, duplicate=0.1, delay_max=20 * MS, tail=0.02, tail_delay_max=T),
    sync_max=30 * MS,
    stall=0.005,
    wander=0.3,
    clock_drift=0.09,
    deaf_when_paused=True,
    entries_per_append=2,
    inflight_messages=4,
)


@dataclass(frozen=True)
class Hunt:
    """In what runs a missing guard shows, and as what."""

    found_as: tuple[str, ...]
    options: Options = field(default=ROUGH)


HUNTS = {
    "S-2": Hunt(("I-10", "I-9", "I-1")),
    "S-3": Hunt(("I-10",)),
    "R-3": Hunt(("I-7",)),
    # Timers that all run out together, again and again: regression scenario 39.
    "R-13": Hunt(("I-17",), Options(aligned_timers=True, duration=12 * T)),
    "R-14": Hunt(("I-4",)),
    "R-15": Hunt(("I-17",), Options(duration=4 * T)),
    # Pre-vote hides a missing R-16, so it is off; broken links make servers campaign.
    "R-16": Hunt(
        ("I-15",),
        Options(
            duration=20 * T,
            without_pre_vote=1.0,
            partition_every=2 * T,
            partitions=("link", "bridge", "deaf", "heal"),
            network=NetworkFaults(tail=0.05, tail_delay_max=T),
            clients=1,
            think_time=200 * MS,
            consistent=0.0,
            sync_max=MS,
        ),
    ),
    "R-17": Hunt(("I-17",)),
    # Cut off, without pre-vote, a server's term runs ahead.
    "R-18": Hunt(
        ("I-17",),
        Options(
            duration=15 * T,
            without_pre_vote=0.5,
            partition_every=3 * T,
            partitions=("isolate", "heal"),
        ),
    ),
    "R-23": Hunt(("BrokenPromise", "I-3", "I-5", "I-7")),
    "R-27": Hunt(("I-17",)),
    "R-29": Hunt(("I-17",)),
    # "Figure 8": leaders that crash soon after their election, one entry per message.
    "R-31": Hunt(
        ("I-4",),
        Options(
            duration=15 * T,
            crash_elected=0.7,
            crash_every=4 * T,
            network=NetworkFaults(delay_min=MS, delay_max=20 * MS, drop=0.05),
            entries_per_append=1,
            inflight_messages=1,
            clients=6,
            reads=0.2,
            think_time=30 * MS,
            sync_max=10 * MS,
        ),
    ),
    # A new leader on a slow disk, known to many readers at once.
    "R-34": Hunt(
        ("I-13",),
        Options(
            duration=10 * T,
            transfer_every=T // 2,
            clients=10,
            think_time=4 * MS,
            wander=0.5,
            sync_max=60 * MS,
            network=NetworkFaults(delay_min=MS // 10, delay_max=MS),
        ),
    ),
    # Leaders that were away while others went on, and are asked at once.
    "R-35": Hunt(
        ("I-13",),
        Options(
            duration=15 * T,
            pause_every=T,
            partition_every=2 * T,
            deaf_when_paused=True,
            clients=10,
            think_time=6 * MS,
            consistent=1.0,
            wander=0.5,
            sync_max=MS,
        ),
    ),
    # Answers that come late although the leader is cut off by then.
    "R-36": Hunt(
        ("I-15",),
        Options(
            duration=30 * T,
            partition_every=2 * T,
            partitions=("isolate", "heal"),
            network=NetworkFaults(
                delay_max=10 * MS, tail=0.1, tail_delay_max=T, cuts_lose_under_way=False
            ),
            clients=1,
            think_time=200 * MS,
            consistent=0.0,
            wander=0.3,
            clock_drift=0.09,
            sync_max=MS,
        ),
    ),
    "R-37": Hunt(
        ("I-15", "I-13"),
        Options(
            duration=30 * T,
            crash_every=T,
            pause_every=2 * T,
            deaf_when_paused=True,
            partition_every=3 * T,
            clients=2,
            think_time=40 * MS,
            consistent=0.0,
            wander=0.4,
            sync_max=MS,
        ),
    ),
    "R-40": Hunt(
        ("I-11",),
        Options(servers=5, duration=30 * T, change_every=T // 3, crash_every=T, partition_every=T),
    ),
    "R-41": Hunt(
        ("I-11",),
        Options(
            servers=4,
            duration=30 * T,
            change_every=T // 4,
            crash_every=T,
            partition_every=T,
            network=NetworkFaults(delay_min=5 * MS, delay_max=60 * MS, drop=0.05),
        ),
    ),
    # New servers on a slow network, under a load of writes.
    "R-43": Hunt(
        ("I-12",),
        Options(
            duration=10 * T,
            change_every=T // 4,
            clients=8,
            reads=0.0,
            think_time=10 * MS,
            network=NetworkFaults(delay_min=20 * MS, delay_max=80 * MS),
            entries_per_append=1,
            inflight_messages=1,
        ),
    ),
    "R-44": Hunt(("I-11",), Options(change_every=T // 3, clients=2)),
    "R-45": Hunt(("I-7", "I-12")),
    # The new leader and the old one do not hear each other.
    "R-48": Hunt(
        ("I-15",),
        Options(
            duration=20 * T,
            transfer_every=T // 2,
            partition_every=T,
            partitions=("link", "mute", "heal"),
            network=NetworkFaults(tail=0.2, tail_delay_max=T, cuts_lose_under_way=False),
            clients=1,
            think_time=200 * MS,
            consistent=0.0,
            sync_max=MS,
        ),
    ),
    "R-52": Hunt(("I-6", "I-5")),
}

#: What random search can not see, because another rule hides it; each has a scripted scenario in
#: `tests/unit/raft/test_regressions.py`.
HIDDEN = {
    "R-24": "a leader's first append to a follower cuts a stale tail before it could be counted",
    "R-25": "likewise: after exact backtracking (R-26) no stale tail outlives the first append",
    "R-26": "only speed depends on it",
}


def outcome(seed: int, options: Options, *disabled: str) -> str | None:
    """What a run ends with: an invariant, the name of an error, or None if all is well."""
    try:
        Simulation(seed, options, disabled_guards=frozenset(disabled)).run()
    except Violation as violation:
        return violation.invariant
    except BrokenPromise:
        return "BrokenPromise"
    return None


def test_every_guard_is_accounted_for() -> None:
    assert HUNTS.keys() | HIDDEN.keys() == GUARDS.keys()
    assert not HUNTS.keys() & HIDDEN.keys()


@pytest.mark.parametrize("guard", HUNTS)
def test_a_missing_guard_is_noticed(guard: str) -> None:
    hunt = HUNTS[guard]
    for seed in SEEDS:
        found = outcome(seed, hunt.options, guard)
        if found is not None:
            assert found in hunt.found_as
            assert outcome(seed, hunt.options) is None, "with the guard all is well"
            return
    pytest.fail(f"nothing was noticed in {len(SEEDS)} runs without {guard}: {GUARDS[guard]}")
