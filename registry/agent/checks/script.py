"""Script checks: a program's exit status is the state, its output what is shown."""

from __future__ import annotations

from registry.agent.checks.base import (
    CRITICAL,
    PASSING,
    WARNING,
    CheckContext,
    timed_out_text,
)
from registry.agent.definitions import CheckDefinition
from registry.agent.output import OutputTail
from registry.agent.processes import CannotStart, run_process
from registry.hooks import CheckResult, CheckType

#: Exit status -> state; any other status, and death by a signal, is critical.
EXIT_STATUSES = {0: PASSING, 1: WARNING}


class ScriptRunner:
    """Runs the program as it is, without a shell, in its own process group."""

    def __init__(self, args: tuple[str, ...], output_bytes_max: int) -> None:
        self._args = args
        self._output_bytes_max = output_bytes_max
        self._output = OutputTail(output_bytes_max)

    def bind(self, context: CheckContext) -> None:
        self._output_bytes_max = context.output_bytes_max

    async def run(self) -> CheckResult:
        """Cancelling it kills the process group."""
        self._output = OutputTail(self._output_bytes_max)
        try:
            status = await run_process(self._args, self._output)
        except CannotStart as problem:
            return CheckResult(CRITICAL, str(problem))
        return CheckResult(EXIT_STATUSES.get(status, CRITICAL), self._output.marked_text())

    def timed_out(self, timeout_ns: int) -> CheckResult:
        """What was written before the end is shown: it usually says where the script hangs."""
        parts = [timed_out_text(timeout_ns), self._output.marked_text()]
        return CheckResult(CRITICAL, "\n\n".join(filter(None, parts)))


def create(definition: CheckDefinition) -> ScriptRunner:
    if not definition.args:
        raise ValueError("a script check needs args")
    return ScriptRunner(definition.args, definition.output_max_size)


CHECK_TYPE = CheckType(key="args", type_name="script", create=create)
