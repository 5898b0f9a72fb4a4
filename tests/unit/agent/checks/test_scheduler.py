"""When checks run and which results count; time is moved by hand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from registry.agent.checks.base import Report
from registry.agent.checks.scheduler import CheckScheduler, Threshold, run_check, run_once
from registry.agent.definitions import SECOND, CheckDefinition
from registry.hooks import CheckResult
from registry.testing.manual_clock import ManualClock

PASS, WARN, FAIL = (CheckResult(each, each) for each in ("passing", "warning", "critical"))


class Scripted:
    """A check that gives the results it was told to, then the last one again."""

    def __init__(self, *results: CheckResult | Exception) -> None:
        self.results = list(results)
        self.runs = 0
        self.running = 0
        self.most_at_once = 0
        self.gate: asyncio.Event | None = None

    async def run(self) -> CheckResult:
        self.runs += 1
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.running -= 1
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if isinstance(result, Exception):
            raise result
        return result


@asynccontextmanager
async def running(
    runner: object, definition: CheckDefinition, clock: ManualClock, report: Report
) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            run_check(runner, definition, report, clock=clock, chance=random.Random(1))  # type: ignore[arg-type]
        )
        yield
        task.cancel()


async def test_runs_at_its_interval_after_a_random_part_of_it() -> None:
    clock, runner, reported = ManualClock(), Scripted(PASS), []
    async with running(
        runner, CheckDefinition(id="c", interval_ns=10 * SECOND), clock, reported.append
    ):
        await clock.advance(0.4)
        assert runner.runs == 0
        await clock.advance(9.6)
        assert runner.runs == 1
        await clock.advance(30)
        assert runner.runs == 4
    assert reported == [PASS] * 4


async def test_first_runs_are_spread() -> None:
    definition = CheckDefinition(id="c", interval_ns=100 * SECOND)
    clock, chance = ManualClock(), random.Random(7)
    runners = [Scripted(PASS) for _ in range(50)]
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                run_check(each, definition, lambda result: None, clock=clock, chance=chance)
            )
            for each in runners
        ]
        await clock.advance(50)
        assert 10 < sum(each.runs for each in runners) < 40
        await clock.advance(50)
        assert all(each.runs for each in runners)
        for task in tasks:
            task.cancel()


async def test_never_overlaps_itself() -> None:
    clock, runner = ManualClock(), Scripted(PASS)
    runner.gate = asyncio.Event()
    async with running(
        runner, CheckDefinition(id="c", interval_ns=SECOND), clock, lambda result: None
    ):
        await clock.advance(20)
        assert (runner.runs, runner.most_at_once) == (1, 1)
        runner.gate.set()
        await clock.advance(2)
        assert runner.runs > 1
    assert runner.most_at_once == 1


@pytest.mark.parametrize(
    ("success", "failures", "results", "counted"),
    [
        (0, 0, "pfwp", "pfwp"),
        (
            3,
            0,
            "fpppp",
            "fpp",
        ),  # the first counts at once, then three successes in a row are needed
        (3, 0, "fppfppp", "ffp"),
        (3, 0, "pfwpw", "pfw"),  # a warning is a success as far as counting goes
        (0, 3, "pffff", "pff"),
        (0, 3, "pffpfff", "ppf"),
        (0, 30, "f", "f"),
    ],
)
def test_thresholds(success: int, failures: int, results: str, counted: str) -> None:
    threshold = Threshold(
        "c",
        CheckDefinition(success_before_passing=success, failures_before_critical=failures),
    )
    words = {"p": "passing", "w": "warning", "f": "critical"}
    assert "".join(each for each in results if threshold.admits(words[each])) == counted


async def test_held_back_results_are_not_reported() -> None:
    clock, runner, reported = ManualClock(), Scripted(FAIL, PASS, PASS, PASS), []
    definition = CheckDefinition(id="c", interval_ns=SECOND, success_before_passing=3)
    async with running(runner, definition, clock, reported.append):
        await clock.advance(1)
        await clock.advance(2)
        assert reported == [FAIL]
        await clock.advance(1)
    assert reported == [FAIL, PASS]


@pytest.mark.parametrize(
    ("problem", "output"),
    [(ValueError("no such record"), "no such record"), (KeyError(), "KeyError")],
)
async def test_a_check_that_raises_is_critical(problem: Exception, output: str) -> None:
    assert await run_once(Scripted(problem), "c", SECOND) == CheckResult("critical", output)


@pytest.mark.parametrize("result", [None, "passing", CheckResult("odd", "")])
async def test_a_result_that_is_none_is_critical(result: object) -> None:
    found = await run_once(Scripted(result), "c", SECOND)  # type: ignore[arg-type]
    assert found.status == "critical"
    assert "no valid result" in found.output


async def test_a_kind_that_does_not_know_timeouts_is_cut_off_all_the_same() -> None:
    runner = Scripted(PASS)
    runner.gate = asyncio.Event()
    found = await run_once(runner, "c", SECOND // 20)
    assert found == CheckResult("critical", "Timed out (50ms) running check")
    assert runner.running == 0


class Following:
    """A kind that reports by itself and fails once."""

    def __init__(self) -> None:
        self.starts = 0

    async def run(self) -> CheckResult:
        raise NotImplementedError

    async def follow(self, report: Callable[[CheckResult], None]) -> None:
        self.starts += 1
        if self.starts == 1:
            raise RuntimeError("lost it")
        report(PASS)
        await asyncio.Event().wait()


async def test_a_kind_that_reports_by_itself_is_started_again_when_it_fails() -> None:
    clock, runner, reported = ManualClock(), Following(), []
    async with running(runner, CheckDefinition(id="c"), clock, reported.append):
        await clock.settle()
        assert reported == [CheckResult("critical", "lost it")]
        await clock.advance(10)
    assert reported[1:] == [PASS]


async def test_scheduler_replaces_and_stops_jobs() -> None:
    scheduler, log = CheckScheduler(), []

    def job(name: str) -> Callable[[], object]:
        async def work() -> None:
            log.append(f"{name} starts")
            try:
                await asyncio.Event().wait()
            finally:
                log.append(f"{name} ends")

        return work

    scheduler.start("early", job("early"))  # type: ignore[arg-type]
    async with asyncio.TaskGroup() as group:
        task = group.create_task(scheduler.run())
        await ManualClock().settle()
        scheduler.start("a", job("a1"))  # type: ignore[arg-type]
        await ManualClock().settle()
        scheduler.start("a", job("a2"))  # type: ignore[arg-type]
        await ManualClock().settle()
        scheduler.stop("early")
        scheduler.stop("unknown")
        await ManualClock().settle()
        assert log == ["early starts", "a1 starts", "a1 ends", "a2 starts", "early ends"]
        assert len(scheduler) == 1
        task.cancel()
    assert log[-1] == "a2 ends"
