"""Autopilot's settings in the state: set, and changed by check-and-set."""

from __future__ import annotations

import pytest

from registry.state.operator import UNSET_INDEX, AutopilotSettings, GetAutopilot, SetAutopilot
from registry.testing.state import Replica


@pytest.mark.parametrize(
    ("is_set", "cas_index", "done"),
    [
        pytest.param(False, None, True, id="unset"),
        pytest.param(False, 0, True, id="unset-as-absent"),
        pytest.param(False, UNSET_INDEX, True, id="unset-as-shown"),
        pytest.param(False, 7, False, id="unset-and-another"),
        pytest.param(True, None, True, id="set"),
        pytest.param(True, 0, False, id="set-as-absent"),
        pytest.param(True, UNSET_INDEX, False, id="set-as-shown-before"),
    ],
)
def test_check_and_set(is_set: bool, cas_index: int | None, done: bool) -> None:
    replica = Replica()
    replica.apply(SetAutopilot(settings=AutopilotSettings(), cas_index=99))  # changes nothing
    before = 0
    if is_set:
        replica.apply(SetAutopilot(settings=AutopilotSettings(min_quorum=1)))
        before = 1
    command = SetAutopilot(settings=AutopilotSettings(min_quorum=5), cas_index=cas_index)
    assert replica.apply(command) is done
    record = replica.ask(GetAutopilot())
    assert (record.settings.min_quorum if record else 0) == (5 if done else before)


def test_the_index_that_a_read_gave_holds_until_the_next_change() -> None:
    replica = Replica()
    replica.apply(SetAutopilot(settings=AutopilotSettings()))
    index = replica.index_of(GetAutopilot())
    assert replica.ask(GetAutopilot()).modify_index == index
    change = SetAutopilot(settings=AutopilotSettings(min_quorum=3), cas_index=index)
    assert replica.apply(change) is True
    assert replica.apply(change) is False
