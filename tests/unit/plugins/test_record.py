"""Calls into a plugin: bounded in time, kept account of, and left out after too many failures."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from registry.errors import Overloaded, PluginError
from registry.plugins.record import (
    ERRORS_MAX,
    FAILURES_MAX,
    GUARDED_MAX,
    PAUSE_S,
    PAUSE_S_MAX,
    Breaker,
    PluginRecord,
)
from registry.plugins.threads import OUTSTANDING_MAX, PluginThreads

HOOK = "registry_something"


class Counted:
    def __init__(self) -> None:
        self.counts: dict[str, float] = {}

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        key = ",".join([name, *(f"{name}={value}" for name, value in sorted(labels.items()))])
        self.counts[key] = self.counts.get(key, 0) + amount


@pytest.fixture
def record() -> Iterator[PluginRecord]:
    threads = PluginThreads("mine")
    yield PluginRecord("mine", "test", threads=threads, counters=Counted())
    threads.close()


def fail() -> None:
    raise LookupError("nobody")


async def fail_soon() -> None:
    raise LookupError("nobody")


@pytest.mark.parametrize("function", [fail, fail_soon])
async def test_a_failure_names_the_plugin(record: PluginRecord, function: object) -> None:
    with pytest.raises(PluginError, match=f"^plugin mine failed in {HOOK}: LookupError: nobody$"):
        await record.call(HOOK, function, limit_s=5)  # type: ignore[arg-type]
    assert record.report()["Errors"] == [f"{HOOK}: LookupError: nobody"]
    assert isinstance(record.counters, Counted)
    assert record.counters.counts == {
        f"plugin.calls,hook={HOOK},plugin=mine": 1,
        f"plugin.errors,hook={HOOK},plugin=mine": 1,
    }


async def test_a_call_ends_at_its_limit_and_the_loop_is_free(record: PluginRecord) -> None:
    go_on = threading.Event()
    with pytest.raises(PluginError, match=r"took longer than 0\.05 s"):
        await record.call(HOOK, go_on.wait, limit_s=0.05)

    async def block() -> None:
        go_on.wait()  # the plugin's loop, and nobody else's

    with pytest.raises(PluginError, match=r"took longer than 0\.05 s"):
        await record.call(HOOK, block, limit_s=0.05)
    assert record.report()["Outstanding"] == 2
    go_on.set()


def test_a_call_without_a_loop_ends_at_its_limit(record: PluginRecord) -> None:
    go_on = threading.Event()
    with pytest.raises(PluginError, match=r"took longer than 0\.05 s"):
        record.call_now(HOOK, go_on.wait, limit_s=0.05)
    go_on.set()


async def test_a_timeout_of_the_plugins_own_is_told_as_it_is(record: PluginRecord) -> None:
    async def wait() -> None:
        raise TimeoutError("the database is slow")

    with pytest.raises(PluginError, match="TimeoutError: the database is slow"):
        await record.call(HOOK, wait, limit_s=5)


async def test_what_passes_is_no_failure(record: PluginRecord) -> None:
    with pytest.raises(LookupError, match="nobody"):
        await record.call(HOOK, fail, limit_s=5, passes=(LookupError,))

    def overloaded() -> None:
        raise Overloaded("ours")

    with pytest.raises(Overloaded, match="ours"):
        await record.call(HOOK, overloaded, limit_s=5)
    assert record.report()["Errors"] == []


async def test_the_first_errors_are_kept_and_all_are_counted(record: PluginRecord) -> None:
    for _ in range(ERRORS_MAX + 5):
        with pytest.raises(PluginError):
            await record.call(HOOK, fail, limit_s=5, log=False)
    report = record.report()
    assert len(report["Errors"]) == ERRORS_MAX
    assert report["ErrorCount"] == ERRORS_MAX + 5


async def test_a_hook_that_keeps_failing_is_left_alone(
    record: PluginRecord, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(FAILURES_MAX):
        with pytest.raises(PluginError, match="nobody"):
            await record.call_guarded(HOOK, fail, limit_s=5)
    calls = record.calls
    with pytest.raises(PluginError, match="failed too often and is left alone"):
        await record.call_guarded(HOOK, fail, limit_s=5)
    assert record.calls == calls
    assert f"plugin is left alone plugin=mine hook={HOOK} failures={FAILURES_MAX}" in caplog.text
    assert 0 < record.report()["LeftAlone"][HOOK] <= PAUSE_S
    await record.call_guarded("registry_other", time.monotonic, limit_s=5)


async def test_cancelling_a_call_ends_it_in_the_plugin(record: PluginRecord) -> None:
    begun, ended = threading.Event(), threading.Event()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(record.call(HOOK, wait, limit_s=None))
        assert await asyncio.to_thread(begun.wait, 5)
        task.cancel()
    assert await asyncio.to_thread(ended.wait, 5)


def test_the_breaker_pauses_for_longer_each_time() -> None:
    breaker, now = Breaker(), 100.0
    for _ in range(FAILURES_MAX - 1):
        assert breaker.failed(now) == 0
        assert breaker.allows(now)
    pauses = []
    for _ in range(7):
        pauses.append(breaker.failed(now))
        assert not breaker.allows(now + pauses[-1] - 0.1)
        now += pauses[-1]
        assert breaker.allows(now)  # the trial
    assert pauses == [PAUSE_S, 60, 120, 240, 480, PAUSE_S_MAX, PAUSE_S_MAX]
    breaker.succeeded()
    assert breaker.failed(now) == 0


async def test_a_call_that_hangs_counts_for_several(record: PluginRecord) -> None:
    go_on = threading.Event()
    for _ in range(2):
        with pytest.raises(PluginError, match="took longer"):
            await record.call_guarded(HOOK, go_on.wait, limit_s=0.01)
    with pytest.raises(PluginError, match="left alone"):
        await record.call_guarded(HOOK, go_on.wait, limit_s=0.01)
    go_on.set()


async def test_many_calls_at_once_wait_for_their_turn(record: PluginRecord) -> None:
    """None is refused for being one of many, which would let writes past a validator."""
    under_way, most = 0, 0

    async def judge(number: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return number

    count = OUTSTANDING_MAX * 4
    async with asyncio.TaskGroup() as group:
        calls = [
            group.create_task(record.call_guarded(HOOK, judge, number, limit_s=10))
            for number in range(count)
        ]
    assert [call.result() for call in calls] == list(range(count))
    assert 0 < most <= GUARDED_MAX
    assert record.errors == []


async def test_calls_wait_no_longer_than_until_the_breaker_opens(record: PluginRecord) -> None:
    go_on = threading.Event()
    begin = time.monotonic()
    try:
        async with asyncio.timeout(10):
            results = await asyncio.gather(
                *(record.call_guarded(HOOK, go_on.wait, limit_s=0.05) for _ in range(2000)),
                return_exceptions=True,
            )
    finally:
        go_on.set()
    assert all(isinstance(result, PluginError) for result in results)
    assert "left alone" in str(results[-1])
    assert time.monotonic() - begin < 5
