"""Remote execution, the agent's side: jobs in the KV store that an event tells of.

`registry exec` puts a job under PREFIX/SESSION/job and fires the event `_rexec`. Every agent that
the event's filters let through acknowledges, runs the command and writes its output in pieces, all
under PREFIX/SESSION/NODE/ and locked by the job's session, which deletes them with its end. Whoever
may write there runs commands here, so this is off unless `disable_remote_exec` is false.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from registry.agent.events import UserEvent
from registry.agent.facade import AgentFacade
from registry.agent.processes import CannotStart, run_process
from registry.state.base import ReadOptions
from registry.state.kv import KvGet
from registry.state.locks import KvLock

logger = logging.getLogger("registry.agent")

EVENT = "_rexec"
#: Output goes out in pieces of this size, or earlier after this time.
PIECE_BYTES_MAX = 4096
PIECE_SECONDS = 0.5
#: Jobs at once; further ones wait for their turn.
JOBS_MAX = 8
#: What is said of a command that could not be run, as a shell does.
CANNOT_START_STATUS = 127
#: One wait for events; they are looked through after it in any case.
WAIT_SECONDS = 600.0


class Job(msgspec.Struct, frozen=True, rename="pascal"):
    """What to run: `command` for a shell, or `args`, or `script` (base64). `wait` in ns."""

    command: str = ""
    args: list[str] | None = None
    script: str | None = None
    wait: int = 2_000_000_000


class _Note(msgspec.Struct, frozen=True, rename="pascal"):
    """The event's payload: where the job is."""

    prefix: str
    session: str


class Output:
    """What a command writes, until it is taken in pieces; a `registry.agent.processes.Sink`.

    Not bounded: it grows when the command writes faster than the cluster commits, which ends with
    the command.
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self._enough = asyncio.Event()
        self._over = False

    def write(self, data: bytes) -> None:
        self._pending += data
        if len(self._pending) >= PIECE_BYTES_MAX:
            self._enough.set()

    def close(self) -> None:
        self._over = True
        self._enough.set()

    async def piece(self) -> bytes | None:
        """The next piece, b"" when there was none for a while, None after the last."""
        try:
            async with asyncio.timeout(PIECE_SECONDS):
                await self._enough.wait()
        except TimeoutError:
            pass
        piece = bytes(self._pending[:PIECE_BYTES_MAX])
        del self._pending[:PIECE_BYTES_MAX]
        if len(self._pending) < PIECE_BYTES_MAX and not self._over:
            self._enough.clear()
        return None if self._over and not piece else piece


class RemoteExec:
    """Takes part in remote execution for as long as `run` runs."""

    def __init__(self, agent: AgentFacade) -> None:
        self._agent = agent
        self._free = asyncio.Semaphore(JOBS_MAX)

    async def run(self) -> None:
        """Start a job for every new event, until cancelled; running jobs are killed then."""
        seen = {event.id for event in self._agent.events.list(EVENT)}
        async with asyncio.TaskGroup() as group:
            while True:
                events = self._agent.events.list(EVENT)
                for event in events:
                    if event.id not in seen:
                        group.create_task(self._take(event))
                seen = {event.id for event in events}
                await self._agent.events.wait(WAIT_SECONDS)

    async def _take(self, event: UserEvent) -> None:
        """One job: a rim, since whatever goes wrong with it concerns no other and not the agent."""
        try:
            note = msgspec.json.decode(event.payload, type=_Note)
            base = f"{note.prefix}/{note.session}"
            async with self._free:
                await self._execute(note.session, base)
        except Exception:
            logger.warning("remote exec failed: event=%s", event.id, exc_info=True)

    async def _execute(self, session: str, base: str) -> None:
        job = await self._job(f"{base}/job")
        own = f"{base}/{self._agent.node_name}"
        if job is None or not await self._write(session, f"{own}/ack", b""):
            return
        logger.info("remote exec: session=%s command=%r", session, job.command or job.args)
        output = Output()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publish(session, own, output, job.wait / 1e9 / 2))
            try:
                status = await _run(job, output)
            finally:
                output.close()
        await self._write(session, f"{own}/exit", str(status).encode())

    async def _job(self, key: str) -> Job | None:
        """Read where all that is committed can be seen, so that a new job is there."""
        options = ReadOptions(datacenter=self._agent.datacenter, mode="consistent")
        found = await self._agent.read(KvGet(key=key.encode()), options)
        return None if found.value is None else msgspec.json.decode(found.value.value, type=Job)

    async def _publish(self, session: str, own: str, output: Output, heartbeat_s: float) -> None:
        """Write pieces as they come; an empty one now and then says that work goes on."""
        loop = asyncio.get_running_loop()
        number, last = 0, loop.time()
        while (piece := await output.piece()) is not None:
            if not piece and loop.time() < last + heartbeat_s:
                continue
            if not await self._write(session, f"{own}/out/{number:05x}", piece):
                logger.warning("remote exec: output is lost, the job is over: session=%s", session)
                return
            number, last = number + 1, loop.time()

    async def _write(self, session: str, key: str, value: bytes) -> bool:
        """Whether it was written: the job's session may have ended."""
        return (
            await self._agent.write(KvLock(key=key.encode(), value=value, session=session)) is True
        )


async def _run(job: Job, output: Output) -> int:
    try:
        if job.script:
            with _script(b64decode(job.script)) as path:
                return await run_process([path], output)
        shell = os.environ.get("SHELL") or "/bin/sh"
        return await run_process(job.args or [shell, "-c", job.command], output)
    except CannotStart as problem:
        output.write(f"{problem}\n".encode())
        return CANNOT_START_STATUS


@contextmanager
def _script(content: bytes) -> Iterator[str]:
    """The script as a file that only we may read and run."""
    with tempfile.TemporaryDirectory(prefix="registry-exec-") as directory:
        path = os.path.join(directory, "script")
        with open(path, "wb", opener=lambda path, flags: os.open(path, flags, 0o700)) as file:
            file.write(content)
        yield path
