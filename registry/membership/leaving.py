"""The steps of leaving a pool, each with the time after which the next is taken regardless.

Source: gossip sheet, sections 5.8 and 8.3.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class LeaveStep(enum.Enum):
    #: The leave intent goes round.
    INTENT = "intent"
    #: The lower layer says that we are dead by our own will.
    DEAD = "dead"
    #: We still answer probes, so that nobody thinks that we failed before hearing that we left.
    PROPAGATE = "propagate"


@dataclass(slots=True)
class LeaveProgress:
    step: LeaveStep
    deadline_ms: int
