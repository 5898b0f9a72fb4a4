"""A plugin's own threads: what runs where, and what happens when it does not end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from registry.errors import Overloaded
from registry.plugins import threads as module
from registry.plugins.threads import WORKERS_MAX, PluginThreads


@pytest.fixture
def threads() -> Iterator[PluginThreads]:
    threads = PluginThreads("mine")
    yield threads
    threads.close()


def test_functions_run_in_workers_and_async_ones_on_the_loop(threads: PluginThreads) -> None:
    async def where() -> str:
        return threading.current_thread().name

    def where_now() -> str:
        return threading.current_thread().name

    assert threads.submit_async(where).result(5) == "plugin-mine"
    assert threads.submit(where_now).result(5) == "plugin-mine-1"


def test_async_calls_share_one_loop(threads: PluginThreads) -> None:
    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert threads.submit_async(loop).result(5) is threads.submit_async(loop).result(5)


def test_a_call_that_hangs_does_not_hold_up_the_next(threads: PluginThreads) -> None:
    go_on = threading.Event()
    hanging = [threads.submit(go_on.wait) for _ in range(WORKERS_MAX - 1)]
    assert threads.submit(lambda: 5).result(5) == 5
    assert threads.outstanding == WORKERS_MAX - 1
    go_on.set()
    assert all(each.result(5) for each in hanging)


def test_calls_beyond_the_bound_are_refused(
    threads: PluginThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OUTSTANDING_MAX", 2)
    go_on = threading.Event()
    calls = [threads.submit(go_on.wait) for _ in range(2)]
    with pytest.raises(Overloaded, match="plugin mine has 2 calls that have not ended"):
        threads.submit(print)
    with pytest.raises(Overloaded):
        threads.submit_async(print)
    go_on.set()
    for call in calls:
        call.result(5)


def test_cancelling_reaches_the_coroutine(threads: PluginThreads) -> None:
    begun, ended = threading.Event(), threading.Event()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    call = threads.submit_async(wait)
    assert begun.wait(5)
    call.cancel()
    assert ended.wait(5)
    with pytest.raises(CancelledError):
        call.result(5)


def test_a_wish_to_exit_ends_neither_the_loop_nor_a_worker(threads: PluginThreads) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(RuntimeError, match="SystemExit: 3"):
        threads.submit_async(leave).result(5)

    async def five() -> int:
        return 5

    assert threads.submit_async(five).result(5) == 5


def test_a_coroutine_that_cancels_itself_is_told_as_a_failure(threads: PluginThreads) -> None:
    async def give_up() -> None:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="cancelled by the plugin itself"):
        threads.submit_async(give_up).result(5)


def test_closing_ends_the_threads() -> None:
    threads = PluginThreads("closing")

    async def name() -> threading.Thread:
        return threading.current_thread()

    loop_thread = threads.submit_async(name).result(5)
    worker = threads.submit(threading.current_thread).result(5)
    threads.close()
    loop_thread.join(5)
    worker.join(5)
    assert not loop_thread.is_alive()
    assert not worker.is_alive()


def test_threads_start_when_they_are_needed() -> None:
    before = threading.active_count()
    threads = PluginThreads("idle")
    assert threading.active_count() == before
    threads.close()
