"""Both sides of queries: asking the pool, and answering what the pool asks.

    ask ─> gossip ─> everybody: filters match? ─> ack, and the handler's answer, to the asker
                                                  └─ with a relay factor also through others

Internal queries (`_serf_…`) are answered here and never shown to the application. The asker
answers its own queries like everybody else, over the network.

Source: gossip sheet, sections 8.5, 8.7 and 10.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from registry.errors import LocalProtocolError, TimedOut, TooLarge
from registry.membership import conflict, key_queries
from registry.membership.addresses import pack_ip, unpack_ip
from registry.membership.context import SerfContext
from registry.membership.filters import Filter, concerns, encode_filter
from registry.membership.queries import (
    INTERNAL_PREFIX,
    OpenQuery,
    QueryBuffer,
    QueryFlag,
    default_timeout_ms,
)
from registry.membership.serf_messages import (
    ConflictResponse,
    KeyResponse,
    Query,
    QueryResponse,
    Relay,
    encode,
    encode_nobody,
)
from registry.membership.serf_values import (
    MemberStatus,
    NameLost,
    PersistKeyring,
    QueryAnswer,
    QueryClosed,
    QueryEvent,
)

PING = "_serf_ping"

#: A query may keep an answer open this long at most, whatever it says.
TIMEOUT_MS_MAX = 3_600_000

#: Members whose protocol knows relay frames.
_RELAY_SINCE = 5


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A query as the application puts it; no timeout means the pool's default."""

    name: str
    payload: bytes = b""
    filters: tuple[Filter, ...] = ()
    timeout_ms: int = 0
    wants_acks: bool = False
    relay_factor: int = 0


@dataclass(slots=True)
class _Persisting:
    """A key query whose answer waits for the ring to be written."""

    event: QueryEvent
    response: KeyResponse


class QueryDesk:
    def __init__(self, context: SerfContext) -> None:
        self._context = context
        self._buffer = QueryBuffer(context.config.query_buffer_size)
        self._open: dict[int, OpenQuery] = {}
        self._answerable: dict[tuple[int, int], int] = {}  # (time, id) -> deadline
        self._persisting: dict[int, _Persisting] = {}
        self._tokens = 0
        self._vote: tuple[int, conflict.Vote] | None = None
        #: The greatest Lamport time of a query that was taken in.
        self.newest_time = 0

    @property
    def time(self) -> int:
        return self._buffer.clock.time

    def witness(self, l_time: int) -> None:
        self._buffer.clock.witness(l_time)

    def begin_at(self, least_time: int) -> None:
        self._buffer.least_time = max(self._buffer.least_time, least_time)

    # Asking.

    def ask(self, question: Question) -> tuple[int, bytes]:
        """The id of the new query, and the message to gossip. Raises `TooLarge`."""
        context = self._context
        count = len(context.members.having(MemberStatus.ALIVE))
        timeout_ms = question.timeout_ms or default_timeout_ms(context.gossip_interval_ms, count)
        query = Query(
            l_time=self.time,
            query_id=self._new_id(),
            address=context.packed_address,
            port=context.address[1],
            source=context.name,
            filters=tuple(encode_filter(filter_) for filter_ in question.filters),
            flags=QueryFlag.ACK if question.wants_acks else 0,
            relay_factor=question.relay_factor,
            timeout_ns=timeout_ms * 1_000_000,
            name=question.name,
            payload=question.payload or None,
        )
        encoded = encode(query)
        if len(encoded) > context.config.query_bytes_max:
            raise TooLarge(f"query exceeds limit of {context.config.query_bytes_max} bytes")
        deadline_ms = context.now_ms + timeout_ms
        self._open[query.query_id] = OpenQuery(query.l_time, query.query_id, deadline_ms)
        self.receive(query)
        return query.query_id, encoded

    def _new_id(self) -> int:
        while (query_id := self._context.rng.getrandbits(31)) in self._open:
            continue
        return query_id

    def close(self, query_id: int) -> None:
        """Nobody waits for more answers."""
        self._open.pop(query_id, None)

    def receive_response(self, response: QueryResponse) -> None:
        """Somebody has answered; what belongs to no open query is dropped."""
        query = self._open.get(response.query_id)
        if query is None or query.l_time != response.l_time:
            return
        is_ack = bool(response.flags & QueryFlag.ACK)
        if not query.is_first(response.node, is_ack=is_ack):
            return
        payload = response.payload or b""
        if self._vote is not None and self._vote[0] == query.query_id:
            self._vote[1].count(payload)
        else:
            answer = QueryAnswer(query.query_id, response.node, payload, is_ack)
            self._context.outputs.append(answer)

    def ask_who_has_our_name(self) -> bytes | None:
        """The query that begins a vote about our name; None while one is under way."""
        if self._vote is not None:
            return None
        context = self._context
        question = Question(name=conflict.QUERY, payload=context.name.encode())
        query_id, encoded = self.ask(question)
        self._vote = (query_id, conflict.Vote(context.packed_address, context.address[1]))
        return encoded

    # Answering.

    def receive(self, query: Query) -> bool:
        """Answer it if it concerns us; whether it is to be gossiped on."""
        if not self._buffer.admit(query.l_time, query.query_id):
            return False
        self.newest_time = max(self.newest_time, query.l_time)
        context = self._context
        if concerns(query.filters, context.name, context.tags, context.compile_pattern):
            self._take_up(query)
        return not query.flags & QueryFlag.NO_BROADCAST

    def _take_up(self, query: Query) -> None:
        timeout_ms = min(max(query.timeout_ns // 1_000_000, 0), TIMEOUT_MS_MAX)
        event = QueryEvent(
            l_time=query.l_time,
            query_id=query.query_id,
            name=query.name,
            payload=query.payload or b"",
            source=query.source,
            deadline_ms=self._context.now_ms + timeout_ms,
            reply_to=(unpack_ip(query.address), query.port),
            relay_factor=query.relay_factor,
        )
        if query.flags & QueryFlag.ACK:
            self._send(event, QueryFlag.ACK, None)
        self._answerable[query.l_time, query.query_id] = event.deadline_ms
        if query.name.startswith(INTERNAL_PREFIX):
            self._answer_internal(event)
        else:
            self._context.deliver(event)

    def respond(self, event: QueryEvent, payload: bytes) -> None:
        """Raises `TooLarge`, `TimedOut` when late, `LocalProtocolError` the second time."""
        if self._context.now_ms > event.deadline_ms:
            raise TimedOut("response is past the deadline")
        if (event.l_time, event.query_id) not in self._answerable:
            raise LocalProtocolError("response already sent")
        self._send(event, 0, payload or None)
        del self._answerable[event.l_time, event.query_id]

    def _send(self, event: QueryEvent, flags: int, payload: bytes | None) -> None:
        context = self._context
        response = QueryResponse(event.l_time, event.query_id, context.name, flags, payload)
        encoded = encode(response)
        limit = context.config.response_bytes_max
        if len(encoded) > limit:
            raise TooLarge(f"response exceeds limit of {limit} bytes")
        context.lower.send_user(event.reply_to, encoded)
        if event.relay_factor > 0 and len(context.members) > event.relay_factor:
            self._relay(event, encoded)

    def _relay(self, event: QueryEvent, inner: bytes) -> None:
        context = self._context
        host, port = event.reply_to
        frame = encode(Relay(pack_ip(host), port, event.source, inner))
        if len(frame) > context.config.response_bytes_max:
            context.note(f"an answer is too long to be relayed: query={event.name}")
            return
        fit = [m for m in context.alive_others() if m.protocol_max >= _RELAY_SINCE]
        for member in context.rng.sample(fit, min(event.relay_factor, len(fit))):
            context.lower.send_user((member.address, member.port), frame)

    # Internal queries.

    def _answer_internal(self, event: QueryEvent) -> None:
        if key_queries.is_key_query(event.name):
            self._obey(event)
        elif event.name == conflict.QUERY:
            self._testify(event)
        elif event.name != PING:  # of a ping only the acknowledgement matters
            self._context.note(f"unknown internal query: {event.name}")

    def _testify(self, event: QueryEvent) -> None:
        name = event.payload.decode(errors="replace")
        if name == self._context.name:
            return  # it is us who are in question
        member = self._context.members.get(name)
        if member is None:
            self._send(event, 0, encode_nobody())
        else:
            self._send(event, 0, encode(ConflictResponse(member, pack_ip(member.address))))

    def _obey(self, event: QueryEvent) -> None:
        ring = self._context.ring
        response = key_queries.obey(event.name, event.payload, ring)
        changed = response.result and event.name != key_queries.LIST
        if ring is None or not changed or not self._context.config.persists_keyring:
            self._answer_keys(event, response)
        else:
            self._tokens += 1
            self._persisting[self._tokens] = _Persisting(event, response)
            self._context.outputs.append(PersistKeyring(self._tokens, tuple(ring.keys)))

    def keyring_persisted(self, token: int, error: str | None) -> None:
        """The ring is written, or could not be: now the query is answered."""
        waiting = self._persisting.pop(token)
        failed = KeyResponse(result=False, message=error or "")
        self._answer_keys(waiting.event, failed if error else waiting.response)

    def _answer_keys(self, event: QueryEvent, response: KeyResponse) -> None:
        own = len(encode(QueryResponse(event.l_time, event.query_id, self._context.name)))
        room = self._context.config.response_bytes_max - own - _RAW_HEADER_BYTES
        self._send(event, 0, key_queries.encode_within(response, room))

    # Time.

    def next_deadline_ms(self) -> int | None:
        return min((query.deadline_ms for query in self._open.values()), default=None)

    def advance(self) -> None:
        now_ms = self._context.now_ms
        for query in [q for q in self._open.values() if q.deadline_ms <= now_ms]:
            del self._open[query.query_id]
            if self._vote is not None and self._vote[0] == query.query_id:
                self._count_votes(self._vote[1])
            else:
                self._context.outputs.append(QueryClosed(query.query_id))
        for key in [key for key, at in self._answerable.items() if at < now_ms]:
            del self._answerable[key]

    def _count_votes(self, vote: conflict.Vote) -> None:
        self._vote = None
        if vote.is_won:
            self._context.note(
                f"majority in name conflict resolution: matching={vote.matching}"
                f" answers={vote.answers}"
            )
        else:
            self._context.outputs.append(NameLost(vote.matching, vote.answers))


#: A payload costs two bytes more than the nil in whose place it comes.
_RAW_HEADER_BYTES = 2
