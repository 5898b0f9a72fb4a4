"""Pools of whole members under loss: what they all must agree on in the end."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest

from registry.membership.agent_tags import AgentTags
from registry.membership.merge_rules import LanRules
from registry.membership.profiles import CONSUL_LAN, SERF_LOCAL, Profile
from registry.membership.query_desk import Question
from registry.membership.seam import JoinFinished
from registry.membership.serf import SerfCore
from registry.membership.serf_values import MemberStatus, QueryAnswer, QueryClosed, UserEvent
from registry.state.regexp import compile_pattern
from registry.testing.gossip_network import GossipNetwork

SEEDS = range(5)
NAMES = [f"n{number}" for number in range(8)]
TEN = [f"n{number}" for number in range(10)]


def network(
    seed: int,
    *,
    loss: float = 0.0,
    key: bytes | None = None,
    profile: Profile = SERF_LOCAL,
    names: Sequence[str] = NAMES,
) -> GossipNetwork:
    """Members (eight of them) that have found each other through the first."""
    print(f"seed={seed}")
    made = GossipNetwork(seed, compile_pattern, key=key, profile=profile)
    for name in names:
        made.start(name)
    for name in names[1:]:
        made.join(name, names[0])
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
    made = network(seed)
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


@pytest.mark.parametrize(
    ("profile", "count"),
    [
        pytest.param(SERF_LOCAL, 2, id="local-2"),
        pytest.param(SERF_LOCAL, 4, id="local-4"),
        pytest.param(SERF_LOCAL, 7, id="local-7"),
        pytest.param(SERF_LOCAL, 10, id="local-10"),
        pytest.param(CONSUL_LAN, 9, id="lan-9"),
    ],
)
def test_every_query_reaches_everybody_in_a_small_pool(profile: Profile, count: int) -> None:
    """Nothing repeats a query that gossip left somebody out of, so chance must not decide.

    By the rules alone, which a pool of more members follows, four with the local profile leave one
    out of every ninth query.
    """
    names = TEN[:count]
    made = network(count, profile=profile, names=names)
    for number in range(40):
        # At any moment of the gossip and probe intervals, whose packets take messages along too.
        made.run(37 * (number % 11))
        asker = names[number % count]
        assert acknowledged(made, asker) == set(names), f"query {number} of {asker}"


def acknowledged(made: GossipNetwork, asker: str) -> set[str]:
    """Whom a query reached, and whose acknowledgement came back, within the default timeout."""
    outputs = made.members[asker].outputs
    outputs.clear()
    made.ask(asker, ask_who)
    while not any(isinstance(output, QueryClosed) for output in outputs):
        made.run(100)
    answers = [output for output in outputs if isinstance(output, QueryAnswer)]
    return {answer.node for answer in answers if answer.is_ack}


def ask_who(serf: SerfCore) -> None:
    serf.query(Question(name="who", wants_acks=True))


def test_what_everybody_was_told_is_not_told_for_ever() -> None:
    """Also when some who are to hear it are dead or have left."""
    made = network(1)
    made.crash("n1")
    made.ask("n2", lambda serf: serf.leave())
    made.run(10_000)
    for name in ("n3", "n4"):
        made.ask(name, ask_who)
    made.run(2_000)
    for member in made.members.values():
        if member.is_up:
            assert member.core.serf.statistics()["query_queue"] == 0
            assert member.core.swim.statistics()["broadcast_queue"] == 0


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
