"""Results on the wire: whatever any command or query gives comes back equal."""

from __future__ import annotations

import typing
from typing import Any

import msgspec
import pytest

from registry.errors import Corrupt
from registry.state.base import Command, Query, Refused
from registry.state.catalog_commands import Register
from registry.state.catalog_queries import ListServices, NodeServices, ServiceNodes
from registry.state.catalog_records import Check, Node, Service
from registry.state.health import NodeHealth, ServiceHealth
from registry.state.kv import KvGet, KvKeys, KvList, KvSet
from registry.state.machine import COMMANDS, QUERIES
from registry.state.operator import AutopilotSettings, GetAutopilot, SetAutopilot
from registry.state.prepared import CreateQuery, ExecuteQuery, PreparedQuery, RunQuery, ServiceQuery
from registry.state.results import decode_result, encode_result, result_type
from registry.state.sessions import SessionCreate, SessionInfo, SessionRenew
from registry.state.txn import (
    CheckOperation,
    KvOperation,
    NodeOperation,
    ServiceOperation,
    Txn,
    TxnRead,
)
from registry.testing.consensus import InstantBackend


def there_and_back(kind: type[Command] | type[Query], value: Any) -> Any:
    return decode_result(kind, encode_result(value))


@pytest.mark.parametrize("kind", [*COMMANDS, *QUERIES], ids=lambda kind: kind.__name__)
def test_every_command_and_query_says_what_it_gives(kind: type[Command] | type[Query]) -> None:
    """A new one that is annotated with Any, or with what cannot be told apart, fails here."""
    wanted = result_type(kind)
    assert wanted is not Any
    assert Any not in typing.get_args(wanted)
    with pytest.raises(Corrupt):
        decode_result(kind, b"\xc1")
    refused = Refused("because", "conflict")
    assert there_and_back(kind, refused) == refused


@pytest.fixture
async def backend() -> InstantBackend:
    """A state with something of everything in it."""
    backend = InstantBackend()
    register = Register(
        node="n1",
        address="10.0.0.1",
        tagged_addresses={"lan": "10.0.0.1"},
        service=Service(id="web1", name="web", tags=("a", "b"), port=80, meta={"x": "y"}),
        checks=(
            Check(node="n1", check_id="c1", name="C", status="passing", output="ok"),
            Check(node="n1", check_id="c2", name="S", status="warning", service_id="web1"),
        ),
    )
    assert await backend.write(register) is True
    await backend.write(KvSet(key=b"a/\xff", value=b"\x00\xff", flags=2**64 - 1))
    await backend.write(KvSet(key=b"a/b", value=b""))
    await backend.write(SetAutopilot(settings=AutopilotSettings(min_quorum=3)))
    query = PreparedQuery(id="", name="q", service=ServiceQuery(service="web"))
    await backend.write(CreateQuery(query=query))
    return backend


ASKED = [
    KvGet(key=b"a/b"),
    KvGet(key=b"none"),
    KvList(prefix=b"a/"),
    KvKeys(prefix=b"", separator=b"/"),
    ListServices(),
    ServiceNodes(name="web"),
    NodeServices(node="n1"),
    NodeServices(node="none"),
    NodeHealth(),
    ServiceHealth(name="web"),
    GetAutopilot(),
    ExecuteQuery(name="q"),
    ExecuteQuery(name="none"),
    RunQuery(query=PreparedQuery(id="x", service=ServiceQuery(service="web"))),
    SessionInfo(id="nonsense"),
]


@pytest.mark.parametrize("query", ASKED, ids=lambda query: type(query).__name__)
async def test_values_come_back_equal(backend: InstantBackend, query: Query) -> None:
    _, value = query.run(backend.machine.reader)
    again = there_and_back(type(query), value)
    assert again == value
    assert type(again) is type(value)


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.__name__)
async def test_what_a_query_gives_is_what_it_says(
    backend: InstantBackend, query: type[Query]
) -> None:
    """Every query there is, asked with the simplest arguments."""
    simple: dict[type, Any] = {
        str: "web",
        bytes: b"a",
        int: 0,
        bool: False,
        PreparedQuery: PreparedQuery(service=ServiceQuery(service="web")),
    }
    arguments = {
        field.name: () if typing.get_origin(field.type) is tuple else simple[field.type]
        for field in msgspec.structs.fields(query)
        if field.required
    }
    _, value = query(**arguments).run(backend.machine.reader)
    assert there_and_back(query, value) == value


async def test_session_commands(backend: InstantBackend) -> None:
    session = await backend.write(SessionCreate(node="n1", checks=(), ttl_ns=10**10))
    assert there_and_back(SessionCreate, session) == session
    assert there_and_back(SessionRenew, session) == session
    assert there_and_back(SessionRenew, None) is None


async def test_a_transaction_gives_records_of_every_kind(backend: InstantBackend) -> None:
    operations = (
        KvOperation(verb="get", key=b"a/b"),
        NodeOperation(verb="get", node=Node(node="n1")),
        ServiceOperation(verb="get", node="n1", service=Service(id="web1")),
        CheckOperation(verb="get", check=Check(node="n1", check_id="c1")),
    )
    _, read = TxnRead(operations=operations).run(backend.machine.reader)
    assert [type(row).__name__ for row in read.results] == ["KvResult", "Node", "Service", "Check"]
    assert there_and_back(TxnRead, read) == read
    failed = await backend.write(Txn(operations=(KvOperation(verb="get", key=b"none"),)))
    assert failed.errors
    assert there_and_back(Txn, failed) == failed


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        encode_result("text"),
        msgspec.msgpack.encode([None, [[], []], 1])[:-1],
        msgspec.msgpack.encode([None, [[[9, None]], []]]),
        msgspec.msgpack.encode([None, b"\x80".decode("latin-1")]).replace(b"\xc2\x80", b"\xff\xff"),
    ],
)
def test_what_is_no_result_is_told(raw: bytes) -> None:
    with pytest.raises(Corrupt, match="not a result of Txn"):
        decode_result(Txn, raw)
