"""Where one plugin's code runs: an event loop in a thread of its own, and a few worker threads.

Nothing can stop code that blocks the thread it runs in. So a plugin never runs in the agent's
thread: what hangs is then only its own loop or one of its workers, and whoever waits for it stops
waiting at a time limit. The threads are daemons, because a plugin that hangs must not keep the
process from ending; that is also why `concurrent.futures.ThreadPoolExecutor`, whose threads are
joined at exit, does not serve here.

Threads are started when they are first needed: a plugin that only lends a file format has none.
"""

from __future__ import annotations

import asyncio
import inspect
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from registry.errors import Overloaded

#: Worker threads of one plugin. A few, so that one call that hangs does not hold up the others.
WORKERS_MAX = 4

#: Calls of one plugin that may be under way or waiting. A hanging plugin must not collect calls.
OUTSTANDING_MAX = 256

#: How long the end of a plugin's loop is waited for before it is left to itself.
CLOSE_LIMIT_S = 2.0


class PluginThreads:
    """The threads of one plugin. `submit` and `submit_async` may be called from any thread."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._outstanding = 0
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._workers = 0
        self._idle = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread: threading.Thread | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def outstanding(self) -> int:
        """Calls that have not ended, those that nobody waits for any more included."""
        return self._outstanding

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call it in a worker thread. Raises `Overloaded` when too many calls have not ended."""
        self._admit()
        future: Future[Any] = Future()
        with self._lock:
            if self._idle:
                self._idle -= 1
            elif self._workers < WORKERS_MAX:
                self._workers += 1
                name = f"plugin-{self.name}-{self._workers}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
        self._jobs.put(_Job(future, function, arguments))
        return future

    def submit_async(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call it on the plugin's event loop and await what it gives, if that can be awaited.

        Cancelling the future cancels the call there. Raises `Overloaded` as `submit` does.
        """
        loop = self.loop()
        self._admit()
        future: Future[Any] = Future()

        def start() -> None:
            task = loop.create_task(_awaited(function, arguments))
            self._tasks.add(task)  # the loop itself holds tasks only weakly
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda task: self._hand_over(task, future))
            future.add_done_callback(cancel_in_loop(task))

        def cancel_in_loop(task: asyncio.Task[Any]) -> Callable[[Future[Any]], None]:
            def cancel(future: Future[Any]) -> None:
                if future.cancelled():
                    with suppress(RuntimeError):  # the loop was closed
                        loop.call_soon_threadsafe(task.cancel)

            return cancel

        loop.call_soon_threadsafe(start)
        return future

    def loop(self) -> asyncio.AbstractEventLoop:
        """The plugin's event loop, running."""
        with self._lock:
            if self._loop is None:
                started: Future[asyncio.AbstractEventLoop] = Future()
                self._loop_thread = threading.Thread(
                    target=self._serve, args=(started,), name=f"plugin-{self.name}", daemon=True
                )
                self._loop_thread.start()
                self._loop = started.result()
            return self._loop

    def close(self) -> None:
        """End the threads; those that hang are left to themselves after a moment."""
        thread = self.begin_close()
        if thread is not None:
            thread.join(CLOSE_LIMIT_S)

    def begin_close(self) -> threading.Thread | None:
        """Have the threads end; the one to wait for, if somebody wants to."""
        with self._lock:
            loop, thread, self._loop = self._loop, self._loop_thread, None
            workers, self._workers, self._idle = self._workers, 0, 0
        for _ in range(workers):
            self._jobs.put(None)
        if loop is None:
            return None
        loop.call_soon_threadsafe(loop.stop)
        return thread

    def _admit(self) -> None:
        with self._lock:
            if self._outstanding >= OUTSTANDING_MAX:
                raise Overloaded(
                    f"plugin {self.name} has {self._outstanding} calls that have not ended"
                )
            self._outstanding += 1

    def _ended(self) -> None:
        with self._lock:
            self._outstanding -= 1

    def _hand_over(self, task: asyncio.Task[Any], future: Future[Any]) -> None:
        self._ended()
        if not future.set_running_or_notify_cancel():
            return  # nobody waits any more
        if task.cancelled():
            future.set_exception(RuntimeError("the call was cancelled by the plugin itself"))
        elif (problem := task.exception()) is not None:
            future.set_exception(problem)
        else:
            future.set_result(task.result())

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
            self._ended()
            with self._lock:
                self._idle += 1

    def _serve(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            loop.call_soon(started.set_result, loop)
            loop.run_forever()


class _Job:
    __slots__ = ("arguments", "function", "future")

    def __init__(
        self, future: Future[Any], function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> None:
        self.future, self.function, self.arguments = future, function, arguments

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.function(*self.arguments)
        except BaseException as problem:
            self.future.set_exception(problem)
        else:
            self.future.set_result(result)


async def _awaited(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        result = function(*arguments)
        return await result if inspect.isawaitable(result) else result
    except (SystemExit, KeyboardInterrupt) as wish:
        # Let through, it would end the plugin's loop.
        raise RuntimeError(f"{type(wish).__name__}: {wish}") from wish
