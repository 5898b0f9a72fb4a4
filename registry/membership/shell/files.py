"""Keyring and snapshot on disk, read and written in a thread of their own."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

from registry.membership.serf_values import PersistKeyring
from registry.membership.settings import PoolSettings
from registry.membership.shell import keyring_file, snapshot_file, startup
from registry.membership.shell.live_core import LiveCore
from registry.membership.shell.tasks import PoolTasks
from registry.membership.snapshot import SnapshotWrite


class PoolFiles:
    """Does what the cores want written, in order."""

    def __init__(
        self, settings: PoolSettings, live: LiveCore, tasks: PoolTasks, log: logging.Logger
    ) -> None:
        self._settings = settings
        self._live = live
        self._tasks = tasks
        self._log = log
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="gossip-disk")
        self._snapshot_writes: asyncio.Queue[SnapshotWrite | None] = asyncio.Queue()

    async def read(self) -> startup.Kept:
        """Raises `ConfigError`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._disk, startup.read, self._settings, self._log)

    def persist_keyring(self, output: PersistKeyring) -> None:
        self._tasks.spawn(self._write_keyring(output))

    async def _write_keyring(self, output: PersistKeyring) -> None:
        path = self._settings.keyring_file
        assert path is not None, "rings are written only when there is a file for them"
        error = None
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._disk, keyring_file.write, path, output.keys)
        except OSError as problem:
            error = f"the keyring could not be written: {problem}"
            self._log.error("%s file=%s", error, path)
        self._live.now().serf.keyring_persisted(output.token, error)

    def write_snapshot(self, output: SnapshotWrite) -> None:
        self._snapshot_writes.put_nowait(output)

    async def run_snapshot_writes(self) -> None:
        """Write what is asked for, until `end_snapshot_writes`."""
        loop = asyncio.get_running_loop()
        while (write := await self._snapshot_writes.get()) is not None:
            path = self._settings.snapshot_file
            assert path is not None, "the core has no snapshot without a file"
            try:
                await loop.run_in_executor(self._disk, snapshot_file.apply, path, write)
            except OSError as problem:
                self._log.error("could not write the snapshot: file=%s reason=%s", path, problem)

    def end_snapshot_writes(self) -> None:
        """What was asked for before is still written."""
        self._snapshot_writes.put_nowait(None)

    def close(self) -> None:
        self._disk.shutdown(wait=False)
