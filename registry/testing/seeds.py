"""Where tests by chance take their seeds from.

A run without further ado draws the same values each time: what fails then fails because of what
was changed. Campaigns set `REGISTRY_SEED=random` and so look for what nobody thought of; a seed of
theirs, which the failing test prints, is given back by its own variable.
"""

from __future__ import annotations

import os
import random

#: Set to `random`, it has each run draw other values.
EVERYWHERE = "REGISTRY_SEED"

#: Any number; it is the same in all runs.
FIXED = 1


def is_random() -> bool:
    """Whether this run shall differ from the one before."""
    return os.environ.get(EVERYWHERE) == "random"


def seed_from(variable: str) -> int:
    """The seed that an environment variable gives; without it a fixed one, or a random one."""
    if given := os.environ.get(variable):
        return int(given)
    return random.randrange(2**32) if is_random() else FIXED
