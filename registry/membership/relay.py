"""Pinging a node because somebody else got no answer from it.

Source: gossip sheet, section 4.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from registry.membership.addresses import Address
from registry.membership.swim_context import SwimContext
from registry.membership.wire import Ack, IndirectPing, Nack, Ping

#: Requests being served at a time. In a healthy pool there are a handful; more are not answered,
#: so that nobody can make us remember, and ping, without end.
RELAYS_MAX = 1024


@dataclass(slots=True)
class _Relay:
    requester: Address
    seq_no: int  # the requester's
    wants_nack: bool


class Relays:
    def __init__(self, context: SwimContext) -> None:
        self._context = context
        self._open: dict[int, _Relay] = {}  # by our own sequence number
        # All wait equally long, so the first to begin is the first to end.
        self._deadlines: deque[tuple[float, int]] = deque()

    def serve(self, request: IndirectPing, source: Address) -> None:
        context = self._context
        if len(self._open) >= RELAYS_MAX:
            context.drop("too-many-relays", f"indirect ping of {request.node}")
            return
        seq_no = context.next_seq_no()
        requester = request.source or source
        self._open[seq_no] = _Relay(requester, request.seq_no, request.wants_nack)
        self._deadlines.append((context.now_ms + context.config.probe_timeout_ms, seq_no))
        host, port = request.target
        ping = Ping(seq_no, request.node, context.address, context.name)
        context.send((host, port or context.address[1]), ping)

    def ack(self, seq_no: int) -> None:
        relay = self._open.pop(seq_no, None)
        if relay is not None:
            self._context.send(relay.requester, Ack(relay.seq_no))

    def next_deadline_ms(self) -> float | None:
        return self._deadlines[0][0] if self._deadlines else None

    def advance(self) -> None:
        while self._deadlines and self._deadlines[0][0] <= self._context.now_ms:
            _, seq_no = self._deadlines.popleft()
            relay = self._open.pop(seq_no, None)
            if relay is not None and relay.wants_nack:
                self._context.send(relay.requester, Nack(relay.seq_no))
