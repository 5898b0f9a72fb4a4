"""Sessions and locks: what makes, keeps and ends them, and what becomes of the keys they hold."""

from __future__ import annotations

import pytest

from registry.state import sessions as sessions_module
from registry.state.base import Refused
from registry.state.catalog_commands import Deregister, Register
from registry.state.catalog_records import Check
from registry.state.kv import (
    KvDelete,
    KvDeleteTree,
    KvEntry,
    KvGet,
    KvList,
    KvReap,
    KvSet,
    held_keys,
    next_reap_ms,
)
from registry.state.locks import KvLock, KvUnlock
from registry.state.sessions import (
    ServiceCheck,
    Session,
    SessionCreate,
    SessionDestroy,
    SessionInfo,
    SessionList,
    SessionRenew,
    SessionsOfNode,
    SessionsWithTtl,
    on_session_end,
    session_key,
)
from registry.state.topics import Topic, kv_topic, table_topic
from registry.testing.state import Replica

SECOND = 1_000_000_000
UNKNOWN = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def replica() -> Replica:
    """With node n1 and its check c, both well."""
    replica = Replica()
    register(replica, "n1", "passing")
    return replica


def register(replica: Replica, node: str, status: str, check: str = "c") -> None:
    checks = (Check(check_id=check, name=check, status=status),)
    assert replica.apply(Register(node=node, address="1.2.3.4", checks=checks)) is True


def create(replica: Replica, **fields: object) -> Session:
    session = replica.apply(SessionCreate(**{"node": "n1", **fields}))  # type: ignore[arg-type]
    assert isinstance(session, Session)
    return session


def lock(
    replica: Replica, session: Session | str, key: bytes = b"k", value: bytes = b"v"
) -> object:
    session_id = session if isinstance(session, str) else session.id
    return replica.apply(KvLock(key=key, value=value, session=session_id))


def entry_of(replica: Replica, key: bytes = b"k") -> KvEntry | None:
    found: KvEntry | None = replica.ask(KvGet(key=key))
    return found


def lives(replica: Replica, session: Session) -> bool:
    return bool(replica.ask(SessionInfo(id=session.id)))


# Making


def test_a_session_is_kept_as_it_was_asked_for(replica: Replica) -> None:
    session = create(
        replica,
        name="mine",
        lock_delay_ns=20 * SECOND,
        behavior="delete",
        ttl="30s",
        ttl_ns=30 * SECOND,
        node_checks=("c",),
        service_checks=None,
    )
    assert session.create_index == session.modify_index == replica.index
    assert replica.ask(SessionInfo(id=session.id)) == [session]
    assert replica.ask(SessionList()) == [session]
    assert replica.ask(SessionsOfNode(node="N1")) == [session]
    assert replica.ask(SessionsOfNode(node="n2")) == []


def test_ids_are_made_when_stamped_whatever_the_client_gave() -> None:
    command = SessionCreate(id=UNKNOWN, node="n1")
    first, second = command.stamped(1), command.stamped(1)
    assert len({first.id, second.id, UNKNOWN}) == 3
    assert isinstance(session_key(first.id), str)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        pytest.param({"node": "none"}, "Missing node registration", id="unknown node"),
        pytest.param({"node_checks": ("x",)}, "Missing check 'x' registration", id="no check"),
        pytest.param({"checks": ("x",)}, "Missing check 'x' registration", id="old spelling"),
        pytest.param(
            {"service_checks": (ServiceCheck("x"),)},
            "Missing check 'x' registration",
            id="no check of a service",
        ),
        pytest.param(
            {"node": "sick", "node_checks": ("c",)}, "Check 'c' is in critical state", id="critical"
        ),
        pytest.param({"behavior": "explode"}, "Invalid Behavior setting 'explode'", id="behavior"),
    ],
)
def test_what_is_refused(replica: Replica, fields: dict[str, object], reason: str) -> None:
    register(replica, "sick", "critical")
    refused = replica.apply(SessionCreate(**{"node": "n1", **fields}))  # type: ignore[arg-type]
    assert refused == Refused(reason)
    assert replica.ask(SessionList()) == []


@pytest.mark.parametrize(
    ("session_id", "problem"),
    [
        pytest.param("abc", "UUID must be 36 characters", id="short"),
        pytest.param("é" * 18, "Invalid UUID", id="36 bytes, not 36 digits"),
        pytest.param("-" * 36, 'UUID should have maximum of 4 "-"; got 36', id="dashes"),
        pytest.param("1" * 35 + "-", "UUID (without hyphens) must be even length", id="odd digits"),
        pytest.param("z" * 36, "encoding/hex: invalid byte: U+007A 'z'", id="no digits"),
    ],
)
def test_ids_that_cannot_be(replica: Replica, session_id: str, problem: str) -> None:
    for question in (SessionDestroy(id=session_id), SessionRenew(id=session_id)):
        refused = replica.apply(question)
        assert isinstance(refused, Refused)
        assert refused.reason.startswith("failed session lookup: index error: ")
        assert problem in refused.reason
    assert isinstance(replica.ask(SessionInfo(id=session_id)), Refused)
    assert SessionInfo(id=session_id).topics(replica.machine.reader) == ()


def test_an_id_is_found_in_capitals_too(replica: Replica) -> None:
    session = create(replica)
    assert replica.ask(SessionInfo(id=session.id.upper())) == [session]
    assert replica.apply(SessionDestroy(id=session.id.upper())) is True
    assert not lives(replica, session)


# Ending


def test_destroying_is_true_also_when_there_is_nothing(replica: Replica) -> None:
    session = create(replica)
    before = replica.index_of(SessionList())
    assert replica.apply(SessionDestroy(id=UNKNOWN)) is True
    assert replica.index_of(SessionList()) == before
    assert replica.apply(SessionDestroy(id=session.id)) is True
    assert replica.index_of(SessionList()) == replica.index
    assert replica.apply(SessionDestroy(id=session.id)) is True


ENDINGS = [
    pytest.param(Deregister(node="n1"), True, id="node deregistered"),
    pytest.param(Deregister(node="n1", check_id="c"), True, id="check deregistered"),
    pytest.param(
        Register(node="n1", address="1.2.3.4", checks=(Check(check_id="c", status="critical"),)),
        True,
        id="check critical",
    ),
    pytest.param(
        Register(node="n1", address="1.2.3.4", checks=(Check(check_id="c", status="warning"),)),
        False,
        id="check warning",
    ),
    pytest.param(
        Register(node="n1", address="1.2.3.4", checks=(Check(check_id="d", status="critical"),)),
        False,
        id="another check critical",
    ),
    pytest.param(
        Register(node="n1", address="1.2.3.4", checks=(Check(check_id="C", status="critical"),)),
        True,
        id="check critical, in other letters",
    ),
]


@pytest.mark.parametrize(("event", "ends"), ENDINGS)
def test_what_ends_a_session(replica: Replica, event: Register | Deregister, ends: bool) -> None:
    session = create(replica, node_checks=("c",))
    replica.apply(event)
    assert lives(replica, session) is not ends


def test_sessions_without_checks_end_with_the_node_alone(replica: Replica) -> None:
    session = create(replica, node_checks=())
    register(replica, "n1", "critical")
    assert lives(replica, session)
    replica.apply(Deregister(node="n1"))
    assert not lives(replica, session)


def test_nothing_is_left_of_a_session(replica: Replica) -> None:
    before = replica.machine.reader.scan(b"ssession")
    assert list(before) == []
    session = create(replica, node_checks=("c",), ttl="10s", ttl_ns=10 * SECOND)
    replica.apply(SessionRenew(id=session.id))
    replica.apply(SessionDestroy(id=session.id))
    assert [key for key, _ in replica.machine.reader.scan(b"ssession", b"ssessioo")] == []


def test_others_hear_of_an_end(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr(sessions_module, "_end_listeners", [])
    on_session_end(lambda tx, session_id: heard.append(session_id))
    session = create(replica)
    replica.apply(SessionDestroy(id=session.id))
    assert heard == [session.id]


def test_topics_of_a_session(replica: Replica) -> None:
    woken: list[frozenset[Topic]] = []
    session = create(replica)
    replica.machine.topics.listen(woken.append)
    replica.apply(SessionDestroy(id=session.id))
    assert len(woken) == 1
    for query in (SessionInfo(id=session.id), SessionList(), SessionsOfNode(node="n1")):
        assert woken[0] >= set(query.topics(replica.machine.reader))
    assert table_topic("sessions") in woken[0]


# Renewing and expiring


def test_a_renewal_shows_nowhere(replica: Replica) -> None:
    session = create(replica, ttl="10s", ttl_ns=10 * SECOND)
    woken: list[frozenset[Topic]] = []
    replica.machine.topics.listen(woken.append)
    index = replica.index_of(SessionList())
    assert replica.apply(SessionRenew(id=session.id)) == session
    assert replica.apply(SessionRenew(id=UNKNOWN)) is None
    assert replica.index_of(SessionList()) == index
    assert woken == []


def test_only_sessions_with_a_ttl_expire(replica: Replica) -> None:
    create(replica)
    session = create(replica, ttl="10s", ttl_ns=10 * SECOND)
    assert replica.ask(SessionsWithTtl()) == [session]


@pytest.mark.parametrize(
    ("renewed_s", "expired_s", "ends"),
    [
        pytest.param(None, 10, True, id="never renewed"),
        pytest.param(None, 9, False, id="not yet due"),
        pytest.param(15, 20, False, id="renewed just before"),
        pytest.param(15, 25, True, id="renewed a TTL ago"),
        pytest.param(60, 20, True, id="renewed by a leader whose clock was ahead"),
    ],
)
def test_expiry(replica: Replica, renewed_s: int | None, expired_s: int, ends: bool) -> None:
    session = create(replica, ttl="10s", ttl_ns=10 * SECOND)
    born_ms = replica.now_ms
    if renewed_s is not None:
        replica.now_ms = born_ms + renewed_s * 1000
        replica.apply(SessionRenew(id=session.id))
    replica.now_ms = born_ms + expired_s * 1000
    assert replica.apply(SessionDestroy(id=session.id, reason="ttl")) is ends
    assert lives(replica, session) is not ends


def test_a_client_may_destroy_what_it_renewed(replica: Replica) -> None:
    session = create(replica, ttl="10s", ttl_ns=10 * SECOND)
    replica.apply(SessionRenew(id=session.id))
    assert replica.apply(SessionDestroy(id=session.id)) is True
    assert not lives(replica, session)


# Locks


def test_acquiring_makes_the_key(replica: Replica) -> None:
    session = create(replica)
    assert lock(replica, session) is True
    index = replica.index
    assert entry_of(replica) == KvEntry(index, index, 0, 1, session.id, b"v")


def test_the_holder_may_acquire_again(replica: Replica) -> None:
    session = create(replica)
    lock(replica, session)
    made = replica.index
    assert lock(replica, session, value=b"w") is True
    assert entry_of(replica) == KvEntry(replica.index, made, 0, 1, session.id, b"w")


def test_acquiring_again_with_the_same_value_changes_nothing(replica: Replica) -> None:
    session = create(replica)
    lock(replica, session)
    before = entry_of(replica)
    assert lock(replica, session) is True
    assert entry_of(replica) == before


def test_another_session_does_not_get_a_held_lock(replica: Replica) -> None:
    first, second = create(replica), create(replica)
    lock(replica, first)
    before = entry_of(replica)
    assert lock(replica, second, value=b"w") is False
    assert replica.apply(KvUnlock(key=b"k", value=b"w", session=second.id)) is False
    assert entry_of(replica) == before


def test_the_lock_index_counts_acquisitions(replica: Replica) -> None:
    first, second = create(replica), create(replica)
    for number, session in enumerate((first, second, first), 1):
        assert lock(replica, session) is True
        entry = entry_of(replica)
        assert entry is not None
        assert entry.lock_index == number
        assert replica.apply(KvUnlock(key=b"k", value=b"free", session=session.id)) is True
        entry = entry_of(replica)
        assert entry is not None
        assert (entry.lock_index, entry.session, entry.value) == (number, "", b"free")


@pytest.mark.parametrize(
    ("session_id", "reason"),
    [
        pytest.param("", "missing session", id="none"),
        pytest.param(UNKNOWN, f'invalid session "{UNKNOWN}"', id="unknown"),
        pytest.param(
            "abc", "failed session lookup: index error: UUID must be 36 characters", id="no UUID"
        ),
    ],
)
def test_locking_needs_a_living_session(replica: Replica, session_id: str, reason: str) -> None:
    assert lock(replica, session_id) == Refused(reason)
    assert entry_of(replica) is None


def test_releasing_without_holding_is_false(replica: Replica) -> None:
    assert replica.apply(KvUnlock(key=b"k", session=UNKNOWN)) is False
    replica.apply(KvSet(key=b"k"))
    assert replica.apply(KvUnlock(key=b"k", session="abc")) is False
    assert replica.apply(KvUnlock(key=b"k", session="")) == Refused("missing session")


def test_a_plain_write_keeps_the_holder_and_resets_the_count(replica: Replica) -> None:
    session = create(replica)
    lock(replica, session)
    replica.apply(KvSet(key=b"k", value=b"plain"))
    entry = entry_of(replica)
    assert entry is not None
    assert (entry.session, entry.lock_index, entry.value) == (session.id, 0, b"plain")
    replica.apply(SessionDestroy(id=session.id))
    entry = entry_of(replica)
    assert entry is not None
    assert entry.session == ""


def test_a_plain_write_of_the_value_that_is_there_resets_the_count_too(replica: Replica) -> None:
    session = create(replica)
    lock(replica, session)
    replica.apply(KvSet(key=b"k", value=b"v"))
    entry = entry_of(replica)
    assert entry is not None
    assert (entry.lock_index, entry.modify_index) == (0, replica.index)


def test_a_deleted_key_is_not_held_any_more(replica: Replica) -> None:
    session = create(replica, behavior="delete", lock_delay_ns=15 * SECOND)
    for key, deletion in ((b"a/1", KvDelete(key=b"a/1")), (b"a/2", KvDeleteTree(prefix=b"a/"))):
        lock(replica, session, key)
        replica.apply(deletion)
        replica.apply(KvSet(key=key, value=b"somebody else's"))
    assert held_keys(replica.machine.reader, session.id) == []
    replica.apply(SessionDestroy(id=session.id))
    assert [key for key, _ in replica.ask(KvList())] == [b"a/2"]


@pytest.mark.parametrize("behavior", ["release", "delete"])
def test_what_becomes_of_held_keys(replica: Replica, behavior: str) -> None:
    session = create(replica, behavior=behavior, lock_delay_ns=0)
    lock(replica, session, b"k1")
    lock(replica, session, b"k2")
    replica.apply(KvSet(key=b"other"))
    woken: list[frozenset[Topic]] = []
    replica.machine.topics.listen(woken.append)
    replica.apply(Deregister(node="n1"))
    assert woken[0] >= {kv_topic(b"k1"), kv_topic(b"k2")}
    assert kv_topic(b"other") not in woken[0]
    if behavior == "delete":
        assert [key for key, _ in replica.ask(KvList())] == [b"other"]
        return
    entry = entry_of(replica, b"k1")
    assert entry is not None
    assert (entry.session, entry.lock_index, entry.value) == ("", 1, b"v")
    assert entry.modify_index == replica.index


@pytest.mark.parametrize(
    ("delay_s", "waited_s", "gets"),
    [
        pytest.param(15, 14.999, False, id="during the delay"),
        pytest.param(15, 15, True, id="after it"),
        pytest.param(0, 0, True, id="none"),
        pytest.param(-5, 0, True, id="below zero"),
        pytest.param(3600, 59, False, id="cut to a minute: during it"),
        pytest.param(3600, 60, True, id="cut to a minute: after it"),
    ],
)
@pytest.mark.parametrize("behavior", ["release", "delete"])
def test_lock_delay(
    replica: Replica, delay_s: int, waited_s: float, gets: bool, behavior: str
) -> None:
    first = create(replica, lock_delay_ns=delay_s * SECOND, behavior=behavior)
    second = create(replica)
    lock(replica, first)
    replica.apply(SessionDestroy(id=first.id))
    replica.now_ms += int(waited_s * 1000)
    assert lock(replica, second) is gets
    assert replica.apply(KvSet(key=b"k", value=b"plain writes pass")) is True


def test_a_release_by_hand_has_no_delay(replica: Replica) -> None:
    first, second = create(replica, lock_delay_ns=30 * SECOND), create(replica)
    lock(replica, first)
    replica.apply(KvUnlock(key=b"k", session=first.id))
    assert lock(replica, second) is True


def test_delays_are_reaped(replica: Replica) -> None:
    session = create(replica, lock_delay_ns=15 * SECOND)
    lock(replica, session)
    replica.apply(SessionDestroy(id=session.id))
    assert next_reap_ms(replica.machine.reader) == replica.now_ms + 15_000
    replica.now_ms += 15_000
    assert replica.apply(KvReap()) == 1
    assert [key for key, _ in replica.machine.reader.scan(b"skv-delays", b"skv-delayt")] == []


def test_a_later_delay_outlives_the_reaping_of_an_earlier_one(replica: Replica) -> None:
    for delay_s in (10, 20):
        session = create(replica, lock_delay_ns=delay_s * SECOND)
        assert lock(replica, session) is True
        replica.apply(SessionDestroy(id=session.id))
        replica.now_ms += 10_000
    replica.apply(KvReap())
    assert lock(replica, create(replica)) is False
