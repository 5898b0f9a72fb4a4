"""Locks on keys: acquiring and releasing by a session. Advisory: plain writes go through.

`lock_index` counts acquisitions, so it tells one period of holding from the next. After a session
ended, its keys cannot be acquired for its lock delay (`sessions`); a release by hand has none.
"""

from __future__ import annotations

from registry.state import kv
from registry.state.base import Command, Refused, Transaction
from registry.state.kv import KvEntry
from registry.state.quote import quote
from registry.state.sessions import find_session


def lock_key(
    tx: Transaction, key: bytes, value: bytes, flags: int, session_id: str
) -> KvEntry | Refused | None:
    """Write the value and make the session the holder; None when another session holds the lock.

    The holder may lock again: that writes the value and leaves the lock index.
    """
    if refused := _no_session(tx, session_id):
        return refused
    existing = kv.get_entry(tx, key)
    if existing is None:
        lock_index = 1
    elif existing.session == session_id:
        lock_index = existing.lock_index
    elif existing.session:
        return None
    else:
        lock_index = existing.lock_index + 1
    return kv.put_entry(
        tx, key, existing, value=value, flags=flags, lock_index=lock_index, session=session_id
    )


def _no_session(tx: Transaction, session_id: str) -> Refused | None:
    if not session_id:
        return Refused("missing session")
    session = find_session(tx, session_id)
    if isinstance(session, Refused):
        return session
    return None if session else Refused(f"invalid session {quote(session_id)}")


def unlock_key(
    tx: Transaction, key: bytes, value: bytes, flags: int, session_id: str
) -> KvEntry | Refused | None:
    """Write the value and take the holder off; None when the session does not hold the lock."""
    if not session_id:
        return Refused("missing session")
    existing = kv.get_entry(tx, key)
    if existing is None or existing.session != session_id:
        return None
    return kv.put_entry(
        tx,
        key,
        existing,
        value=value,
        flags=flags,
        lock_index=existing.lock_index,
        session="",
    )


class KvLock(Command, tag="kv-lock", frozen=True, kw_only=True):
    """Acquire; whether the session holds the lock now. Refused without a living session."""

    key: bytes
    value: bytes = b""
    flags: int = 0
    session: str

    def apply(self, tx: Transaction) -> bool | Refused:
        if kv.is_lock_delayed(tx, self.key, tx.now_ms):
            return False
        entry = lock_key(tx, self.key, self.value, self.flags, self.session)
        return entry if isinstance(entry, Refused) else entry is not None


class KvUnlock(Command, tag="kv-unlock", frozen=True, kw_only=True):
    """Release; whether the session held the lock."""

    key: bytes
    value: bytes = b""
    flags: int = 0
    session: str

    def apply(self, tx: Transaction) -> bool | Refused:
        entry = unlock_key(tx, self.key, self.value, self.flags, self.session)
        return entry if isinstance(entry, Refused) else entry is not None
