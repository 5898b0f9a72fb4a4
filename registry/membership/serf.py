"""The Serf layer: who is a member and why one went, user events and queries, over any SWIM layer.

It rides in the lower layer as opaque messages and as the tail of push/pull, and orders facts by
Lamport time where the lower layer orders them by incarnation. A plain object: messages and time
come in by methods, what it wants done comes out of `take_output`, and what it asks of the lower
layer goes to `LowerLayer`. It is the lower layer's `Delegate`.

The parts, each in its file: `member_table` holds who is known, `intent_desk` takes in and sends
what is said of members, `event_desk` user events, `query_desk` queries; `state_exchange` compares
all that with one other member. `leaving`, `reconnecting` and `reaper` do what takes time, `outbox`
and `journal` keep what is to be sent and to be remembered. They share a `SerfContext`.

Source: gossip sheet, section 8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from registry.errors import RemoteProtocolError, TooLarge
from registry.membership.addresses import unpack_ip
from registry.membership.conflict_notes import ConflictNotes
from registry.membership.context import Phase, SerfContext
from registry.membership.coordinate import Coordinate, CoordinateClient
from registry.membership.event_desk import EventDesk
from registry.membership.intent_desk import IntentDesk
from registry.membership.journal import Journal
from registry.membership.leaving import Leaving
from registry.membership.member_view import member_of
from registry.membership.merge_rules import MergeRules
from registry.membership.outbox import Outboxes
from registry.membership.query_desk import QueryDesk, Question
from registry.membership.reaper import Reaper
from registry.membership.reconnecting import Reconnecting
from registry.membership.seam import ANYBODY, Node, Recipient
from registry.membership.serf_messages import (
    JoinIntent,
    LeaveIntent,
    Query,
    QueryResponse,
    Relay,
    UserEventMessage,
    decode,
    decode_coordinate,
    encode_coordinate,
    encode_tags,
)
from registry.membership.serf_values import (
    Member,
    MemberEvent,
    MemberStatus,
    QueryEvent,
    SerfOutput,
)
from registry.membership.snapshot import SnapshotLog, SnapshotState, SnapshotWrite
from registry.membership.state_exchange import StateExchange


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
        #: The pool does not list us. Our name may be somebody else's there: see `leave`.
        self.is_refused = False
        self._context = context
        self._rules = rules
        self._meta = encode_tags(dict(context.tags))
        self._outboxes = boxes = Outboxes(retransmit_mult)
        self._journal = journal = Journal(context, snapshot)
        self._coordinates = CoordinateClient(context.rng)
        self._reaper = Reaper(context, self._coordinates)
        self._intents = IntentDesk(context, boxes.intents, journal=journal, reaper=self._reaper)
        self._events = EventDesk(context, boxes.events, journal)
        self._queries = QueryDesk(context)
        self._states = StateExchange(
            context, intents=self._intents, events=self._events, queries=self._queries
        )
        self._leaving = Leaving(context, self._intents, journal)
        self._reconnecting = Reconnecting(context)
        self._conflicts = ConflictNotes(context)
        self._handlers: dict[type[Any], Callable[[Any, bytes], None]] = {
            JoinIntent: self._on_join_intent,
            LeaveIntent: self._on_leave_intent,
            UserEventMessage: self._on_user_event,
            Query: self._on_query,
            QueryResponse: lambda response, _: self._queries.receive_response(response),
            Relay: self._on_relay,
        }
        if previous is not None:
            self._resume(previous)

    def _resume(self, previous: SnapshotState) -> None:
        """Go on where this agent's last run ended."""
        self._intents.clock.witness(previous.clock)
        self._events.clock.witness(previous.event_clock)
        self._queries.witness(previous.query_clock)
        self._events.begin_at(previous.event_clock + 1)
        self._queries.begin_at(previous.query_clock + 1)

    # What anybody may look at.

    @property
    def phase(self) -> Phase:
        return self._context.phase

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
            "member_time": self._intents.clock.time,
            "event_time": self._events.clock.time,
            "query_time": self._queries.time,
            "intent_queue": len(self._outboxes.intents),
            "event_queue": len(self._outboxes.events),
            "query_queue": len(self._outboxes.queries),
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
        return self._journal.take_write(
            member_time=self._intents.clock.time - 1, query_time=self._queries.newest_time
        )

    def next_deadline_ms(self) -> int:
        deadlines = (
            self._reaper.next_deadline_ms(),
            self._reconnecting.next_deadline_ms(),
            self._queries.next_deadline_ms(),
            self._leaving.next_deadline_ms(),
            self._journal.next_deadline_ms(),
        )
        return min(deadline for deadline in deadlines if deadline is not None)

    def advance(self) -> None:
        """Do what is due."""
        self._queries.advance()
        self._reaper.advance()
        self._reconnecting.advance()
        self._leaving.advance()

    # Delegate: what the lower layer asks and tells of members.

    def meta(self) -> bytes:
        return self._meta

    def node_joined(self, node: Node) -> None:
        self._tell(self._context.members.joined(member_of(node)))

    def node_left(self, node: Node) -> None:
        self._tell(self._context.members.gone(node.name, self._context.now_ms))

    def node_updated(self, node: Node) -> None:
        self._tell(self._context.members.updated(member_of(node)))

    def _tell(self, event: MemberEvent | None) -> None:
        if event is not None:
            self._context.deliver(event)
            self._journal.member_changed(event)

    def conflict(self, existing: Node, other: Node) -> None:
        """Two addresses claim one name; if it is ours, the pool is asked who has it."""
        self._conflicts.add(existing, other)
        if not self._intents.concerns_us(existing.name):
            return
        if self._context.config.resolves_name_conflicts:
            encoded = self._queries.ask_who_has_our_name()
            if encoded is not None:
                self._outboxes.queries.add(encoded)

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
            self._context.refuse(problem)
            return
        if coordinate is not None and not self._coordinates.update(
            name, coordinate, rtt_ms / 1000.0
        ):
            self._context.refused += 1

    # Delegate: messages.

    def broadcasts(self, limit: int, overhead: int, recipient: Recipient = ANYBODY) -> list[bytes]:
        """Messages to ride along in a packet: intents first, then queries, then events."""
        return self._outboxes.take(limit, overhead, len(self._context.members), recipient)

    def local_state(self, *, join: bool) -> bytes:
        """Our part of a push/pull, the same whether somebody joins or not."""
        return self._states.local_state()

    def merge_remote_state(self, data: bytes, *, join: bool) -> None:
        """Take over what another member knows. Nothing of it is gossiped on."""
        try:
            self._states.merge(data, join=join)
        except RemoteProtocolError as problem:
            self._context.refuse(problem)

    def message_received(self, data: bytes) -> None:
        """A Serf message came, by gossip or straight to us."""
        try:
            message = decode(data)
            handle = self._handlers.get(type(message))
            if handle is None:
                raise RemoteProtocolError(f"{type(message).__name__} does not travel by itself")
            handle(message, data)
        except (RemoteProtocolError, TooLarge) as problem:
            self._context.refuse(problem)

    def _on_join_intent(self, intent: JoinIntent, data: bytes) -> None:
        if self._intents.receive_join(intent.node, intent.l_time):
            self._outboxes.intents.add(data)

    def _on_leave_intent(self, intent: LeaveIntent, data: bytes) -> None:
        if self._intents.receive_leave(intent.node, intent.l_time, prune=intent.prune):
            self._outboxes.intents.add(data)

    def _on_user_event(self, event: UserEventMessage, data: bytes) -> None:
        if self._events.receive(event):
            self._outboxes.events.add(data)

    def _on_query(self, query: Query, data: bytes) -> None:
        if self._queries.receive(query):
            self._outboxes.queries.add(data)

    def _on_relay(self, relay: Relay, data: bytes) -> None:
        self._context.lower.send_user((unpack_ip(relay.address), relay.port), relay.inner)

    # Coming and going.

    def announce_join(self) -> None:
        """Tell everybody that we are here, as of now. Called after a join that reached somebody."""
        self._intents.announce_join()

    def ignore_old_events(self, *, ignore: bool) -> None:
        """Whether the next join takes none of the events that were before it."""
        self._events.ignores_old = ignore

    def leave(self) -> None:
        """Begin to leave; `Left` comes out when it is through."""
        # An intent carries a name and nothing else. It would put out whoever has ours (15.14).
        self._leaving.begin(silently=self.is_refused)

    def swim_left(self) -> None:
        """The lower layer's leave has been handed out, or nobody is there to hear it."""
        self._leaving.swim_left()

    def force_leave(self, name: str, *, prune: bool = False) -> None:
        """Declare that a member has left; a live one will contradict."""
        self._intents.force_leave(name, prune=prune)

    # Telling and asking.

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Replace our tags and tell everybody. Raises `TooLarge`."""
        meta = encode_tags(dict(tags))
        self._context.lower.update_meta(meta)
        # Encoded once per change: peers compare the bytes under one incarnation.
        self._meta = meta
        self._context.tags = dict(tags)

    def user_event(self, name: str, payload: bytes, *, coalesce: bool) -> None:
        """Tell everybody, ourselves included. Raises `TooLarge`."""
        self._events.fire(name, payload, coalesce=coalesce)

    def query(self, question: Question) -> int:
        """Ask everybody; answers come out of `take_output` under the id. Raises `TooLarge`."""
        query_id, encoded = self._queries.ask(question)
        self._outboxes.queries.add(encoded)
        return query_id

    def close_query(self, query_id: int) -> None:
        self._queries.close(query_id)

    def respond(self, event: QueryEvent, payload: bytes) -> None:
        self._queries.respond(event, payload)

    def keyring_persisted(self, token: int, error: str | None) -> None:
        self._queries.keyring_persisted(token, error)
