"""Messages of the Serf layer that wait to ride along in packets, each a limited number of times.

What has gone out least goes first, among those the longest that fits, among those the newest, so
that news spread before repeats; in a small pool as in `broadcast`. Unlike facts about one node in
the lower layer, Serf messages are all different: none replaces another.

Source: gossip sheet, section 6.
"""

from __future__ import annotations

from registry.membership.broadcast import Outgoing, transmit_limit
from registry.membership.seam import ANYBODY, Recipient

#: More messages than this are cut down to it: those that went out most often go.
DEPTH_MAX = 4096


class Outbox:
    def __init__(self, retransmit_mult: int) -> None:
        self._retransmit_mult = retransmit_mult
        self._waiting: list[Outgoing] = []
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, data: bytes) -> Outgoing:
        self._numbers += 1
        outgoing = Outgoing(data, self._numbers)
        self._waiting.append(outgoing)
        if len(self._waiting) > DEPTH_MAX:
            cut = max(self._waiting, key=lambda waiting: waiting.rank)
            cut.is_finished = True
            self._waiting.remove(cut)
        return outgoing

    def take(
        self, limit: int, overhead: int, member_count: int, recipient: Recipient = ANYBODY
    ) -> list[bytes]:
        """Messages for one packet: each costs its length and `overhead`, in all at most `limit`."""
        transmits_max = transmit_limit(self._retransmit_mult, member_count)
        taken = []
        for outgoing in sorted(self._waiting, key=lambda waiting: waiting.rank):
            cost = len(outgoing.data) + overhead
            if cost > limit or not outgoing.is_for(recipient):
                continue
            limit -= cost
            taken.append(outgoing.data)
            outgoing.handed_to(recipient, transmits_max)
            if outgoing.is_finished:
                self._waiting.remove(outgoing)
        return taken


class Outboxes:
    """One for each kind of message, so that a flood of one does not cut another down."""

    def __init__(self, retransmit_mult: int) -> None:
        self.intents = Outbox(retransmit_mult)
        self.queries = Outbox(retransmit_mult)
        self.events = Outbox(retransmit_mult)

    def take(
        self, limit: int, overhead: int, member_count: int, recipient: Recipient = ANYBODY
    ) -> list[bytes]:
        """Messages for one packet: intents first, then queries, then events."""
        taken: list[bytes] = []
        for outbox in (self.intents, self.queries, self.events):
            room = limit - sum(len(message) + overhead for message in taken)
            taken += outbox.take(room, overhead, member_count, recipient)
        return taken
