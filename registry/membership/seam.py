"""Where the layers of gossip meet: values and protocols between SWIM core, Serf core and shell.

    shell  ── packets, streams, time ──>  SwimCore  ── Delegate ──>  SerfCore
    shell  <── SwimOutput ──────────────  SwimCore  <── LowerLayer ──  SerfCore

`SwimCore` implements `registry.membership.context.LowerLayer`; `SerfCore` implements `Delegate`.
All calls are synchronous and happen inside one input of the SWIM core, at its `now_ms`; a delegate
may call back into the core from any of them. Effects of both cores come out as values, in order.

Streams. Each TCP connection carries one message each way (gossip sheet, 2.7). As there is no length
in front of a plain message, `StreamBuffer` tells the shell when a message is whole.

* Outgoing: the core emits `OpenStream`; the shell connects, writes `data` and, if `expects_reply`,
  reads until a `StreamBuffer` has a whole message or the peer closes. It then calls
  `core.stream_reply(token, reply, now_ms)` exactly once: with the reply; with `b""` if the message
  was written and none came or was expected; with None if it failed or `timeout_ms` passed.
* Incoming: the shell reads one whole message (at most `STREAMS_MAX` at a time, each within the
  configured timeout), calls `core.receive_stream_request`, writes what it returns (None: nothing)
  and closes.

Source: gossip sheet, sections 2 to 7.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol, TypeAlias

import msgspec

from registry.membership.addresses import Address

#: Streams that a node serves at a time; more are closed without an answer (2.7).
STREAMS_MAX = 128

#: A datagram is at most this long; what senders build is bounded by the configuration (2.8).
DATAGRAM_BYTES_MAX = 65_535

#: What a node may say of itself in its alive message (2.8).
META_BYTES_MAX = 512


class NodeState(enum.IntEnum):
    """States of the lower layer; the numbers travel in push/pull."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


class Versions(msgspec.Struct, frozen=True):
    """The six bytes of `Vsn`: what a node speaks and understands, of both layers."""

    protocol_min: int = 1
    protocol_max: int = 5
    protocol_current: int = 2
    delegate_min: int = 2
    delegate_max: int = 5
    delegate_current: int = 4

    def pack(self) -> bytes:
        return bytes(
            (
                self.protocol_min,
                self.protocol_max,
                self.protocol_current,
                self.delegate_min,
                self.delegate_max,
                self.delegate_current,
            )
        )


class Node(msgspec.Struct, frozen=True):
    """A node as the lower layer knows it at one moment. `meta` is opaque here: Serf's tags."""

    name: str
    address: Address
    meta: bytes = b""
    incarnation: int = 0
    state: NodeState = NodeState.ALIVE
    versions: Versions = Versions()


class Recipient(msgspec.Struct, frozen=True):
    """To whom a packet goes, and in a small pool everybody who is to hear what is new.

    No hearers means that there are too many for each to be told by everybody.
    """

    address: Address = ("", 0)
    hearers: frozenset[Address] = frozenset()


ANYBODY = Recipient()


class Delegate(Protocol):
    """What the SWIM core asks of the layer above it, and tells it."""

    def meta(self) -> bytes:
        """What we say of ourselves; asked once at the start, later changed by `update_meta`."""
        ...

    def message_received(self, data: bytes) -> None:
        """A user message came, by gossip, in a packet or by stream; without its type byte."""
        ...

    def broadcasts(self, limit: int, overhead: int, recipient: Recipient = ANYBODY) -> list[bytes]:
        """Messages to ride along in a packet; each costs its length and `overhead` of `limit`."""
        ...

    def local_state(self, *, join: bool) -> bytes:
        """The tail of our push/pull."""
        ...

    def merge_remote_state(self, data: bytes, *, join: bool) -> None:
        """The tail of another node's push/pull; not called when it is empty."""
        ...

    def node_joined(self, node: Node) -> None:
        """The node is alive and was unknown, dead or left. Called for ourselves at the start."""
        ...

    def node_left(self, node: Node) -> None:
        """The node is dead or, as its state says, left."""
        ...

    def node_updated(self, node: Node) -> None:
        """The meta of a live node has changed."""
        ...

    def conflict(self, existing: Node, other: Node) -> None:
        """`other` claims the name of a node that we know at another address."""
        ...

    def merge_allowed(self, nodes: Sequence[Node]) -> str | None:
        """Why a push/pull with Join, holding these nodes, must not be merged; None if it may be."""
        ...

    def alive_allowed(self, node: Node) -> str | None:
        """Why an alive message, ours included, must be ignored; None if it counts."""
        ...

    def ack_payload(self) -> bytes:
        """What our acknowledgements carry."""
        ...

    def ping_completed(self, name: str, rtt_ms: float, payload: bytes) -> None:
        """A probe was answered promptly and by the node itself."""
        ...


class SendPacket(msgspec.Struct, frozen=True):
    """One datagram."""

    address: Address
    data: bytes


class OpenStream(msgspec.Struct, frozen=True):
    """One message by TCP; see above."""

    token: int
    address: Address
    data: bytes
    timeout_ms: int
    expects_reply: bool = True


class JoinFinished(msgspec.Struct, frozen=True):
    """What `join` returned as `token` is through: both states are merged, or `error` says why not.

    A pool that refuses us does not say so (7): it may follow that `JoinUnconfirmed`.
    """

    token: int
    address: Address
    error: str | None = None


class JoinUnconfirmed(msgspec.Struct, frozen=True):
    """Some time after its answer to our join, the peer still did not list us: it refused us."""

    address: Address


class LeaveSent(msgspec.Struct, frozen=True):
    """That we left has been handed out its full number of times, or nobody is there to hear it."""


class Notice(msgspec.Struct, frozen=True):
    """Something that an operator may want to read; `is_warning` when it is not as it should be."""

    text: str
    is_warning: bool = True


SwimOutput: TypeAlias = (
    SendPacket | OpenStream | JoinFinished | JoinUnconfirmed | LeaveSent | Notice
)


class Swim(Protocol):
    """The SWIM core as shell and Serf core use it; `registry.membership.core.SwimCore`.

    Methods without `now_ms` happen at the time of the last input; `at` sets it on its own.
    """

    # Life.
    def start(self, delegate: Delegate, now_ms: float) -> None:
        """Begin: we are alive, and `delegate.node_joined` was told of ourselves."""
        ...

    def at(self, now_ms: float) -> None: ...
    def advance(self, now_ms: float) -> None:
        """Do what is due."""
        ...

    def next_deadline_ms(self) -> int:
        """When `advance` has something to do, at the latest."""
        ...

    def take_output(self) -> list[SwimOutput]: ...

    # The network.
    def receive_packet(self, data: bytes, source: Address, now_ms: float) -> None: ...
    def receive_stream_request(
        self, data: bytes, source: Address, now_ms: float
    ) -> bytes | None: ...
    def stream_reply(self, token: int, data: bytes | None, now_ms: float) -> None: ...

    # Wishes.
    def join(self, address: Address) -> int:
        """Exchange states with a node; the token that `JoinFinished` will carry."""
        ...

    def rejoin(self, address: Address) -> None:
        """The same, but nobody is told how it went."""
        ...

    def leave(self) -> None:
        """Spread that we are dead by our own will; `LeaveSent` comes once, then or at the timeout.

        The caller sets its own bound and keeps the core running while others may still probe us.
        """
        ...

    def update_meta(self, meta: bytes) -> None:
        """Raises `TooLarge` beyond `META_BYTES_MAX`."""
        ...

    def forget(self, name: str) -> None:
        """Drop a dead or left node at once."""
        ...

    def send_user(self, address: Address, data: bytes) -> None:
        """One packet with a user message straight to an address."""
        ...

    def send_user_reliably(self, address: Address, data: bytes) -> None:
        """The same by stream."""
        ...

    # What anybody may look at.
    @property
    def nodes(self) -> list[Node]: ...
    @property
    def has_hearers(self) -> bool:
        """Whether gossip goes to anybody: for a while also to those who are taken for dead."""
        ...

    @property
    def health_score(self) -> int:
        """0 is healthy; a node with a bad score suspects itself and probes more slowly."""
        ...

    def statistics(self) -> dict[str, int]: ...
