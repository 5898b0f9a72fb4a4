"""When checks run, and which of their results count.

One task per check, all children of one task group: a check never overlaps itself, a slow one delays
nobody, and none outlives the agent. A check that raises is critical with the exception's text; it
takes nothing else down.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from registry.agent.checks.base import (
    CRITICAL,
    STATUSES,
    Follower,
    Report,
    TellsTimeout,
    timed_out_text,
    timeout_of,
)
from registry.agent.clock import Clock, pause
from registry.agent.definitions import SECOND, CheckDefinition
from registry.hooks import CheckResult, CheckRunner

logger = logging.getLogger("registry.agent")

#: The first run comes after a random part of the interval, so that checks that were registered
#: together do not run together for ever, but not before the registration itself was answered.
FIRST_RUN_MIN = 0.05
#: Pause before a kind that reports by itself is started again after it failed.
FOLLOW_RETRY_SECONDS = 10.0

Job = Callable[[], Awaitable[None]]


class Threshold:
    """Lets a result pass once it was seen often enough in a row; the first one always does."""

    def __init__(self, check_id: str, definition: CheckDefinition) -> None:
        self._check_id = check_id
        self._needed = {
            True: definition.success_before_passing,
            False: definition.failures_before_critical,
        }
        self._seen = dict(self._needed)

    def admits(self, status: str) -> bool:
        success = status != CRITICAL
        self._seen[success] += 1
        self._seen[not success] = 0
        if self._seen[success] >= self._needed[success]:
            if success:
                logger.debug("Check status updated: check=%s status=%s", self._check_id, status)
            else:
                logger.warning("Check is now critical: check=%s", self._check_id)
            return True
        outcome, kind = ("passed", "success") if success else ("failed", "failure")
        logger.warning(
            "Check %s but has not reached %s threshold: check=%s status=%s count=%d threshold=%d",
            outcome, kind, self._check_id, status, self._seen[success], self._needed[success],
        )  # fmt: skip
        return False


async def run_once(runner: CheckRunner, check_id: str, timeout_ns: int) -> CheckResult:
    """One run, cut off at its timeout; whatever goes wrong is a critical result."""
    try:
        async with asyncio.timeout(timeout_ns / SECOND):
            result = await runner.run()
    except TimeoutError:
        logger.warning("Timed out running check: check=%s", check_id)
        if isinstance(runner, TellsTimeout):
            return runner.timed_out(timeout_ns)
        return CheckResult(CRITICAL, timed_out_text(timeout_ns))
    except Exception as problem:
        logger.exception("check failed to run: check=%s", check_id)
        return CheckResult(CRITICAL, str(problem) or type(problem).__name__)
    if not isinstance(result, CheckResult) or result.status not in STATUSES:
        return CheckResult(CRITICAL, f"the check's kind returned no valid result: {result!r}")
    return result


async def run_check(
    runner: CheckRunner,
    definition: CheckDefinition,
    report: Report,
    *,
    clock: Clock,
    chance: random.Random,
) -> None:
    """Run a check until cancelled, at its interval or as it likes; `report` gets what counts."""
    if isinstance(runner, Follower):
        await _follow(runner, definition.id, report, clock)
        return
    threshold = Threshold(definition.id, definition)
    interval_s = definition.interval_ns / SECOND
    await pause(clock, interval_s * chance.uniform(FIRST_RUN_MIN, 1.0))
    while True:
        result = await run_once(runner, definition.id, timeout_of(definition))
        if threshold.admits(result.status):
            report(result)
        await pause(clock, interval_s)


async def _follow(runner: Follower, check_id: str, report: Report, clock: Clock) -> None:
    while True:
        try:
            await runner.follow(report)
        except Exception as problem:
            logger.exception("check failed: check=%s", check_id)
            report(CheckResult(CRITICAL, str(problem) or type(problem).__name__))
        await pause(clock, FOLLOW_RETRY_SECONDS)


class CheckScheduler:
    """Which checks are running: starts and stops their tasks in one task group.

    Jobs that are started before `run` begins wait for it. Stopping a job cancels it, which kills
    what it has running; it is not waited for.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    def __len__(self) -> int:
        return len(self._jobs)

    def start(self, check_id: str, job: Job) -> None:
        """Run `job` under this id, in place of the one that has it."""
        self.stop(check_id)
        self._jobs[check_id] = job
        if self._group is not None:
            self._spawn(check_id, job)

    def stop(self, check_id: str) -> None:
        self._jobs.pop(check_id, None)
        if (task := self._tasks.pop(check_id, None)) is not None:
            task.cancel()

    def _spawn(self, check_id: str, job: Job) -> None:
        assert self._group is not None
        self._tasks[check_id] = self._group.create_task(_as_coroutine(job))

    async def run(self) -> None:
        """Own the tasks until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for check_id, job in self._jobs.items():
                    self._spawn(check_id, job)
                await asyncio.Event().wait()
        finally:
            self._group = None
            self._tasks.clear()


async def _as_coroutine(job: Job) -> None:
    await job()
