"""What went wrong somewhere, once: section 16 of the requirements as scripts, by its numbers.

Those that need a disk, a driver or chance are elsewhere (`test_disk`, `test_driver`, the
simulation). Where a script proves a guard, it also runs with the guard switched off and must then
show the damage: else it would prove nothing.
"""

from __future__ import annotations

import itertools
import random
from typing import Any
from weakref import WeakKeyDictionary

import pytest

from registry.errors import NotLeader, Unavailable
from registry.raft.core import RaftConfig, RaftCore
from registry.raft.invariants import BrokenPromise
from registry.raft.membership import (
    AddLearner,
    ChangeRejected,
    ConfigChange,
    Demote,
    Promote,
    Remove,
)
from registry.raft.memory_log import MemoryLog
from registry.raft.messages import (
    AppendReply,
    AppendRequest,
    Entry,
    EntryKind,
    HardState,
    HeartbeatReply,
    HeartbeatRequest,
    SnapshotMeta,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from registry.raft.progress import ProgressState
from registry.raft.ready import RaftRole, Ready
from registry.testing.raft_cores import Cores, configuration_of, log_of

LEADER, FOLLOWER = RaftRole.LEADER, RaftRole.FOLLOWER
T = 20

#: Where `flush` writes what a core wants written; others need nothing read back.
DISKS: WeakKeyDictionary[RaftCore, MemoryLog] = WeakKeyDictionary()


def without(*guards: str) -> dict[str, Any]:
    return {"disabled_guards": frozenset(guards)}


def follower(
    *terms: int, term: int | None = None, disabled: frozenset[str] = frozenset()
) -> RaftCore:
    """Server "f" of {f, l, x} with a log of these terms, durable, and nothing committed."""
    voters = configuration_of("f", "l", "x")
    state = HardState(max(terms, default=0) if term is None else term)
    config = RaftConfig(id="f", disabled_guards=disabled)
    log = MemoryLog(log_of(*terms))
    core = RaftCore(config, log, state, voters, 0, random.Random(1))
    DISKS[core] = log
    return core


def flush(core: RaftCore) -> list[Ready]:
    """Take everything a core wants and tell it that it is durable."""
    taken = []
    while core.has_ready():
        ready = core.ready()
        taken.append(ready)
        if core in DISKS:
            DISKS[core].write(ready)
        core.persisted(ready.token)
    return taken


def append(
    prev: tuple[int, int], *terms: int, term: int, commit: int = 0, round_: int = 0
) -> AppendRequest:
    return AppendRequest(
        sender="l",
        receiver="f",
        term=term,
        prev_index=prev[0],
        prev_term=prev[1],
        entries=tuple(log_of(*terms, first=prev[0] + 1)),
        commit_index=commit,
        round=round_,
    )


def answer_of(core: RaftCore) -> AppendReply:
    """The one answer that the core has to give now."""
    replies = [m for r in flush(core) for m in (*r.now, *r.after) if isinstance(m, AppendReply)]
    assert len(replies) == 1
    return replies[0]


# -- 1: two quorums that do not meet --------------------------------------------------------------


def change_named(kind: str, core: RaftCore) -> ConfigChange:
    based_on = core.configuration.index
    if kind == "remove":
        return Remove(id="s4", based_on=based_on)
    return Promote(id="s5" if kind == "add-5" else "s6", based_on=based_on)


@pytest.mark.parametrize(
    ("first", "second"),
    [("remove", "add-5"), ("add-5", "add-6"), ("add-5", "remove")],
    ids=["remove/add", "add/add", "add/remove"],
)
def test_01_no_membership_change_before_an_entry_of_the_own_term(first: str, second: str) -> None:
    """R-41: the second leader must not start its change before its no-op is committed, because the
    first one's change, which it never saw, may still take effect."""
    voters = ("s1", "s2", "s3", "s4")
    cores = Cores(*voters, learners=("s5", "s6"), max_trailing_for_promotion=10)
    one = cores.elect("s1")
    cores.run(2)
    cores.isolate("s1")
    one.propose_configuration(change_named(first, one))
    cores.handle()
    cores.drop()
    # The second one wins, but its no-op is not committed yet.
    two = cores["s2"]
    cores.forget_leader("s2", "s3", "s4", "s5", "s6")
    while two.role is not LEADER:
        two.campaign()
        cores.handle()
        for _ in range(5):
            cores.deliver(lambda m: isinstance(m, VoteRequest | VoteReply))
            cores.handle()
    assert two.commit_index < two.last_index
    with pytest.raises(Unavailable, match="not committed anything yet"):
        two.propose_configuration(change_named(second, two))
    # With the no-op committed, nobody of that majority elects the first one again.
    cores.settle()
    two.propose_configuration(change_named(second, two))
    cores.settle()
    cores.heal()
    cores.run(5 * T)
    assert "s1" not in cores.leaders
    assert cores["s1"].configuration == two.configuration


def test_01_without_the_guard_two_quorums_commit_different_entries() -> None:
    """The trace of R-41, step by step, with nothing but the guard missing."""
    cores = Cores("s1", "s2", "s3", "s4", learners=["s5"], **without("R-41"))
    one = cores.elect("s1")
    cores.run(2)
    cores.isolate("s1")
    one.propose_configuration(Remove(id="s4", based_on=1))  # on its own disk only
    cores.handle()
    cores.drop()
    cores.forget_leader("s2", "s3", "s4", "s5")
    two = cores["s2"]
    two.campaign()
    for _ in range(6):
        cores.handle()
        cores.deliver(lambda m: isinstance(m, VoteRequest | VoteReply))
    assert two.role is LEADER
    two.propose_configuration(Promote(id="s5", based_on=1))
    cores.cut("s2", "s3")
    cores.settle()
    assert two.commit_index == two.last_index  # on 2, 4, 5
    cores.isolate("s2")
    cores.heal()
    cores.isolate("s2", "s4", "s5")
    cores.forget_leader("s1", "s3")
    one = cores.elect("s1")
    cores.settle()
    index = two.configuration.index
    assert one.commit_index >= index
    assert cores.servers["s1"].written.term(index) != cores.servers["s2"].written.term(index)


# -- 2: figure 8 ----------------------------------------------------------------------------------


def figure_8(**settings: Any) -> Cores:
    """Figure 3.7 of the thesis at (c): s1 leads again, with an entry of term 2 on three of five
    servers, and its no-op of term 4 nowhere else yet."""
    logs = {"s1": log_of(2, first=2), "s2": log_of(2, first=2), "s5": log_of(3, first=2)}
    terms = {"s1": 3, "s2": 3, "s3": 3, "s4": 3, "s5": 3}
    cores = Cores("s1", "s2", "s3", "s4", "s5", logs=logs, terms=terms, **settings)
    cores.isolate("s5")
    cores["s1"].campaign()
    for _ in range(6):
        cores.handle()
        cores.deliver(lambda m: isinstance(m, VoteRequest | VoteReply))
    assert cores["s1"].role is LEADER
    # Everybody gets the old entry, nobody the no-op.
    for _ in range(8):
        cores.handle()
        for message in cores.drop():
            if isinstance(message, AppendRequest):
                old = tuple(e for e in message.entries if e.term < 4)
                message = AppendRequest(
                    **{f: getattr(message, f) for f in message.__struct_fields__ if f != "entries"},
                    entries=old,
                )
            cores.hand_over(message)
    return cores


def test_02_old_entries_are_not_committed_by_counting_copies() -> None:
    cores = figure_8()
    assert cores["s1"].commit_index == 0
    assert [cores.terms(s) for s in ("s2", "s3", "s4")] == [[1, 2]] * 3
    cores.crash("s1")
    cores.heal()
    cores.forget_leader()
    cores.elect("s5")
    cores.run(3)
    assert cores.terms("s3")[:2] == [1, 3]  # legal: nothing was committed
    assert cores["s5"].commit_index == cores["s5"].last_index


def test_02_without_the_guard_a_committed_entry_is_overwritten() -> None:
    cores = figure_8(**without("R-31"))
    assert cores["s1"].commit_index == 2
    cores.crash("s1")
    cores.heal()
    cores.forget_leader()
    with pytest.raises(BrokenPromise, match="differs from what is committed"):
        cores.elect("s5")


# -- 3, 4, 15, 40: votes and terms ----------------------------------------------------------------


@pytest.mark.parametrize("loses_write", [True, False], ids=["unsynced", "synced"])
def test_03_a_vote_leaves_only_once_it_is_durable(loses_write: bool) -> None:
    cores = Cores("a", "b", "c", pre_vote=False)
    if loses_write:
        cores.hold_disk("c")
    cores.cut("a", "b")
    cores["a"].campaign()
    cores.handle()
    cores.deliver()
    cores.handle()
    sent = cores.drop(lambda m: isinstance(m, VoteReply))
    assert bool(sent) is not loses_write
    cores.crash("c")
    cores.restart("c")
    cores.release_disk("c")
    cores.tick("c", n=T)
    cores.cut("b", "a")
    cores["b"].campaign()  # the same term
    cores.settle()
    assert cores["b"].term == cores["a"].term
    assert (cores["b"].role is LEADER) is loses_write


def test_03_without_the_guard_two_leaders_win_one_term() -> None:
    cores = Cores("a", "b", "c", pre_vote=False, **without("S-3", "R-37"))
    cores.hold_disk("c")
    cores.cut("a", "b")
    cores.cut("b", "a")
    cores["a"].campaign()
    cores.settle()
    cores.crash("c")
    cores.restart("c")
    cores.release_disk("c")
    cores["b"].campaign()
    cores.settle()
    assert cores["a"].term == cores["b"].term
    assert cores.leaders == ["a", "b"]


@pytest.mark.parametrize("guarded", [True, False])
def test_04_a_vote_is_kept_on_becoming_follower_in_the_same_term(guarded: bool) -> None:
    core = follower(term=1, disabled=frozenset() if guarded else frozenset({"S-2"}))
    core.tick(2 * T)
    core.receive(VoteReply(sender="x", receiver="f", term=2, granted=True, pre=True))
    flush(core)
    assert (core.role, core.term, core.hard_state.voted_for) == (RaftRole.CANDIDATE, 2, "f")
    core.receive(append((0, 0), term=2))
    assert core.role is FOLLOWER
    assert core.hard_state.voted_for == ("f" if guarded else "")
    flush(core)
    core.tick(T)  # so that only the vote stands against it
    core.receive(VoteRequest(sender="x", receiver="f", term=2, last_index=9, last_term=9))
    replies = [m for r in flush(core) for m in (*r.now, *r.after) if isinstance(m, VoteReply)]
    assert [reply.granted for reply in replies if not reply.pre] == [not guarded]


def test_15_a_restarted_server_waits_before_it_votes() -> None:
    """It may have heard from a leader just before, and that leader's lease relies on it (R-37)."""
    cores = Cores("a", "b", "c", pre_vote=False)
    leader = cores.elect("a")
    cores.run(2)
    assert leader.lease_read_index() is not None
    cores.isolate("a")
    for server in "bc":
        cores.crash(server)
        cores.restart(server)
    cores["b"].campaign()
    cores.settle()
    assert cores.leaders == ["a"]
    # With the wait over, and with it the lease, it votes.
    cores.tick("a", "c", n=T)
    assert leader.lease_read_index() is None
    cores.tick("b", n=2 * T)
    cores.settle()
    assert cores["b"].role is LEADER


def test_15_without_the_guard_a_lease_is_broken() -> None:
    cores = Cores("a", "b", "c", pre_vote=False, **without("R-37"))
    leader = cores.elect("a")
    cores.run(2)
    cores.isolate("a")
    for server in "bc":
        cores.crash(server)
        cores.restart(server)
    cores["b"].campaign()
    cores.settle()
    assert cores["b"].role is LEADER
    assert leader.lease_read_index() is not None  # two leaders would answer


def test_40_an_answer_with_a_raised_term_waits_for_the_term() -> None:
    core = follower(1, 1)
    core.receive(append((2, 1), 3, term=7))
    ready = core.ready()
    assert ready.hard_state == HardState(7)
    assert ready.now == ()
    assert [m.term for m in ready.after] == [7]


# -- 5, 6, 7: appends -----------------------------------------------------------------------------


@pytest.mark.parametrize("guarded", [True, False])
def test_05_commit_ends_at_the_last_verified_entry(guarded: bool) -> None:
    core = follower(1, 1, 2, 2, 2, disabled=frozenset() if guarded else frozenset({"R-25"}))
    core.receive(append((1, 1), 1, term=3, commit=5))
    assert core.commit_index == (2 if guarded else 5)


@pytest.mark.parametrize("guarded", [True, False])
def test_06_a_late_append_does_not_shorten_the_log(guarded: bool) -> None:
    core = follower(1, 1, 1, 1, disabled=frozenset() if guarded else frozenset({"R-23"}))
    core.receive(append((4, 1), 2, 2, 2, term=2))
    assert answer_of(core).match_index == 7
    core.receive(append((4, 1), 2, term=2))
    assert core.last_index == (7 if guarded else 5)
    assert answer_of(core).match_index == 5


def test_07_an_answer_names_the_last_entry_of_its_message() -> None:
    core = follower(1, 1, 2, 2, 2)
    core.receive(append((1, 1), 1, term=3))
    reply = answer_of(core)
    assert (reply.match_index, reply.last_index) == (2, 5)


def test_07_late_and_repeated_answers_lower_nothing() -> None:
    cores = Cores("a", "b", "c")
    leader = cores.elect("a")
    leader.propose([b"x", b"y"])
    cores.settle()
    before = leader.progress["b"]
    for match in (1, 2, before.match):
        leader.receive(
            AppendReply(sender="b", receiver="a", term=2, success=True, match_index=match)
        )
    for prev in (0, 1, before.match):
        leader.receive(
            AppendReply(sender="b", receiver="a", term=2, success=False, rejected_prev=prev)
        )
    after = leader.progress["b"]
    assert (after.state, after.match, after.next) == (before.state, before.match, before.next)


def test_07_without_the_guard_a_leader_counts_what_was_never_verified() -> None:
    core = follower(1, 1, 2, 2, 2, disabled=frozenset({"R-24"}))
    core.receive(append((1, 1), 1, term=3))
    assert answer_of(core).match_index == 5


# -- 8, 9: the configuration in force -------------------------------------------------------------


def test_08_a_truncated_configuration_is_undone() -> None:
    cores = Cores("a", "b", "c", learners=["d"])
    leader = cores.elect("a")
    cores.run(2)
    cores.isolate("a")
    leader.propose_configuration(Promote(id="d", based_on=1))
    leader.propose(b"x")
    cores.settle()
    assert leader.configuration.index == 3
    cores.run(3 * T)
    cores.heal()
    cores.run(3)
    assert cores["a"].role is FOLLOWER
    assert cores["a"].configuration == configuration_of("a", "b", "c", learners="d", index=1)


def test_08_the_one_before_may_be_far_back_or_in_a_snapshot() -> None:
    for count, is_compacted in ((1, False), (600, False), (600, True)):
        cores = Cores("a", "b", "c", learners=["d"])
        cores.elect("a").propose([b"x"] * count)
        cores.run(3)
        if is_compacted:
            cores.compact("a", count)
        cores.isolate("a")
        cores["a"].propose_configuration(Promote(id="d", based_on=1))
        cores.handle()
        assert cores["a"].committed_configuration_index == 1
        # As a restarted server finds it: latest in the log, not committed.
        cores.crash("a")
        cores.restart("a")
        assert cores["a"].configuration.index == count + 3
        cores.run(3 * T)
        cores.heal()
        cores.run(3)
        assert cores["a"].configuration.index == 1
        assert cores["a"].committed_configuration_index == 1


def test_08_without_the_guard_a_truncated_configuration_stays() -> None:
    cores = Cores("a", "b", "c", learners=["d"], **without("R-40"))
    leader = cores.elect("a")
    cores.run(2)
    cores.isolate("a")
    leader.propose_configuration(Promote(id="d", based_on=1))
    cores.run(3 * T)
    cores.heal()
    cores.run(3)
    assert cores["a"].configuration.index == 3
    assert cores.servers["a"].written.configuration.index == 1


def test_09_a_configuration_counts_from_the_moment_it_is_appended() -> None:
    """On the leader and on the followers: four voters need three copies, with the old list of
    three two would do."""
    cores = Cores("a", "b", "c", learners=["d"])
    leader = cores.elect("a")
    cores.run(2)
    cores.isolate("c")
    leader.propose_configuration(Promote(id="d", based_on=1))
    cores.cut("a", "d")
    cores.settle()
    assert cores["b"].configuration.index == leader.configuration.index == 3
    assert leader.commit_index == 2  # on a and b: two of four
    cores.heal()
    cores.isolate("c")
    cores.run(2)
    assert leader.commit_index == 3  # on a, b and d


# -- 10: one voter --------------------------------------------------------------------------------


@pytest.mark.parametrize("guarded", [True, False])
def test_10_a_single_server_acknowledges_after_its_own_sync(guarded: bool) -> None:
    cores = Cores("a", **({} if guarded else without("R-3")))
    leader = cores.elect("a")
    cores.hold_disk("a")
    leader.propose(b"x")
    cores.handle()
    assert leader.commit_index == (2 if guarded else 3)
    assert (3 in [e.index for e in cores.servers["a"].committed]) is not guarded
    cores.release_disk("a")
    cores.handle()
    assert leader.applied_index == 3


# -- 12, 13, 14, 16: reads ------------------------------------------------------------------------


@pytest.mark.parametrize("consistent", [True, False])
def test_12_a_new_leader_does_not_answer_before_an_entry_of_its_term(consistent: bool) -> None:
    cores = Cores("a", "b", "c")
    cores.elect("a").propose(b"x")
    cores.settle()
    assert cores["b"].commit_index < cores["a"].commit_index  # it does not know yet
    cores.tick("c", n=T)
    cores.crash("a")
    new = cores["b"]
    new.campaign()
    while new.role is not LEADER:
        cores.handle()
        cores.deliver(lambda m: isinstance(m, VoteRequest | VoteReply))
    new.read(7, consistent=consistent)
    assert new.lease_read_index() is None
    new.tick(2)
    cores.handle()
    cores.deliver(lambda m: isinstance(m, HeartbeatRequest | HeartbeatReply))
    cores.handle()
    cores.deliver(lambda m: isinstance(m, HeartbeatRequest | HeartbeatReply))
    cores.handle()
    assert cores.servers["b"].reads == []
    cores.settle()
    cores.run(2)
    assert [r.context for r in cores.servers["b"].reads] == [7]
    assert cores.servers["b"].reads[0].index >= 4  # its no-op, behind the acknowledged write


def test_12_without_the_guard_the_answer_is_old() -> None:
    cores = Cores("a", "b", "c", **without("R-34"))
    cores.elect("a").propose(b"x")
    cores.settle()
    cores.tick("c", n=T)
    cores.crash("a")
    new = cores["b"]
    new.campaign()
    while new.role is not LEADER:
        cores.handle()
        cores.deliver(lambda m: isinstance(m, VoteRequest | VoteReply))
    new.read(7, consistent=True)
    new.tick(2)
    cores.handle()
    cores.deliver(lambda m: isinstance(m, HeartbeatRequest))
    cores.handle()
    cores.deliver(lambda m: isinstance(m, HeartbeatReply))
    cores.handle()
    assert [r.index for r in cores.servers["b"].reads] == [new.commit_index]
    assert new.commit_index < 3  # "x" was acknowledged at 3


def test_13_the_lease_counts_from_the_sending_of_the_round() -> None:
    cores = Cores("a", "b", "c")
    leader = cores.elect("a")
    cores.run(1)
    cores.tick("a")  # the next round leaves
    cores.handle()
    cores.isolate("b", "c")
    cores.tick("a", n=10)
    cores.handle()
    cores.heal()
    sent = cores.drop(lambda m: isinstance(m, HeartbeatRequest) and m.round == 2)
    for message in sent:
        cores.hand_over(message)
    cores.drop()
    cores.handle()
    cores.deliver()  # answers to a round of ten ticks ago
    assert leader.lease_read_index() is not None
    cores.tick("a", n=6)
    assert leader.lease_read_index() is not None
    cores.tick("a")  # 17 after the sending: T less the margin
    assert leader.lease_read_index() is None


def test_13_a_pause_voids_the_lease() -> None:
    cores = Cores("a", "b", "c")
    leader = cores.elect("a")
    cores.run(2)
    leader.clock_jumped()
    assert leader.lease_read_index() is None
    cores["b"].clock_jumped()  # nothing to lose
    leader.read(7, consistent=False)  # falls back to a round
    cores.isolate("a")
    cores.settle()
    assert cores.servers["a"].reads == []
    cores.heal()
    cores.run(4)
    assert leader.lease_read_index() is not None


@pytest.mark.parametrize("guard", ["R-36", "R-37"])
def test_13_without_the_guard_a_paused_leader_believes_in_its_lease(guard: str) -> None:
    cores = Cores("a", "b", "c", **without(guard))
    leader = cores.elect("a")
    cores.run(2)
    if guard == "R-37":
        leader.clock_jumped()
    else:
        cores.isolate("b", "c")
        cores.tick("a", n=18)
    assert leader.lease_read_index() is not None


@pytest.mark.parametrize("guarded", [True, False])
def test_14_the_lease_ends_with_a_transfer(guarded: bool) -> None:
    cores = Cores("a", "b", "c", **({} if guarded else without("R-48")))
    leader = cores.elect("a")
    cores.run(2)
    leader.transfer("b")
    assert (leader.lease_read_index() is None) is guarded
    late = []
    for _ in range(T + 5):
        cores.tick()
        cores.handle()
        late += cores.drop(lambda m: isinstance(m, TimeoutNow))
        cores.settle()
    assert {m.receiver for m in late} == {"b"}
    # Given up, but a timeout-now is still out there: no lease in this term any more.
    assert leader.role is LEADER
    leader.propose(b"x")
    assert (leader.lease_read_index() is None) is guarded
    leader.read(7, consistent=False)
    cores.settle()
    assert [r.context for r in cores.servers["a"].reads] == [7]
    cores.hand_over(late[0])
    cores.settle()
    assert cores["b"].role is LEADER


def test_14_the_lease_comes_back_if_nothing_was_sent() -> None:
    cores = Cores("a", "b", "c")
    leader = cores.elect("a")
    cores.run(2)
    cores.isolate("b")
    leader.propose(b"x")
    leader.transfer("b")
    cores.run(2)
    assert leader.lease_read_index() is None
    cores.run(T)
    assert leader.lease_read_index() is not None


def test_16_answers_to_earlier_heartbeats_confirm_nothing() -> None:
    cores = Cores("a", "b", "c")
    leader = cores.elect("a")
    cores.run(1)
    cores.tick("a")
    cores.handle()
    cores.deliver()
    cores.handle()  # answers are under way
    leader.read(7, consistent=True)
    cores.isolate("a")
    late = cores.drop(lambda m: isinstance(m, HeartbeatReply))
    cores.heal()
    assert late
    for message in late:
        cores.hand_over(message)
    cores.handle()
    assert cores.servers["a"].reads == []
    cores.settle()
    assert [r.context for r in cores.servers["a"].reads] == [7]


def test_16_answers_of_an_earlier_leadership_confirm_nothing() -> None:
    cores = Cores("a", "b", "c")
    cores.elect("a")
    cores.run(5)
    cores.tick("a", n=2)
    cores.handle()
    cores.deliver()
    cores.handle()
    late = cores.drop(lambda m: isinstance(m, HeartbeatReply))
    assert late[0].round > 1
    cores["a"].transfer("b")
    cores.settle()
    cores["b"].transfer("a")
    cores.settle()
    leader = cores["a"]
    leader.read(7, consistent=True)
    for message in late:
        cores.hand_over(message)
    cores.handle()
    assert cores.servers["a"].reads == []


def test_16_without_the_guard_a_deposed_leader_answers() -> None:
    cores = Cores("a", "b", "c", **without("R-35"))
    leader = cores.elect("a")
    cores.run(2)
    cores.isolate("a")
    cores.run(2 * T + 5, "b", "c")
    assert set(cores.leaders) > {"a"}
    leader.read(7, consistent=True)
    cores.handle()
    assert [r.context for r in cores.servers["a"].reads] == [7]


# -- 17, 18, 19, 20, 21: disruptive servers -------------------------------------------------------


@pytest.mark.parametrize("guarded", [True, False])
def test_17_a_server_whose_term_ran_ahead_is_not_locked_out(guarded: bool) -> None:
    cores = Cores("a", "b", "c", pre_vote=False, **({} if guarded else without("R-18")))
    cores.elect("a")
    cores.run(2)
    cores.isolate("c")
    cores.run(10 * T)
    ahead = cores["c"].term
    cores.crash("c")
    cores.restart("c", pre_vote=True)
    assert ahead > cores["a"].term + 3
    cores.heal()
    cores.run(10 * T)
    (leader,) = cores.leaders
    cores[leader].propose(b"x")
    cores.run(2)
    caught_up = cores["c"].commit_index == cores[leader].commit_index
    assert caught_up is guarded


def test_18_a_partial_partition_does_not_keep_electing() -> None:
    """c is cut off from the leader alone, and reaches b: it must not depose a again and again."""
    cores = Cores("a", "b", "c")
    cores.elect("a")
    cores.run(2)
    cores.cut("a", "c")
    cores.cut("c", "a")
    term = cores["a"].term
    for _ in range(100):
        cores.run(T)
        (leader,) = cores.leaders
        cores[leader].propose(b"x")
    assert max(cores[s].term for s in "abc") <= term + 1
    assert cores[leader].commit_index >= 100


def test_19_a_leader_that_hears_nobody_steps_down() -> None:
    cores = Cores("a", "b", "c")
    leader = cores.elect("a")
    cores.run(2)
    cores.cut("b", "a")
    cores.cut("c", "a")
    cores.run(T)
    assert leader.role is FOLLOWER
    cores.run(3 * T)
    (new,) = cores.leaders
    assert new in "bc"


@pytest.mark.parametrize("settings", [without("R-17"), {"check_quorum": False}])
def test_19_without_the_guard_it_stays_for_ever(settings: dict[str, Any]) -> None:
    cores = Cores("a", "b", "c", **settings)
    leader = cores.elect("a")
    cores.run(2)
    cores.cut("b", "a")
    cores.cut("c", "a")
    cores.run(10 * T)
    assert leader.role is LEADER


def test_20_a_leader_with_a_stuck_disk_steps_down_and_hands_over() -> None:
    cores = Cores("a", "b", "c")
    leader = cores.elect("a")
    cores.run(2)
    cores.hold_disk("a")
    leader.propose(b"x")
    cores.run(T)
    assert leader.role is LEADER
    cores.run(2)
    assert leader.role is FOLLOWER
    (new,) = cores.leaders
    cores[new].propose(b"y")
    cores.run(10 * T)
    assert cores.leaders == [new]  # a does not campaign while its disk hangs
    assert cores[new].commit_index == cores[new].last_index
    cores.release_disk("a")
    cores.run(3)
    assert cores["a"].commit_index == cores[new].commit_index


def test_20_a_stuck_follower_takes_no_more_and_does_not_campaign() -> None:
    cores = Cores("a", "b", "c")
    leader = cores.elect("a")
    cores.run(2)
    cores.hold_disk("c")
    for _ in range(3 * T):
        leader.propose(b"x")
        cores.run(1)
    assert leader.commit_index >= 3 * T - 1  # b is enough
    assert cores["c"].last_index < 2 * T
    cores.isolate("c")
    cores.run(5 * T)
    assert cores["c"].role is FOLLOWER
    assert cores["c"].leader_id is None
    cores.heal()
    cores.release_disk("c")
    cores.run(5)
    assert cores["c"].last_index == leader.last_index


def test_20_without_the_guard_it_stays() -> None:
    cores = Cores("a", "b", "c", **without("R-29"))
    leader = cores.elect("a")
    cores.hold_disk("a")
    leader.propose(b"x")
    cores.run(10 * T)
    assert leader.role is LEADER


@pytest.mark.parametrize("pre_vote", [True, False])
def test_21_a_removed_server_that_was_never_told_disturbs_nobody(pre_vote: bool) -> None:
    cores = Cores("a", "b", "c", "d", pre_vote=pre_vote)
    leader = cores.elect("a")
    cores.run(2)
    cores.isolate("d")
    leader.propose_configuration(Remove(id="d", based_on=1))
    cores.run(5 * T)
    assert "d" not in leader.progress
    cores.heal()
    cores.run(20 * T)
    assert cores.leaders == ["a"]
    assert leader.term == 2


# -- 22, 23: membership ---------------------------------------------------------------------------


def test_22_a_removed_leader_does_not_count_itself_and_leaves_after_the_commit() -> None:
    cores = Cores("a", "b", "c")
    leader = cores.elect("a")
    cores.run(2)
    cores.isolate("c")
    leader.propose_configuration(Remove(id="a", based_on=1))
    cores.run(2)
    # Its own copy and b's would be two of the old three, but only b's counts of the new two.
    assert leader.commit_index == 2
    assert leader.role is LEADER
    leader.propose(b"x")
    cores.heal()
    cores.run(3)
    assert leader.role is FOLLOWER
    (new,) = cores.leaders
    assert new in "bc"
    assert min(cores[s].commit_index for s in "bc") >= 4
    assert cores["a"].commit_index >= 3  # a knows as well
    cores.run(5 * T)
    assert cores["a"].role is FOLLOWER


def test_22_a_leaving_leader_takes_no_proposals() -> None:
    cores = Cores("a", "b", "c")
    leader = cores.elect("a")
    cores.run(2)
    leader.propose_configuration(Remove(id="a", based_on=1))
    cores.handle()
    cores.deliver()
    cores.handle()
    cores.deliver()
    assert leader.commit_index == 3
    with pytest.raises(Unavailable, match="transferred to another server"):
        leader.propose(b"x")


def test_22_a_leader_that_crashes_right_after_its_removal_leaves_a_working_cluster() -> None:
    cores = Cores("a", "b", "c")
    leader = cores.elect("a")
    cores.run(2)
    leader.propose_configuration(Remove(id="a", based_on=1))
    cores.handle()
    cores.deliver()
    cores.crash("a")
    cores.run(5 * T)
    (new,) = cores.leaders
    assert cores[new].configuration.servers == configuration_of("b", "c").servers
    assert cores[new].commit_index == cores[new].last_index


def test_22_without_the_guard_it_leaves_before_the_commit() -> None:
    cores = Cores("a", "b", "c", **without("R-44"))
    leader = cores.elect("a")
    cores.run(2)
    leader.propose_configuration(Remove(id="a", based_on=1))
    assert leader.role is FOLLOWER
    assert leader.commit_index == 2


@pytest.mark.parametrize("kind", [Remove, Demote])
def test_22_a_server_that_only_itself_knows_to_be_removed_can_still_lead(
    kind: type[Remove] | type[Demote],
) -> None:
    """Of {a, b} only a has the entry that makes it {b}: b can not win against the longer log."""
    cores = Cores("a", "b")
    leader = cores.elect("a")
    cores.run(2)
    cores.isolate("a")
    leader.propose_configuration(kind(id="a", based_on=1))
    cores.run(2 * T)
    assert cores.leaders == []
    cores.heal()
    cores.run(10 * T)
    assert cores.leaders == ["b"]
    assert cores["b"].configuration.index == 3
    assert cores["a"].role is FOLLOWER
    # Once that is committed, it never campaigns again.
    cores.isolate("a")
    cores.run(5 * T)
    assert cores["a"].role is FOLLOWER


@pytest.mark.parametrize("guarded", [True, False])
def test_23_a_learner_counts_for_nothing(guarded: bool) -> None:
    cores = Cores("a", "b", learners=["c"], **({} if guarded else without("R-45")))
    leader = cores.elect("a")
    cores.run(2)
    cores.isolate("b")
    leader.propose(b"x")
    cores.settle()
    assert (leader.commit_index < leader.last_index) is guarded
    leader.read(7, consistent=True)
    cores.run(2)
    assert (cores.servers["a"].reads == []) is guarded
    cores.run(T)
    assert (leader.role is FOLLOWER) is guarded


@pytest.mark.parametrize("guarded", [True, False])
def test_23_an_empty_learner_is_not_promoted(guarded: bool) -> None:
    settings: dict[str, Any] = {"max_trailing_for_promotion": 5}
    cores = Cores("a", outsiders="b", **settings, **({} if guarded else without("R-43")))
    leader = cores.elect("a")
    leader.propose([b"x"] * 20)
    cores.handle()
    leader.propose_configuration(AddLearner(id="b", based_on=1, address="b:8300"))
    cores.cut("a", "b")
    cores.handle()
    promotion = Promote(id="b", based_on=leader.configuration.index, force=True)
    if guarded:
        with pytest.raises(ChangeRejected, match="23 entries behind"):
            leader.propose_configuration(promotion)
    else:
        leader.propose_configuration(promotion)
        cores.settle()
        assert leader.commit_index < leader.last_index  # a lone leader that can commit no more
        return
    cores.heal()
    cores.run(3)
    leader.propose_configuration(promotion)
    cores.settle()
    assert leader.commit_index == leader.last_index


# -- 24: snapshots --------------------------------------------------------------------------------


def snapshot(index: int, term: int) -> SnapshotMeta:
    return SnapshotMeta(f"{term}-{index}", index, term, configuration_of("f", "l", "x", index=1))


@pytest.mark.parametrize("guarded", [True, False])
def test_24_an_old_snapshot_changes_nothing(guarded: bool) -> None:
    core = follower(1, 1, 1, 1, 1, disabled=frozenset() if guarded else frozenset({"R-52"}))
    core.receive(append((5, 1), term=1, commit=4))
    flush(core)
    core.snapshot_received(snapshot(3, 1), "l")
    (ready,) = flush(core)
    assert (ready.snapshot is None) is guarded
    assert core.commit_index == (4 if guarded else 3)
    assert core.last_index == (5 if guarded else 3)
    if guarded:
        (reply,) = ready.now
        assert isinstance(reply, AppendReply)
        assert reply.match_index == 4


def test_24_a_snapshot_that_the_log_holds_only_commits() -> None:
    core = follower(1, 1, 1, 1, 1)
    core.snapshot_received(snapshot(3, 1), "l")
    ready, *_ = flush(core)
    assert ready.snapshot is None
    assert (core.commit_index, core.last_index) == (3, 5)
    (reply,) = ready.now
    assert isinstance(reply, AppendReply)
    assert reply.match_index == 3


def test_24_a_newer_snapshot_replaces_log_and_configuration() -> None:
    core = follower(1, 1, 1, 2, 2)
    core.receive(append((1, 1), 1, 3, term=3))
    newer = SnapshotMeta("3-9", 9, 3, configuration_of("f", "l", index=8))
    core.snapshot_received(newer, "l")
    ready = core.ready()
    assert (ready.snapshot, ready.entries) == (newer, ())
    assert [m.match_index for m in ready.after if isinstance(m, AppendReply)] == [3, 9]
    assert core.configuration == newer.configuration
    assert (core.commit_index, core.last_index, core.applied_index) == (9, 9, 0)
    core.persisted(ready.token)
    assert (core.durable_index, core.applied_index) == (9, 9)


def test_24_a_leader_installs_nothing() -> None:
    cores = Cores("a", "b", "c")
    leader = cores.elect("a")
    leader.snapshot_received(snapshot(9, 1), "b")
    assert leader.last_index == 2


# -- 33, 34: windows and backtracking -------------------------------------------------------------


def test_33_a_lost_window_does_not_stall() -> None:
    cores = Cores("a", "b", "c", max_entries_per_append=1, max_inflight_messages=8)
    leader = cores.elect("a")
    cores.run(1)
    leader.propose([b"x"] * 8)
    cores.handle()
    cores.drop()
    assert leader.progress["b"].inflight == 8
    cores.run(10)
    assert cores["b"].last_index == leader.last_index == leader.commit_index


def test_33_without_the_guard_it_stalls() -> None:
    cores = Cores(
        "a", "b", "c", max_entries_per_append=1, max_inflight_messages=8, **without("R-27")
    )
    leader = cores.elect("a")
    cores.run(1)
    leader.propose([b"x"] * 8)
    cores.handle()
    cores.drop()
    cores.run(10 * T)
    assert leader.commit_index < leader.last_index


def test_33_reordered_appends_cost_one_probe() -> None:
    cores = Cores("a", "b", max_entries_per_append=1)
    leader = cores.elect("a")
    cores.run(1)
    leader.propose([b"x"] * 200)
    cores.handle()
    appends = cores.drop(lambda m: isinstance(m, AppendRequest))
    assert len(appends) == 200
    for message in reversed(appends):
        cores.hand_over(message)
    cores.handle()
    refusals = [m for m in cores.network if isinstance(m, AppendReply) and not m.success]
    assert len(refusals) == 199
    for message in cores.drop():
        cores.hand_over(message)
    cores.handle()
    resent = [m for m in cores.network if isinstance(m, AppendRequest)]
    assert len([m for m in resent if not m.entries]) == 0
    cores.settle()
    assert leader.progress["b"].state is ProgressState.REPLICATE
    assert leader.commit_index == leader.last_index == 202


class LongLog(MemoryLog):
    """A log of a given shape (term, entries of it) that is not held entry by entry."""

    def __init__(self, *shape: tuple[int, int]) -> None:
        super().__init__()
        self._shape = shape
        self._last = sum(count for _, count in shape)

    def last_index(self) -> int:
        return self._last

    def term(self, index: int) -> int | None:
        if not 0 < index <= self._last:
            return 0 if index == 0 else None
        for term, count in self._shape:
            if index <= count:
                return term
            index -= count
        return None

    def entries(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        return [
            Entry(i, self.term(i) or 0, EntryKind.COMMAND) for i in range(low, min(high, low + 9))
        ]


def probes(mine: LongLog, theirs: LongLog, **settings: Any) -> int:
    """How many appends a leader with the log `mine` needs until `theirs` accepts one."""
    voters = configuration_of("f", "l")
    term = max(mine.term(mine.last_index()) or 0, theirs.term(theirs.last_index()) or 0)
    leader, other = (
        RaftCore(RaftConfig(id=i, **settings), log, HardState(term), voters, 0, random.Random(1))
        for i, log in (("l", mine), ("f", theirs))
    )
    leader.campaign()
    for round_ in itertools.count():
        for sender, receiver in ((leader, other), (other, leader)):
            for message in [m for r in flush(sender) for m in (*r.now, *r.after)]:
                if isinstance(message, AppendReply) and message.success:
                    return round_
                receiver.receive(message)
        if leader.role is not LEADER:
            round_ = 0
        assert round_ < 50
    raise AssertionError


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        pytest.param([(1, 10), (5, 1_000_000)], [(1, 10), (2, 300_000), (3, 300_000), (4, 400_000)],
                     id="a million entries over three terms"),
        pytest.param([(1, 10), (3, 400_000), (5, 600_000)], [(1, 10), (2, 500_000), (4, 500_000)],
                     id="terms in turn"),
        pytest.param([(1, 1_000_000)], [(1, 10)], id="far behind"),
        pytest.param([(1, 10), (9, 1)], [(1, 1_000_000)], id="far ahead"),
    ],
)  # fmt: skip
def test_34_backtracking_costs_a_round_per_term(
    mine: list[tuple[int, int]], theirs: list[tuple[int, int]]
) -> None:
    # Two rounds of pre-votes and votes come first.
    assert probes(LongLog(*mine), LongLog(*theirs)) <= 2 + 5


def test_34_without_the_guard_it_costs_a_round_per_entry() -> None:
    shapes = [(1, 10), (5, 30)], [(1, 10), (2, 30)]
    assert probes(*(LongLog(*s) for s in shapes), **without("R-26")) > 30


# -- 35, 39 ---------------------------------------------------------------------------------------


def test_35_the_outcome_of_a_proposal_is_told_by_term_and_index() -> None:
    """Refused before it was appended, or appended at (term, index): what is committed there tells
    whether it happened, whoever leads by then (R-66)."""
    cores = Cores("a", "b", "c")
    with pytest.raises(NotLeader):
        cores["b"].propose(b"nothing was done")
    leader = cores.elect("a")
    cores.run(2)
    ((kept_term, kept_index),) = leader.propose(b"kept")
    cores.handle()
    cores.deliver(lambda m: m.receiver == "b")
    cores.handle()  # b has it durably; the answer is lost with the leader
    cores.crash("a")
    cores.drop()
    cores.run(5 * T)
    (new,) = cores.leaders
    assert new == "b"
    committed = {e.index: e for e in cores.servers["b"].committed}
    assert (committed[kept_index].term, committed[kept_index].data) == (kept_term, b"kept")
    # And one that reached nobody: another entry is committed in its place.
    cores.isolate("b")
    ((lost_term, lost_index),) = cores["b"].propose(b"lost")
    cores.settle()
    cores.restart("a")
    cores.run(5 * T)
    cores.heal()
    cores.run(5)
    committed = {e.index: e for e in cores.servers["b"].committed}
    assert committed[lost_index].term != lost_term


def test_39_equal_clocks_do_not_split_votes_without_end() -> None:
    cores = Cores("a", "b", "c", "d", "e")
    for _ in range(10 * T):
        cores.tick()
        cores.handle()
        cores.deliver()
        if cores.leaders:
            return
    raise AssertionError("no leader within 10 T")


def test_39_without_the_guard_they_do() -> None:
    cores = Cores("a", "b", **without("R-13"))
    for _ in range(20 * T):
        cores.tick()
        for _ in range(4):
            cores.handle()
            cores.deliver()
    assert cores.leaders == []
