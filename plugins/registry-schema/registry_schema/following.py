"""The schemas in force: those of the settings, and those of the KV store as they change."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx

from registry.hooks import KvWrite, PluginContext, WriteRefused

from .schema import NoSchema, Schema
from .settings import Settings
from .table import Table, read_schema

#: How long a write waits for schemas that are still being read: less than a validator has.
LOADING_S = 1.5

#: How long one request waits for a change of the schemas.
WAIT = "5m"

#: Pauses after requests that failed.
RETRY_S, RETRY_S_MAX = 0.2, 10.0


class Judge:
    """Asks the schemas in force about writes. All of it runs on the plugin's event loop."""

    def __init__(self) -> None:
        self._table: Table | None = None
        self._loaded = asyncio.Event()
        self._following: asyncio.Task[Any] | None = None

    def begin(self, context: PluginContext) -> None:
        """Take the settings in force. Until schemas in the KV store are read, writes wait."""
        self._forget_store()
        settings: Settings = context.settings
        configured = settings.schemas()
        if settings.keys:
            self._table = None
            self._loaded.clear()
            self._following = context.tasks.create_task(
                self._follow(context, configured, settings.keys), name="schemas"
            )
        else:
            self._put_in_force(Table(configured, {}, ""))

    def end(self) -> None:
        """Judge for no agent any more; the next one has another event loop."""
        self._forget_store()
        self._table, self._loaded = None, asyncio.Event()

    def _forget_store(self) -> None:
        if self._following is not None:
            self._following.cancel()
            self._following = None

    def _put_in_force(self, table: Table) -> None:
        self._table = table
        self._loaded.set()

    async def validate(self, write: KvWrite) -> None:
        """Raises `WriteRefused`, also when it is not known yet which schemas there are."""
        if self._table is None:
            try:
                async with asyncio.timeout(LOADING_S):
                    await self._loaded.wait()
            except TimeoutError:
                raise WriteRefused("the schemas are not read yet; try again", 403) from None
        assert self._table is not None
        self._table.judge(write)

    async def _follow(
        self, context: PluginContext, configured: Mapping[str, Schema], keys: str
    ) -> None:
        index, pause = 0, RETRY_S
        path = f"/v1/kv/{quote(keys)}"
        while True:
            waiting: dict[str, str | int] = {"index": index, "wait": WAIT} if index else {}
            try:
                response = await context.client.get(path, params={"recurse": "", **waiting})
                if response.status_code not in (200, 404):
                    raise ValueError(f"status {response.status_code}")
                found = int(response.headers["x-consul-index"])
                entries = response.json() if response.status_code == 200 else []
                stored = _schemas(context, entries, keys)
            except (httpx.HTTPError, LookupError, TypeError, ValueError) as problem:
                context.logger.debug("schemas cannot be read error=%s", problem)
                await asyncio.sleep(pause)
                pause = min(pause * 2, RETRY_S_MAX)
                continue
            pause = RETRY_S
            self._put_in_force(Table(configured, stored, keys))
            # An index that went back is that of another history: it is begun anew.
            index = found if found >= index else 0


def _schemas(
    context: PluginContext, entries: list[dict[str, Any]], keys: str
) -> dict[str, Schema | None]:
    stored: dict[str, Schema | None] = {}
    for entry in entries:
        key = entry["Key"]
        value = base64.b64decode(entry["Value"] or "")
        if key == keys and not value:
            continue  # the folder itself
        try:
            stored[key.removeprefix(keys)] = read_schema(value)
        except NoSchema as problem:
            # It was there before the plugin was. Writes below its prefix are refused until somebody
            # writes a schema or deletes it.
            context.logger.warning("not a schema key=%s reason=%s", key, problem)
            stored[key.removeprefix(keys)] = None
    return stored
