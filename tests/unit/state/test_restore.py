"""Replacing the whole state by commands, and operators' settings."""

import pytest

from registry.state.base import Refused
from registry.state.kv import KvGet, KvSet
from registry.state.machine import dump_payloads
from registry.state.operator import AutopilotSettings, GetAutopilot, SetAutopilot
from registry.state.restore import FinishRestore, StageRestore, digest
from registry.testing.state import Replica


@pytest.fixture
def replica() -> Replica:
    return Replica()


def saved(replica: Replica) -> list[bytes]:
    snapshot = replica.machine.snapshot()
    try:
        return list(dump_payloads(replica.machine.dump(snapshot)))
    finally:
        snapshot.close()


def restore(replica: Replica, pieces: list[bytes]) -> object:
    for number, piece in enumerate(pieces):
        replica.apply(StageRestore(number=number, pairs=piece))
    return replica.apply(FinishRestore(count=len(pieces), sha256=digest(pieces)))


def test_a_restore_replaces_everything_at_once(replica: Replica) -> None:
    replica.apply(KvSet(key=b"a", value=b"1"))
    pieces = saved(replica)
    checksum_of_a = replica.ask(KvGet(key=b"a"))
    replica.apply(KvSet(key=b"a", value=b"2"))
    replica.apply(KvSet(key=b"b", value=b"2"))
    generation = replica.machine.generation
    assert restore(replica, pieces) is None
    assert replica.ask(KvGet(key=b"a")) == checksum_of_a
    assert replica.ask(KvGet(key=b"b")) is None
    assert replica.machine.generation == generation + 1


def test_nothing_staged_is_left_behind(replica: Replica) -> None:
    replica.apply(KvSet(key=b"a", value=b"1"))
    pieces = saved(replica)
    restore(replica, pieces)
    again = saved(replica)
    restore(replica, again)
    assert len(b"".join(saved(replica))) == len(b"".join(again))


def test_pieces_of_another_restore_are_refused(replica: Replica) -> None:
    replica.apply(KvSet(key=b"a", value=b"1"))
    pieces = saved(replica)
    replica.apply(StageRestore(number=0, pairs=pieces[0]))
    replica.apply(StageRestore(number=1, pairs=b"\x90"))
    result = replica.apply(FinishRestore(count=1, sha256=digest(pieces)))
    assert isinstance(result, Refused)
    assert replica.ask(KvGet(key=b"a")) is not None


def test_settings_are_unset_then_kept_with_their_indexes(replica: Replica) -> None:
    assert replica.ask(GetAutopilot()) is None
    assert replica.apply(SetAutopilot(settings=AutopilotSettings(min_quorum=3))) is True
    first = replica.ask(GetAutopilot())
    assert replica.apply(SetAutopilot(settings=AutopilotSettings(), cas_index=99)) is False
    index = first.modify_index
    assert replica.apply(SetAutopilot(settings=AutopilotSettings(), cas_index=index)) is True
    second = replica.ask(GetAutopilot())
    assert (second.create_index, second.settings.min_quorum) == (first.create_index, 0)
    assert second.modify_index > first.modify_index
