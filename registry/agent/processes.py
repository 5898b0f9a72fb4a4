"""Child processes of the agent: checks and watch handlers run in a process group of their own.

The group is what is killed, so a script's children die with it. Output of both streams comes
through one pipe that the event loop reads as it fills.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

#: Once the process itself has ended, its output is complete, unless a child that it left running
#: keeps the pipe open; that child is not waited for longer than this.
DRAIN_SECONDS = 0.25
#: A killed process is gone at once, unless it hangs inside the kernel; the run ends all the same.
REAP_SECONDS = 5.0
READ_BYTES = 65536


class Sink(Protocol):
    """Takes what a process writes, as it comes; must not wait."""

    def write(self, data: bytes) -> object: ...


class CannotStart(Exception):
    """The program is not there or may not be run; the text says which."""


async def run_process(
    args: Sequence[str],
    output: Sink,
    *,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run a program to its end and return its exit status (negative: the signal that ended it).

    When cancelled, the whole process group is killed before the cancellation travels on. Raises
    `CannotStart`.
    """
    with _pipe_into(output) as (write_fd, ended):
        process = await _start(args, write_fd, bool(stdin), environment)
        os.close(write_fd)
        try:
            if process.stdin is not None:
                await _feed(process.stdin, stdin)
            status = await process.wait()
        except BaseException:
            await _kill_group(process)
            raise
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await ended.wait()
        return status


async def _start(
    args: Sequence[str], write_fd: int, feeds: bool, environment: Mapping[str, str] | None
) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *args,
            stdin=asyncio.subprocess.PIPE if feeds else asyncio.subprocess.DEVNULL,
            stdout=write_fd,
            stderr=write_fd,
            env=environment,
            start_new_session=True,
        )
    except (OSError, ValueError) as problem:
        os.close(write_fd)
        raise CannotStart(_start_text(args[0], problem)) from problem
    except BaseException:
        os.close(write_fd)
        raise


def _start_text(program: str, problem: Exception) -> str:
    if isinstance(problem, FileNotFoundError) and "/" not in program:
        return f'exec: "{program}": executable file not found in $PATH'
    reason = problem.strerror if isinstance(problem, OSError) else str(problem)
    return f"fork/exec {program}: {(reason or str(problem)).lower()}"


async def _feed(stream: asyncio.StreamWriter, data: bytes) -> None:
    """Write all of it; a program that does not want its input is no failure."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        if not stream.is_closing():  # as it is once the program has ended: uvloop refuses to write
            stream.write(data)
            await stream.drain()
    stream.close()


async def _kill_group(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    # The process leads its group and is not reaped yet, so the id can belong to nobody else.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REAP_SECONDS):
            await process.wait()


@contextlib.contextmanager
def _pipe_into(output: Sink) -> Iterator[tuple[int, asyncio.Event]]:
    """A pipe whose content flows into `output`: its write end, and an event for end of file."""
    loop = asyncio.get_running_loop()
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    ended = asyncio.Event()

    def read() -> None:
        try:
            data = os.read(read_fd, READ_BYTES)
        except BlockingIOError:
            return
        if data:
            output.write(data)
        else:
            loop.remove_reader(read_fd)
            ended.set()

    loop.add_reader(read_fd, read)
    try:
        yield write_fd, ended
    finally:
        loop.remove_reader(read_fd)
        os.close(read_fd)
