"""From two voters to one: the leader must not be the one that goes (found by the simulation).

Its change would be in force on itself at once. Were it to fail before the other has the entry,
nobody could lead: it is no voter any more, and the other can not win against its longer log.
"""

from __future__ import annotations

import pytest

from registry.raft.membership import ChangeRejected, ConfigChange, Demote, Remove
from registry.raft.ready import RaftRole
from registry.testing.raft_cores import Cores


@pytest.mark.parametrize("kind", [Remove, Demote])
def test_the_leader_of_two_does_not_leave_before_it_hands_over(
    kind: type[Remove] | type[Demote],
) -> None:
    cores = Cores("a", "b")
    leader = cores.elect("a")
    cores.run(3)
    change: ConfigChange = kind(id="a", based_on=leader.configuration.index)
    with pytest.raises(ChangeRejected, match="transfer leadership to it first"):
        leader.propose_configuration(change)
    assert leader.configuration.index == change.based_on


@pytest.mark.parametrize("kind", [Remove, Demote])
def test_the_leader_of_two_may_put_the_other_out(kind: type[Remove] | type[Demote]) -> None:
    cores = Cores("a", "b")
    leader = cores.elect("a")
    cores.run(3)
    leader.propose_configuration(kind(id="b", based_on=leader.configuration.index))
    cores.run(3)
    assert leader.role is RaftRole.LEADER
    assert leader.committed_configuration_index == leader.configuration.index > 1
