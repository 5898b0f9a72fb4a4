"""Versions of keys in a SQLite file, fed with the changes that the registry tells a sink.

A version is in force from its index until that of the next version of its key (`until_idx`), so
the state as of an index is one query. What is known of the past has limits, and an answer that
would go beyond them is refused (`NotKept`) instead of guessed:

    begun      the history begins here; keys that were there already are known from their last write
    horizon    versions were forgotten by age up to here
    forgotten  per key: versions before this index were forgotten by count
    gaps       stretches that nobody told us about, between losing the place and a "reset"

Changes come at least once and in order. What is not after the place we have is passed over; a batch
and the place after it are one transaction, on the disk before `apply` returns.

A "reset" has the whole state told again as changes of one index. A key told with the write that we
know as its last is unchanged; with another one, it gets a version whose time, client and reason
nobody knows; and what was not told by the "complete" at its end was deleted in between, nobody
knows when.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from registry.hooks import Change, PlaceLost

FORMAT = 1

#: Values of one answer, together: whoever asks for more gets the next page.
PAGE_BYTES_MAX = 8 * 1024 * 1024

#: Of each value in a list that is only looked at.
SHOWN_BYTES_MAX = 1024

_SCHEMA = """
CREATE TABLE versions (
    key BLOB NOT NULL, idx INTEGER NOT NULL, modify_idx INTEGER NOT NULL,
    time_ms INTEGER NOT NULL, witnessed INTEGER NOT NULL,
    until_idx INTEGER, until_ms INTEGER,
    flags INTEGER NOT NULL, session TEXT NOT NULL, client TEXT NOT NULL, reason TEXT NOT NULL,
    value BLOB,
    UNIQUE (key, idx)
);
CREATE INDEX versions_by_end ON versions (until_ms) WHERE until_ms IS NOT NULL;
CREATE TABLE forgotten (key BLOB PRIMARY KEY, since INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE gaps (after INTEGER NOT NULL, until INTEGER NOT NULL);
CREATE TABLE place (
    idx INTEGER NOT NULL, sequence INTEGER NOT NULL,
    complete INTEGER NOT NULL, lost_after INTEGER, begun INTEGER, horizon INTEGER NOT NULL
);
INSERT INTO place VALUES (0, -1, 0, NULL, NULL, 0);
"""

_COLUMNS = "key, idx, modify_idx, time_ms, witnessed, flags, session, client, reason, value"


class NotKept(Exception):
    """What was asked for is not in the history; the text says what is."""


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """What a key was from `index` on. `value` is None for a deletion, `time_ms` when nobody saw
    the write itself; `modify_index` is what the key's entry said."""

    key: bytes
    index: int
    modify_index: int
    time_ms: int | None
    value: bytes | None
    flags: int = 0
    session: str = ""
    client: str = ""
    reason: str = ""

    @property
    def is_deletion(self) -> bool:
        return self.value is None


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A key at two indexes; None where it was not there."""

    key: bytes
    before: Version | None
    after: Version | None


class Page(msgspec.Struct, frozen=True):
    """Versions, newest first; `next_index` is where the next page begins, None at the end."""

    versions: list[Version]
    next_index: int | None


class DifferencePage(msgspec.Struct, frozen=True):
    """Differences by key; `next_key` is where the next page begins, None at the end."""

    differences: list[Difference]
    next_key: bytes | None


class Place(msgspec.Struct, frozen=True, array_like=True):
    """How far the changes were taken; the fields are those of the table."""

    index: int
    sequence: int
    complete: bool
    lost_after: int | None
    begun: int | None
    horizon: int


class HistoryStore:
    """One history, in one file. Belongs to the thread that made it."""

    def __init__(self, path: Path, *, versions_max: int, age_ms_max: int | None) -> None:
        self.versions_max, self.age_ms_max = versions_max, age_ms_max
        self._db = sqlite3.connect(path, isolation_level=None)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise
        #: Whether a "reset" was seen and its "complete" was not. Not kept: whoever tells us the
        #: state begins anew after a restart.
        self._is_told = False

    def _prepare(self) -> None:
        # FULL: what was taken need not be told again, so it has to be on the disk by then.
        for setting in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000"):
            self._db.execute(f"PRAGMA {setting}")
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        if found == 0:
            script = f"BEGIN; {_SCHEMA} PRAGMA user_version={FORMAT}; COMMIT"
            self._db.executescript(script)
        elif found != FORMAT:
            raise RuntimeError(f"the history is of format {found}, this plugin's is {FORMAT}")
        # Files of before have none; it changes nothing for who does not know it.
        self._db.execute("CREATE INDEX IF NOT EXISTS versions_by_index ON versions (idx)")
        self._db.execute("CREATE TEMP TABLE told (key BLOB PRIMARY KEY) WITHOUT ROWID")

    def close(self) -> None:
        self._db.close()

    @property
    def place(self) -> Place:
        index, sequence, complete, *rest = self._db.execute("SELECT * FROM place").fetchone()
        return Place(index, sequence, bool(complete), *rest)

    # Taking changes

    def apply(self, changes: Sequence[Change]) -> None:
        """Take a batch. Raises `PlaceLost` when we have no state that it could be a change of."""
        with self._transaction():
            for change in changes:
                if change.kind == "reset":
                    self._reset(change.index)
                elif not (self._is_told or self.place.complete):
                    raise PlaceLost("the history has not been told the whole state")
                elif change.kind == "kv" and self._is_new(change):
                    self._take(change)
                elif change.kind == "complete" and self._is_told:
                    self._completed(change)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        was_told = self._is_told
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._is_told = was_told
            raise

    def _is_new(self, change: Change) -> bool:
        place = self.place
        return (change.index, change.sequence) > (place.index, place.sequence)

    def _reset(self, index: int) -> None:
        """The state follows. What we have beyond its index is either told again, because the server
        lost a little in a crash, or is of a log that is no more."""
        place = self.place
        self._db.execute("DELETE FROM versions WHERE idx > ?", (index,))
        self._db.execute(
            "UPDATE versions SET until_idx = NULL, until_ms = NULL WHERE until_idx > ?", (index,)
        )
        self._db.execute("DELETE FROM told")
        lost_after = min(place.index, index) if place.complete else place.lost_after
        self._db.execute(
            "UPDATE place SET idx = ?, sequence = 0, complete = 0, lost_after = ?",
            (index, lost_after),
        )
        self._is_told = True

    def _take(self, change: Change) -> None:
        key = change.key.encode("utf-8", "surrogateescape")
        if self._is_told and change.value is not None:
            self._take_told(key, change)
        else:
            self._insert(self._version(key, change.index, change), change.time_ms)
        self._move(change)

    def _move(self, change: Change) -> None:
        self._db.execute("UPDATE place SET idx = ?, sequence = ?", (change.index, change.sequence))

    def _version(self, key: bytes, index: int, change: Change) -> Version:
        value, origin = change.value, change.origin
        return Version(
            key=key,
            index=index,
            modify_index=value["ModifyIndex"] if value is not None else index,
            time_ms=None if self._is_told else change.time_ms,
            value=value["Value"] if value is not None else None,
            flags=value["Flags"] if value is not None else 0,
            session=value["Session"] if value is not None else "",
            client=origin.client if origin is not None else "",
            reason=origin.reason if origin is not None else "",
        )

    def _take_told(self, key: bytes, change: Change) -> None:
        self._db.execute("INSERT OR IGNORE INTO told VALUES (?)", (key,))
        latest = self._latest(key)
        modified: int = change.value["ModifyIndex"]
        known = (latest.modify_index, latest.value) if latest is not None else None
        if known == (modified, change.value["Value"]):
            return
        # A write that we may have missed is put where it was made. One that we should have seen was
        # undone and is back, as after the restoring of a snapshot: that came about by now.
        seen = max(self.place.lost_after or -1, latest.index if latest is not None else -1)
        index = modified if seen < modified <= change.index else change.index
        self._insert(self._version(key, index, change), change.time_ms)

    def _completed(self, change: Change) -> None:
        gone = self._db.execute(
            "SELECT key FROM versions WHERE until_idx IS NULL AND value IS NOT NULL"
            " AND key NOT IN (SELECT key FROM told)"
        ).fetchall()
        for (key,) in gone:
            self._insert(self._version(key, change.index, change), change.time_ms)
        self._db.execute("DELETE FROM told")
        lost_after = self.place.lost_after
        if lost_after is not None and change.index - lost_after > 1:
            self._db.execute("INSERT INTO gaps VALUES (?, ?)", (lost_after, change.index))
        self._db.execute(
            "UPDATE place SET complete = 1, lost_after = NULL, begun = COALESCE(begun, ?)",
            (change.index,),
        )
        self._move(change)
        self._is_told = False

    def _insert(self, version: Version, now_ms: int) -> None:
        """Make it the newest of its key."""
        self._db.execute(
            "UPDATE versions SET until_idx = ?, until_ms = ?"
            " WHERE rowid = (SELECT rowid FROM versions WHERE key = ? ORDER BY idx DESC LIMIT 1)",
            (version.index, now_ms, version.key),
        )
        # A deletion is over as soon as it is there: it can be forgotten when what it ended can.
        ends = (version.index, now_ms) if version.is_deletion else (None, None)
        self._db.execute(
            f"INSERT OR REPLACE INTO versions ({_COLUMNS}, until_idx, until_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                version.key,
                version.index,
                version.modify_index,
                now_ms,
                version.time_ms is not None,
                _signed(version.flags),
                version.session,
                version.client,
                version.reason,
                version.value,
                *ends,
            ),
        )
        self._forget_by_count(version.key)

    def _latest(self, key: bytes) -> Version | None:
        return self._one("key = ? ORDER BY idx DESC LIMIT 1", (key,))

    # Forgetting

    def prune(self, now_ms: int) -> int:
        """Forget what the limits do not keep; how many versions."""
        with self._transaction():
            before = self._db.total_changes
            if self.age_ms_max is not None:
                self._forget_by_age(now_ms - self.age_ms_max)
            many = self._db.execute(
                "SELECT key FROM versions GROUP BY key HAVING count(*) > ?", (self.versions_max,)
            ).fetchall()
            for (key,) in many:
                self._forget_by_count(key)
            return self._db.total_changes - before

    def _forget_by_age(self, cutoff_ms: int) -> None:
        (horizon,) = self._db.execute(
            "SELECT max(until_idx) FROM versions WHERE until_ms < ?", (cutoff_ms,)
        ).fetchone()
        if horizon is None:
            return
        self._db.execute("DELETE FROM versions WHERE until_ms < ?", (cutoff_ms,))
        self._db.execute("UPDATE place SET horizon = max(horizon, ?)", (horizon,))
        self._db.execute("DELETE FROM forgotten WHERE since <= ?", (horizon,))
        self._db.execute("DELETE FROM gaps WHERE until <= ?", (horizon,))

    def _forget_by_count(self, key: bytes) -> None:
        kept = self._db.execute(
            "SELECT idx FROM versions WHERE key = ? ORDER BY idx DESC LIMIT ?",
            (key, self.versions_max + 1),
        ).fetchall()
        if len(kept) <= self.versions_max:
            return
        since = kept[-2][0]
        self._db.execute("DELETE FROM versions WHERE key = ? AND idx < ?", (key, since))
        self._db.execute("INSERT OR REPLACE INTO forgotten VALUES (?, ?)", (key, since))

    # Reading

    def versions(
        self,
        key: bytes,
        *,
        from_index: int = 0,
        to_index: int | None = None,
        limit: int,
        bytes_max: int = PAGE_BYTES_MAX,
    ) -> Page:
        """Versions of a key, newest first, of the indexes `from_index` to `to_index`."""
        found = self._many(
            "key = ? AND idx >= ? AND idx <= ? ORDER BY idx DESC LIMIT ?",
            (key, from_index, self.place.index if to_index is None else to_index, limit + 1),
        )
        kept: list[Version] = []
        room = bytes_max
        for version in found:
            room -= len(version.value or b"")
            if len(kept) == limit or (kept and room < 0):
                return Page(kept, version.index)
            kept.append(version)
        return Page(kept, None)

    def latest(self, limit: int) -> list[Version]:
        """The newest versions of all keys, newest first; of values no more than their beginning."""
        columns = _COLUMNS.removesuffix("value") + f"substr(value, 1, {SHOWN_BYTES_MAX})"
        rows = self._db.execute(
            f"SELECT {columns} FROM versions ORDER BY idx DESC, key LIMIT ?", (limit,)
        )
        return [_version(row) for row in rows]

    def at(self, key: bytes, index: int) -> Version | None:
        """The version in force at `index`, None when the key was not there.

        Raises `NotKept` when that is not known.
        """
        place = self._reach(index)
        found = self._one("key = ? AND idx <= ? ORDER BY idx DESC LIMIT 1", (key, index))
        if gap := self._gap(index):
            if found is None or found.index <= gap[0]:
                raise NotKept(_not_told(index, gap))
        elif found is None:
            self._refuse_forgotten(key, key + b"\0", index, place)
        return found if found is not None and not found.is_deletion else None

    def tree_at(self, prefix: bytes, index: int) -> dict[bytes, Version]:
        """The keys under a prefix as they were at `index`. Raises `NotKept` as `at` does."""
        start, stop = _range(prefix)
        self._refuse_unknown(start, stop, index)
        found = self._many(
            "key >= ? AND key < ? AND idx <= ? AND (until_idx IS NULL OR until_idx > ?)"
            " AND value IS NOT NULL ORDER BY key",
            (start, stop, index, index),
        )
        return {version.key: version for version in found}

    def difference(self, key: bytes, from_index: int, to_index: int) -> DifferencePage:
        """What became of a key between two indexes, in either direction."""
        before, after = self.at(key, from_index), self.at(key, to_index)
        found = [] if _same(before, after) else [Difference(key=key, before=before, after=after)]
        return DifferencePage(found, None)

    def tree_difference(
        self,
        prefix: bytes,
        from_index: int,
        to_index: int,
        *,
        start_key: bytes = b"",
        limit: int,
        bytes_max: int = PAGE_BYTES_MAX,
    ) -> DifferencePage:
        """The same for all keys under a prefix, from `start_key` on."""
        start, stop = _range(prefix)
        for index in (from_index, to_index):
            self._refuse_unknown(start, stop, index)
        low, high = sorted((from_index, to_index))
        keys = self._db.execute(
            "SELECT DISTINCT key FROM versions WHERE key >= ? AND key < ? AND idx > ? AND idx <= ?"
            " ORDER BY key",
            (max(start, start_key), stop, low, high),
        )
        found: list[Difference] = []
        room = bytes_max
        for (key,) in keys.fetchall():
            before, after = self.at(key, from_index), self.at(key, to_index)
            if _same(before, after):
                continue
            room -= sum(len(each.value or b"") for each in (before, after) if each is not None)
            if len(found) == limit or (found and room < 0):
                return DifferencePage(found, key)
            found.append(Difference(key=key, before=before, after=after))
        return DifferencePage(found, None)

    # What is known

    def _reach(self, index: int) -> Place:
        """The place, if the history reaches to `index`."""
        place = self.place
        last = place.index if place.complete else place.lost_after
        if last is None:
            raise NotKept("the history is being told the state; try again in a moment")
        if index > last:
            raise NotKept(f"index {index} is beyond the history, whose last index is {last}")
        return place

    def _gap(self, index: int) -> tuple[int, int] | None:
        gap: tuple[int, int] | None = self._db.execute(
            "SELECT after, until FROM gaps WHERE after < ? AND until > ?", (index, index)
        ).fetchone()
        return gap

    def _refuse_unknown(self, start: bytes, stop: bytes, index: int) -> None:
        place = self._reach(index)
        if gap := self._gap(index):
            raise NotKept(_not_told(index, gap))
        self._refuse_forgotten(start, stop, index, place)

    def _refuse_forgotten(self, start: bytes, stop: bytes, index: int, place: Place) -> None:
        first = max(place.begun or 0, place.horizon)
        if index < first:
            raise NotKept(f"index {index} is before the history, whose first index is {first}")
        forgotten = self._db.execute(
            "SELECT key, since FROM forgotten WHERE key >= ? AND key < ? AND since > ? LIMIT 1",
            (start, stop, index),
        ).fetchone()
        if forgotten is not None:
            key, since = forgotten
            name = key.decode("utf-8", "replace")
            raise NotKept(f"the versions of {name} before index {since} were forgotten")

    def _one(self, condition: str, arguments: tuple[Any, ...]) -> Version | None:
        return next(self._many(condition, arguments), None)

    def _many(self, condition: str, arguments: tuple[Any, ...]) -> Iterator[Version]:
        rows = self._db.execute(f"SELECT {_COLUMNS} FROM versions WHERE {condition}", arguments)
        return map(_version, rows)


def _version(row: tuple[Any, ...]) -> Version:
    key, index, modify_index, time_ms, witnessed, flags, session, client, reason, value = row
    return Version(
        key=key,
        index=index,
        modify_index=modify_index,
        time_ms=time_ms if witnessed else None,
        value=value,
        flags=flags & _U64,
        session=session,
        client=client,
        reason=reason,
    )


_U64 = (1 << 64) - 1

#: Beyond every key: keys are text, and no text has these bytes.
_BEYOND = b"\xff" * 16


def _signed(number: int) -> int:
    """An unsigned number of 64 bits as SQLite can keep it."""
    return number - (1 << 64) if number >> 63 else number


def _range(prefix: bytes) -> tuple[bytes, bytes]:
    """The first key with the prefix, and the first beyond them all."""
    kept = prefix.rstrip(b"\xff")
    if not kept:
        return prefix, _BEYOND
    return prefix, kept[:-1] + bytes([kept[-1] + 1])


def _same(before: Version | None, after: Version | None) -> bool:
    if before is None or after is None:
        return before is after
    return (before.value, before.flags) == (after.value, after.flags)


def _not_told(index: int, gap: tuple[int, int]) -> str:
    return (
        f"index {index} is not in the history: what happened between the indexes"
        f" {gap[0]} and {gap[1]} was not told"
    )
