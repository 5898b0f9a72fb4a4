"""The Serf layer: who is a member and why one went, user events and queries, over any SWIM layer.

It rides in the lower layer as opaque messages and as the tail of push/pull, and orders facts by
Lamport time where the lower layer orders them by incarnation. A plain object: messages and time
come in by methods, what it wants done comes out of `take_output`, and what it asks of the lower
layer goes to `LowerLayer`. It is the lower layer's `Delegate`.

Life of a leave:

    leave ─> leave intent, until it was handed out ─> the lower layer leaves, likewise
          ─> answer probes a while longer, so that the news gets around ─> Left

Source: gossip sheet, section 8.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping, Sequence

from registry.errors import RemoteProtocolError, TooLarge
from registry.membership.addresses import Address, format_address, unpack_ip
from registry.membership.broadcast import Outgoing
from registry.membership.clocks import LamportClock
from registry.membership.context import SerfContext
from registry.membership.coordinate import Coordinate, CoordinateClient
from registry.membership.events import BufferedEvent, EventBuffer
from registry.membership.leaving import LeaveProgress, LeaveStep
from registry.membership.merge_rules import MergeRules
from registry.membership.outbox import Outbox
from registry.membership.query_desk import QueryDesk, Question
from registry.membership.seam import ANYBODY, Node, NodeState, Recipient
from registry.membership.serf_config import USER_EVENT_BYTES_CEILING
from registry.membership.serf_messages import (
    JoinIntent,
    LeaveIntent,
    Query,
    QueryResponse,
    Relay,
    State,
    UserEventMessage,
    decode,
    decode_coordinate,
    decode_tags,
    encode,
    encode_coordinate,
    encode_tags,
)
from registry.membership.serf_values import (
    Left,
    Member,
    MemberEvent,
    MemberEventKind,
    MemberStatus,
    QueryEvent,
    SerfOutput,
    UserEvent,
)
from registry.membership.snapshot import SnapshotLog, SnapshotState, SnapshotWrite

#: Name conflicts that are told apart: who invents addresses must not fill the memory either.
_CONFLICTS_MAX = 256


class Phase(enum.Enum):
    ALIVE = "alive"
    LEAVING = "leaving"
    LEFT = "left"


class SerfCore:
    """One member's view of its pool. Each input is preceded by `at(now_ms)`."""

    def __init__(
        self,
        context: SerfContext,
        *,
        rules: MergeRules,
        retransmit_mult: int,
        snapshot: SnapshotLog | None = None,
        previous: SnapshotState | None = None,
    ) -> None:
        self.phase = Phase.ALIVE
        #: The pool does not list us. Our name may be somebody else's there: see `leave`.
        self.is_refused = False
        self._context = context
        self._rules = rules
        self._snapshot = snapshot
        self._clock = LamportClock()
        self._events = EventBuffer(context.config.event_buffer_size)
        self._queries = QueryDesk(context)
        self._coordinates = CoordinateClient(context.rng)
        self._intent_queue = Outbox(retransmit_mult)
        self._query_queue = Outbox(retransmit_mult)
        self._event_queue = Outbox(retransmit_mult)
        self._meta = encode_tags(dict(context.tags))
        self._ignores_old_events = False
        self._leave: LeaveProgress | None = None
        self._intent_sent: Outgoing | None = None
        #: How often each two were in conflict; under None what came when the table was full.
        self._conflicts: Counter[tuple[str, Address, Address] | None] = Counter()
        self._prunes: list[tuple[int, str]] = []
        self._reap_at_ms = context.now_ms + context.config.reap_interval_ms
        # Nodes that start together, or saw the same failure, shall not try all at one moment: after
        # a partition somebody tries soon then, wherever in the interval it ends.
        reconnect_interval_ms = context.config.reconnect_interval_ms
        self._reconnect_at_ms = context.now_ms + int(context.rng.random() * reconnect_interval_ms)
        if previous is not None:
            self._resume(previous)

    def _resume(self, previous: SnapshotState) -> None:
        """Go on where this agent's last run ended."""
        self._clock.witness(previous.clock)
        self._events.clock.witness(previous.event_clock)
        self._queries.witness(previous.query_clock)
        self._events.least_time = previous.event_clock + 1
        self._queries.begin_at(previous.query_clock + 1)

    # What anybody may look at.

    @property
    def members(self) -> list[Member]:
        return list(self._context.members)

    @property
    def local_member(self) -> Member:
        member = self._context.members.get(self._context.name)
        assert member is not None, "the lower layer tells of ourselves first"
        return member

    @property
    def coordinate(self) -> Coordinate:
        return self._coordinates.own

    def coordinate_of(self, name: str) -> Coordinate | None:
        return self.coordinate if name == self._context.name else self._coordinates.of(name)

    def statistics(self) -> dict[str, int]:
        members = self._context.members
        return {
            "members": len(members),
            "failed": len(members.having(MemberStatus.FAILED)),
            "left": len(members.having(MemberStatus.LEFT)),
            "member_time": self._clock.time,
            "event_time": self._events.clock.time,
            "query_time": self._queries.time,
            "intent_queue": len(self._intent_queue),
            "event_queue": len(self._event_queue),
            "query_queue": len(self._query_queue),
            "coordinate_resets": self._coordinates.resets,
            "refused": self._context.refused,
        }

    # Time and effects.

    def at(self, now_ms: int) -> None:
        """What follows happens now."""
        self._context.now_ms = now_ms

    def take_output(self) -> list[SerfOutput]:
        outputs, self._context.outputs = self._context.outputs, []
        return outputs

    def take_snapshot_write(self) -> SnapshotWrite | None:
        """What is due to be written to the snapshot file."""
        if self._snapshot is None:
            return None
        now_ms = self._context.now_ms
        self._snapshot.clock(self._clock.time - 1, now_ms)
        self._snapshot.query_clock(self._queries.newest_time, now_ms)
        return self._snapshot.take_write(now_ms)

    def next_deadline_ms(self) -> int:
        deadlines = [
            self._reap_at_ms,
            self._reconnect_at_ms,
            self._queries.next_deadline_ms(),
            min((at_ms for at_ms, _ in self._prunes), default=None),
            self._leave.deadline_ms if self._leave else None,
            self._snapshot.next_deadline_ms if self._snapshot else None,
        ]
        return min(deadline for deadline in deadlines if deadline is not None)

    def advance(self) -> None:
        """Do what is due."""
        now_ms = self._context.now_ms
        self._queries.advance()
        self._prune_due(now_ms)
        if now_ms >= self._reap_at_ms:
            self._reap_at_ms = now_ms + self._context.config.reap_interval_ms
            self._reap(now_ms)
        if now_ms >= self._reconnect_at_ms:
            self._reconnect_at_ms = now_ms + self._context.config.reconnect_interval_ms
            self._reconnect()
        self._go_on_leaving(now_ms)

    def _reap(self, now_ms: int) -> None:
        config = self._context.config
        for name in self._context.members.due(
            now_ms,
            failed_after_ms=config.reconnect_timeout_ms,
            left_after_ms=config.tombstone_timeout_ms,
        ):
            self._erase(name)

    def _erase(self, name: str) -> None:
        event = self._context.members.erase(name)
        if event is not None:
            self._coordinates.forget(name)
            self._context.lower.forget(name)
            self._context.deliver(event)

    def _reconnect(self) -> None:
        """Try a failed member, so that the pool as a whole tries each about once per interval."""
        failed = self._context.members.having(MemberStatus.FAILED)
        if not failed or self.phase is not Phase.ALIVE:
            return
        alive = len(self._context.members.having(MemberStatus.ALIVE))
        if self._context.rng.random() < len(failed) / max(1, alive):
            member = self._context.rng.choice(failed)
            self._context.lower.rejoin((member.address, member.port))

    # Delegate: what the lower layer asks and tells.

    def meta(self) -> bytes:
        return self._meta

    def broadcasts(self, limit: int, overhead: int, recipient: Recipient = ANYBODY) -> list[bytes]:
        """Messages to ride along in a packet: intents first, then queries, then events."""
        count = len(self._context.members)
        taken: list[bytes] = []
        for queue in (self._intent_queue, self._query_queue, self._event_queue):
            room = limit - sum(len(message) + overhead for message in taken)
            taken += queue.take(room, overhead, count, recipient)
        return taken

    def local_state(self, *, join: bool) -> bytes:
        """Our part of a push/pull, the same whether somebody joins or not."""
        members = self._context.members
        left = members.having(MemberStatus.LEFT)
        state = State(
            l_time=self._clock.time,
            status_times=members.status_times(),
            left_members=tuple(member.name for member in left),
            event_l_time=self._events.clock.time,
            events=tuple(self._events.slots()),
            query_l_time=self._queries.time,
        )
        return encode(state)

    def merge_remote_state(self, data: bytes, *, join: bool) -> None:
        """Take over what another member knows. Nothing of it is gossiped on."""
        try:
            state = decode(data)
            if not isinstance(state, State):
                raise RemoteProtocolError("the tail of a push/pull is no state")
        except RemoteProtocolError as problem:
            self._refuse(problem)
            return
        self._witness_state(state)
        self._merge_intents(state)
        if join and self._ignores_old_events:
            self._events.least_time = max(self._events.least_time, state.event_l_time)
        for slot in state.events:
            for event in slot.events:
                self._take_event(slot.l_time, event, coalesce=False)

    def _witness_state(self, state: State) -> None:
        # The sender's clocks show the next time to be used: the last one used is one less.
        if state.l_time > 0:
            self._clock.witness(state.l_time - 1)
        if state.event_l_time > 0:
            self._events.clock.witness(state.event_l_time - 1)
        if state.query_l_time > 0:
            self._queries.witness(state.query_l_time - 1)

    def _merge_intents(self, state: State) -> None:
        left = frozenset(state.left_members)
        for name in state.left_members:
            self._merge_leave(name, state.status_times.get(name, 0))
        for name, l_time in state.status_times.items():
            if name not in left:
                self._merge_join(name, l_time)

    def _merge_leave(self, name: str, status_time: int) -> None:
        """Somebody takes a member for one that has left.

        The time of the leave itself is not told; it must have come after the status time. Who is
        alive to us has been put out by force where it could not hear of it. Merges are not gossiped
        on, so we tell it, and it contradicts; else it would stay "leaving" here (this goes beyond
        section 8.6, and to others it is a leave intent like any).
        """
        l_time = status_time + 1
        before = self._context.members.get(name)
        self._take_leave(name, l_time, is_guess=True)
        after = self._context.members.get(name)
        if before and after and before.status is not after.status is MemberStatus.LEAVING:
            intent = encode(LeaveIntent(l_time, name, False))
            self._context.lower.send_user((after.address, after.port), intent)

    def _merge_join(self, name: str, l_time: int) -> None:
        """Somebody has accepted an intent of this time about a member that has not left."""
        outdone = not self._context.members.is_stale(name, l_time)
        if name == self._context.name and self.phase is Phase.ALIVE and outdone:
            # It is none of ours: either it was in an earlier life, or somebody put us out by force.
            self._clock.witness(l_time)
            self.announce_join()
        else:
            self._take_join(name, l_time)

    def node_joined(self, node: Node) -> None:
        self._tell(self._context.members.joined(member_of(node)))

    def node_left(self, node: Node) -> None:
        event = self._context.members.gone(node.name, self._context.now_ms)
        if event is not None:
            self._tell(event)

    def node_updated(self, node: Node) -> None:
        event = self._context.members.updated(member_of(node))
        if event is not None:
            self._tell(event)

    def _tell(self, event: MemberEvent) -> None:
        self._context.deliver(event)
        if self._snapshot is None or event.kind is MemberEventKind.UPDATE:
            return
        member, now_ms = event.member, self._context.now_ms
        if event.kind is MemberEventKind.JOIN:
            address = format_address((member.address, member.port))
            self._snapshot.alive(member.name, address, now_ms)
        else:
            self._snapshot.not_alive(member.name, now_ms)

    def conflict(self, existing: Node, other: Node) -> None:
        """Two addresses claim one name. Each says so with every alive message of its own."""
        self._note_conflict(existing, other)
        if existing.name != self._context.name or self.phase is not Phase.ALIVE:
            return
        if self._context.config.resolves_name_conflicts:
            encoded = self._queries.ask_who_has_our_name()
            if encoded is not None:
                self._query_queue.add(encoded)

    def _note_conflict(self, existing: Node, other: Node) -> None:
        """At the 1st, 2nd, 4th, 8th … time between the two: it must not fill the log."""
        rivals: tuple[str, Address, Address] | None
        rivals = (existing.name, existing.address, other.address)
        if rivals not in self._conflicts and len(self._conflicts) >= _CONFLICTS_MAX:
            rivals = None
        self._conflicts[rivals] += 1
        count = self._conflicts[rivals]
        if count & (count - 1) == 0:
            self._context.note(
                f"name conflict: name={existing.name} address={format_address(existing.address)}"
                f" other={format_address(other.address)} count={count}"
            )

    def merge_allowed(self, nodes: Sequence[Node]) -> str | None:
        return self._rules.objection([member_of(node) for node in nodes])

    def alive_allowed(self, node: Node) -> str | None:
        if (node.name, node.address) == (self._context.name, self._context.address):
            return None  # whoever is not fit for the pool is told so by others
        return self._rules.objection([member_of(node)])

    def ack_payload(self) -> bytes:
        return encode_coordinate(self.coordinate)

    def ping_completed(self, name: str, rtt_ms: float, payload: bytes) -> None:
        try:
            coordinate = decode_coordinate(payload)
        except RemoteProtocolError as problem:
            self._refuse(problem)
            return
        if coordinate is not None and not self._coordinates.update(
            name, coordinate, rtt_ms / 1000.0
        ):
            self._context.refused += 1

    def message_received(self, data: bytes) -> None:
        """A Serf message came, by gossip or straight to us."""
        try:
            self._dispatch(data)
        except (RemoteProtocolError, TooLarge) as problem:
            self._refuse(problem)

    def _refuse(self, problem: Exception) -> None:
        self._context.refused += 1
        self._context.note(f"message dropped: {problem}", is_warning=False)

    def _dispatch(self, data: bytes) -> None:
        message = decode(data)
        if isinstance(message, LeaveIntent):
            if self._take_leave(message.node, message.l_time, prune=message.prune):
                self._intent_queue.add(data)
        elif isinstance(message, JoinIntent):
            if self._take_join(message.node, message.l_time):
                self._intent_queue.add(data)
        elif isinstance(message, UserEventMessage):
            event = BufferedEvent(message.name, message.payload)
            if self._take_event(message.l_time, event, coalesce=message.coalesce):
                self._event_queue.add(data)
        elif isinstance(message, Query):
            if self._queries.receive(message):
                self._query_queue.add(data)
        elif isinstance(message, QueryResponse):
            self._queries.receive_response(message)
        elif isinstance(message, Relay):
            destination = (unpack_ip(message.address), message.port)
            self._context.lower.send_user(destination, message.inner)
        else:
            raise RemoteProtocolError(f"{type(message).__name__} does not travel by itself")

    # Intents.

    def _take_join(self, name: str, l_time: int) -> bool:
        self._clock.witness(l_time)
        return self._context.members.join_intent(name, l_time, self._context.now_ms).gossip_on

    def _take_leave(
        self, name: str, l_time: int, *, prune: bool = False, is_guess: bool = False
    ) -> bool:
        self._clock.witness(l_time)
        members = self._context.members
        if name == self._context.name and self.phase is Phase.ALIVE:
            if name in members and not members.is_stale(name, l_time):
                self.announce_join()  # we are here: a later join outdoes the leave
            return False
        verdict = members.leave_intent(
            name, l_time, self._context.now_ms, prune=prune, is_guess=is_guess
        )
        if verdict.event is not None:
            self._tell(verdict.event)
        if verdict.prune:
            self._prune(name)
        return verdict.gossip_on

    def _prune(self, name: str) -> None:
        """Erase a member, but one that is leaving only once it is gone.

        A leaving member is still there. Either it is about to go, or it was put out by force and
        has contradicted, which we may have missed: erased, it would be missing here for good, as
        the lower layer, to which it never went, does not announce it again. (The real agent erases
        it after this delay in any case.)
        """
        member = self._context.members.get(name)
        if member is not None and member.status is MemberStatus.LEAVING:
            config = self._context.config
            delay_ms = config.broadcast_timeout_ms + config.leave_propagate_delay_ms
            self._prunes.append((self._context.now_ms + delay_ms, name))
        else:
            self._erase(name)

    def _prune_due(self, now_ms: int) -> None:
        due = [name for at_ms, name in self._prunes if at_ms <= now_ms]
        if due:
            self._prunes = [prune for prune in self._prunes if prune[0] > now_ms]
        for name in due:
            self._prune(name)

    def announce_join(self) -> None:
        """Tell everybody that we are here, as of now. Called after a join that reached somebody."""
        l_time = self._clock.time
        self._take_join(self._context.name, l_time)
        self._intent_queue.add(encode(JoinIntent(l_time, self._context.name)))

    def force_leave(self, name: str, *, prune: bool = False) -> None:
        """Declare that a member has left; a live one will contradict."""
        l_time = self._clock.take()
        self._take_leave(name, l_time, prune=prune)
        self._intent_queue.add(encode(LeaveIntent(l_time, name, prune)))

    # Leaving.

    def leave(self) -> None:
        """Begin to leave; `Left` comes out when it is through."""
        if self.phase is not Phase.ALIVE:
            return
        self.phase = Phase.LEAVING
        now_ms = self._context.now_ms
        if self._snapshot is not None:
            self._snapshot.leave(now_ms)
        if self.is_refused:
            # An intent carries a name and nothing else. It would put out whoever has ours (15.14).
            self._end_leave()
            return
        # Greater than every status time that we ever published: each was witnessed.
        l_time = self._clock.take()
        self._take_leave(self._context.name, l_time)
        if self._context.lower.has_hearers:
            # Those taken for dead are told, too: it may be us who was too slow to hear them, and
            # who says nothing is soon declared failed.
            intent = encode(LeaveIntent(l_time, self._context.name))
            self._intent_sent = self._intent_queue.add(intent)
        self._begin_step(LeaveStep.INTENT, self._context.config.broadcast_timeout_ms)
        self._go_on_leaving(now_ms)

    def swim_left(self) -> None:
        """The lower layer's leave has been handed out, or nobody is there to hear it."""
        if self._leave is not None and self._leave.step is LeaveStep.DEAD:
            delay_ms = self._context.config.leave_propagate_delay_ms
            self._begin_step(LeaveStep.PROPAGATE, delay_ms)

    def _begin_step(self, step: LeaveStep, timeout_ms: int) -> None:
        self._leave = LeaveProgress(step, self._context.now_ms + timeout_ms)

    def _go_on_leaving(self, now_ms: int) -> None:
        if self._leave is None:
            return
        is_due = now_ms >= self._leave.deadline_ms
        if self._leave.step is LeaveStep.INTENT and (is_due or self._intent_is_out):
            self._begin_step(LeaveStep.DEAD, self._context.config.broadcast_timeout_ms)
            self._context.lower.leave()
        elif self._leave.step is LeaveStep.DEAD and is_due:
            self.swim_left()
        elif self._leave.step is LeaveStep.PROPAGATE and is_due:
            self._end_leave()

    def _end_leave(self) -> None:
        self._leave = None
        self.phase = Phase.LEFT
        self._context.outputs.append(Left())

    @property
    def _intent_is_out(self) -> bool:
        return self._intent_sent is None or self._intent_sent.is_finished

    # Tags.

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Replace our tags and tell everybody. Raises `TooLarge`."""
        meta = encode_tags(dict(tags))
        self._context.lower.update_meta(meta)
        # Encoded once per change: peers compare the bytes under one incarnation.
        self._meta = meta
        self._context.tags = dict(tags)

    # User events.

    def ignore_old_events(self, *, ignore: bool) -> None:
        """Whether the next join takes none of the events that were before it."""
        self._ignores_old_events = ignore

    def user_event(self, name: str, payload: bytes, *, coalesce: bool) -> None:
        """Tell everybody, ourselves included. Raises `TooLarge`."""
        limit = self._context.config.user_event_bytes_max
        if len(name.encode()) + len(payload) > limit:
            raise TooLarge(f"user event exceeds configured limit of {limit} bytes before encoding")
        l_time = self._events.clock.time
        message = UserEventMessage(l_time, name, payload or None, coalesce)
        encoded = encode(message)
        if len(encoded) > min(limit, USER_EVENT_BYTES_CEILING):
            raise TooLarge(
                f"encoded user event exceeds configured limit of {limit} bytes after encoding"
            )
        self._take_event(l_time, BufferedEvent(name, message.payload), coalesce=coalesce)
        self._event_queue.add(encoded)

    def _take_event(self, l_time: int, event: BufferedEvent, *, coalesce: bool) -> bool:
        if not self._events.admit(l_time, event):
            return False
        if self._snapshot is not None:
            self._snapshot.event_clock(l_time, self._context.now_ms)
        self._context.deliver(UserEvent(l_time, event.name, event.payload or b"", coalesce))
        return True

    # Queries.

    def query(self, question: Question) -> int:
        """Ask everybody; answers come out of `take_output` under the id. Raises `TooLarge`."""
        query_id, encoded = self._queries.ask(question)
        self._query_queue.add(encoded)
        return query_id

    def close_query(self, query_id: int) -> None:
        self._queries.close(query_id)

    def respond(self, event: QueryEvent, payload: bytes) -> None:
        self._queries.respond(event, payload)

    def keyring_persisted(self, token: int, error: str | None) -> None:
        self._queries.keyring_persisted(token, error)


#: What a node of the lower layer is to the merge rules; intents decide what it is to the pool.
_STATUSES = {
    NodeState.ALIVE: MemberStatus.ALIVE,
    NodeState.SUSPECT: MemberStatus.ALIVE,
    NodeState.DEAD: MemberStatus.FAILED,
    NodeState.LEFT: MemberStatus.LEFT,
}


def member_of(node: Node) -> Member:
    """The node with its tags; tags that cannot be read are none."""
    try:
        tags = decode_tags(node.meta)
    except RemoteProtocolError:
        tags = {}
    versions = node.versions
    return Member(
        name=node.name,
        address=node.address[0],
        port=node.address[1],
        tags=tags,
        status=_STATUSES[node.state],
        protocol_min=versions.protocol_min,
        protocol_max=versions.protocol_max,
        protocol_current=versions.protocol_current,
        delegate_min=versions.delegate_min,
        delegate_max=versions.delegate_max,
        delegate_current=versions.delegate_current,
    )
