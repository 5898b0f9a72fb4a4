"""The history in an agent's life: opened, fed, told of new settings, closed."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

# The package stands beside its tests and need not be installed to be tested.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from registry_history import registry_settings_changed, registry_start, registry_stop
from registry_history.keeper import FILE_NAME, Keeper, keeper
from registry_history.routes import show
from registry_history.settings import HistorySettings

from registry.hooks import Change
from registry.http.api import HttpError

RESET = Change(index=1, sequence=0, time_ms=0, kind="reset", key="")
COMPLETE = Change(index=1, sequence=2, time_ms=0, kind="complete", key="")


class Tasks:
    """Those of the agent: cancelled when the test ends."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self.running: list[asyncio.Task[Any]] = []

    def create_task(self, coroutine: Coroutine[Any, Any, Any], *, name: str = "") -> Any:
        task = self._group.create_task(coroutine, name=name)
        self.running.append(task)
        return task


def context(data_dir: Path, tasks: Any = None, *, is_server: bool = True) -> Any:
    return SimpleNamespace(
        data_dir=data_dir, tasks=tasks, is_server=is_server, settings=HistorySettings()
    )


def put(index: int) -> Change:
    entry = {"Value": b"1", "Flags": 0, "Session": "", "LockIndex": 0, "ModifyIndex": index}
    now_ms = time.time_ns() // 1_000_000
    return Change(index=index, sequence=0, time_ms=now_ms, kind="kv", key="a", value=entry)


async def test_changes_that_come_early_wait(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        early = group.create_task(keeper().deliver([RESET, COMPLETE, put(2), put(3)]))
        await asyncio.sleep(0)
        assert not early.done()
        tasks = Tasks(group)
        lent = context(tmp_path, tasks)
        await registry_start(lent)
        await early
        store = keeper().store
        assert store is not None
        assert [each.index for each in store.versions(b"a", limit=10).versions] == [3, 2]
        lent.settings = HistorySettings(versions_max=1)
        await registry_settings_changed(lent)
        assert [each.index for each in store.versions(b"a", limit=10).versions] == [3]
        await registry_stop(lent)
        for task in tasks.running:
            task.cancel()


async def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"no database at all, but something else" * 100)
    own = Keeper()
    with pytest.raises(sqlite3.DatabaseError):
        own.open(context(tmp_path))
    with pytest.raises(RuntimeError, match="there is no history: file is not a database"):
        await own.deliver([RESET])


async def test_a_client_agent_has_none(tmp_path: Path) -> None:
    request: Any = None  # it is not looked at
    with pytest.raises(HttpError, match="the history is not open"):
        await show(request)
    await registry_start(context(tmp_path, is_server=False))
    with pytest.raises(HttpError, match="no server and keeps no history") as refused:
        await show(request)
    assert refused.value.status == 501
    assert not os.listdir(tmp_path)
