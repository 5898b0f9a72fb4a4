"""Plugins judge writes of keys before they are proposed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from registry.hooks import KvValidator, KvWrite, Origin, WriteRefused, hookimpl
from registry.plugins import Plugins
from registry.plugins.record import FAILURES_MAX
from registry.server.validation import Validation, kv_writes
from registry.state import base
from registry.state.base import Command, Refused
from registry.state.catalog_records import Node
from registry.state.kv import KvCas, KvDelete, KvDeleteCas, KvDeleteTree, KvReap, KvSet
from registry.state.locks import KvLock, KvUnlock
from registry.state.txn import KvOperation, NodeOperation, Txn

OPERATIONS = (
    KvOperation(verb="get", key=b"read"),
    KvOperation(verb="set", key=b"a", value=b"1"),
    NodeOperation(verb="set", node=Node(node="n1")),
    KvOperation(verb="delete-tree", key=b"b"),
)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (KvSet(key=b"a", value=b"1", flags=3), [("set", "a", b"1", 3)]),
        (KvCas(key=b"a", value=b"1", index=3), [("cas", "a", b"1", 0)]),
        (KvLock(key=b"a", value=b"1", session="s"), [("lock", "a", b"1", 0)]),
        (KvUnlock(key=b"a", value=b"1", session="s"), [("unlock", "a", b"1", 0)]),
        (KvDelete(key=b"a"), [("delete", "a", None, 0)]),
        (KvDeleteCas(key=b"a", index=1), [("delete-cas", "a", None, 0)]),
        (KvDeleteTree(prefix=b"a"), [("delete-tree", "a", None, 0)]),
        (Txn(operations=OPERATIONS), [("set", "a", b"1", 0), ("delete-tree", "b", None, 0)]),
        (KvReap(), []),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_command_writes(command: Command, expected: list[Any]) -> None:
    found = [(write.verb, write.key, write.value, write.flags) for write in kv_writes(command)]
    assert found == expected


def test_who_asks_is_told() -> None:
    (write,) = kv_writes(KvSet(key=b"a", origin=base.Origin("192.0.2.1", "because")))
    assert write.origin == Origin("192.0.2.1", "because")


class Guardian:
    """Refuses what is empty; may be broken."""

    def __init__(self, *, on_failure: str = "allow", broken: bool = False) -> None:
        self.seen: list[str] = []
        self.broken = broken
        self._on_failure = on_failure

    def judge(self, write: KvWrite) -> None:
        self.seen.append(write.key)
        if self.broken:
            raise LookupError("no schema")
        if write.value == b"":
            raise WriteRefused(f"{write.key} must not be empty", 403)

    @hookimpl
    def registry_kv_validators(self) -> list[KvValidator]:
        return [
            KvValidator(
                name="mine", prefix="app/", validate=self.judge, on_failure=self._on_failure
            )
        ]


@pytest.fixture
def plugins() -> Iterator[Plugins]:
    plugins = Plugins()
    yield plugins
    plugins.close()


async def judged(plugins: Plugins, command: Command) -> Refused | None:
    return await Validation(plugins.kv_validators()).judge(command)


async def test_registry_kv_validators(plugins: Plugins) -> None:
    guardian = Guardian()
    plugins.add("mine", guardian)
    assert await judged(plugins, KvSet(key=b"app/a", value=b"1")) is None
    refused = Refused("app/a must not be empty", "forbidden")
    assert await judged(plugins, KvSet(key=b"app/a")) == refused
    assert guardian.seen == ["app/a", "app/a"]
    assert plugins.report()[0]["Errors"] == []


@pytest.mark.parametrize(
    ("command", "seen"),
    [
        (KvSet(key=b"other", value=b"1"), []),
        (KvDeleteTree(prefix=b""), [""]),
        (KvDeleteTree(prefix=b"app"), ["app"]),
        (KvDeleteTree(prefix=b"app/x"), ["app/x"]),
        (KvDeleteTree(prefix=b"b"), []),
    ],
    ids=["elsewhere", "everything", "above", "below", "beside"],
)
async def test_only_what_the_prefix_concerns(
    plugins: Plugins, command: Command, seen: list[str]
) -> None:
    guardian = Guardian()
    plugins.add("mine", guardian)
    assert await judged(plugins, command) is None
    assert guardian.seen == seen


async def test_one_refused_write_refuses_the_transaction(plugins: Plugins) -> None:
    plugins.add("mine", Guardian())
    operations = (
        KvOperation(verb="set", key=b"app/a", value=b"1"),
        KvOperation(verb="set", key=b"app/b"),
    )
    refused = await judged(plugins, Txn(operations=operations))
    assert refused == Refused("app/b must not be empty", "forbidden")


@pytest.mark.parametrize("on_failure", ["allow", "refuse"])
async def test_a_plugin_that_fails(plugins: Plugins, on_failure: str) -> None:
    guardian = Guardian(on_failure=on_failure, broken=True)
    plugins.add("mine", guardian)
    for _ in range(FAILURES_MAX + 3):
        refused = await judged(plugins, KvSet(key=b"app/a", value=b"1"))
        if on_failure == "allow":
            assert refused is None
        else:
            assert refused is not None
            assert refused.kind == "forbidden"
            assert refused.reason.startswith("the write could not be judged: plugin mine failed")
    assert len(guardian.seen) == FAILURES_MAX  # then it was left alone
