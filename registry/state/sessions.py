"""Sessions: what locks hang on. They end by command, with their node, or with one of their checks.

A session's end frees or deletes the keys it holds, and keeps them from being locked again for its
lock delay, so that a former holder that does not yet know has time to notice. That time is the
leader's, taken from the command that ended the session.

Renewals are commands too: they change nothing a client sees, but put down when the session was last
renewed, so that an expiry that was proposed a moment earlier does not end a session whose renewal
was acknowledged. Timers are the server's (`registry.server.expiry`).

    sessions          id              -> Session
    session-nodes     node, id        -> nothing
    session-checks    node, check, id -> nothing
    session-renewals  id              -> u64, ms of the last renewal

Ids are UUIDs; case and dashes do not matter for finding one. Names of nodes and checks are found
without regard to case, as in the catalog.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Final

import msgspec

from registry.state import kv, uuids
from registry.state.base import Command, Query, Refused, Transaction, max_index
from registry.state.catalog_records import CRITICAL, fold, get_check, get_node
from registry.state.tables import Table
from registry.state.topics import Topic, table_topic
from registry.storage.keys import STATE, decode_u64, encode_parts, encode_u64
from registry.storage.store import Reader, prefix_stop

#: A longer lock delay is cut to this when the session ends.
LOCK_DELAY_MAX_MS: Final = 60 * 1000

RELEASE, DELETE = "release", "delete"

_INDEX = "sessions"
_NODES = STATE + encode_parts("session-nodes")
_CHECKS = STATE + encode_parts("session-checks")
_RENEWALS = STATE + encode_parts("session-renewals")


class ServiceCheck(msgspec.Struct, frozen=True):
    """Names a check of a service that a session depends on."""

    id: str
    namespace: str = ""


class Session(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One session. None in a list's place is what the API shows as null."""

    id: str
    name: str = ""
    node: str
    lock_delay_ns: int = 0
    behavior: str = RELEASE
    ttl: str = ""  # as the client wrote it
    ttl_ns: int = 0  # 0: does not expire
    node_checks: tuple[str, ...] | None = None
    service_checks: tuple[ServiceCheck, ...] | None = None
    checks: tuple[str, ...] | None = None  # the older spelling of node_checks
    create_index: int = 0
    modify_index: int = 0

    def check_ids(self) -> list[str]:
        """Ids of all checks that the session depends on, in the order of examination."""
        named = [*(self.checks or ()), *(self.node_checks or ())]
        return named + [check.id for check in self.service_checks or ()]


_sessions = Table("sessions", Session)

#: Called with the transaction and the id of a session that is about to be gone.
_end_listeners: list[Callable[[Transaction, str], None]] = []


def on_session_end(listener: Callable[[Transaction, str], None]) -> None:
    """Let another family drop what hangs on a session; that family calls it when imported."""
    _end_listeners.append(listener)


# Ids and topics


def session_key(session_id: str) -> str | Refused:
    """The form in which an id is looked up, or the refusal of what cannot be an id."""
    if flaw := uuids.loose_flaw(session_id):
        return Refused(f"failed session lookup: index error: {flaw}")
    return _plain(session_id)


def _plain(session_id: str) -> str:
    return session_id.replace("-", "").lower()


def _session_topic(key: str) -> Topic:
    return ("session", key)


def _node_topic(node: str) -> Topic:
    return ("node-sessions", fold(node))


# Reading


def find_session(reader: Reader, session_id: str) -> Session | Refused | None:
    """The session; None when there is none, `Refused` when the id is no UUID."""
    key = session_key(session_id)
    return key if isinstance(key, Refused) else _sessions.get(reader, key)


def sessions_of_node(reader: Reader, node: str) -> list[Session]:
    return _listed(reader, _NODES + encode_parts(fold(node)))


def sessions_of_check(reader: Reader, node: str, check_id: str) -> list[Session]:
    return _listed(reader, _check_rows(node, check_id))


def _check_rows(node: str, check_id: str) -> bytes:
    return _CHECKS + encode_parts(fold(node), fold(check_id))


def _listed(reader: Reader, rows: bytes) -> list[Session]:
    keys = [row[len(rows) :].decode() for row, _ in reader.scan(rows, prefix_stop(rows))]
    found = (_sessions.get(reader, key) for key in keys)
    return [session for session in found if session is not None]


# Changing


def invalidate_sessions_of_node(tx: Transaction, node: str) -> None:
    """End every session of a node that is being removed from the catalog."""
    for session in sessions_of_node(tx, node):
        end_session(tx, session)


def invalidate_sessions_of_check(tx: Transaction, node: str, check_id: str) -> None:
    """End every session that depends on a check which turned critical or is being removed."""
    for session in sessions_of_check(tx, node, check_id):
        end_session(tx, session)


def end_session(tx: Transaction, session: Session) -> None:
    """Remove the session, free or delete what it holds, tell who listens."""
    key = _plain(session.id)
    _forget(tx, key, session)
    delay_ms = min(session.lock_delay_ns // 1_000_000, LOCK_DELAY_MAX_MS)
    for held in kv.held_keys(tx, session.id):
        if session.behavior == DELETE:
            kv.delete_key(tx, held)
        else:
            kv.free_key(tx, held)
        if delay_ms > 0:
            kv.delay_lock(tx, held, tx.now_ms + delay_ms)
    for listener in _end_listeners:
        listener(tx, session.id)


def _forget(tx: Transaction, key: str, session: Session) -> None:
    _sessions.delete(tx, key)
    tx.delete(_NODES + encode_parts(fold(session.node)) + key.encode())
    for check_id in session.check_ids():
        tx.delete(_check_rows(session.node, check_id) + key.encode())
    if session.ttl_ns:
        tx.delete(_RENEWALS + key.encode())
    _changed(tx, key, session)


def _remember(tx: Transaction, key: str, session: Session) -> None:
    _sessions.put(tx, session, key)
    tx.put(_NODES + encode_parts(fold(session.node)) + key.encode(), b"")
    for check_id in session.check_ids():
        tx.put(_check_rows(session.node, check_id) + key.encode(), b"")
    if session.ttl_ns:
        tx.put(_RENEWALS + key.encode(), encode_u64(tx.now_ms))
    _changed(tx, key, session)


def _changed(tx: Transaction, key: str, session: Session) -> None:
    tx.raise_index(_INDEX)
    tx.touch(_session_topic(key), _node_topic(session.node), table_topic("sessions"))


# Commands


class SessionCreate(Command, tag="session-create", frozen=True, kw_only=True):
    """Make a session; the `Session`, with its id. Refused when its node or a check is not there,
    or a check is critical. The caller has parsed and bounded the TTL."""

    id: str = ""  # made when stamped; what a client gives is not used
    name: str = ""
    node: str
    lock_delay_ns: int = 0
    behavior: str = RELEASE
    ttl: str = ""
    ttl_ns: int = 0
    node_checks: tuple[str, ...] | None = None
    service_checks: tuple[ServiceCheck, ...] | None = None
    checks: tuple[str, ...] | None = None

    def stamped(self, now_ms: int) -> SessionCreate:
        return msgspec.structs.replace(self, now_ms=now_ms, id=str(uuid.uuid4()))

    def apply(self, tx: Transaction) -> Session | Refused:
        session = Session(
            id=self.id,
            name=self.name,
            node=self.node,
            lock_delay_ns=self.lock_delay_ns,
            behavior=self.behavior,
            ttl=self.ttl,
            ttl_ns=self.ttl_ns,
            node_checks=self.node_checks,
            service_checks=self.service_checks,
            checks=self.checks,
            create_index=tx.index,
            modify_index=tx.index,
        )
        if refused := _unfit(tx, session):
            return refused
        _remember(tx, _plain(session.id), session)
        return session


def _unfit(tx: Transaction, session: Session) -> Refused | None:
    if session.behavior not in (RELEASE, DELETE):
        return Refused(f"Invalid Behavior setting '{session.behavior}'")
    if get_node(tx, session.node) is None:
        return Refused("Missing node registration")
    for check_id in session.check_ids():
        check = get_check(tx, session.node, check_id)
        if check is None:
            return Refused(f"Missing check '{check_id}' registration")
        if check.status == CRITICAL:
            return Refused(f"Check '{check_id}' is in {check.status} state")
    return None


class SessionDestroy(Command, tag="session-destroy", frozen=True, kw_only=True):
    """End a session; True, also when there is none. `Refused` when the id is no UUID.

    `reason` is "" for a client's wish and "ttl" for an expiry, which gives False and changes
    nothing when the session was renewed less than its TTL ago.
    """

    id: str
    reason: str = ""

    def apply(self, tx: Transaction) -> bool | Refused:
        session = find_session(tx, self.id)
        if isinstance(session, Refused):
            return session
        if session is None:
            return True
        if self.reason == "ttl" and _renewed_lately(tx, session):
            return False
        end_session(tx, session)
        return True


def _renewed_lately(tx: Transaction, session: Session) -> bool:
    raw = tx.get(_RENEWALS + _plain(session.id).encode())
    # Another leader's clock may have been ahead; such a stamp must not keep a session for long.
    return raw is not None and 0 <= tx.now_ms - decode_u64(raw) < session.ttl_ns // 1_000_000


class SessionRenew(Command, tag="session-renew", frozen=True, kw_only=True):
    """Note that the session's holder is alive; the `Session`, None when there is none. No index
    moves by it and nobody is woken."""

    id: str

    def apply(self, tx: Transaction) -> Session | Refused | None:
        session = find_session(tx, self.id)
        if isinstance(session, Session) and session.ttl_ns:
            key = _plain(session.id)
            tx.put(_RENEWALS + key.encode(), encode_u64(tx.now_ms))
        return session


# Queries


class SessionInfo(Query, tag="session-info", frozen=True, kw_only=True):
    """The session in a list, or an empty list; `Refused` when the id is no UUID."""

    id: str

    def run(self, reader: Reader) -> tuple[int, list[Session] | Refused]:
        session = find_session(reader, self.id)
        if isinstance(session, Refused):
            return 0, session
        return max_index(reader, _INDEX), [session] if session is not None else []

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        key = session_key(self.id)
        return () if isinstance(key, Refused) else (_session_topic(key),)


class SessionList(Query, tag="session-list", frozen=True, kw_only=True):
    """Every session, in the order of the ids."""

    def run(self, reader: Reader) -> tuple[int, list[Session]]:
        return max_index(reader, _INDEX), list(_sessions.scan(reader))

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        return (table_topic("sessions"),)


class SessionsOfNode(Query, tag="session-node", frozen=True, kw_only=True):
    """The sessions of one node, in the order of the ids."""

    node: str

    def run(self, reader: Reader) -> tuple[int, list[Session]]:
        return max_index(reader, _INDEX), sessions_of_node(reader, self.node)

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        return (_node_topic(self.node),)


class SessionsWithTtl(Query, tag="session-ttl-list", frozen=True, kw_only=True):
    """Every session that expires: what a new leader starts its timers with."""

    def run(self, reader: Reader) -> tuple[int, list[Session]]:
        found = [session for session in _sessions.scan(reader) if session.ttl_ns]
        return max_index(reader, _INDEX), found

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        return (table_topic("sessions"),)
