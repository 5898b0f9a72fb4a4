"""A lock and a semaphore in the KV store, as every client of the API builds them.

A lock is one key, `PREFIX/.lock`, that is acquired with a session. A semaphore has the same key
with a JSON list of holders, changed by check-and-set, and one key for each session that contends;
a holder whose key has lost its session is taken for dead. Flags tell the two apart. Source: the
guides on leader election and semaphores; flags and names: surface 11.
"""

from __future__ import annotations

import base64
import json
import posixpath
import time
from abc import ABC, abstractmethod
from typing import Any

from registry.client import Client, Response, key_path
from registry.errors import Rejected

LOCK_FLAGS = 3304740253564472344
SEMAPHORE_FLAGS = 16210313421097356768

#: Longest wait of one blocking read.
WAIT_SECONDS = 15.0
#: Pause when nobody holds the lock and it still cannot be had: its lock delay runs.
DELAY_SECONDS = 1.0
#: How much longer than its wait an answer may take.
SLACK_SECONDS = 10.0


class Holder(ABC):
    """One contender for a lock. `acquire`, then `release` in any case, then `clean_up`."""

    def __init__(self, client: Client, prefix: str, session_id: str) -> None:
        self._client, self._session_id = client, session_id
        self.key = _below(prefix, ".lock")

    @abstractmethod
    def acquire(self, timeout_s: float | None) -> bool:
        """Wait until it is held; False when that was not in time. Raises `RegistryError`."""

    @abstractmethod
    def still_held(self, index: int) -> tuple[bool, int]:
        """Wait for a change after this index: whether it is held, and the index of that answer."""

    @abstractmethod
    def release(self) -> None:
        """Give it back; nothing when it is not held."""

    @abstractmethod
    def clean_up(self) -> bool:
        """Delete the key; False when somebody else uses it."""

    def _read(self, path: str, index: int, wait_s: float, **more: Any) -> Response:
        parameters = {"index": index or None, "wait": f"{max(1, int(wait_s * 1000))}ms", **more}
        return self._client.get(
            key_path("/v1/kv", path),
            parameters,
            accept=(200, 404),
            timeout=wait_s + wait_s / 16 + SLACK_SECONDS,
        )

    def _write(self, key: str, parameters: dict[str, Any], body: bytes = b"") -> bool:
        return bool(self._client.put(key_path("/v1/kv", key), parameters, body=body).json())


class Deadline:
    """Time left of a wait that may have no end."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float:
        """Seconds for the next read, at most `WAIT_SECONDS`; 0 when time is up."""
        if self._end is None:
            return WAIT_SECONDS
        return min(WAIT_SECONDS, max(0.0, self._end - time.monotonic()))


class LockHolder(Holder):
    """The lock."""

    def acquire(self, timeout_s: float | None) -> bool:
        deadline, index = Deadline(timeout_s), 0
        while True:
            left = deadline.left()
            found = self._read(self.key, index, left, consistent=True)
            entry = _first(found)
            if entry is not None and entry["Flags"] != LOCK_FLAGS:
                raise Rejected("Existing key does not match lock use")
            owner = entry.get("Session") if entry else None
            if owner == self._session_id:
                return True
            if not owner:
                if self._write(self.key, {"acquire": self._session_id, "flags": LOCK_FLAGS}):
                    return True
                # Either somebody was faster, whose end can be waited for, or its lock delay runs.
                found = self._read(self.key, 0, WAIT_SECONDS, consistent=True)
                owner = (_first(found) or {}).get("Session")
                if not owner:
                    time.sleep(min(DELAY_SECONDS, deadline.left()))
            if not deadline.left():
                return False
            index = found.index if owner else 0

    def still_held(self, index: int) -> tuple[bool, int]:
        found = self._read(self.key, index, WAIT_SECONDS, consistent=True)
        entry = _first(found)
        return entry is not None and entry.get("Session") == self._session_id, found.index

    def release(self) -> None:
        entry = _first(self._read(self.key, 0, WAIT_SECONDS, consistent=True))
        if entry is not None and entry.get("Session") == self._session_id:
            self._write(self.key, {"release": self._session_id, "flags": LOCK_FLAGS})

    def clean_up(self) -> bool:
        entry = _first(self._read(self.key, 0, WAIT_SECONDS, consistent=True))
        if entry is None:
            return True
        if entry["Flags"] != LOCK_FLAGS or entry.get("Session"):
            return False
        return _delete(self._client, self.key, entry)


class SemaphoreHolder(Holder):
    """One of `limit` places."""

    def __init__(self, client: Client, prefix: str, session_id: str, *, limit: int) -> None:
        super().__init__(client, prefix, session_id)
        self._limit = limit
        self._contender = _below(prefix, session_id)

    def acquire(self, timeout_s: float | None) -> bool:
        parameters = {"acquire": self._session_id, "flags": SEMAPHORE_FLAGS}
        if not self._write(self._contender, parameters):
            raise Rejected("failed to make contender entry")
        deadline, index = Deadline(timeout_s), 0
        while True:
            found = self._entries(index, deadline.left())
            entry, holders = self._holders(found.json() or [])
            if self._session_id in holders:
                return True
            if len(holders) < self._limit:
                if self._write_holders(entry, [*holders, self._session_id]):
                    return True
                index = 0  # somebody was faster: look again
            else:
                index = found.index
            if not deadline.left():
                return False

    def _entries(self, index: int, wait_s: float) -> Response:
        return self._read(
            f"{posixpath.dirname(self.key)}/", index, wait_s, recurse=True, consistent=True
        )

    def _holders(self, entries: list[dict[str, Any]]) -> tuple[dict[str, Any] | None, list[str]]:
        """The entry of the semaphore, None when there is none yet, and who is alive in it."""
        by_key = {entry["Key"]: entry for entry in entries}
        entry = by_key.get(self.key)
        if entry is None:
            return None, []
        if entry["Flags"] != SEMAPHORE_FLAGS:
            raise Rejected("Existing key does not match semaphore use")
        limit, holders = _decode_holders(entry)
        if limit and limit != self._limit:
            raise Rejected(f"semaphore limit conflict (lock: {limit}, local: {self._limit})")
        alive = {each["Session"] for each in entries if each.get("Session")}
        return entry, [holder for holder in holders if holder in alive]

    def _write_holders(self, entry: dict[str, Any] | None, holders: list[str]) -> bool:
        value = {"Limit": self._limit, "Holders": dict.fromkeys(sorted(holders), True)}
        parameters = {"cas": entry["ModifyIndex"] if entry else 0, "flags": SEMAPHORE_FLAGS}
        return self._write(self.key, parameters, json.dumps(value).encode())

    def still_held(self, index: int) -> tuple[bool, int]:
        found = self._entries(index, WAIT_SECONDS)
        _, holders = self._holders(found.json() or [])
        return self._session_id in holders, found.index

    def release(self) -> None:
        while True:
            entry, holders = self._holders(self._entries(0, WAIT_SECONDS).json() or [])
            if self._session_id not in holders:
                break
            holders.remove(self._session_id)
            if self._write_holders(entry, holders):
                break
        self._client.delete(key_path("/v1/kv", self._contender))

    def clean_up(self) -> bool:
        entry, holders = self._holders(self._entries(0, WAIT_SECONDS).json() or [])
        if entry is None:
            return True
        return not holders and _delete(self._client, self.key, entry)


def _below(prefix: str, name: str) -> str:
    return posixpath.normpath(posixpath.join(prefix, name))


def _first(found: Response) -> dict[str, Any] | None:
    if found.status == 404:
        return None
    entry: dict[str, Any] = found.json()[0]
    return entry


def _delete(client: Client, key: str, entry: dict[str, Any]) -> bool:
    path = key_path("/v1/kv", key)
    return bool(client.delete(path, {"cas": entry["ModifyIndex"]}).json())


def _decode_holders(entry: dict[str, Any]) -> tuple[int, list[str]]:
    """Limit and holders in the value; 0 and none in an empty one. Raises `Rejected`."""
    raw = base64.b64decode(entry["Value"] or "")
    try:
        value = json.loads(raw) if raw else {}
        holders = value.get("Holders") or {}
        return int(value.get("Limit") or 0), sorted(holders)
    except (ValueError, AttributeError, TypeError) as problem:
        raise Rejected(f"cannot read the semaphore's holders: {problem}") from problem
