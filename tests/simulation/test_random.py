"""Random runs of whole clusters; every failure names its seed and the command that replays it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from registry.testing.campaign import Failure, campaign, run_one
from registry.testing.simulation import Summary

#: Another range of seeds can be asked for; `make campaign` runs many more.
FIRST_SEED = int(os.environ.get("SIMULATION_SEED", "0"))


@pytest.mark.parametrize(("servers", "runs"), [(1, 20), (3, 60), (5, 25), (None, 35)])
def test_no_invariant_is_violated(servers: int | None, runs: int) -> None:
    outcomes = list(campaign(range(FIRST_SEED, FIRST_SEED + runs), servers))
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    assert not failures, "\n".join(map(str, failures))
    # The runs must have been worth something: work done, and faults survived.
    summaries = [outcome for outcome in outcomes if isinstance(outcome, Summary)]
    assert sum(summary.committed for summary in summaries) > 50 * runs
    assert sum(summary.operations for summary in summaries) > 100 * runs
    assert sum(summary.crashes for summary in summaries) > runs
    if servers != 1:
        assert sum(summary.changes for summary in summaries) > runs // 4
        assert sum(summary.snapshots for summary in summaries) > 0


def test_a_late_vote_may_elect_a_leader_of_a_term_that_is_over() -> None:
    """It lacks what was committed in a later term, and need not have it (I-4)."""
    outcome = run_one(500_036)
    assert isinstance(outcome, Summary), outcome


@pytest.mark.parametrize("seed", [1, 7])
def test_a_seed_replays_exactly_whatever_the_hash_seed(seed: int) -> None:
    """The same run in other processes, with strings hashed otherwise (R-2)."""
    here = run_one(seed)
    assert isinstance(here, Summary)
    program = f"from registry.testing.campaign import run_one; print(run_one({seed}).fingerprint)"
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        output = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert int(output) == here.fingerprint
