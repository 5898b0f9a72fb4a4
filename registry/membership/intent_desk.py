"""Intents: what members say of their coming and going, or others of them, and what we say.

Each carries a Lamport time. Whatever is said about us and is not so, we outdo by saying again that
we are here, at a later time.

Source: gossip sheet, section 8.3.
"""

from __future__ import annotations

from registry.membership.broadcast import Outgoing
from registry.membership.clocks import LamportClock
from registry.membership.context import Phase, SerfContext
from registry.membership.journal import Journal
from registry.membership.outbox import Outbox
from registry.membership.reaper import Reaper
from registry.membership.serf_messages import JoinIntent, LeaveIntent, encode


class IntentDesk:
    """Intents of others are taken in here, ours go out by `outbox`."""

    def __init__(
        self, context: SerfContext, outbox: Outbox, *, journal: Journal, reaper: Reaper
    ) -> None:
        self.clock = LamportClock()
        self._context = context
        self._outbox = outbox
        self._journal = journal
        self._reaper = reaper

    # What others say.

    def receive_join(self, name: str, l_time: int) -> bool:
        """Somebody is here; whether that is to be gossiped on."""
        self.clock.witness(l_time)
        return self._context.members.join_intent(name, l_time, self._context.now_ms).gossip_on

    def receive_leave(
        self, name: str, l_time: int, *, prune: bool = False, is_guess: bool = False
    ) -> bool:
        """Somebody leaves; whether that is to be gossiped on. See `MemberTable.leave_intent`."""
        self.clock.witness(l_time)
        context = self._context
        if self.concerns_us(name):
            if name in context.members and not context.members.is_stale(name, l_time):
                self.announce_join()  # we are here: a later join outdoes the leave
            return False
        verdict = context.members.leave_intent(
            name, l_time, context.now_ms, prune=prune, is_guess=is_guess
        )
        if verdict.event is not None:
            context.deliver(verdict.event)
            self._journal.member_changed(verdict.event)
        if verdict.prune:
            self._reaper.prune(name)
        return verdict.gossip_on

    def concerns_us(self, name: str) -> bool:
        """Whether it is about us, who are here to stay."""
        return name == self._context.name and self._context.phase is Phase.ALIVE

    # What we say.

    def announce_join(self) -> None:
        """Tell everybody that we are here, as of now."""
        name, l_time = self._context.name, self.clock.time
        self.receive_join(name, l_time)
        self._outbox.add(encode(JoinIntent(l_time, name)))

    def announce_leave(self) -> Outgoing | None:
        """Tell everybody that we go; None when there is nobody to tell."""
        # Greater than every status time that we ever published: each was witnessed.
        name, l_time = self._context.name, self.clock.take()
        self.receive_leave(name, l_time)
        if not self._context.lower.has_hearers:
            return None
        # Those taken for dead are told, too: it may be us who was too slow to hear them, and
        # who says nothing is soon declared failed.
        return self._outbox.add(encode(LeaveIntent(l_time, name)))

    def force_leave(self, name: str, *, prune: bool) -> None:
        """Declare that a member has left; a live one will contradict."""
        l_time = self.clock.take()
        self.receive_leave(name, l_time, prune=prune)
        self._outbox.add(encode(LeaveIntent(l_time, name, prune)))
