"""What an agent remembers of itself in its data directory: services, checks and TTL states.

    services/HASH       a service registered over HTTP
    checks/HASH         a check registered over HTTP
    checks/state/HASH   the last state of a TTL check

HASH is the SHA-256 of the id, as an id may hold any character. A file is written beside its place,
synced and renamed over it, so that it is always whole. All disk work happens in one thread, in the
order in which it was asked for; the event loop only waits where a caller needs the file to be safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from registry.agent.definitions import CheckDefinition, ServiceDefinition
from registry.errors import DiskFull, StorageError

logger = logging.getLogger("registry.agent")

T = TypeVar("T", bound=msgspec.Struct)
R = TypeVar("R")

_DISK_FULL = 28, 122  # ENOSPC, EDQUOT


class StoredService(msgspec.Struct, frozen=True, kw_only=True):
    service: ServiceDefinition


class StoredCheck(msgspec.Struct, frozen=True, kw_only=True):
    """`type` is "maintenance" for maintenance mode; else "", as it follows from the definition."""

    check: CheckDefinition
    type: str = ""


class TtlState(msgspec.Struct, frozen=True, kw_only=True):
    """A TTL check's last report; void from `expires` (seconds since 1970) on."""

    check_id: str
    status: str
    output: str
    expires: float


@dataclass(slots=True)
class Stored:
    """What was found in the data directory."""

    services: list[StoredService] = field(default_factory=list)
    checks: list[StoredCheck] = field(default_factory=list)
    states: dict[str, TtlState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Changes:
    """Files to write and to remove, together."""

    save_services: tuple[StoredService, ...] = ()
    save_checks: tuple[StoredCheck, ...] = ()
    drop_services: tuple[str, ...] = ()
    drop_checks: tuple[str, ...] = ()


def file_name(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


class Persistence:
    """The files below one data directory. `aclose` writes what is still to be written."""

    def __init__(self, data_dir: Path) -> None:
        self._services = data_dir / "services"
        self._checks = data_dir / "checks"
        self._states = self._checks / "state"
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="agent-files")
        # The newest state of each check that is not on disk yet; None: to be removed. However
        # often a check reports, one write is under way and one entry waits.
        self._pending_states: dict[str, TtlState | None] = {}
        self._pending = asyncio.Event()

    async def load(self) -> Stored:
        """Everything that can be read. What can not is named in the log and stays where it is."""
        return await self._in_thread(self._load)

    async def apply(self, changes: Changes) -> None:
        """Write and remove these files; they are safe when it returns. Raises `StorageError`."""
        await self._in_thread(lambda: self._apply(changes))

    def note_state(self, state: TtlState) -> None:
        """Write the state soon. A crash may lose the last moments of reports: the check is then
        critical until the application reports again, which is the safe side."""
        self._pending_states[state.check_id] = state
        self._pending.set()

    def drop_state(self, check_id: str) -> None:
        self._pending_states[check_id] = None
        self._pending.set()

    async def run(self) -> None:
        """Write the noted states until cancelled."""
        while True:
            await self._pending.wait()
            await self._flush()

    async def aclose(self) -> None:
        await self._flush()
        self._thread.shutdown(wait=False)

    async def _flush(self) -> None:
        self._pending.clear()
        states, self._pending_states = self._pending_states, {}
        if not states:
            return
        try:
            await self._in_thread(lambda: self._write_states(states))
        except StorageError as problem:
            logger.error("could not keep the state of TTL checks: error=%s", problem)

    async def _in_thread(self, work: Callable[[], R]) -> R:
        return await _finished(asyncio.get_running_loop().run_in_executor(self._thread, work))

    # What follows runs in the thread.

    def _apply(self, changes: Changes) -> None:
        with _translated(self._services):
            _write_files(
                self._services,
                {stored.service.id: stored for stored in changes.save_services},
                changes.drop_services,
            )
            _write_files(
                self._checks,
                {stored.check.id: stored for stored in changes.save_checks},
                changes.drop_checks,
            )

    def _write_states(self, states: Mapping[str, TtlState | None]) -> None:
        keep = {check_id: state for check_id, state in states.items() if state is not None}
        drop = [check_id for check_id, state in states.items() if state is None]
        with _translated(self._states):
            _write_files(self._states, keep, drop)

    def _load(self) -> Stored:
        states = _read_files(self._states, TtlState)
        return Stored(
            services=_read_files(self._services, StoredService),
            checks=_read_files(self._checks, StoredCheck),
            states={state.check_id: state for state in states},
        )


async def _finished(work: asyncio.Future[R]) -> R:
    """The result of `work`, waited for even when cancelled meanwhile.

    A client that goes away must not leave the disk changed and the memory not. Its cancellation is
    delivered again, at the next await, when the caller has done its part of the change.
    """
    task = asyncio.current_task()
    assert task is not None
    interrupted = False
    while not work.done():
        try:
            await asyncio.wait((work,))
        except asyncio.CancelledError:
            interrupted = True
            task.uncancel()
    if interrupted:
        task.cancel()
    return work.result()


def _write_files(directory: Path, keep: Mapping[str, msgspec.Struct], drop: Iterable[str]) -> None:
    drop = tuple(drop)
    if not keep and not drop:
        return
    directory.mkdir(parents=True, exist_ok=True)
    for name, value in keep.items():
        _replace_file(directory / file_name(name), msgspec.json.encode(value))
    for name in drop:
        (directory / file_name(name)).unlink(missing_ok=True)
    _sync_directory(directory)


def _replace_file(path: Path, content: bytes) -> None:
    """The file is either the old or the new one, whole, whatever happens in between."""
    beside = path.with_suffix(".tmp")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _sync_directory(directory: Path) -> None:
    """Renames and removals are durable once their directory is."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_files(directory: Path, kind: type[T]) -> list[T]:
    found: list[T] = []
    decoder = msgspec.json.Decoder(kind)
    for path in sorted(directory.glob("*")):
        if path.suffix == ".tmp":
            path.unlink(missing_ok=True)  # a write that was cut off; its caller never had an answer
        elif path.is_file() and (value := _read_file(path, decoder)) is not None:
            found.append(value)
    return found


def _read_file(path: Path, decoder: msgspec.json.Decoder[T]) -> T | None:
    try:
        return decoder.decode(path.read_bytes())
    except (OSError, ValueError) as problem:
        logger.error(
            "cannot read a registration, it is skipped and the file left in place: "
            "file=%s error=%s", path, problem
        )  # fmt: skip
        return None


@contextlib.contextmanager
def _translated(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        where = problem.filename or directory
        text = f"cannot write {where}: {problem.strerror or problem}"
        raise (DiskFull if problem.errno in _DISK_FULL else StorageError)(text) from problem
