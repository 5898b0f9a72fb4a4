"""The Serf core by itself: what transcripts do not show."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from msgspec import structs

from registry.errors import LocalProtocolError, TimedOut, TooLarge
from registry.membership.addresses import Address
from registry.membership.context import Phase, SerfContext
from registry.membership.coordinate import Coordinate
from registry.membership.member_table import MemberTable
from registry.membership.merge_rules import WanRules
from registry.membership.query_desk import Question
from registry.membership.seam import Node, NodeState, Notice
from registry.membership.serf import SerfCore
from registry.membership.serf_config import SerfConfig
from registry.membership.serf_messages import (
    JoinIntent,
    KeyRequest,
    LeaveIntent,
    Query,
    QueryResponse,
    Relay,
    State,
    UserEventMessage,
    decode,
    encode,
    encode_coordinate,
    encode_tags,
)
from registry.membership.serf_values import (
    Deliver,
    Left,
    MemberEvent,
    MemberStatus,
    QueryAnswer,
    QueryEvent,
    SerfOutput,
    UserEvent,
)
from registry.membership.snapshot import SnapshotLog, SnapshotState
from registry.state.regexp import compile_pattern

ALPHA = Node("alpha", ("10.0.0.1", 7946), encode_tags({"role": "web"}))
BETA = Node("beta", ("10.0.0.2", 7946), encode_tags({"role": "db"}))


@dataclass
class Lower:
    """A lower layer that remembers what it was asked."""

    sent: list[tuple[Address, bytes]] = field(default_factory=list)
    rejoined: list[Address] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    metas: list[bytes] = field(default_factory=list)
    leaves: int = 0
    has_hearers: bool = True

    def send_user(self, address: Address, data: bytes) -> None:
        self.sent.append((address, data))

    def rejoin(self, address: Address) -> None:
        self.rejoined.append(address)

    def leave(self) -> None:
        self.leaves += 1

    def update_meta(self, meta: bytes) -> None:
        self.metas.append(meta)

    def forget(self, name: str) -> None:
        self.forgotten.append(name)


class Alpha:
    """The core of alpha, which knows beta."""

    def __init__(
        self,
        previous: SnapshotState | None = None,
        snapshot: SnapshotLog | None = None,
        seed: int = 1,
    ) -> None:
        self.lower = Lower()
        context = SerfContext(
            config=SerfConfig(),
            name="alpha",
            address=ALPHA.address,
            tags={"role": "web"},
            rng=random.Random(seed),
            compile_pattern=compile_pattern,
            members=MemberTable(recent_intent_timeout_ms=300_000),
            lower=self.lower,
            gossip_interval_ms=200,
        )
        self.core = SerfCore(
            context, rules=WanRules(), retransmit_mult=4, snapshot=snapshot, previous=previous
        )
        self.core.node_joined(ALPHA)
        self.core.node_joined(BETA)
        self.core.take_output()

    def hear(self, *messages: bytes) -> list[SerfOutput]:
        for message in messages:
            self.core.message_received(message)
        return self.core.take_output()

    def pass_time(self, now_ms: int) -> list[SerfOutput]:
        self.core.at(now_ms)
        self.core.advance()
        return self.core.take_output()


def test_beginning() -> None:
    core = Alpha().core
    assert core.local_member.tags == {"role": "web"}
    assert core.coordinate_of("alpha") == core.coordinate == Coordinate()
    assert core.meta() == ALPHA.meta
    assert core.statistics()["members"] == 2


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x63\x80", id="unknown type"),
        pytest.param(encode(KeyRequest(b"")), id="does not travel by itself"),
        pytest.param(encode(Relay(b"\1", 1, "x", b"")), id="relay to nowhere"),
        pytest.param(encode(Query(1, 2, b"", 1, "x", flags=1)), id="query from nowhere"),
    ],
)
def test_a_message_that_is_none_is_counted(data: bytes) -> None:
    alpha = Alpha()
    outputs = alpha.hear(data)
    assert alpha.core.statistics()["refused"] == 1
    assert [type(output) for output in outputs] == [Notice]
    assert alpha.lower.sent == []


@pytest.mark.parametrize("data", [b"\x99", encode(JoinIntent(1, "x"))], ids=["garbage", "other"])
def test_a_state_that_is_none_is_counted(data: bytes) -> None:
    alpha = Alpha()
    alpha.core.merge_remote_state(data, join=True)
    assert alpha.core.statistics()["refused"] == 1


def test_an_empty_state_moves_no_clock() -> None:
    alpha = Alpha()
    alpha.core.merge_remote_state(encode(State(0, {}, (), 0, (), 0)), join=False)
    statistics = alpha.core.statistics()
    assert [statistics[f"{name}_time"] for name in ("member", "event", "query")] == [1, 1, 1]


def test_clocks_follow_a_state() -> None:
    alpha = Alpha()
    alpha.core.merge_remote_state(encode(State(7, {}, (), 8, (), 9)), join=False)
    statistics = alpha.core.statistics()
    assert [statistics[f"{name}_time"] for name in ("member", "event", "query")] == [7, 8, 9]


def test_old_events_are_ignored_by_who_joins_so() -> None:
    alpha = Alpha()
    alpha.core.ignore_old_events(ignore=True)
    alpha.core.merge_remote_state(encode(State(1, {}, (), 8, (), 1)), join=True)
    assert alpha.hear(encode(UserEventMessage(7, "old"))) == []
    assert alpha.hear(encode(UserEventMessage(8, "new"))) == [Deliver(UserEvent(8, "new"))]


def test_a_live_member_that_others_take_for_left_is_told_and_contradicts() -> None:
    alpha = Alpha()
    state = encode(State(9, {"beta": 6}, ("beta",), 0, (), 0))
    alpha.core.merge_remote_state(state, join=False)
    assert status_of(alpha, "beta") is MemberStatus.LEAVING
    assert alpha.lower.sent == [(BETA.address, encode(LeaveIntent(7, "beta", False)))]
    # Another may have told it before, of the intent itself: its answer has the next time after.
    alpha.hear(encode(JoinIntent(7, "beta")))
    assert status_of(alpha, "beta") is MemberStatus.ALIVE
    # Who has heard of its answer does not fall for the old story again.
    alpha.core.merge_remote_state(state, join=False)
    assert status_of(alpha, "beta") is MemberStatus.ALIVE
    assert len(alpha.lower.sent) == 1


def test_a_member_that_is_gone_is_told_nothing() -> None:
    alpha = Alpha()
    alpha.core.node_left(BETA)
    alpha.core.merge_remote_state(encode(State(9, {"beta": 6}, ("beta",), 0, (), 0)), join=False)
    assert status_of(alpha, "beta") is MemberStatus.LEFT
    assert alpha.lower.sent == []


def test_a_time_of_ours_that_is_none_of_ours_is_outdone() -> None:
    alpha = Alpha()
    alpha.core.merge_remote_state(encode(State(0, {"alpha": 6}, (), 0, (), 0)), join=False)
    assert alpha.core.broadcasts(1000, 0) == [encode(JoinIntent(7, "alpha"))]
    alpha.core.merge_remote_state(encode(State(0, {"alpha": 7}, (), 0, (), 0)), join=False)
    assert alpha.core.broadcasts(1000, 0) == [encode(JoinIntent(7, "alpha"))]  # the same again


def status_of(alpha: Alpha, name: str) -> MemberStatus:
    return next(member.status for member in alpha.core.members if member.name == name)


def test_a_relay_hands_on_what_is_inside() -> None:
    alpha = Alpha()
    alpha.hear(encode(Relay(b"\x0a\0\0\2", 7946, "beta", b"inner")))
    assert alpha.lower.sent == [(BETA.address, b"inner")]


def test_coordinates_of_peers() -> None:
    alpha = Alpha()
    alpha.core.ping_completed("beta", 20.0, b"")
    alpha.core.ping_completed("beta", 20.0, b"\x01\xc1")
    alpha.core.ping_completed("beta", -1.0, encode_coordinate(Coordinate()))
    assert alpha.core.coordinate_of("beta") is None
    assert alpha.core.statistics()["refused"] == 2
    alpha.core.ping_completed("beta", 20.0, encode_coordinate(Coordinate()))
    assert alpha.core.coordinate_of("beta") == Coordinate()


def test_words_about_nobody_are_not_told() -> None:
    alpha = Alpha()
    stranger = Node("nobody", ("10.0.0.9", 1))
    alpha.core.node_left(stranger)
    alpha.core.node_updated(stranger)
    assert alpha.core.take_output() == []


def test_tags_that_cannot_be_read_are_none() -> None:
    alpha = Alpha()
    alpha.core.node_joined(Node("odd", ("10.0.0.9", 1), b"\xff\xc1"))
    assert [member.tags for member in alpha.core.members if member.name == "odd"] == [{}]


def test_rules_are_asked_about_everybody_but_ourselves() -> None:
    alpha = Alpha()
    assert alpha.core.alive_allowed(ALPHA) is None
    assert alpha.core.alive_allowed(BETA) == "Member 'beta' is not a server"
    assert alpha.core.merge_allowed([BETA]) == "Member 'beta' is not a server"


def test_a_failed_member_is_tried_again() -> None:
    alpha = Alpha()
    alpha.core.node_left(BETA)
    alpha.pass_time(30_000)  # one failed, one alive: tried for certain
    assert alpha.lower.rejoined == [BETA.address]


def test_a_member_that_is_gone_for_long_is_forgotten_everywhere() -> None:
    alpha = Alpha()
    alpha.core.ping_completed("beta", 20.0, encode_coordinate(Coordinate()))
    alpha.core.node_left(BETA)
    alpha.core.take_output()
    hours = 3_600_000
    outputs = alpha.pass_time(72 * hours + 15_000)
    events = [output.event for output in outputs if isinstance(output, Deliver)]
    assert [(event.kind.value) for event in events if isinstance(event, MemberEvent)] == [
        "member-reap"
    ]
    assert alpha.lower.forgotten == ["beta"]
    assert alpha.core.coordinate_of("beta") is None


def test_each_step_of_a_leave_has_its_bound() -> None:
    """The intent is never handed out and the lower layer never says that it has left."""
    alpha = Alpha()
    alpha.core.leave()
    alpha.core.leave()  # once is enough
    assert alpha.core.phase is Phase.LEAVING
    assert alpha.core.local_member.status is MemberStatus.LEAVING
    assert alpha.pass_time(4_999) == []
    assert alpha.lower.leaves == 0
    alpha.pass_time(5_000)
    assert alpha.lower.leaves == 1
    alpha.pass_time(10_000)
    assert alpha.pass_time(12_999) == []
    assert alpha.pass_time(13_000) == [Left()]
    alpha.core.swim_left()  # late, and of no use any more
    assert alpha.pass_time(60_000) == []


def test_a_leave_goes_on_as_soon_as_the_intent_is_out() -> None:
    alpha = Alpha()
    alpha.core.leave()
    intents = [decode(data) for _ in range(4) for data in alpha.core.broadcasts(1400, 3)]
    assert intents == [LeaveIntent(1, "alpha")] * 4
    alpha.pass_time(1)
    assert alpha.lower.leaves == 1


def test_those_taken_for_failed_are_told_of_a_leave() -> None:
    """It may be us who was too slow to hear them."""
    alpha = Alpha()
    alpha.core.node_left(structs.replace(BETA, state=NodeState.DEAD))
    alpha.core.leave()
    assert alpha.core.broadcasts(1400, 3) == [encode(LeaveIntent(1, "alpha"))]


def test_nobody_is_told_of_a_leave_when_nobody_would_hear() -> None:
    alpha = Alpha()
    alpha.lower.has_hearers = False
    alpha.core.leave()
    assert alpha.core.broadcasts(1400, 3) == []
    assert alpha.lower.leaves == 1


def test_who_leaves_does_not_contradict_its_own_leave() -> None:
    alpha = Alpha()
    alpha.core.leave()
    alpha.hear(encode(LeaveIntent(9, "alpha")))
    assert alpha.core.local_member.status is MemberStatus.LEAVING


def test_a_leave_that_somebody_made_up_is_contradicted_by_a_later_join() -> None:
    alpha = Alpha()
    alpha.hear(encode(LeaveIntent(9, "alpha")))
    (refutation,) = (decode(data) for data in alpha.core.broadcasts(1400, 3))
    assert refutation == JoinIntent(10, "alpha")
    alpha.hear(encode(LeaveIntent(9, "alpha")))  # an echo
    assert alpha.core.statistics()["intent_queue"] == 1


def test_packets_are_filled_with_intents_then_queries_then_events() -> None:
    alpha = Alpha()
    alpha.core.user_event("deploy", b"", coalesce=False)
    alpha.core.query(Question(name="who"))
    alpha.core.announce_join()
    kinds = [type(decode(data)) for data in alpha.core.broadcasts(1400, 3)]
    assert kinds == [JoinIntent, Query, UserEventMessage]
    sizes = [len(data) + 3 for data in alpha.core.broadcasts(1400, 3)]
    assert len(alpha.core.broadcasts(sizes[0] + sizes[1], 3)) == 2


@pytest.mark.parametrize(
    ("payload_bytes", "text"),
    [
        (507, "^user event exceeds configured limit of 512 bytes before encoding"),
        (500, "^encoded user event exceeds configured limit of 512 bytes after encoding"),
    ],
)
def test_an_event_that_is_too_large_stays_here(payload_bytes: int, text: str) -> None:
    alpha = Alpha()
    with pytest.raises(TooLarge, match=text):
        alpha.core.user_event("a-name", b"x" * payload_bytes, coalesce=False)
    assert alpha.core.broadcasts(1400, 3) == []


def query(query_id: int = 7, **changes: object) -> bytes:
    fields = {"name": "who", "timeout_ns": 10**9, **changes}
    return encode(Query(1, query_id, b"\x0a\0\0\2", 7946, "beta", **fields))  # type: ignore[arg-type]


def event_of(outputs: list[SerfOutput]) -> QueryEvent:
    (output,) = outputs
    assert isinstance(output, Deliver)
    assert isinstance(output.event, QueryEvent)
    return output.event


def test_an_answer_that_is_late_or_repeated_is_refused() -> None:
    alpha = Alpha()
    event = event_of(alpha.hear(query()))
    assert alpha.hear(query()) == []  # a repeat
    alpha.core.respond(event, b"me")
    assert decode(alpha.lower.sent[0][1]) == QueryResponse(1, 7, "alpha", 0, b"me")
    with pytest.raises(LocalProtocolError):
        alpha.core.respond(event, b"me again")
    late = event_of(alpha.hear(query(8)))
    alpha.pass_time(1_001)
    with pytest.raises(TimedOut):
        alpha.core.respond(late, b"me")


def test_a_query_that_says_so_is_not_gossiped_on() -> None:
    alpha = Alpha()
    alpha.hear(query(flags=2))
    assert alpha.core.broadcasts(1400, 3) == []
    alpha.hear(query(8))
    assert len(alpha.core.broadcasts(1400, 3)) == 1


def test_a_query_for_others_is_gossiped_on_without_being_shown() -> None:
    alpha = Alpha()
    assert alpha.hear(query(filters=(b"\x00\x90",))) == []
    assert len(alpha.core.broadcasts(1400, 3)) == 1


def test_answers_to_no_open_query_are_dropped() -> None:
    alpha = Alpha()
    query_id = alpha.core.query(Question(name="who", timeout_ms=1_000))
    alpha.core.take_output()
    stray = [
        QueryResponse(1, query_id ^ 1, "beta"),
        QueryResponse(2, query_id, "beta"),
    ]
    assert alpha.hear(*(encode(response) for response in stray)) == []
    answer = encode(QueryResponse(1, query_id, "beta", 0, b"me"))
    assert alpha.hear(answer, answer) == [QueryAnswer(query_id, "beta", b"me")]
    alpha.core.close_query(query_id)
    assert alpha.hear(encode(QueryResponse(1, query_id, "gamma"))) == []


def test_an_answer_too_long_to_be_relayed_still_goes_straight() -> None:
    alpha = Alpha()
    event = event_of(alpha.hear(query(relay_factor=1)))
    alpha.core.respond(event, b"x" * 950)
    assert [address for address, _ in alpha.lower.sent] == [BETA.address]
    assert any(isinstance(output, Notice) for output in alpha.core.take_output())


def test_who_is_not_known_is_testified_to_be_nobody() -> None:
    alpha = Alpha()
    for query_id, name in ((7, b"nobody"), (8, b"beta"), (9, b"alpha")):
        alpha.hear(query(query_id, name="_serf_conflict", payload=name))
    payloads = [decode(data).payload for _, data in alpha.lower.sent]  # type: ignore[union-attr]
    assert payloads[0] == b"\x06\xc0"
    assert b"beta" in (payloads[1] or b"")
    assert len(payloads) == 2  # about ourselves we say nothing


def test_a_restart_goes_on_where_the_last_run_ended() -> None:
    alpha = Alpha(previous=SnapshotState({}, 4, 6, 8))
    statistics = alpha.core.statistics()
    assert [statistics[f"{name}_time"] for name in ("member", "event", "query")] == [5, 7, 9]
    assert alpha.hear(encode(UserEventMessage(6, "heard before"))) == []
    assert len(alpha.hear(encode(UserEventMessage(7, "new")))) == 1


def test_what_happens_is_noted_for_the_next_run() -> None:
    snapshot = SnapshotLog(SnapshotState(), 0, rejoin_after_leave=False)
    alpha = Alpha(snapshot=snapshot)
    alpha.core.announce_join()
    alpha.hear(encode(UserEventMessage(3, "deploy")), query())
    alpha.core.node_updated(BETA)
    alpha.core.node_left(BETA)
    assert alpha.core.take_snapshot_write() is None
    assert alpha.core.next_deadline_ms() == 500
    alpha.core.at(500)
    written = alpha.core.take_snapshot_write()
    assert written is not None
    assert written.text.splitlines() == [
        "alive: alpha 10.0.0.1:7946",
        "alive: beta 10.0.0.2:7946",
        "event-clock: 3",
        "not-alive: beta",
        "clock: 1",
        "query-clock: 1",
    ]


def test_states_of_the_lower_layer() -> None:
    alpha = Alpha()
    gone = Node("gone", ("10.0.0.9", 1), b"", state=NodeState.LEFT)
    assert alpha.core.merge_allowed([gone]) == "Member 'gone' is not a server"


def test_a_name_conflict_that_goes_on_does_not_fill_the_log() -> None:
    """Every alive message of either rival says so anew."""
    alpha = Alpha()
    for _ in range(1000):
        alpha.core.conflict(BETA, Node("beta", ("10.0.0.3", 7946)))
    notes = [output for output in alpha.core.take_output() if isinstance(output, Notice)]
    assert [note.text.rpartition("=")[2] for note in notes] == [str(1 << n) for n in range(10)]

    # Another pair is news, but not for everybody who makes addresses up.
    for number in range(10_000):
        other = Node("beta", (f"10.1.{number >> 8}.{number & 255}", 7946))
        alpha.core.conflict(BETA, other)
    assert len(alpha.core.take_output()) < 300


def test_members_that_started_together_try_the_failed_at_different_times() -> None:
    seen = set()
    for seed in range(10):
        alpha = Alpha(seed=seed)
        alpha.core.node_left(BETA)
        for now_ms in range(0, 30_001, 100):
            alpha.pass_time(now_ms)
            if alpha.lower.rejoined:
                seen.add(now_ms)
                break
        assert alpha.lower.rejoined == [BETA.address], "within the first interval"
    assert len(seen) > 5


def test_a_member_to_be_pruned_that_is_still_there_is_kept_until_it_is_gone() -> None:
    """Its contradiction may have missed us; a later push/pull has it in the status times."""
    alpha = Alpha()
    alpha.hear(encode(LeaveIntent(7, "beta", True)))
    for now_ms in range(0, 60_001, 1000):
        alpha.pass_time(now_ms)
    assert [m.status for m in alpha.core.members if m.name == "beta"] == [MemberStatus.LEAVING]
    alpha.core.merge_remote_state(encode(State(9, {"beta": 8}, (), 1, (), 1)), join=False)
    assert [m.status for m in alpha.core.members if m.name == "beta"] == [MemberStatus.ALIVE]

    alpha.hear(encode(LeaveIntent(9, "beta", True)))
    alpha.core.node_left(BETA)
    for now_ms in range(60_000, 70_001, 1000):
        alpha.pass_time(now_ms)
    assert [member.name for member in alpha.core.members] == ["alpha"]
