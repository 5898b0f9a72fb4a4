"""TTL checks: the application reports; silence for longer than the TTL is critical."""

from __future__ import annotations

from registry.agent.checks.base import CRITICAL, CheckContext, Report
from registry.agent.clock import Clock, LoopClock, Wakeup
from registry.agent.definitions import SECOND, CheckDefinition
from registry.hooks import CheckResult, CheckType


class TtlRunner:
    """Keeps one deadline, which every `refresh` moves.

    A refresh only moves the number: the sleeper finds that out when it wakes at the old deadline,
    so that updates, however many, cost neither a timer nor a wake-up each.
    """

    def __init__(self, ttl_ns: int) -> None:
        self._ttl_s = ttl_ns / SECOND
        self._clock: Clock = LoopClock()
        self._refreshed = Wakeup(self._clock)
        self._deadline: float | None = None  # None: expired
        self._last_output = ""

    def bind(self, context: CheckContext) -> None:
        self._clock = context.clock
        self._refreshed = Wakeup(self._clock)
        self._deadline = self._clock.monotonic() + self._ttl_s

    def refresh(self, output: str) -> None:
        """The application was heard of: the TTL starts anew."""
        self._last_output = output
        was_expired = self._deadline is None
        self._deadline = self._clock.monotonic() + self._ttl_s
        if was_expired:
            self._refreshed.set()

    def remember(self, output: str) -> None:
        """The output of before a restart or a new registration; does not move the deadline."""
        self._last_output = output

    async def follow(self, report: Report) -> None:
        while True:
            if self._deadline is None:
                await self._refreshed.wait()
            elif (left := self._deadline - self._clock.monotonic()) > 0:
                await self._refreshed.wait(left)
            else:
                self._deadline = None
                report(self._expired())

    async def run(self) -> CheckResult:
        """A TTL check has nothing to run; silence is what it is about."""
        return self._expired()

    def _expired(self) -> CheckResult:
        if not self._last_output:
            return CheckResult(CRITICAL, "TTL expired")
        return CheckResult(
            CRITICAL, f"TTL expired (last output before timeout follows): {self._last_output}"
        )


def create(definition: CheckDefinition) -> TtlRunner:
    return TtlRunner(definition.ttl_ns)


CHECK_TYPE = CheckType(key="ttl", type_name="ttl", create=create)
