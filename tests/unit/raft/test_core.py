"""What the core takes, refuses and tells: the contract of `RaftCore` beyond the protocol itself."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from registry.errors import LocalProtocolError, NotLeader, Overloaded, TooLarge, Unavailable
from registry.raft.core import RaftConfig, RaftCore
from registry.raft.invariants import BrokenPromise
from registry.raft.membership import (
    AddLearner,
    ChangeAddress,
    ChangeRejected,
    Demote,
    Promote,
    Remove,
)
from registry.raft.memory_log import MemoryLog
from registry.raft.messages import (
    AppendReply,
    AppendRequest,
    EntryKind,
    HardState,
    HeartbeatReply,
    HeartbeatRequest,
    Message,
    SnapshotChunk,
    SnapshotMeta,
    SnapshotReply,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from registry.raft.progress import ProgressState
from registry.raft.ready import RaftRole
from registry.raft.transfer import TransferInProgress
from registry.raft.writes import Write, Writes
from registry.testing.raft_cores import Cores, configuration_entry, configuration_of, log_of

T = 20


def core_of(*voters: str, log: MemoryLog | None = None, **settings: Any) -> RaftCore:
    """The first of `voters`, in term 1."""
    return RaftCore(
        RaftConfig(id=voters[0] if voters else "a", **settings),
        log or MemoryLog(),
        HardState(1),
        configuration_of(*voters),
        0,
        random.Random(1),
    )


def heartbeat(term: int = 1, **fields: Any) -> HeartbeatRequest:
    return HeartbeatRequest(
        **({"sender": "b", "receiver": "a", "term": term} | fields)  # type: ignore[arg-type]
    )


def led(*voters: str, learners: tuple[str, ...] = (), **settings: Any) -> tuple[Cores, RaftCore]:
    """A quiet cluster led by its first server, all committed everywhere."""
    cores = Cores(*voters, learners=learners, **settings)
    leader = cores.elect(voters[0])
    cores.run(3)
    return cores, leader


# -- starting -------------------------------------------------------------------------------------


def test_a_server_starts_as_a_follower_with_what_is_durable() -> None:
    core = core_of("a", "b", log=MemoryLog(log_of(1, 1)))
    assert (core.id, core.role, core.term, core.leader_id) == ("a", RaftRole.FOLLOWER, 1, None)
    assert (core.last_index, core.durable_index, core.commit_index) == (2, 2, 0)
    assert core.last_contact_ticks is None
    assert core.progress == {}
    assert not core.has_ready()


def test_a_log_of_a_later_term_than_the_vote_is_refused() -> None:
    with pytest.raises(BrokenPromise, match="log_term=7 term=1"):
        core_of("a", log=MemoryLog(log_of(7)))


def test_same_inputs_give_the_same_outputs() -> None:
    """Byte for byte (R-2)."""

    def run() -> list[str]:
        lines: list[str] = []
        cores = Cores("a", "b", "c", trace=lines.append)
        cores.run(3 * T)
        cores[cores.leaders[0]].propose([b"x"] * 100)
        cores.run(5)
        return lines

    first = run()
    assert first == run()
    assert len(first) > 100


def test_a_server_in_no_configuration_stays_passive_but_votes() -> None:
    core = core_of()
    core.campaign()
    core.tick(10 * T)
    assert not core.has_ready()
    core.receive(VoteRequest(sender="b", receiver="a", term=2, last_index=1, last_term=1))
    ready = core.ready()
    assert ready.hard_state == HardState(2, "b")
    (reply,) = ready.after
    assert isinstance(reply, VoteReply)
    assert reply.granted


# -- messages that are not for us -----------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(heartbeat(cluster_id="other"), id="another cluster"),
        pytest.param(heartbeat(receiver="x"), id="another receiver"),
        pytest.param(Message(sender="b", receiver="a", term=9), id="unknown kind"),
        pytest.param(
            AppendRequest(
                sender="b", receiver="a", term=9, prev_index=0, prev_term=0,
                entries=tuple(log_of(1, first=2)),
            ),
            id="a gap before the entries",
        ),
        pytest.param(
            AppendRequest(
                sender="b", receiver="a", term=9, prev_index=0, prev_term=0,
                entries=(*log_of(1), *log_of(1, first=3)),
            ),
            id="a gap between the entries",
        ),
        pytest.param(
            AppendRequest(
                sender="b", receiver="a", term=9, prev_index=0, prev_term=0,
                entries=tuple(log_of(10)),
            ),
            id="entries of a later term than the leader's",
        ),
        pytest.param(
            AppendRequest(
                sender="b", receiver="a", term=9, prev_index=5, prev_term=4,
                entries=tuple(log_of(3, first=6)),
            ),
            id="terms that fall",
        ),
    ],
)  # fmt: skip
def test_what_is_not_for_us_or_makes_no_sense_is_dropped(message: Any) -> None:
    core = core_of("a", "b")
    core.receive(message)
    assert core.dropped_messages == 1
    assert core.term == 1
    assert not core.has_ready()


def test_two_leaders_in_one_term_stop_the_server() -> None:
    _, leader = led("a", "b", "c")
    with pytest.raises(BrokenPromise, match="two leaders in one term"):
        leader.receive(heartbeat(leader.term))


def test_a_commit_index_beyond_the_log_stops_the_server() -> None:
    """What is left of a wiped disk under its old id (R-10)."""
    core = core_of("a", "b")
    with pytest.raises(BrokenPromise, match="was the disk wiped"):
        core.receive(heartbeat(commit_index=7))


def test_an_acknowledgement_of_what_was_never_sent_stops_the_leader() -> None:
    _, leader = led("a", "b", "c")
    reply = AppendReply(
        sender="b", receiver="a", term=leader.term, success=True, match_index=99, round=2
    )
    with pytest.raises(BrokenPromise, match="never had"):
        leader.receive(reply)


def test_an_entry_that_conflicts_with_a_committed_one_stops_the_server() -> None:
    core = core_of("a", "b", log=MemoryLog(log_of(1, 1)))
    core.receive(heartbeat(commit_index=2))
    conflict = AppendRequest(
        sender="b",
        receiver="a",
        term=5,
        prev_index=1,
        prev_term=1,
        entries=tuple(log_of(5, first=2)),
    )
    with pytest.raises(BrokenPromise, match="would be overwritten"):
        core.receive(conflict)


def test_answers_of_strangers_and_of_other_terms_are_ignored() -> None:
    _, leader = led("a", "b", "c")
    before = leader.progress
    for sender, term in (("x", leader.term), ("b", leader.term - 1)):
        leader.receive(
            AppendReply(sender=sender, receiver="a", term=term, success=True, match_index=1)
        )
        leader.receive(HeartbeatReply(sender=sender, receiver="a", term=term, round=9))
    assert leader.progress == before
    follower = core_of("a", "b")
    follower.receive(HeartbeatReply(sender="b", receiver="a", term=1))
    assert not follower.has_ready()


def test_votes_that_nobody_asked_for_are_ignored() -> None:
    core = core_of("a", "b", "c")
    for pre in (True, False):
        for granted in (True, False):
            core.receive(VoteReply(sender="b", receiver="a", term=1, granted=granted, pre=pre))
    assert core.role is RaftRole.FOLLOWER


def test_a_higher_term_in_a_refusal_is_taken_over() -> None:
    for pre in (True, False):
        core = core_of("a", "b", "c", pre_vote=pre)
        core.campaign()
        core.receive(VoteReply(sender="b", receiver="a", term=9, granted=False, pre=pre))
        assert (core.role, core.term) == (RaftRole.FOLLOWER, 9)


# -- proposals ------------------------------------------------------------------------------------


def test_a_follower_names_the_leader() -> None:
    cores, _ = led("a", "b", "c")
    with pytest.raises(NotLeader) as caught:
        cores["b"].propose(b"x")
    assert caught.value.leader_id == "a"
    with pytest.raises(NotLeader):
        cores["b"].read(1, consistent=True)
    with pytest.raises(NotLeader):
        cores["b"].transfer("c")


def test_a_batch_is_appended_as_a_whole() -> None:
    cores, leader = led("a", "b", "c")
    assert leader.propose([b"x", b"y"]) == [(2, 3), (2, 4)]
    assert leader.propose(b"z", EntryKind.BARRIER) == [(2, 5)]
    assert leader.propose([]) == []
    cores.run(2)
    assert [(e.kind, e.data) for e in cores.servers["c"].committed[2:]] == [
        (EntryKind.COMMAND, b"x"),
        (EntryKind.COMMAND, b"y"),
        (EntryKind.BARRIER, b"z"),
    ]


def test_too_large_an_entry_is_refused_before_the_append() -> None:
    _, leader = led("a", max_entry_bytes=10)
    leader.propose(b"x" * 10)
    with pytest.raises(TooLarge, match="11 bytes"):
        leader.propose([b"y", b"x" * 11])
    assert leader.last_index == 3


@pytest.mark.parametrize(
    ("limits", "first", "second"),
    [
        pytest.param({"max_proposals": 3}, [b"x"] * 2, [b"x"] * 2, id="count"),
        pytest.param({"max_proposal_bytes": 100}, [b"x" * 60], [b"x" * 60], id="bytes"),
    ],
)
def test_a_full_queue_is_busy_until_something_is_applied(
    limits: dict[str, int], first: list[bytes], second: list[bytes]
) -> None:
    cores, leader = led("a", "b", "c", **limits)
    leader.propose(first)
    with pytest.raises(Overloaded):
        leader.propose(second)
    cores.settle()
    leader.propose(second)
    assert leader.last_index == 2 + len(first) + len(second)


def test_configurations_have_their_own_way() -> None:
    _, leader = led("a")
    with pytest.raises(LocalProtocolError):
        leader.propose(b"", EntryKind.CONFIGURATION)


def test_the_applier_holds_back_what_it_is_given() -> None:
    core = core_of("a", max_apply_batches=2)
    core.campaign()
    batches = 0
    for _ in range(6):
        while core.has_ready():
            ready = core.ready()
            batches += bool(ready.committed)
            core.persisted(ready.token)
        core.propose(b"x")
    assert batches == 2
    core.applied(1)
    while core.has_ready():
        batches += bool(core.ready().committed)
    assert batches == 3


def test_committed_entries_come_in_batches_of_limited_size() -> None:
    cores, leader = led("a", "b", max_apply_bytes=200)
    leader.propose([b"x" * 100] * 5)
    cores.run(3)
    assert [e.index for e in cores.servers["b"].committed] == list(range(1, 8))


# -- reads ----------------------------------------------------------------------------------------


def test_a_single_server_reads_without_asking() -> None:
    cores, leader = led("a")
    assert leader.lease_read_index() == 2
    assert leader.holds_lease
    leader.read(1, consistent=False)
    leader.read(2, consistent=True)
    cores.handle()
    assert [(r.context, r.index) for r in cores.servers["a"].reads] == [(1, 2), (2, 2)]


def test_reads_that_wait_are_limited() -> None:
    cores, leader = led("a", "b", "c", max_reads=2)
    cores.isolate("a")
    leader.read(1, consistent=True)
    leader.read(2, consistent=True)
    with pytest.raises(Overloaded):
        leader.read(3, consistent=True)


@pytest.mark.parametrize("setting", ["check_quorum", "lease_reads"])
def test_without_its_conditions_there_is_no_lease(setting: str) -> None:
    cores, leader = led("a", "b", "c", **{setting: False})
    assert leader.lease_read_index() is None
    leader.read(1, consistent=False)
    cores.settle()
    assert [r.context for r in cores.servers["a"].reads] == [1]


def test_no_lease_while_a_membership_change_is_not_committed() -> None:
    cores, leader = led("a", "b", "c", learners=("d",))
    assert leader.lease_read_index() is not None
    leader.propose_configuration(Promote(id="d", based_on=1))
    assert leader.lease_read_index() is None
    cores.settle()
    assert leader.lease_read_index() is not None


def test_contact_is_counted_in_ticks() -> None:
    cores, leader = led("a", "b", "c")
    cores.isolate("a")
    cores.tick(n=5)
    assert leader.last_contact_ticks == 0
    assert cores["b"].last_contact_ticks in (5, 6)
    assert cores["b"].lease_read_index() is None


def test_a_deposed_leader_counts_from_its_last_contact_with_a_quorum() -> None:
    cores, leader = led("a", "b", "c")
    cores.tick(n=3)
    cores.settle()
    cores.isolate("a")
    ticks = 0
    while leader.role is RaftRole.LEADER:
        cores.tick("a")
        ticks += 1
    # The round that was answered had begun within a heartbeat interval before the cut.
    heartbeat = leader.config.heartbeat_ticks
    assert leader.last_contact_ticks is not None
    assert ticks <= leader.last_contact_ticks <= ticks + heartbeat
    before = leader.last_contact_ticks
    cores.tick("a", n=7)
    assert leader.last_contact_ticks == before + 7


# -- membership -----------------------------------------------------------------------------------


def test_a_change_without_effect_is_a_barrier() -> None:
    cores, leader = led("a", "b", "c")
    position = leader.propose_configuration(AddLearner(id="b", based_on=0, address="b:8300"))
    assert position == (2, 3)
    cores.settle()
    assert cores.servers["a"].committed[-1].kind is EntryKind.BARRIER
    assert leader.configuration.index == 1


def test_a_change_of_address_takes_effect() -> None:
    cores, leader = led("a", "b", "c")
    leader.propose_configuration(ChangeAddress(id="b", based_on=1, address="elsewhere:1"))
    cores.run(2)
    assert [s.address for s in cores["c"].configuration.servers][1] == "elsewhere:1"
    assert cores["c"].committed_configuration_index == 3


def test_a_change_that_would_leave_no_quorum_in_reach_is_refused_unless_forced() -> None:
    cores, leader = led("a", "b", "c", "d")
    cores.isolate("c", "d")
    cores.run(T - 3)
    cores.isolate("b")
    cores.heal()
    cores.isolate("c", "d")
    cores.run(T - 3, "a", "b")
    assert leader.role is RaftRole.FOLLOWER  # two of four are no quorum
    cores, leader = led("a", "b", "c")
    cores.isolate("c")
    cores.run(T + 2)
    change = Demote(id="b", based_on=1)
    with pytest.raises(ChangeRejected, match="only 1 of the 2 voters"):
        leader.propose_configuration(change)
    leader.propose_configuration(msgspec.structs.replace(change, force=True))
    assert leader.configuration.index == 3


def test_a_removed_server_is_told_and_forgotten() -> None:
    cores, leader = led("a", "b", "c")
    leader.propose_configuration(Remove(id="c", based_on=1))
    assert leader.progress["c"].is_departing
    cores.run(2)
    assert "c" not in leader.progress
    assert cores["c"].configuration.index == 3
    cores.run(5 * T)
    assert cores["c"].role is RaftRole.FOLLOWER
    assert cores["c"].leader_id is None


def test_a_server_that_comes_back_counts_from_nothing() -> None:
    """Its disk may have been lost in between; late answers of its earlier life do not count."""
    cores, leader = led("a", "b", "c")
    leader.propose(b"x")
    cores.handle()
    cores.deliver()
    cores.handle()
    late = cores.drop(lambda m: isinstance(m, AppendReply) and m.sender == "c")
    cores.isolate("c")
    leader.propose_configuration(Remove(id="c", based_on=1))
    cores.settle()
    leader.propose_configuration(
        AddLearner(id="c", based_on=leader.configuration.index, address="c:8300")
    )
    assert leader.progress["c"].match == 0
    cores.heal()
    for message in late:
        cores.hand_over(message)
    assert leader.progress["c"].match == 0
    cores.run(3)
    assert leader.progress["c"].match == leader.last_index


# -- handing over ---------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["a", "d", "x"], ids=["self", "learner", "unknown"])
def test_a_target_that_can_not_lead_is_refused(target: str) -> None:
    _, leader = led("a", "b", "c", learners=("d",))
    with pytest.raises(ChangeRejected, match="can not lead"):
        leader.transfer(target)


def test_alone_there_is_nobody_to_hand_over_to() -> None:
    _, leader = led("a")
    with pytest.raises(ChangeRejected, match="no other voter"):
        leader.transfer(None)


def test_without_a_target_the_best_voter_is_chosen() -> None:
    cores, leader = led("a", "b", "c")
    cores.isolate("b")
    leader.propose(b"x")
    cores.settle()
    leader.transfer(None)
    with pytest.raises(TransferInProgress) as caught:
        leader.propose(b"y")
    assert caught.value.target == "c"
    with pytest.raises(Unavailable):
        leader.propose_configuration(Remove(id="b", based_on=1))
    cores.settle()
    assert cores.leaders == ["c"]


def test_a_late_timeout_now_is_ignored() -> None:
    cores, leader = led("a", "b", "c")
    message = TimeoutNow(sender="b", receiver="a", term=leader.term)
    leader.receive(message)
    assert leader.role is RaftRole.LEADER
    cores["b"].receive(TimeoutNow(sender="c", receiver="b", term=leader.term - 1))
    assert cores["b"].role is RaftRole.FOLLOWER


def test_a_timeout_now_of_a_later_term_counts_and_a_learner_never_campaigns() -> None:
    cores, _ = led("a", "b", "c", learners=("d",))
    for server in "bd":
        cores[server].receive(TimeoutNow(sender="c", receiver=server, term=7))
    assert (cores["b"].role, cores["b"].term) == (RaftRole.CANDIDATE, 8)
    assert (cores["d"].role, cores["d"].term) == (RaftRole.FOLLOWER, 7)


# -- snapshots and lost connections ---------------------------------------------------------------


def test_a_peer_behind_the_log_gets_a_snapshot_and_then_the_rest() -> None:
    cores, leader = led("a", "b", "c")
    cores.isolate("c")
    leader.propose([b"x"] * 10)
    cores.run(2)
    cores.compact("a", 10)
    cores.heal()
    cores.run(3)
    assert leader.progress["c"].state is ProgressState.SNAPSHOT
    assert cores.servers["a"].snapshots_wanted == ["c"]
    cores.send_snapshot("a", "c")
    leader.propose(b"y")
    cores.run(2)
    assert leader.progress["c"].state is ProgressState.REPLICATE
    assert cores["c"].commit_index == leader.last_index == 13
    assert [e.index for e in cores.servers["c"].committed[-1:]] == [13]


def test_a_snapshot_that_the_log_has_left_behind_is_not_enough() -> None:
    cores, leader = led("a", "b", "c")
    cores.isolate("c")
    leader.propose([b"x"] * 10)
    cores.run(2)
    meta = cores.snapshot_of("a")
    leader.propose([b"x"] * 10)
    cores.run(2)
    cores.compact("a", 20)
    cores.heal()
    cores.run(3)
    cores["c"].snapshot_received(meta, "a")
    cores.settle()
    assert leader.progress["c"].match == meta.index
    assert leader.progress["c"].state is ProgressState.SNAPSHOT
    cores.send_snapshot("a", "c")
    assert leader.progress["c"].match == leader.last_index


def test_the_term_is_never_behind_the_log() -> None:
    core = core_of("a", "b")
    core.snapshot_received(SnapshotMeta("7-9", 9, 7, configuration_of("a", "b", index=3)), "b")
    ready = core.ready()
    assert (core.term, core.last_term, ready.hard_state) == (7, 7, HardState(7))


def test_a_failed_transfer_is_tried_again_after_a_sign_of_life() -> None:
    cores, leader = led("a", "b", "c")
    cores.isolate("c")
    leader.propose([b"x"] * 10)
    cores.run(2)
    cores.compact("a", 10)
    cores.heal()
    cores.run(3)
    leader.snapshot_finished("c", ok=False, index=0)
    leader.snapshot_finished("x", ok=False, index=0)
    cores.settle()
    assert cores.servers["a"].snapshots_wanted == ["c"]
    cores.run(3)
    assert cores.servers["a"].snapshots_wanted == ["c", "c"]
    cores["b"].snapshot_finished("c", ok=True, index=3)  # no leader any more: nothing to note


def test_no_snapshot_is_wanted_for_a_peer_that_does_not_answer() -> None:
    cores, leader = led("a", "b", "c")
    cores.isolate("c")
    leader.propose([b"x"] * 10)
    cores.run(T + 2)
    cores.compact("a", 10)
    leader.unreachable("c")
    cores.run(T)
    assert cores.servers["a"].snapshots_wanted == []
    assert leader.progress["c"].state is ProgressState.PROBE


def test_chunks_and_their_answers_are_signs_of_life() -> None:
    core = core_of("a", "b", "c")
    core.tick(T - 1)
    meta = Cores("a").snapshot_of("a")
    chunk = SnapshotChunk(sender="b", receiver="a", term=1, meta=meta)
    core.receive(chunk)
    core.tick(T - 1)
    assert (core.role, core.leader_id) == (RaftRole.FOLLOWER, "b")
    cores, leader = led("a", "b", "c")
    cores.isolate("a")
    cores.run(T - 5)
    reply = SnapshotReply(sender="b", receiver="a", term=leader.term, snapshot_id="s")
    leader.receive(reply)
    cores.run(T - 5)
    assert leader.role is RaftRole.LEADER
    cores["b"].receive(msgspec.structs.replace(reply, receiver="b", term=99))
    assert cores["b"].term == 99


def test_a_lost_connection_goes_back_to_probing() -> None:
    cores, leader = led("a", "b", "c")
    leader.propose(b"x")
    cores.handle()
    cores.drop()
    leader.unreachable("b")
    leader.unreachable("x")
    cores["b"].unreachable("a")
    assert leader.progress["b"].state is ProgressState.PROBE
    cores.settle()
    assert cores["b"].last_index == leader.last_index


# -- the death of a leader ------------------------------------------------------------------------


STICKY = 8


def test_who_knows_of_the_leaders_death_waits_for_stickiness_alone() -> None:
    cores, _ = led("a", "b", "c", sticky_ticks=STICKY)
    cores.crash("a")
    cores["b"].gone("a")
    cores["c"].gone("a")
    cores.run(STICKY)
    assert [cores[each].role for each in "bc"] == [RaftRole.FOLLOWER] * 2
    cores.run(3)
    assert (cores["b"].role, cores["c"].leader_id) == (RaftRole.LEADER, "b")


def test_voters_take_turns_after_the_leaders_death() -> None:
    """The first in turn lacks an entry, so its successor has to lead, and does so soon."""
    cores, leader = led("a", "b", "c", sticky_ticks=STICKY)
    cores.cut("a", "b")
    leader.propose(b"x")
    cores.settle()
    cores.crash("a")
    for each in "bc":
        cores[each].gone("a")
    cores.run(STICKY + 6)
    assert (cores["c"].role, cores["b"].leader_id) == (RaftRole.LEADER, "c")


def test_an_election_that_failed_after_the_leaders_death_is_repeated_soon() -> None:
    cores, _ = led("a", "b", "c", sticky_ticks=STICKY)
    cores.crash("a")
    for each in "bc":
        cores[each].gone("a")
    for _ in range(STICKY + 6):
        cores.tick()
        cores.handle()
        cores.drop()
    assert RaftRole.LEADER not in [cores[each].role for each in "bc"]
    cores.run(2 * STICKY)
    assert RaftRole.LEADER in [cores[each].role for each in "bc"]


def test_a_leader_that_is_wrongly_believed_gone_goes_on() -> None:
    """Its next heartbeat ends the haste; until stickiness is over nobody could have voted."""
    cores, leader = led("a", "b", "c", sticky_ticks=STICKY)
    for _ in range(3):
        cores["b"].gone("a")
        cores.run(1)
        cores["c"].gone("a")
        cores.run(2 * STICKY)
    assert (leader.role, leader.term) == (RaftRole.LEADER, cores["b"].term)
    cores.isolate("a")
    cores.run(T - 1)
    assert cores["b"].leader_id == "a", "its silence is waited out as ever"


def test_only_the_leaders_death_matters_and_not_to_a_leader() -> None:
    cores, leader = led("a", "b", "c", learners=("d",), sticky_ticks=STICKY)
    leader.gone("b")
    cores["b"].gone("c")
    cores["b"].gone("")
    cores["d"].gone("a")
    cores.isolate("a")
    cores.tick(n=STICKY + 6)
    assert cores["b"].leader_id == "a"
    assert (cores["d"].role, cores["d"].term) == (RaftRole.FOLLOWER, leader.term)


def test_a_probe_without_news_still_finds_out_where_the_logs_meet() -> None:
    """The answer to a snapshot was lost; without new entries an empty append must prove it."""
    cores, leader = led("a", "b", "c")
    cores.isolate("c")
    leader.propose([b"x"] * 10)
    cores.run(2)
    cores.compact("a", 10)
    cores.heal()
    cores.run(3)
    meta = cores.snapshot_of("a")
    cores["c"].snapshot_received(meta, "a")
    cores.handle()
    cores.drop()
    leader.snapshot_finished("c", ok=True, index=meta.index)
    cores.settle()
    assert leader.progress["c"].match == leader.last_index


def test_the_window_in_bytes_is_kept() -> None:
    cores, leader = led("a", "b", max_append_bytes=300, max_inflight_bytes=1000)
    leader.propose([b"x" * 200] * 20)
    cores.handle()
    sent = [m for m in cores.network if isinstance(m, AppendRequest)]
    assert sum(len(e.data) for m in sent for e in m.entries) <= 1000
    assert len(sent) > 1
    cores.settle()
    assert leader.commit_index == 22


def test_a_log_compacted_beyond_what_is_applied_stops_the_server() -> None:
    core = core_of("a", log=MemoryLog(log_of(1, 1, 1)))
    meta = MemoryLog(log_of(1, 1)).compact(2)
    with pytest.raises(BrokenPromise, match="beyond what is applied"):
        core.compacted(meta)


# -- writes ---------------------------------------------------------------------------------------


def test_a_vote_for_ourselves_counts_once_it_is_durable() -> None:
    core = core_of("a", "b", pre_vote=False)
    core.receive(heartbeat(3))
    first = core.ready()
    core.campaign()
    second = core.ready()
    core.receive(VoteReply(sender="b", receiver="a", term=4, granted=True))
    core.persisted(first.token)  # the term only
    assert core.role is RaftRole.CANDIDATE
    core.persisted(second.token)
    assert core.role is RaftRole.LEADER


def test_what_was_overwritten_is_not_durable_when_its_write_completes() -> None:
    core = core_of("a", "b", log=MemoryLog(log_of(1, 1)))
    old = AppendRequest(
        sender="b", receiver="a", term=1, prev_index=2, prev_term=1,
        entries=tuple(log_of(1, 1, 1, first=3)),
    )  # fmt: skip
    new = AppendRequest(
        sender="c", receiver="a", term=2, prev_index=3, prev_term=1,
        entries=tuple(log_of(2, first=4)),
    )  # fmt: skip
    core.receive(old)
    first = core.ready()
    core.receive(new)
    second = core.ready()
    assert second.entries[0].index == 4
    core.persisted(first.token)
    assert core.durable_index == 3
    core.persisted(second.token)
    assert core.durable_index == 4


def test_an_acknowledgement_goes_with_its_entries() -> None:
    """What was cut off before it was even handed to the disk is not acknowledged later."""
    core = core_of("a", "b", log=MemoryLog(log_of(1, 1)))
    for index, term in ((2, 1), (2, 2)):
        core.receive(
            AppendRequest(
                sender="b", receiver="a", term=term, prev_index=index, prev_term=1,
                entries=tuple(log_of(*[term] * (4 - term), first=3)),
            )
        )  # fmt: skip
    (ready,) = [core.ready()]
    assert [(m.term, m.match_index) for m in ready.after if isinstance(m, AppendReply)] == [(2, 4)]


def test_writes_complete_in_order() -> None:
    writes = Writes()
    assert writes.waiting_since() is None
    for token, tick in ((1, 10), (3, 12), (4, 13)):
        writes.add(Write(token, token * 10, HardState(token), tick))
    writes.cut(35)
    assert writes.waiting_since() == 10
    done = writes.complete(3)
    assert done is not None
    assert (done.token, done.last_index) == (3, 30)
    assert writes.complete(3) is None
    last = writes.complete(9)
    assert last is not None
    assert last.last_index == 35


@pytest.mark.parametrize("guarded", [True, False])
def test_a_real_vote_request_of_an_old_term_is_told_the_term(guarded: bool) -> None:
    core = core_of("a", "b", "c", disabled_guards=frozenset() if guarded else frozenset({"R-18"}))
    core.receive(VoteRequest(sender="b", receiver="a", term=0, last_index=9, last_term=0))
    assert core.has_ready() is guarded


def test_a_single_server_with_a_stuck_disk_leads_on_and_commits_when_it_works() -> None:
    cores, leader = led("a")
    committed = leader.commit_index
    cores.hold_disk("a")
    leader.propose(b"x")
    cores.handle()
    cores.run(5 * T)
    assert leader.role is RaftRole.LEADER
    assert leader.commit_index == committed
    cores.release_disk("a")
    cores.run(1)
    assert leader.role is RaftRole.LEADER
    assert leader.commit_index == leader.last_index


def test_a_configuration_from_outside_the_log_comes_back_when_the_first_one_is_undone() -> None:
    core = core_of("a", "b", log=MemoryLog(log_of(1)))
    first = configuration_entry(2, 1, configuration_of("a", "b", "c"))
    for term, entry in ((1, first), (2, log_of(2, first=2)[0])):
        core.receive(
            AppendRequest(
                sender="b", receiver="a", term=term, prev_index=1, prev_term=1, entries=(entry,)
            )
        )
        voters = [s.id for s in core.configuration.servers]
        assert voters == (["a", "b", "c"] if term == 1 else ["a", "b"])


# -- the stored log for tests ---------------------------------------------------------------------


def test_a_memory_log_refuses_what_it_can_not_hold() -> None:
    log = MemoryLog(log_of(1, 1, 2))
    with pytest.raises(LocalProtocolError, match="leaves a gap"):
        log.append(log_of(2, first=5))
    with pytest.raises(LocalProtocolError, match=r"asked for 3\.\.4"):
        log.entries(3, 5, 100)
    with pytest.raises(LocalProtocolError, match="does not hold it"):
        log.compact(4)
    assert (log.term(4), log.configuration.servers) == (None, ())
    assert [e.index for e in log.entries(1, 4, 1)] == [1]
    assert log.compact(2).index == 2
    assert (log.term(1), log.term(2), log.term(3)) == (None, 1, 2)
