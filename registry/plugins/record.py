"""What is known of one plugin, and how a call into it is made, bounded and kept account of."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from typing import Any, Protocol

from registry.errors import Overloaded, PluginError, RegistryError
from registry.plugins.threads import OUTSTANDING_MAX, PluginThreads

logger = logging.getLogger("registry.plugins")

#: Errors that are kept per plugin: the first ones tell the most, and a check that fails every
#: second must not fill the memory.
ERRORS_MAX = 20

#: So many failures in a row of one hook, and it is left alone for a while.
FAILURES_MAX = 5
#: A call that had to be given up counts for several: somebody waited for it all the while.
HANG_WEIGHT = 3
#: For how long, the first time; doubled with each trial that fails, up to the longest.
PAUSE_S = 30.0
PAUSE_S_MAX = 600.0


#: Guarded calls of one plugin that are made at once; further ones wait for their turn. Many writers
#: at once are no failure of a validator's, and must not get past it: that is what more calls than a
#: plugin's threads take would come to.
GUARDED_MAX = OUTSTANDING_MAX // 2


class Counters(Protocol):
    """Where calls and errors are counted: the agent's metrics."""

    def count(self, name: str, amount: float = 1, **labels: str) -> None: ...


@dataclass(slots=True)
class Breaker:
    """Leaves a hook alone that fails again and again (a circuit breaker).

    Closed, every call is let through. `FAILURES_MAX` failures in a row open it: nothing is called
    until a pause is over. The next call is the trial: its success closes the breaker, its failure
    opens it again for twice as long. Times are of `time.monotonic`, handed in.
    """

    failures: int = 0
    open_until: float = 0.0
    _pause_s: float = PAUSE_S

    def allows(self, now: float) -> bool:
        return now >= self.open_until

    def is_open(self, now: float) -> bool:
        return not self.allows(now)

    def succeeded(self) -> None:
        self.failures, self.open_until, self._pause_s = 0, 0.0, PAUSE_S

    def failed(self, now: float, weight: int = 1) -> float:
        """Count a failure; for how long the hook is left alone now, 0 when it is not."""
        self.failures += weight
        if self.failures < FAILURES_MAX:
            return 0.0
        pause, self._pause_s = self._pause_s, min(self._pause_s * 2, PAUSE_S_MAX)
        self.open_until = now + pause
        return pause


@dataclass(slots=True, eq=False)
class PluginRecord:
    """One plugin; also one that could not be loaded."""

    name: str
    source: str  # "builtin", "entry point" or the file
    version: str = ""
    hooks: list[str] = field(default_factory=list)
    #: Hooks that it came too late for, when a reload brought its settings.
    needs_restart: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    errors_total: int = 0
    calls: int = 0
    seconds: float = 0.0
    breakers: dict[str, Breaker] = field(default_factory=dict)
    counters: Counters | None = None
    #: None for built-in features, which run where they are called.
    threads: PluginThreads | None = None
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(GUARDED_MAX))

    def failed(self, hook: str, error: BaseException | str, *, log: bool = True) -> PluginError:
        """Keep a failure and log it, and give it as an error to raise where somebody waits for it.

        `log` is False where the caller logs what it is raised.
        """
        if isinstance(error, str):
            reason, traceback = error, None
        else:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            traceback = error
        self.errors_total += 1
        kept = f"{hook}: {reason}"
        if kept in self.errors:
            traceback = None  # the log has it already
        if len(self.errors) < ERRORS_MAX:
            self.errors.append(kept)
        elif self.errors_total & (self.errors_total - 1):
            log = False  # what fails all the time is counted; the 32nd, 64th, … are told
        if self.counters is not None:
            self.counters.count("plugin.errors", plugin=self.name, hook=hook)
        if log:
            text = "plugin failed plugin=%s hook=%s reason=%s"
            logger.error(text, self.name, hook, reason, exc_info=traceback)
        return PluginError(self.name, hook, reason)

    # Calls. An error that `passes` is part of the hook's contract and no failure of the plugin's;
    # our own errors always are. Anything else becomes a `PluginError`.

    def call_now(
        self,
        hook: str,
        function: Callable[..., Any],
        *arguments: Any,
        limit_s: float,
        passes: tuple[type[Exception], ...] = (),
    ) -> Any:
        """Call it in a thread of the plugin and wait here: where no event loop runs yet, or in a
        thread that may wait."""
        begin = self._began(hook)
        try:
            if self.threads is None:
                return function(*arguments)
            return self._result_now(function, arguments, limit_s)
        except passes:
            raise
        except RegistryError:
            raise
        except (Exception, SystemExit) as error:
            raise self.failed(hook, error) from error
        finally:
            self._ended(begin)

    def _result_now(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], limit_s: float
    ) -> Any:
        assert self.threads is not None
        future = self.threads.submit(function, *arguments)
        try:
            return future.result(limit_s)
        except FutureTimeout:
            if future.done():
                raise  # its own
            future.cancel()
            raise TimeoutError(too_long(limit_s)) from None

    async def call(
        self,
        hook: str,
        function: Callable[..., Any],
        *arguments: Any,
        limit_s: float | None,
        passes: tuple[type[Exception], ...] = (),
        log: bool = True,
    ) -> Any:
        """Call it for the agent's loop: an async function on the plugin's loop, another one in a
        worker. `limit_s` None leaves the limit to the caller, who cancels."""
        begin = self._began(hook)
        try:
            return await self._result(function, arguments, limit_s)
        except passes:
            raise
        except RegistryError:
            raise
        except Exception as error:
            raise self.failed(hook, error, log=log) from error
        finally:
            self._ended(begin)

    async def _result(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], limit_s: float | None
    ) -> Any:
        if self.threads is None:
            result = function(*arguments)
            return await result if inspect.isawaitable(result) else result
        is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - the method, not whether there is one
        )
        submit = self.threads.submit_async if is_async else self.threads.submit
        future: Future[Any] = submit(function, *arguments)
        # Not asyncio.timeout: a TimeoutError of the plugin's own is to be told as what it is.
        waiting = asyncio.wrap_future(future)
        try:
            done, _ = await asyncio.wait((waiting,), timeout=limit_s)
            if done:
                return waiting.result()
            raise TimeoutError(too_long(limit_s or 0.0))
        finally:
            waiting.cancel()  # nobody waits for it any more

    async def call_guarded(
        self,
        hook: str,
        function: Callable[..., Any],
        *arguments: Any,
        limit_s: float,
        passes: tuple[type[Exception], ...] = (),
        gives: type | None = None,
        judge: Callable[[Any], str] | None = None,
    ) -> Any:
        """`call` behind the hook's breaker: raises `PluginError` at once while it is open, and for
        anything given that is neither None nor of the type `gives`, where that is told, or that
        `judge` says something against.

        `limit_s` begins when it is the call's turn. That is soon, since calls that hang open the
        breaker.
        """

        def wrong(result: Any) -> str:
            if gives is not None and not (result is None or isinstance(result, gives)):
                return f"gave {type(result).__name__}, expected {gives.__name__}"
            return judge(result) if judge is not None else ""

        async with self._turns:
            return await self._call_in_turn(hook, function, arguments, limit_s, passes, wrong)

    async def _call_in_turn(
        self,
        hook: str,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        limit_s: float,
        passes: tuple[type[Exception], ...],
        wrong: Callable[[Any], str],
    ) -> Any:
        breaker = self.breakers.setdefault(hook, Breaker())
        if not breaker.allows(time.monotonic()):
            raise PluginError(self.name, hook, "it failed too often and is left alone for a while")
        try:
            result = await self.call(hook, function, *arguments, limit_s=limit_s, passes=passes)
        except passes:
            breaker.succeeded()
            raise
        except RegistryError as problem:
            if isinstance(problem, Overloaded):
                self.failed(hook, str(problem))
            hung = isinstance(problem.__cause__, TimeoutError)
            self._count_failure(hook, weight=HANG_WEIGHT if hung else 1)
            raise
        if reason := wrong(result):
            failure = self.failed(hook, reason)
            self._count_failure(hook)
            raise failure
        breaker.succeeded()
        return result

    def _count_failure(self, hook: str, weight: int = 1) -> None:
        breaker = self.breakers.setdefault(hook, Breaker())
        if pause := breaker.failed(time.monotonic(), weight):
            text = "plugin is left alone plugin=%s hook=%s failures=%d seconds=%.0f"
            logger.warning(text, self.name, hook, breaker.failures, pause)
            if self.counters is not None:
                self.counters.count("plugin.breaker_opened", plugin=self.name, hook=hook)

    def _began(self, hook: str) -> float:
        self.calls += 1
        if self.counters is not None:
            self.counters.count("plugin.calls", plugin=self.name, hook=hook)
        return time.perf_counter()

    def _ended(self, begin: float) -> None:
        self.seconds += time.perf_counter() - begin

    def report(self) -> dict[str, Any]:
        """Plain data, for `GET /v1/agent/plugins`."""
        now = time.monotonic()
        return {
            "Name": self.name,
            "Version": self.version,
            "Source": self.source,
            "Hooks": list(self.hooks),
            "NeedsRestart": list(self.needs_restart),
            "Errors": list(self.errors),
            "ErrorCount": self.errors_total,
            "Calls": self.calls,
            "TimeMs": round(self.seconds * 1000, 3),
            "Outstanding": self.threads.outstanding if self.threads else 0,
            "LeftAlone": {
                hook: round(breaker.open_until - now, 1)
                for hook, breaker in self.breakers.items()
                if breaker.is_open(now)
            },
        }


def too_long(limit_s: float) -> str:
    return f"took longer than {limit_s:g} s"
