"""Push/pull: two nodes tell each other all they know, by stream.

Gossip spreads what is new; this repairs what gossip lost, heals partitions, and is how a node
joins. What the other side knows is heard like gossip, with one exception: its dead are only
suspects here, so that they get the chance to contradict.

Where many nodes come at once, as after a partition, each of their alive messages reaches nearly
everybody by gossip, but not quite: with 200 nodes each hears each message a dozen times on average,
and in 40 000 pairs of node and message there now and then is one that does not. In a pool of that
size the next regular push/pull may be two minutes away, so after such a storm each node does one
earlier, at a random moment. A regular one in
the middle of the storm comes too soon to count.

A refused joiner is not told: it gets its answer before anybody checks what it sent. So some time
after a join we ask once more whether the peer lists us now.

Source: gossip sheet, section 7.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable

from registry.errors import RemoteProtocolError
from registry.membership.addresses import Address
from registry.membership.packets import OuterLayerError
from registry.membership.rumours import Rumours
from registry.membership.seam import JoinFinished, JoinUnconfirmed, Node, NodeState, Versions
from registry.membership.swim_context import SwimContext
from registry.membership.wire import (
    Ack,
    Alive,
    Dead,
    ErrorReply,
    Ping,
    PushPull,
    Suspect,
    UserMessage,
    decode_stream_message,
    encode,
    encode_push_pull,
)

#: After a join, when to see whether it counted: the peer merges within milliseconds.
_CONFIRM_AFTER_MS = 1000

#: Newcomers since the last push/pull that make a storm: this share of the nodes, but so many at
#: least. A push/pull is then paid for by the newcomers, however often they come.
_STORM_SHARE = 16
_STORM_NODES_MIN = 8

#: Pools up to this size exchange states at the configured interval, larger ones less often.
_UNSCALED_NODES = 32


class Exchange:
    def __init__(self, context: SwimContext, rumours: Rumours) -> None:
        self._context = context
        self._rumours = rumours
        self._next_ms = context.now_ms + context.rng.random() * self._interval_ms
        self._confirmations: deque[tuple[float, Address]] = deque()
        self._newcomers = 0
        #: When to look for what a storm of newcomers left out; never earlier, as it may still rage.
        self._after_storm_ms = math.inf

    @property
    def _interval_ms(self) -> int:
        return self._context.config.push_pull_interval_ms * interval_scale(len(self._context.nodes))

    def next_deadline_ms(self) -> float:
        due_ms = min(self._next_ms, self._after_storm_ms)
        return min(due_ms, self._confirmations[0][0]) if self._confirmations else due_ms

    def advance(self) -> None:
        now_ms = self._context.now_ms
        while self._confirmations and self._confirmations[0][0] <= now_ms:
            _, address = self._confirmations.popleft()
            self._confirm(address)
        is_after_storm = now_ms >= self._after_storm_ms
        if is_after_storm:
            self._after_storm_ms = math.inf
        if is_after_storm or now_ms >= self._next_ms:
            self._next_ms = now_ms + self._interval_ms
            self._newcomers = 0
            self._sync()

    def newcomer(self) -> None:
        """A node has come, or come back."""
        self._newcomers += 1
        storm_nodes = max(_STORM_NODES_MIN, len(self._context.nodes) // _STORM_SHARE)
        if self._newcomers >= storm_nodes and self._after_storm_ms == math.inf:
            interval_ms = self._context.config.push_pull_interval_ms
            delay_ms = interval_ms * (1 + self._context.rng.random()) / 3
            self._after_storm_ms = self._context.now_ms + delay_ms

    def _sync(self) -> None:
        context = self._context
        peers = context.nodes.choose(
            1, lambda node: node.state is NodeState.ALIVE and context.is_other(node)
        )
        for peer in peers:
            self._open(peer.address, join=False, finished=self._noted(peer.address))

    # Joining.

    def join(self, address: Address) -> int:
        """The token that `JoinFinished` will carry."""

        def finished(error: str | None, _: PushPull | None) -> None:
            self._context.outputs.append(JoinFinished(token, address, error))
            if error is None:
                due_ms = self._context.now_ms + _CONFIRM_AFTER_MS
                self._confirmations.append((due_ms, address))

        token = self._open(address, join=True, finished=finished)
        return token

    def rejoin(self, address: Address) -> None:
        self._open(address, join=True, finished=self._noted(address))

    def _confirm(self, address: Address) -> None:
        name = self._context.name

        def finished(error: str | None, reply: PushPull | None) -> None:
            if reply is not None and all(node.name != name for node in reply.nodes):
                self._context.outputs.append(JoinUnconfirmed(address))

        self._open(address, join=False, finished=finished)

    def _noted(self, address: Address) -> Callable[[str | None, PushPull | None], None]:
        def finished(error: str | None, _: PushPull | None) -> None:
            if error is not None:
                host, port = address
                self._context.note(
                    f"push/pull failed: address={host}:{port} error={error}", is_warning=False
                )

        return finished

    def _open(
        self,
        address: Address,
        *,
        join: bool,
        finished: Callable[[str | None, PushPull | None], None],
    ) -> int:
        def replied(data: bytes | None) -> None:
            try:
                reply = self._read_reply(data)
                self._merge(reply, join=join)
            except RemoteProtocolError as problem:
                finished(str(problem), None)
            else:
                finished(None, reply)

        return self._context.open_stream(
            address,
            self._local_state(join=join),
            timeout_ms=self._context.config.stream_timeout_ms,
            on_reply=replied,
        )

    def _read_reply(self, data: bytes | None) -> PushPull:
        if data is None:
            raise RemoteProtocolError("no connection, or no answer in time")
        if not data:
            raise RemoteProtocolError("the peer closed without an answer")
        message = decode_stream_message(self._context.envelope.open_stream(data))
        if isinstance(message, ErrorReply):
            raise RemoteProtocolError(f"remote error: {message.error}")
        if not isinstance(message, PushPull):
            raise RemoteProtocolError("the answer to a push/pull is none")
        return message

    # Serving.

    def serve(self, data: bytes) -> bytes | None:
        """The answer to what a stream brought; None is silence."""
        context = self._context
        try:
            message = decode_stream_message(context.envelope.open_stream(data))
        except OuterLayerError as problem:
            context.drop("stream", str(problem))
            return context.envelope.seal_error(str(problem))
        except RemoteProtocolError as problem:
            context.drop("stream", str(problem))
            return None
        match message:
            case PushPull():
                return self._serve_push_pull(message)
            case Ping() if message.node in ("", context.name):
                return context.envelope.seal_stream(encode(Ack(message.seq_no)))
            case Ping():
                context.drop("ping-for-another", f"stream ping for {message.node}")
            case UserMessage():
                context.delegate.message_received(message.data)
            case _:
                context.drop("stream", f"unexpected {type(message).__name__}")
        return None

    def _serve_push_pull(self, message: PushPull) -> bytes:
        reply = self._context.envelope.seal_stream(self._local_state(join=message.join))
        try:
            self._merge(message, join=message.join)
        except RemoteProtocolError as problem:
            self._context.drop("merge", str(problem))
        return reply

    def _local_state(self, *, join: bool) -> bytes:
        nodes = [entry.view() for entry in self._context.nodes]
        return encode_push_pull(
            PushPull(join, nodes, self._context.delegate.local_state(join=join))
        )

    # Merging.

    def _merge(self, message: PushPull, *, join: bool) -> None:
        """Hear what the other side knows. Raises `RemoteProtocolError` if none of it counts."""
        context = self._context
        ours = {(entry.state, entry.versions) for entry in context.nodes}
        theirs = {(node.state, node.versions) for node in message.nodes}
        check_versions(ours | theirs)
        if join and (reason := context.delegate.merge_allowed(message.nodes)):
            raise RemoteProtocolError(reason)
        for node in message.nodes:
            self._hear_of(node)
        if message.user_state:
            context.delegate.merge_remote_state(message.user_state, join=join)

    def _hear_of(self, node: Node) -> None:
        match node.state:
            case NodeState.ALIVE:
                host, port = node.address
                address = (host, port or self._context.address[1])
                alive = Alive(node.incarnation, node.name, address, node.meta, node.versions)
                self._rumours.alive(alive)
            case NodeState.LEFT:
                self._rumours.dead(Dead(node.incarnation, node.name, node.name))
            case _:
                accuser = self._context.name
                self._rumours.suspect(Suspect(node.incarnation, node.name, accuser))


def interval_scale(node_count: int) -> int:
    """How many times longer the interval is in a pool of this size."""
    if node_count <= _UNSCALED_NODES:
        return 1
    return math.ceil(math.log2(node_count) - math.log2(_UNSCALED_NODES)) + 1


def check_versions(spoken: Iterable[tuple[NodeState, Versions]]) -> None:
    """Raises `RemoteProtocolError` unless everybody speaks what every live node understands."""
    everybody = list(spoken)
    alive = [versions for state, versions in everybody if state is NodeState.ALIVE]
    if not alive:
        return
    lower = (
        max(versions.protocol_min for versions in alive),
        min(versions.protocol_max for versions in alive),
    )
    upper = (
        max(versions.delegate_min for versions in alive),
        min(versions.delegate_max for versions in alive),
    )
    for _, versions in everybody:
        if not lower[0] <= versions.protocol_current <= lower[1]:
            raise RemoteProtocolError(
                f"a node speaks protocol version {versions.protocol_current}"
                f" but others understand {lower[0]} to {lower[1]}"
            )
        if not upper[0] <= versions.delegate_current <= upper[1]:
            raise RemoteProtocolError(
                f"a node speaks Serf protocol version {versions.delegate_current}"
                f" but others understand {upper[0]} to {upper[1]}"
            )
