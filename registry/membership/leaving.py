"""Leaving a pool, in steps, each with the time after which the next is taken regardless.

    leave intent, until it was handed out ─> the lower layer leaves, likewise
          ─> answer probes a while longer, so that the news gets around ─> Left

Source: gossip sheet, sections 5.8 and 8.3.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from registry.membership.broadcast import Outgoing
from registry.membership.context import Phase, SerfContext
from registry.membership.intent_desk import IntentDesk
from registry.membership.journal import Journal
from registry.membership.serf_values import Left


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


class Leaving:
    """Takes the steps; `SerfContext.phase` says to the others how far we are."""

    def __init__(self, context: SerfContext, intents: IntentDesk, journal: Journal) -> None:
        self._context = context
        self._intents = intents
        self._journal = journal
        self._progress: LeaveProgress | None = None
        self._intent_sent: Outgoing | None = None

    def begin(self, *, silently: bool) -> None:
        """Begin to leave, unless we do already; `silently` without a word to anybody."""
        if self._context.phase is not Phase.ALIVE:
            return
        self._context.phase = Phase.LEAVING
        self._journal.we_leave()
        if silently:
            self._end()
            return
        self._intent_sent = self._intents.announce_leave()
        self._begin_step(LeaveStep.INTENT, self._context.config.broadcast_timeout_ms)
        self.advance()

    def swim_left(self) -> None:
        """The lower layer's leave has been handed out, or nobody is there to hear it."""
        if self._progress is not None and self._progress.step is LeaveStep.DEAD:
            delay_ms = self._context.config.leave_propagate_delay_ms
            self._begin_step(LeaveStep.PROPAGATE, delay_ms)

    def next_deadline_ms(self) -> int | None:
        return self._progress.deadline_ms if self._progress else None

    def advance(self) -> None:
        if self._progress is None:
            return
        step, is_due = self._progress.step, self._context.now_ms >= self._progress.deadline_ms
        if step is LeaveStep.INTENT and (is_due or self._intent_is_out):
            self._begin_step(LeaveStep.DEAD, self._context.config.broadcast_timeout_ms)
            self._context.lower.leave()
        elif step is LeaveStep.DEAD and is_due:
            self.swim_left()
        elif step is LeaveStep.PROPAGATE and is_due:
            self._end()

    @property
    def _intent_is_out(self) -> bool:
        return self._intent_sent is None or self._intent_sent.is_finished

    def _begin_step(self, step: LeaveStep, timeout_ms: int) -> None:
        self._progress = LeaveProgress(step, self._context.now_ms + timeout_ms)

    def _end(self) -> None:
        self._progress = None
        self._context.phase = Phase.LEFT
        self._context.outputs.append(Left())
