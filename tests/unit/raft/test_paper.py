"""Ongaro's thesis ("Consensus: Bridging Theory and Practice"), rule by rule: chapters 3, 4, 6, 9.

Each test paraphrases one rule and cites its section.
"""

from __future__ import annotations

import random
from typing import Any
from weakref import WeakKeyDictionary

import pytest

from registry.errors import NotLeader, Unavailable
from registry.raft.core import RaftConfig, RaftCore
from registry.raft.membership import AddLearner, Promote, Remove
from registry.raft.memory_log import MemoryLog
from registry.raft.messages import (
    AppendReply,
    AppendRequest,
    EntryKind,
    HardState,
    HeartbeatRequest,
    VoteReply,
    VoteRequest,
)
from registry.raft.ready import RaftRole
from registry.testing.raft_cores import Cores, configuration_of, log_of

FOLLOWER, PRE, CANDIDATE, LEADER = (
    RaftRole.FOLLOWER,
    RaftRole.PRE_CANDIDATE,
    RaftRole.CANDIDATE,
    RaftRole.LEADER,
)
T = 20

#: Where `flush` writes what each core wants written.
DISKS: WeakKeyDictionary[RaftCore, MemoryLog] = WeakKeyDictionary()


def server(*terms: int, term: int = 1, seed: int = 1, **settings: Any) -> RaftCore:
    """Server "a" of {a, b, c} with a durable log of these terms."""
    log = MemoryLog(log_of(*terms))
    voters = configuration_of("a", "b", "c")
    config = RaftConfig(id="a", **settings)
    core = RaftCore(config, log, HardState(term), voters, 0, random.Random(seed))
    DISKS[core] = log
    return core


def candidate(*terms: int, term: int = 1) -> RaftCore:
    core = server(*terms, term=term, pre_vote=False)
    core.campaign()
    flush(core)
    assert core.role is CANDIDATE
    return core


def flush(core: RaftCore) -> list[Any]:
    """Everything the core sends, with all its writes done."""
    sent: list[Any] = []
    while core.has_ready():
        ready = core.ready()
        sent += ready.now
        DISKS[core].write(ready)
        core.persisted(ready.token)
        sent += ready.after
    return sent


def append(prev: int, prev_term: int, *terms: int, term: int, commit: int = 0) -> AppendRequest:
    entries = tuple(log_of(*terms, first=prev + 1))
    return AppendRequest(
        sender="b",
        receiver="a",
        term=term,
        prev_index=prev,
        prev_term=prev_term,
        entries=entries,
        commit_index=commit,
    )


def vote(term: int, last_index: int = 9, last_term: int = 9, sender: str = "b") -> VoteRequest:
    return VoteRequest(
        sender=sender, receiver="a", term=term, last_index=last_index, last_term=last_term
    )


# -- 3.3: terms -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        append(0, 0, term=5),
        HeartbeatRequest(sender="b", receiver="a", term=5),
        AppendReply(sender="b", receiver="a", term=5, success=False),
        vote(5),
        VoteReply(sender="b", receiver="a", term=5, granted=False),
    ],
    ids=lambda message: type(message).__name__,
)
@pytest.mark.parametrize("role", [FOLLOWER, CANDIDATE])
def test_33_a_server_takes_over_a_larger_term(message: Any, role: RaftRole) -> None:
    """If one server's term is smaller than the other's, it is updated to the larger value; a
    candidate or leader that discovers that its term is out of date becomes follower."""
    core = server() if role is FOLLOWER else candidate()
    core.receive(message)
    assert (core.role, core.term) == (FOLLOWER, 5)


def test_33_a_leader_that_learns_of_a_larger_term_steps_down() -> None:
    cores = Cores("a", "b", "c")
    leader = cores.elect("a")
    leader.receive(AppendReply(sender="b", receiver="a", term=9, success=False))
    assert (leader.role, leader.term) == (FOLLOWER, 9)


def test_33_a_request_of_a_stale_term_is_rejected() -> None:
    core = server(1, 1, term=5)
    core.receive(append(2, 1, 4, term=4))
    (reply,) = flush(core)
    assert reply.term == 5
    assert core.last_index == 2
    assert core.leader_id is None


# -- 3.4: leader election -------------------------------------------------------------------------


def test_34_servers_start_as_followers_and_stay_so_while_a_leader_is_heard() -> None:
    core = server()
    for _ in range(100):
        core.tick(T - 1)
        core.receive(HeartbeatRequest(sender="b", receiver="a", term=1))
        assert core.role is FOLLOWER


def test_34_a_follower_that_hears_nothing_begins_an_election() -> None:
    """It increments its term, votes for itself, and asks all others."""
    core = server(1, pre_vote=False)
    core.tick(2 * T)
    assert (core.role, core.term) == (CANDIDATE, 2)
    assert core.hard_state == HardState(2, "a")
    sent = flush(core)
    assert [(m.receiver, m.term, m.last_index, m.last_term) for m in sent] == [
        ("b", 2, 1, 1),
        ("c", 2, 1, 1),
    ]


@pytest.mark.parametrize(
    ("answers", "role"),
    [
        pytest.param({}, CANDIDATE, id="none yet"),
        pytest.param({"b": True}, LEADER, id="one besides its own: a majority"),
        pytest.param({"b": False}, CANDIDATE, id="one refusal"),
        pytest.param({"b": False, "c": True}, LEADER, id="one each"),
        pytest.param({"b": False, "c": False}, FOLLOWER, id="both refuse"),
    ],
)
def test_34_a_candidate_wins_with_a_majority_of_the_same_term(
    answers: dict[str, bool], role: RaftRole
) -> None:
    core = candidate()
    for sender, granted in answers.items():
        core.receive(VoteReply(sender=sender, receiver="a", term=core.term, granted=granted))
    assert core.role is role


def test_34_votes_of_another_term_do_not_count() -> None:
    core = candidate()
    core.receive(VoteReply(sender="b", receiver="a", term=core.term - 1, granted=True))
    assert core.role is CANDIDATE


def test_34_each_server_votes_for_one_candidate_per_term_first_come_first_served() -> None:
    core = server()
    granted = []
    for sender in ("b", "c", "b"):
        core.receive(vote(2, sender=sender))
        granted += [m.granted for m in flush(core)]
    assert granted == [True, False, True]
    core.receive(vote(3, sender="c"))
    assert [m.granted for m in flush(core)] == [True]


@pytest.mark.parametrize("ahead", [0, 3], ids=["same term", "later term"])
def test_34_a_candidate_recognizes_a_leader_of_its_term_or_later(ahead: int) -> None:
    core = candidate()
    term = core.term + ahead
    core.receive(append(0, 0, term=term))
    assert (core.role, core.term, core.leader_id) == (FOLLOWER, term, "b")


def test_34_a_candidate_continues_when_an_old_leader_claims_to_lead() -> None:
    core = candidate()
    core.receive(append(0, 0, term=core.term - 1))
    assert core.role is CANDIDATE


def test_34_a_split_vote_ends_in_a_new_election_in_a_new_term() -> None:
    core = candidate()
    term = core.term
    core.tick(2 * T)
    assert (core.role, core.term) == (CANDIDATE, term + 1)


def test_34_election_timeouts_are_random_and_drawn_anew() -> None:
    """Uniform in [T, 2T), for each election (R-13)."""
    seen = set()
    for seed in range(200):
        core = server(seed=seed, pre_vote=False)
        ticks = 0
        while core.role is FOLLOWER:
            core.tick()
            ticks += 1
        seen.add(ticks)
    assert seen == set(range(T, 2 * T))


def test_34_a_leader_sends_heartbeats_to_prevent_elections() -> None:
    cores = Cores("a", "b", "c")
    cores.elect("a")
    cores.run(50 * T)
    assert cores.leaders == ["a"]
    assert {cores[s].term for s in "abc"} == {2}


# -- 3.5: log replication -------------------------------------------------------------------------


def test_35_an_entry_is_appended_with_the_leaders_term_and_sent_in_parallel() -> None:
    cores = Cores("a", "b", "c")
    leader = cores.elect("a")
    leader.propose(b"x")
    ready = leader.ready()
    appends = [m for m in ready.now if isinstance(m, AppendRequest)]
    assert [m.receiver for m in appends] == ["b", "c"]  # before the leader's own write is done
    assert [(e.index, e.term, e.data) for e in appends[0].entries] == [(3, 2, b"x")]


def test_35_an_entry_is_committed_once_a_majority_holds_it_and_with_it_all_before() -> None:
    cores = Cores("a", "b", "c", "d", "e")
    leader = cores.elect("a")
    cores.run(2)
    cores.isolate("c", "d", "e")
    leader.propose([b"x", b"y"])
    cores.settle()
    assert leader.commit_index == 2
    cores.heal()
    cores.isolate("d", "e")
    cores.run(2)
    assert leader.commit_index == 4
    assert [e.data for e in cores.servers["a"].committed[-2:]] == [b"x", b"y"]


def test_35_followers_learn_the_commit_index_and_apply_in_order() -> None:
    cores = Cores("a", "b", "c")
    leader = cores.elect("a")
    leader.propose([b"x", b"y"])
    cores.run(2)
    for name in "abc":
        assert [e.index for e in cores.servers[name].committed] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("request_", "success"),
    [
        pytest.param(append(0, 0, term=3), True, id="before the beginning"),
        pytest.param(append(2, 2, term=3), True, id="present with that term"),
        pytest.param(append(2, 1, term=3), False, id="present with another term"),
        pytest.param(append(3, 2, term=3), False, id="not there"),
    ],
)
def test_35_the_consistency_check(request_: AppendRequest, success: bool) -> None:
    """A follower refuses new entries if it does not hold the one before them."""
    core = server(1, 2, term=2)
    core.receive(request_)
    (reply,) = flush(core)
    assert reply.success is success


#: Figure 3.6: what may be in a follower's log when the leader of term 8 comes to power.
FIGURE_36 = {
    "a": [1, 1, 1, 4, 4, 5, 5, 6, 6],
    "b": [1, 1, 1, 4],
    "c": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "d": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "e": [1, 1, 1, 4, 4, 4, 4],
    "f": [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}


@pytest.mark.parametrize("case", list(FIGURE_36))
def test_35_a_leader_makes_any_follower_log_like_its_own(case: str) -> None:
    leader_log = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
    logs = {
        "l": log_of(*leader_log, first=2),
        "f": log_of(*FIGURE_36[case], first=2),
        "x": log_of(*leader_log, first=2),
    }
    cores = Cores("l", "f", "x", logs=logs, terms=dict.fromkeys("lfx", 7))
    cores.elect("l")
    cores.run(3)
    assert cores.terms("f") == cores.terms("l") == [1, *leader_log, 8]


def test_35_a_leader_never_overwrites_its_own_entries() -> None:
    cores = Cores("a", "b", "c", logs={"a": log_of(2, 2, first=2)}, terms={"a": 2, "b": 3})
    leader = cores.elect("a")
    assert cores.terms("a")[:3] == [1, 2, 2]
    before = cores.terms("a")
    leader.propose(b"x")
    cores.run(2)
    assert cores.terms("a")[: len(before)] == before


# -- 3.6: safety ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last_index", "last_term", "granted"),
    [
        pytest.param(2, 2, True, id="equal"),
        pytest.param(3, 2, True, id="longer"),
        pytest.param(1, 3, True, id="later term, shorter"),
        pytest.param(1, 2, False, id="shorter"),
        pytest.param(9, 1, False, id="earlier term, longer"),
    ],
)
def test_361_a_vote_needs_a_log_at_least_as_up_to_date(
    last_index: int, last_term: int, granted: bool
) -> None:
    core = server(1, 2, term=2)
    core.receive(vote(3, last_index, last_term))
    (reply,) = flush(core)
    assert reply.granted is granted
    assert core.term == 3


def test_362_only_entries_of_the_current_term_are_committed_by_counting() -> None:
    """Entries of earlier terms are committed indirectly, by the no-op of the new leader."""
    old = log_of(2, 2, first=2)
    cores = Cores("a", "b", "c", logs={"a": old, "b": old}, terms={"a": 2, "b": 2, "c": 2})
    leader = cores["a"]
    leader.campaign()
    while leader.role is not LEADER:
        cores.handle()
        cores.deliver()
    assert leader.commit_index == 0
    ready = leader.ready()
    assert ready.entries[0].kind is EntryKind.NOOP
    cores.network += ready.now
    cores.servers["a"].written.write(ready)
    leader.persisted(ready.token)
    assert leader.commit_index == 0  # held by all of a majority but for the no-op
    cores.settle()
    assert leader.commit_index == 4


# -- 3.7: follower and candidate crashes ----------------------------------------------------------


def test_37_requests_are_idempotent() -> None:
    """A follower that gets an append again, because its answer was lost, changes nothing."""
    core = server(1, term=1)
    request = append(1, 1, 2, 2, term=2, commit=2)
    for _ in range(3):
        core.receive(request)
        (reply,) = flush(core)
        assert (reply.success, reply.match_index) == (True, 3)
    assert (core.last_index, core.commit_index) == (3, 2)


# -- 3.8: persisted state -------------------------------------------------------------------------


def test_38_term_and_vote_are_written_before_the_answer() -> None:
    core = server()
    core.receive(vote(2))
    ready = core.ready()
    assert ready.hard_state == HardState(2, "b")
    assert ready.now == ()
    (reply,) = ready.after
    assert isinstance(reply, VoteReply)
    assert reply.granted


def test_38_entries_are_written_before_the_answer() -> None:
    core = server(1)
    core.receive(append(1, 1, 1, term=1))
    ready = core.ready()
    assert [e.index for e in ready.entries] == [2]
    assert ready.now == ()
    assert [type(m) for m in ready.after] == [AppendReply]


# -- 3.10: leadership transfer --------------------------------------------------------------------


def test_310_a_transfer_brings_the_target_up_to_date_and_lets_it_campaign_at_once() -> None:
    cores = Cores("a", "b", "c")
    leader = cores.elect("a")
    cores.run(2)
    leader.propose(b"x")
    leader.transfer("b")
    with pytest.raises(Unavailable):
        leader.propose(b"y")
    cores.settle()
    assert cores.leaders == ["b"]
    assert cores["b"].term == 3
    assert b"x" in [e.data for e in cores.servers["b"].committed]


def test_310_a_transfer_that_does_not_succeed_within_a_timeout_is_given_up() -> None:
    cores = Cores("a", "b", "c")
    leader = cores.elect("a")
    cores.run(2)
    cores.isolate("b")
    leader.transfer("b")
    cores.run(T)
    leader.propose(b"x")
    cores.settle()
    assert leader.commit_index == leader.last_index


# -- 4: membership --------------------------------------------------------------------------------


def test_41_a_configuration_is_used_as_soon_as_it_is_in_the_log() -> None:
    cores = Cores("a", "b", "c", learners=["d"])
    leader = cores.elect("a")
    cores.run(2)
    leader.propose_configuration(Promote(id="d", based_on=1))
    assert len(leader.configuration.servers) == 4
    assert leader.commit_index < leader.configuration.index
    cores.handle()
    cores.deliver()
    assert cores["b"].configuration == leader.configuration


def test_41_one_change_at_a_time() -> None:
    cores = Cores("a", "b", "c", learners=["d"])
    leader = cores.elect("a")
    cores.run(2)
    _, index = leader.propose_configuration(Promote(id="d", based_on=1))
    with pytest.raises(Unavailable):
        leader.propose_configuration(Remove(id="c", based_on=index))
    cores.settle()
    leader.propose_configuration(Remove(id="c", based_on=index))


def test_421_a_new_server_catches_up_without_a_vote() -> None:
    cores = Cores("a", outsiders=["b"])
    leader = cores.elect("a")
    leader.propose([b"x"] * 500)
    cores.settle()
    leader.propose_configuration(AddLearner(id="b", based_on=1, address="b:8300"))
    leader.propose(b"y")
    cores.handle()
    assert leader.commit_index == leader.last_index  # b is not waited for
    cores.settle()
    leader.propose_configuration(Promote(id="b", based_on=leader.configuration.index))
    cores.settle()
    assert cores["b"].commit_index >= leader.configuration.index - 1


def test_422_a_leader_that_removes_itself_leads_until_the_commit() -> None:
    cores = Cores("a", "b", "c")
    leader = cores.elect("a")
    cores.run(2)
    leader.propose_configuration(Remove(id="a", based_on=1))
    assert leader.role is LEADER
    cores.run(2)
    assert leader.role is FOLLOWER
    assert cores.leaders
    with pytest.raises(NotLeader):
        leader.propose(b"x")


def test_423_a_server_that_hears_a_leader_does_not_help_to_depose_it() -> None:
    core = server(pre_vote=False)
    core.receive(HeartbeatRequest(sender="b", receiver="a", term=1))
    flush(core)
    core.tick(T - 1)
    core.receive(vote(9, sender="c"))
    assert (core.term, flush(core)) == (1, [])
    core.tick(1)
    core.receive(vote(9, sender="c"))
    assert core.term == 9


# -- 6: clients -----------------------------------------------------------------------------------


def test_64_a_read_waits_for_a_quorum_that_confirms_the_leader() -> None:
    cores = Cores("a", "b", "c", "d", "e")
    leader = cores.elect("a")
    cores.run(2)
    cores.isolate("c", "d", "e")
    leader.read(7, consistent=True)
    cores.settle()
    assert cores.servers["a"].reads == []
    cores.heal()
    cores.isolate("d", "e")
    cores.run(3)
    assert [(r.context, r.index) for r in cores.servers["a"].reads] == [(7, 2)]


def test_641_under_a_lease_no_message_is_needed() -> None:
    cores = Cores("a", "b", "c")
    leader = cores.elect("a")
    cores.run(3)
    leader.read(7, consistent=False)
    ready = leader.ready()
    assert [(r.context, r.index) for r in ready.reads] == [(7, 2)]
    assert ready.now == ()


# -- 9.6: pre-vote --------------------------------------------------------------------------------


def test_96_a_server_asks_before_it_raises_its_term() -> None:
    core = server(1)
    core.tick(2 * T)
    assert (core.role, core.term) == (PRE, 1)
    ready = core.ready()
    assert not ready.must_sync
    assert [(m.receiver, m.term) for m in ready.now] == [("b", 2), ("c", 2)]
    core.receive(VoteReply(sender="b", receiver="a", term=2, granted=True, pre=True))
    assert (core.role, core.term) == (CANDIDATE, 2)


def test_96_an_isolated_server_does_not_raise_its_term() -> None:
    core = server()
    core.tick(100 * T)
    assert core.term == 1
    core.receive(HeartbeatRequest(sender="b", receiver="a", term=1))
    assert core.role is FOLLOWER
