"""Configurations and the single steps between them, as far as the list alone decides (R-42)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.raft.invariants import BrokenPromise
from registry.raft.membership import (
    AddLearner,
    ChangeAddress,
    ChangeRejected,
    ConfigChange,
    Demote,
    Promote,
    Remove,
    decode_configuration,
    encode_configuration,
    find_server,
    next_configuration,
    voter_ids,
)
from registry.raft.messages import Configuration, Entry, EntryKind, Role, Server
from registry.testing.raft_cores import configuration_of

#: a and b vote, c learns; appended at index 4.
CURRENT = configuration_of("a", "b", learners="c", index=4)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(
            AddLearner(id="d", based_on=4, address="d:8300"),
            configuration_of("a", "b", learners="cd"),
            id="add",
        ),
        pytest.param(Promote(id="c", based_on=4), configuration_of("a", "b", "c"), id="promote"),
        pytest.param(Demote(id="b", based_on=4), configuration_of("a", learners="bc"), id="demote"),
        pytest.param(Remove(id="b", based_on=4), configuration_of("a", learners="c"), id="remove"),
        pytest.param(Remove(id="c", based_on=4), configuration_of("a", "b"), id="remove learner"),
        pytest.param(
            ChangeAddress(id="c", based_on=4, address="x:1"),
            Configuration(
                (Server("a", "a:8300"), Server("b", "b:8300"), Server("c", "x:1", Role.LEARNER))
            ),
            id="move",
        ),
    ],
)
def test_one_step(change: ConfigChange, expected: Configuration) -> None:
    assert next_configuration(CURRENT, change) == expected


@pytest.mark.parametrize(
    "change",
    [
        AddLearner(id="c", based_on=0, address="c:8300"),
        AddLearner(id="a", based_on=4, address="a:8300"),
        Promote(id="a", based_on=4),
        Demote(id="c", based_on=4),
        Remove(id="x", based_on=4),
        ChangeAddress(id="a", based_on=4, address="a:8300"),
    ],
    ids=lambda change: f"{type(change).__name__} {change.id}",
)
def test_what_is_so_already_changes_nothing(change: ConfigChange) -> None:
    assert next_configuration(CURRENT, change) is CURRENT


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (Promote(id="c", based_on=3), "has changed since: it is 4, not 3"),
        (Promote(id="x", based_on=4), "x is not a member"),
        (ChangeAddress(id="x", based_on=4, address="x:1"), "x is not a member"),
        (AddLearner(id="a", based_on=4, address="x:1"), "a is a member already, at a:8300"),
        (AddLearner(id="d", based_on=4, address="a:8300"), "a:8300 is the address of a"),
        (ChangeAddress(id="b", based_on=4, address="a:8300"), "a:8300 is the address of a"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_refused(change: ConfigChange, reason: str) -> None:
    with pytest.raises(ChangeRejected, match=reason):
        next_configuration(CURRENT, change)


@pytest.mark.parametrize("kind", [Remove, Demote])
def test_the_last_voter_stays(kind: type[Remove] | type[Demote]) -> None:
    alone = configuration_of("a", learners="b", index=4)
    with pytest.raises(ChangeRejected, match="a is the last voter"):
        next_configuration(alone, kind(id="a", based_on=4))


@given(st.lists(st.tuples(st.sampled_from(["add", "up", "down", "out"]), st.sampled_from("abcde"))))
def test_at_most_one_voter_changes_at_a_time(steps: list[tuple[str, str]]) -> None:
    current = configuration_of("a", "b", "c", index=1)
    for kind, server in steps:
        change: ConfigChange = {
            "add": AddLearner(id=server, based_on=1, address=f"{server}:8300"),
            "up": Promote(id=server, based_on=1),
            "down": Demote(id=server, based_on=1),
            "out": Remove(id=server, based_on=1),
        }[kind]
        try:
            following = next_configuration(current, change)
        except ChangeRejected:
            continue
        assert len(set(voter_ids(current)) ^ set(voter_ids(following))) <= 1
        assert voter_ids(following)
        assert [s.id for s in following.servers] == sorted({s.id for s in following.servers})
        current = Configuration(following.servers, index=1)


def test_find_server() -> None:
    assert find_server(CURRENT, "c") == Server("c", "c:8300", Role.LEARNER)
    assert find_server(CURRENT, "x") is None


def test_a_configuration_takes_the_index_of_its_entry() -> None:
    data = encode_configuration(configuration_of("a", "b"))
    decoded = decode_configuration(Entry(17, 2, EntryKind.CONFIGURATION, data))
    assert decoded == configuration_of("a", "b", index=17)


def test_an_unreadable_configuration_stops_the_server() -> None:
    with pytest.raises(BrokenPromise, match="unreadable"):
        decode_configuration(Entry(17, 2, EntryKind.CONFIGURATION, b"\xc1"))
