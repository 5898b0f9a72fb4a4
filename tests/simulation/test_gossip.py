"""Pools of whole members under loss: what they all must agree on in the end."""

from __future__ import annotations

from functools import partial

import pytest

from registry.membership.agent_tags import AgentTags
from registry.membership.merge_rules import LanRules
from registry.membership.profiles import CONSUL_LAN, SERF_LOCAL, Profile
from registry.membership.seam import JoinFinished
from registry.membership.serf import SerfCore
from registry.membership.serf_values import MemberStatus, UserEvent
from registry.state.regexp import compile_pattern
from registry.testing.gossip_network import GossipNetwork

SEEDS = range(5)
NAMES = [f"n{number}" for number in range(8)]


def network(
    seed: int, *, loss: float = 0.0, key: bytes | None = None, profile: Profile = SERF_LOCAL
) -> GossipNetwork:
    """Eight members that have found each other through the first."""
    made = GossipNetwork(seed, compile_pattern, key=key, profile=profile)
    for name in NAMES:
        made.start(name)
    for name in NAMES[1:]:
        made.join(name, NAMES[0])
    made.run(5_000)
    made.loss = loss
    return made


def fire(serf: SerfCore, name: str) -> None:
    serf.user_event(name, b"", coalesce=False)


def views(made: GossipNetwork) -> list[dict[str, MemberStatus]]:
    return [member.view() for member in made.members.values() if member.is_up]


def agreed(made: GossipNetwork, **exceptions: MemberStatus) -> bool:
    wanted = dict.fromkeys(NAMES, MemberStatus.ALIVE) | exceptions
    return all(view == wanted for view in views(made))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("key", [None, b"k" * 32], ids=["plain", "encrypted"])
def test_everybody_finds_everybody(seed: int, key: bytes | None) -> None:
    assert agreed(network(seed, key=key))


@pytest.mark.parametrize("seed", SEEDS)
def test_who_leaves_has_left_and_who_crashes_has_failed(seed: int) -> None:
    made = network(seed, loss=0.05)
    made.ask("n1", lambda serf: serf.leave())
    made.crash("n2")
    made.run(60_000)
    assert not made.members["n1"].is_up  # the leave is through
    assert agreed(made, n1=MemberStatus.LEFT, n2=MemberStatus.FAILED)

    made.ask("n3", lambda serf: serf.force_leave("n2"))
    made.run(30_000)
    assert agreed(made, n1=MemberStatus.LEFT, n2=MemberStatus.LEFT)

    for name in ("n1", "n2"):
        made.start(name)
        made.join(name, "n4")
    made.run(60_000)
    assert agreed(made)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_live_member_contradicts_a_forced_leave(seed: int) -> None:
    # It has to hear of it, which the few repeats of the local profile do not promise.
    made = network(seed, profile=CONSUL_LAN)
    made.ask("n3", lambda serf: serf.force_leave("n4", prune=True))
    made.run(60_000)
    assert agreed(made)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_event_reaches_everybody_once(seed: int) -> None:
    made = network(seed, loss=0.1)
    for number in range(20):
        made.ask(NAMES[number % 8], partial(fire, name=f"event-{number}"))
        made.run(50)
    made.run(60_000)  # what gossip lost, push/pull brings
    for member in made.members.values():
        heard = [event.name for event in member.events if isinstance(event, UserEvent)]
        assert sorted(heard) == sorted(f"event-{number}" for number in range(20))


def test_nobody_flaps_on_a_lossy_network() -> None:
    made = network(1, loss=0.15)
    before = [len(member.events) for member in made.members.values()]
    made.run(120_000)
    assert [len(member.events) for member in made.members.values()] == before


def test_the_wrong_datacenter_stays_outside_whoever_joins_whom() -> None:
    made = GossipNetwork(1, compile_pattern)
    for name, datacenter in (("n0", "dc1"), ("n1", "dc1"), ("n2", "dc2")):
        made.start(name, LanRules(name=name, node_id=f"id-{name}", datacenter=datacenter))
        tags = AgentTags(node_id=f"id-{name}", datacenter=datacenter, build="1.8.4").to_tags()
        made.ask(name, partial(SerfCore.set_tags, tags=tags))
    made.join("n1", "n0")
    made.join("n2", "n0")
    made.join("n0", "n2")
    made.run(60_000)
    assert [set(view) for view in views(made)] == [{"n0", "n1"}, {"n0", "n1"}, {"n2"}]
    errors = [out.error for out in made.members["n2"].outputs if isinstance(out, JoinFinished)]
    assert errors == ["Member 'n0' part of wrong datacenter 'dc1'"]
