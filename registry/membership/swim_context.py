"""What the parts of the SWIM core share: who we are, whom we know, and where effects go."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from registry.membership.addresses import Address
from registry.membership.awareness import Awareness
from registry.membership.broadcast import Broadcast, TransmitQueue
from registry.membership.config import SwimConfig
from registry.membership.members import NodeEntry, NodeTable
from registry.membership.packets import (
    COMPOUND_ENTRY_BYTES,
    COMPOUND_HEADER_BYTES,
    COMPOUND_PARTS_MAX,
    Envelope,
)
from registry.membership.seam import (
    Delegate,
    LeaveSent,
    NodeState,
    Notice,
    OpenStream,
    Recipient,
    SendPacket,
    SwimOutput,
)
from registry.membership.wire import Encodable, encode, encode_user

#: Nodes with at least this greatest version understand a CRC around packets.
_CRC_SINCE = 5

#: In pools up to this size everybody probes everybody else soon enough, and tells everybody else
#: what is new. Ten nodes hand out a message 90 times then, instead of 80; nine 72 times, not 36.
SMALL_POOL_NODES = 10

#: What a stream's reply is handed to: the reply, b"" for none, None if the stream failed.
OnReply = Callable[[bytes | None], None]


@dataclass(slots=True, kw_only=True)
class SwimContext:
    config: SwimConfig
    name: str
    #: Where others find us; also the port that is meant when somebody says none.
    address: Address
    rng: random.Random
    envelope: Envelope
    nodes: NodeTable
    queue: TransmitQueue
    health: Awareness
    delegate: Delegate
    now_ms: float
    is_leaving: bool = False
    leave_broadcast: Broadcast | None = None
    outputs: list[SwimOutput] = field(default_factory=list)
    streams: dict[int, OnReply] = field(default_factory=dict)
    #: What came in and was not used, by reason.
    dropped: Counter[str] = field(default_factory=Counter)
    _seq_no: int = 0
    _tokens: int = 0

    @property
    def myself(self) -> NodeEntry:
        entry = self.nodes.get(self.name)
        assert entry is not None, "we are in our own list from the start and never dropped"
        return entry

    def is_other(self, entry: NodeEntry) -> bool:
        return entry.name != self.name

    @property
    def is_small_pool(self) -> bool:
        return len(self.nodes) <= SMALL_POOL_NODES

    def hears_gossip(self, entry: NodeEntry) -> bool:
        if entry.state is NodeState.LEFT or not self.is_other(entry):
            return False
        # Somebody who was taken for dead by mistake gets the chance to contradict.
        dead_for_ms = self.now_ms - entry.changed_ms
        is_dead = entry.state is NodeState.DEAD
        return not is_dead or dead_for_ms <= self.config.gossip_to_the_dead_ms

    def hearers(self) -> list[NodeEntry]:
        return [entry for entry in self.nodes if self.hears_gossip(entry)]

    @property
    def has_hearers(self) -> bool:
        return any(self.hears_gossip(entry) for entry in self.nodes)

    def next_seq_no(self) -> int:
        self._seq_no = (self._seq_no + 1) & 0xFFFF_FFFF
        return self._seq_no

    def note(self, text: str, *, is_warning: bool = True) -> None:
        self.outputs.append(Notice(text, is_warning))

    def drop(self, reason: str, detail: str) -> None:
        """Count what came in and was not used, and say so at the 1st, 2nd, 4th, 8th … time.

        What anybody can send must not fill the log.
        """
        self.dropped[reason] += 1
        count = self.dropped[reason]
        if count & (count - 1) == 0:
            self.note(f"gossip dropped: {detail} reason={reason} count={count}")

    # Packets.

    def send(self, address: Address, message: Encodable) -> None:
        """One message to an address, with as many broadcasts as fit beside it."""
        data = encode(message)
        riders = self.riders(address, self.packet_room - len(data) - COMPOUND_ENTRY_BYTES)
        self.send_all(address, [data, *riders])

    def send_user(self, address: Address, data: bytes) -> None:
        self.send_all(address, [encode_user(data)])

    def send_all(self, address: Address, messages: list[bytes]) -> None:
        """Whole messages in one packet; in several only when there are more than one may hold."""
        entry = self.nodes.at(address)
        with_crc = entry is not None and entry.versions.protocol_max >= _CRC_SINCE
        for start in range(0, len(messages), COMPOUND_PARTS_MAX):
            parts = messages[start : start + COMPOUND_PARTS_MAX]
            packet = self.envelope.seal_packet(parts, with_crc=with_crc)
            self.outputs.append(SendPacket(address, packet))

    @property
    def packet_room(self) -> int:
        """What a packet holds besides the header of a compound and encryption."""
        overhead = COMPOUND_HEADER_BYTES + self.envelope.overhead_bytes
        return self.config.packet_bytes_max - overhead

    def riders(self, address: Address, room: int) -> list[bytes]:
        """Broadcasts that fit: those of nodes first, then those of the layer above."""
        hearers = (node.address for node in self.hearers()) if self.is_small_pool else ()
        recipient = Recipient(address, frozenset(hearers))
        taken = self.queue.take(room, COMPOUND_ENTRY_BYTES, len(self.nodes), recipient)
        if self.leave_broadcast is not None and self.leave_broadcast.is_finished:
            self.leave_broadcast = None
            self.outputs.append(LeaveSent())
        room -= sum(len(message) + COMPOUND_ENTRY_BYTES for message in taken)
        above = self.delegate.broadcasts(room, COMPOUND_ENTRY_BYTES + 1, recipient)
        return taken + [encode_user(message) for message in above]

    # Streams.

    def open_stream(
        self,
        address: Address,
        message: bytes,
        *,
        timeout_ms: int,
        on_reply: OnReply,
        expects_reply: bool = True,
    ) -> int:
        self._tokens += 1
        self.streams[self._tokens] = on_reply
        data = self.envelope.seal_stream(message)
        self.outputs.append(OpenStream(self._tokens, address, data, timeout_ms, expects_reply))
        return self._tokens
