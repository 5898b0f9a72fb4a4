"""Both cores as one: a member of a gossip pool without sockets, clock or disk.

Each input of the lower layer is told its time first, and both layers' effects come out in one list.
The shell does what the list says; so does the pool of simulated members in `registry.testing`.
"""

from __future__ import annotations

from typing import TypeAlias

from registry.membership.addresses import Address
from registry.membership.seam import (
    JoinFinished,
    JoinUnconfirmed,
    LeaveSent,
    Notice,
    OpenStream,
    SendPacket,
    Swim,
)
from registry.membership.serf import SerfCore
from registry.membership.serf_values import (
    Deliver,
    Left,
    NameLost,
    PersistKeyring,
    QueryAnswer,
    QueryClosed,
)
from registry.membership.snapshot import SnapshotWrite

PoolOutput: TypeAlias = (
    SendPacket
    | OpenStream
    | JoinFinished
    | JoinUnconfirmed
    | Deliver
    | QueryAnswer
    | QueryClosed
    | PersistKeyring
    | SnapshotWrite
    | Left
    | NameLost
    | Notice
)


class PoolCore:
    """One member. Inputs take the present time; afterwards `take_output` has what they led to.

    Times may have a fraction, which only the measuring of round trips cares for.
    """

    def __init__(self, swim: Swim, serf: SerfCore, now_ms: float) -> None:
        self.swim = swim
        self.serf = serf
        self.serf.at(int(now_ms))
        self.swim.start(serf, now_ms)

    def at(self, now_ms: float) -> None:
        """What is asked of `serf` or `swim` next happens now."""
        self.serf.at(int(now_ms))
        self.swim.at(now_ms)

    def advance(self, now_ms: float) -> None:
        self.serf.at(int(now_ms))
        self.swim.advance(now_ms)
        self.serf.advance()

    def next_deadline_ms(self) -> int:
        return min(self.swim.next_deadline_ms(), self.serf.next_deadline_ms())

    def receive_packet(self, data: bytes, source: Address, now_ms: float) -> None:
        self.serf.at(int(now_ms))
        self.swim.receive_packet(data, source, now_ms)

    def receive_stream_request(self, data: bytes, source: Address, now_ms: float) -> bytes | None:
        self.serf.at(int(now_ms))
        return self.swim.receive_stream_request(data, source, now_ms)

    def stream_reply(self, token: int, data: bytes | None, now_ms: float) -> None:
        self.serf.at(int(now_ms))
        self.swim.stream_reply(token, data, now_ms)

    def take_output(self) -> list[PoolOutput]:
        """Everything that is to be done, in order; handing it out may lead to more."""
        outputs: list[PoolOutput] = []
        while batch := [*self.swim.take_output(), *self.serf.take_output()]:
            for output in batch:
                if isinstance(output, LeaveSent):
                    self.serf.swim_left()
                    continue
                if isinstance(output, JoinUnconfirmed):
                    self.serf.is_refused = True
                elif isinstance(output, JoinFinished) and output.error is None:
                    self.serf.is_refused = False
                outputs.append(output)
        if write := self.serf.take_snapshot_write():
            outputs.append(write)
        return outputs
