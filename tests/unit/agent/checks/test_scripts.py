"""Script checks with real processes."""

from __future__ import annotations

import asyncio
import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.agent.checks import docker, script
from registry.agent.checks.scheduler import run_once
from registry.agent.definitions import MILLISECOND, SECOND, CheckDefinition
from registry.agent.output import OutputTail
from registry.agent.processes import CannotStart, run_process
from registry.hooks import CheckResult

LIMIT = 4096


def shell(text: str) -> CheckDefinition:
    return CheckDefinition(
        id="s", args=("/bin/sh", "-c", text), interval_ns=SECOND, output_max_size=LIMIT
    )


async def run(text: str, timeout_ns: int = 10 * SECOND) -> CheckResult:
    return await run_once(script.create(shell(text)), "s", timeout_ns)


@pytest.mark.parametrize(
    ("status", "state"),
    [(0, "passing"), (1, "warning"), (2, "critical"), (7, "critical"), (255, "critical")],
)
async def test_the_exit_status_is_the_state(status: int, state: str) -> None:
    result = await run(f"echo out of script; exit {status}")
    assert result == CheckResult(state, "out of script\n")


async def test_both_streams_are_shown_in_order() -> None:
    assert (await run("echo one; echo two >&2; echo three")).output == "one\ntwo\nthree\n"


async def test_death_by_a_signal_is_critical() -> None:
    assert (await run("kill -9 $$")).status == "critical"


async def test_long_output_keeps_its_end() -> None:
    result = await run("head -c 10000 /dev/zero | tr '\\0' a; echo end")
    head, _, tail = result.output.partition("\n...\n")
    assert head == "Captured 4096 of 10004 bytes"
    assert len(tail) == LIMIT
    assert tail.endswith("aend\n")


@pytest.mark.parametrize(
    ("program", "text"),
    [
        (
            "no-such-program-here",
            'exec: "no-such-program-here": executable file not found in $PATH',
        ),
        ("/no/such", "fork/exec /no/such: no such file or directory"),
        ("/etc/passwd", "fork/exec /etc/passwd: permission denied"),
    ],
)
async def test_a_program_that_cannot_be_started(program: str, text: str) -> None:
    runner = script.create(CheckDefinition(id="s", args=(program,)))
    assert await runner.run() == CheckResult("critical", text)


async def test_timeout_says_so() -> None:
    result = await run("sleep 30", 200 * MILLISECOND)
    assert result == CheckResult("critical", "Timed out (200ms) running check")


async def test_timeout_shows_what_was_written_before() -> None:
    result = await run("echo waiting for the database; exec sleep 30", 400 * MILLISECOND)
    assert result.output == "Timed out (400ms) running check\n\nwaiting for the database\n"


async def test_timeout_kills_the_whole_process_group(tmp_path: Path) -> None:
    """A child that was forked off and ignores SIGTERM dies with its parent."""
    pids = tmp_path / "pids"
    child = (
        f"trap '' TERM HUP INT; echo $$ >> {shlex.quote(str(pids))}; while :; do sleep 0.05; done"
    )
    text = f"trap '' TERM; /bin/sh -c {shlex.quote(child)} & echo $$ >> {pids}; wait"
    result = await run(text, 500 * MILLISECOND)
    assert result.output.startswith("Timed out (500ms)")
    written = [int(line) for line in pids.read_text().split()]
    assert len(written) == 2
    await until(lambda: not any(is_running(pid) for pid in written))


async def test_cancelling_a_check_kills_it(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    runner = script.create(shell(f"echo $$ > {pid_file}; exec sleep 30"))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(runner.run())
        await until(lambda: pid_file.exists() and bool(pid_file.read_text().strip()))
        task.cancel()
    await until(lambda: not is_running(int(pid_file.read_text())))


async def test_a_child_left_running_does_not_hold_the_check_up() -> None:
    started = time.monotonic()
    result = await run("sleep 3 & echo done")
    assert result == CheckResult("passing", "done\n")
    assert time.monotonic() - started < 2


async def test_the_loop_is_not_blocked_by_a_script() -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(run("sleep 0.3"))
        turns = 0
        while not task.done():
            await asyncio.sleep(0.01)
            turns += 1
    assert turns > 5


async def test_no_shell_is_involved() -> None:
    runner = script.create(
        CheckDefinition(id="s", args=("echo", "$HOME;", "*"), output_max_size=99)
    )
    assert (await runner.run()).output == "$HOME; *\n"


async def test_input_reaches_the_program_and_may_be_left_unread() -> None:
    output = OutputTail(LIMIT)
    assert await run_process(("cat",), output, stdin=b"hello") == 0
    assert output.text() == "hello"
    assert await run_process(("true",), OutputTail(LIMIT), stdin=b"x" * 1_000_000) == 0


async def test_no_descriptor_is_left_behind() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        await run("true")
        with pytest.raises(CannotStart):
            await run_process(("/no/such",), OutputTail(1))
    assert len(os.listdir("/proc/self/fd")) <= before + 1


async def test_docker_without_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    runner = docker.create(CheckDefinition(id="d", docker_container_id="web", args=("true",)))
    result = await runner.run()
    assert result.status == "critical"
    assert "docker command line client" in result.output


async def test_docker_runs_the_arguments_in_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the client shows how it is called and whose exit status counts."""
    client = tmp_path / "docker"
    client.write_text('#!/bin/sh\necho "$@"\nexit 1\n')
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    several = CheckDefinition(
        id="d", docker_container_id="web", args=("curl", "-s"), output_max_size=99
    )
    assert await docker.create(several).run() == CheckResult("warning", "exec web curl -s\n")
    one = CheckDefinition(
        id="d", docker_container_id="web", args=("a b",), shell="/bin/bash", output_max_size=99
    )
    assert (await docker.create(one).run()).output == "exec web /bin/bash -c a b\n"


@pytest.mark.parametrize(
    ("output", "state"),
    [
        ("Error: No such container: web", "critical"),
        ("Cannot connect to the Docker daemon at unix:///x.", "critical"),
        ("low on memory", "warning"),
    ],
)
async def test_docker_does_not_reach_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, state: str
) -> None:
    client = tmp_path / "docker"
    client.write_text(f"#!/bin/sh\necho '{output}' >&2\nexit 1\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    definition = CheckDefinition(
        id="d", docker_container_id="web", args=("true",), output_max_size=99
    )
    assert await docker.create(definition).run() == CheckResult(state, f"{output}\n")


def is_running(pid: int) -> bool:
    """Whether the process is there and more than an entry that nobody has waited for."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


async def until(condition: Callable[[], bool], deadline_s: float = 5.0) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 - about other processes, which set no event
            await asyncio.sleep(0.01)
