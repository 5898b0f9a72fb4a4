"""The tail of a push/pull: two members compare what each knows of members, events and clocks.

Source: gossip sheet, section 8.6.
"""

from __future__ import annotations

from registry.errors import RemoteProtocolError
from registry.membership.context import SerfContext
from registry.membership.event_desk import EventDesk
from registry.membership.intent_desk import IntentDesk
from registry.membership.query_desk import QueryDesk
from registry.membership.serf_messages import LeaveIntent, State, decode, encode
from registry.membership.serf_values import MemberStatus


class StateExchange:
    """Says what we know, and takes over what another knows. Nothing of that is gossiped on."""

    def __init__(
        self, context: SerfContext, *, intents: IntentDesk, events: EventDesk, queries: QueryDesk
    ) -> None:
        self._context = context
        self._intents = intents
        self._events = events
        self._queries = queries

    def local_state(self) -> bytes:
        members = self._context.members
        left = members.having(MemberStatus.LEFT)
        state = State(
            l_time=self._intents.clock.time,
            status_times=members.status_times(),
            left_members=tuple(member.name for member in left),
            event_l_time=self._events.clock.time,
            events=tuple(self._events.slots()),
            query_l_time=self._queries.time,
        )
        return encode(state)

    def merge(self, data: bytes, *, join: bool) -> None:
        """Raises `RemoteProtocolError` when it cannot be read; then nothing was taken over."""
        state = decode(data)
        if not isinstance(state, State):
            raise RemoteProtocolError("the tail of a push/pull is no state")
        self._witness(state)
        self._merge_intents(state)
        self._events.merge(state.events, state.event_l_time, join=join)

    def _witness(self, state: State) -> None:
        # The sender's clocks show the next time to be used: the last one used is one less.
        if state.l_time > 0:
            self._intents.clock.witness(state.l_time - 1)
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
        self._intents.receive_leave(name, l_time, is_guess=True)
        after = self._context.members.get(name)
        if before and after and before.status is not after.status is MemberStatus.LEAVING:
            intent = encode(LeaveIntent(l_time, name, False))
            self._context.lower.send_user((after.address, after.port), intent)

    def _merge_join(self, name: str, l_time: int) -> None:
        """Somebody has accepted an intent of this time about a member that has not left."""
        if self._intents.concerns_us(name) and not self._context.members.is_stale(name, l_time):
            # It is none of ours: either it was in an earlier life, or somebody put us out by force.
            self._intents.clock.witness(l_time)
            self._intents.announce_join()
        else:
            self._intents.receive_join(name, l_time)
