"""Transactions: results in order, every error with its place, all or nothing."""

from __future__ import annotations

import pytest

from registry.state.base import Command
from registry.state.catalog_commands import Register
from registry.state.catalog_records import Check, Node, Service
from registry.state.kv import KvEntry, KvGet, KvKeys, KvSet
from registry.state.locks import KvLock
from registry.state.sessions import Session, SessionCreate, SessionDestroy, SessionInfo
from registry.state.topics import Topic, kv_topic
from registry.state.txn import (
    CheckOperation,
    KvOperation,
    KvResult,
    NodeOperation,
    Operation,
    ServiceOperation,
    Txn,
    TxnError,
    TxnOutcome,
    TxnRead,
    is_write,
)
from registry.testing.state import Replica

UNKNOWN = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def replica() -> Replica:
    return Replica()


def kv(verb: str, key: bytes = b"a", **fields: object) -> KvOperation:
    return KvOperation(verb=verb, key=key, **fields)  # type: ignore[arg-type]


def node(verb: str, name: str = "n", **fields: object) -> NodeOperation:
    return NodeOperation(verb=verb, node=Node(node=name, **fields))  # type: ignore[arg-type]


def service(verb: str, **fields: object) -> ServiceOperation:
    return ServiceOperation(verb=verb, node="n", service=Service(**fields))  # type: ignore[arg-type]


def check(verb: str, **fields: object) -> CheckOperation:
    given = {"node": "n", "check_id": "c", **fields}
    return CheckOperation(verb=verb, check=Check(**given))  # type: ignore[arg-type]


def run(replica: Replica, *operations: Operation) -> TxnOutcome:
    outcome: TxnOutcome = replica.apply(Txn(operations=operations))
    return outcome


def errors(outcome: TxnOutcome) -> list[str]:
    assert outcome.results == ()
    return [error.what for error in outcome.errors]


def test_results_come_in_order_and_values_with_reads_alone(replica: Replica) -> None:
    outcome = run(replica, kv("set", value=b"v", flags=7), kv("get"), kv("check-index", index=1))
    written = KvEntry(1, 1, 7, 0, "", b"")
    assert outcome.results == (
        KvResult(b"a", written),
        KvResult(b"a", KvEntry(1, 1, 7, 0, "", b"v")),
        KvResult(b"a", written),
    )


def test_all_changes_have_one_index(replica: Replica) -> None:
    run(replica, kv("set", b"a"), kv("set", b"b"), node("set", address="1.2.3.4"))
    assert replica.ask(KvGet(key=b"a")).modify_index == 1
    assert replica.ask(KvGet(key=b"b")).modify_index == 1
    (found,) = run(replica, node("get")).results
    assert found.modify_index == 1


@pytest.mark.parametrize("verb", ["delete", "delete-tree"])
def test_deletions_have_no_result(replica: Replica, verb: str) -> None:
    replica.apply(KvSet(key=b"a"))
    assert run(replica, kv(verb), kv(verb)) == TxnOutcome()
    assert replica.ask(KvKeys()) == []


def test_a_tree_is_got_entry_by_entry(replica: Replica) -> None:
    replica.apply_all([KvSet(key=b"t/a"), KvSet(key=b"t/b"), KvSet(key=b"u")])
    outcome = run(replica, kv("get-tree", b"t/"), kv("get-tree", b"none/"))
    assert [result.key for result in outcome.results] == [b"t/a", b"t/b"]


def test_one_failure_undoes_all(replica: Replica) -> None:
    replica.apply_all([KvSet(key=b"a", value=b"keep"), Register(node="n", address="1.1.1.1")])
    before = [pair for pair in replica.machine.reader.scan(b"s") if b"applied" not in pair[0]]
    woken: list[frozenset[Topic]] = []
    replica.machine.topics.listen(woken.append)
    outcome = run(
        replica,
        kv("set", value=b"lost"),
        kv("delete-tree", b""),
        node("delete"),
        kv("get", b"none"),
    )
    assert outcome.errors == (TxnError(3, 'key "none" doesn\'t exist'),)
    after = [pair for pair in replica.machine.reader.scan(b"s") if b"applied" not in pair[0]]
    assert after == before
    assert woken == []


def test_what_came_before_in_the_batch_stays(replica: Replica) -> None:
    commands: list[Command] = [KvSet(key=b"a"), Txn(operations=(kv("delete"), kv("get", b"no")))]
    results = replica.apply_all([*commands, KvSet(key=b"b")])
    assert results[1].errors == (TxnError(1, 'key "no" doesn\'t exist'),)
    assert replica.ask(KvKeys()) == [b"a", b"b"]


def test_every_failed_operation_is_listed(replica: Replica) -> None:
    outcome = run(replica, kv("get", b"no1"), kv("set"), kv("get", b"no2"))
    assert [error.op_index for error in outcome.errors] == [0, 2]


def test_operations_see_the_ones_before(replica: Replica) -> None:
    outcome = run(
        replica, kv("check-not-exists"), kv("set"), kv("check-not-exists"), kv("cas", index=1)
    )
    assert outcome.errors == (TxnError(2, 'key "a" exists'),)


def test_what_can_be_told_beforehand_comes_alone(replica: Replica) -> None:
    """Nothing is carried out, so the missing key is not noticed."""
    outcome = run(replica, kv("get", b"none"), kv("set", b""), node("set", ""))
    assert outcome.errors == (TxnError(1, "Must provide key"), TxnError(2, "Must provide node"))


STALE = "index is stale"


@pytest.mark.parametrize(
    ("operation", "what"),
    [
        pytest.param(kv("cas", index=0), f'failed to set key "a", {STALE}', id="cas 0"),
        pytest.param(kv("cas", index=9), f'failed to set key "a", {STALE}', id="cas"),
        pytest.param(kv("cas", b"no", index=9), f'failed to set key "no", {STALE}', id="cas none"),
        pytest.param(
            kv("delete-cas", index=9), f'failed to delete key "a", {STALE}', id="delete-cas"
        ),
        pytest.param(kv("get", b"no"), 'key "no" doesn\'t exist', id="get"),
        pytest.param(
            kv("check-index", b"no"),
            'failed to check index, key "no" doesn\'t exist',
            id="check-index on nothing",
        ),
        pytest.param(
            kv("check-index", index=9),
            'failed index check for key "a", current modify index 1 != 9',
            id="check-index",
        ),
        pytest.param(
            kv("check-session", b"no"),
            'failed to check session, key "no" doesn\'t exist',
            id="check-session on nothing",
        ),
        pytest.param(
            kv("check-session", session="x"),
            'failed session check for key "a", current session "" != "x"',
            id="check-session",
        ),
        pytest.param(kv("check-not-exists"), 'key "a" exists', id="check-not-exists"),
        pytest.param(kv("lock"), "missing session", id="lock without session"),
        pytest.param(
            kv("lock", session=UNKNOWN), f'invalid session "{UNKNOWN}"', id="lock, unknown session"
        ),
        pytest.param(
            kv("unlock", session=UNKNOWN),
            'failed to unlock key "a", lock isn\'t held, or is held by another session',
            id="unlock",
        ),
        pytest.param(kv("unlock"), "missing session", id="unlock without session"),
        pytest.param(kv("nope"), 'unknown KV verb "nope"', id="KV verb"),
        pytest.param(kv("set", b""), "Must provide key", id="no key"),
        pytest.param(kv("get-tree", b""), "Must provide key", id="no key, get-tree"),
        pytest.param(node("nope"), 'unknown Node verb "nope"', id="node verb"),
        pytest.param(node("get", "no"), 'node "no" doesn\'t exist', id="node get"),
        pytest.param(
            node("cas", modify_index=9), f'failed to set node "n", {STALE}', id="node cas"
        ),
        pytest.param(
            node("delete-cas", modify_index=9),
            f'failed to delete node "n", {STALE}',
            id="node delete-cas",
        ),
        pytest.param(service("nope", name="s"), 'unknown Service verb "nope"', id="service verb"),
        pytest.param(
            service("get", id="s"), 'service "s" on node "n" doesn\'t exist', id="service get"
        ),
        pytest.param(
            service("delete", id="s"),
            "Must provide service name with ID",
            id="service without name",
        ),
        pytest.param(
            service("cas", name="s", modify_index=9),
            f'failed to set service "s" on node "n", {STALE}',
            id="service cas",
        ),
        pytest.param(
            service("delete-cas", name="s", modify_index=9),
            f'failed to delete service "s" on node "n", {STALE}',
            id="service delete-cas",
        ),
        pytest.param(check("nope"), 'unknown Check verb "nope"', id="check verb"),
        pytest.param(check("get"), 'check "c" on node "n" doesn\'t exist', id="check get"),
        pytest.param(check("set", node="no"), "Missing node registration", id="check set"),
        pytest.param(
            check("cas", modify_index=9),
            f'failed to set check "c" on node "n", {STALE}',
            id="check cas",
        ),
        pytest.param(
            check("delete-cas", modify_index=9),
            f'failed to delete check "c" on node "n", {STALE}',
            id="check delete-cas",
        ),
    ],
)
def test_what_fails_and_why(replica: Replica, operation: Operation, what: str) -> None:
    replica.apply_all([KvSet(key=b"a"), Register(node="n", address="1.1.1.1")])
    assert errors(run(replica, operation)) == [what]


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        pytest.param(node("cas", address="2.2.2.2", modify_index=1), Node, id="node"),
        pytest.param(service("cas", name="s", port=80, modify_index=1), Service, id="service"),
        pytest.param(check("cas", status="warning", modify_index=1), Check, id="check"),
    ],
)
def test_catalog_cas_with_the_right_index(
    replica: Replica, operation: Operation, kind: type
) -> None:
    set_up = (node("set", address="1.1.1.1"), service("set", name="s"), check("set"))
    assert len(run(replica, *set_up).results) == 3
    (result,) = run(replica, operation).results
    assert isinstance(result, kind)
    assert result.modify_index == 2  # type: ignore[attr-defined]


def test_catalog_deletions(replica: Replica) -> None:
    run(replica, node("set", address="1.1.1.1"), service("set", name="s"), check("set"))
    assert run(replica, check("delete-cas", modify_index=1)) == TxnOutcome()
    assert run(replica, service("delete-cas", name="s", modify_index=1)) == TxnOutcome()
    assert run(replica, node("delete")) == TxnOutcome()
    assert errors(run(replica, node("get"))) == ['node "n" doesn\'t exist']


def test_a_check_that_turns_critical_ends_its_session(replica: Replica) -> None:
    run(replica, node("set", address="1.1.1.1"), check("set", status="passing"))
    session: Session = replica.apply(SessionCreate(node="n", node_checks=("c",)))
    run(replica, check("set", status="critical"))
    assert replica.ask(SessionInfo(id=session.id)) == []


def test_locks_in_a_transaction(replica: Replica) -> None:
    replica.apply(Register(node="n", address="1.1.1.1"))
    first: Session = replica.apply(SessionCreate(node="n", lock_delay_ns=15_000_000_000))
    second: Session = replica.apply(SessionCreate(node="n"))
    (result,) = run(replica, kv("lock", value=b"v", session=first.id)).results
    assert (result.entry.lock_index, result.entry.session) == (1, first.id)
    assert errors(run(replica, kv("lock", session=second.id))) == [
        'failed to lock key "a", lock is already held'
    ]
    assert len(run(replica, kv("check-session", session=first.id)).results) == 1
    (result,) = run(replica, kv("unlock", session=first.id)).results
    assert (result.entry.lock_index, result.entry.session) == (1, "")

    replica.apply(KvLock(key=b"a", session=first.id))
    replica.apply(SessionDestroy(id=first.id))
    assert errors(run(replica, kv("lock", session=second.id))) == [
        'failed to lock key "a" due to lock delay'
    ]


def test_a_read_needs_no_log_and_changes_nothing(replica: Replica) -> None:
    replica.apply(KvSet(key=b"a", value=b"v"))
    before = replica.checksum()
    query = TxnRead(operations=(kv("get"), kv("check-index", index=1)))
    assert len(replica.ask(query).results) == 2
    assert replica.index_of(query) == 0
    assert replica.checksum() == before


@pytest.mark.parametrize(
    ("operation", "write"),
    [
        (kv("set"), True),
        (kv("delete-tree"), True),
        (kv("lock"), True),
        (kv("get"), False),
        (kv("check-not-exists"), False),
        (kv("nope"), False),
        (node("get"), False),
        (node("nope"), True),
        (service("set"), True),
        (check("get"), False),
    ],
)
def test_what_is_a_write(operation: Operation, write: bool) -> None:
    assert is_write(operation) is write


def test_a_transaction_touches_what_it_changed(replica: Replica) -> None:
    woken: list[frozenset[Topic]] = []
    replica.machine.topics.listen(woken.append)
    run(replica, kv("set", b"a"), kv("set", b"b"), kv("get", b"a"))
    assert woken == [frozenset({kv_topic(b"a"), kv_topic(b"b")})]
