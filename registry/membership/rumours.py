"""What to believe of what is said about nodes, ourselves included: the rules of precedence.

A fact about a node carries the node's incarnation, which only the node itself raises:

    alive    needs a greater incarnation to beat anything
    suspect  beats alive at an equal one
    dead     beats alive and suspect at an equal one; so does left, which is dead by its own word

So whoever is accused contradicts with its next incarnation, and nothing older can undo that.
Nothing here depends on the order in which messages come: the greater fact wins in either order.

Source: SWIM, section 4.2; Lifeguard; gossip sheet, sections 5.3 and 5.4.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from registry.membership.broadcast import Broadcast
from registry.membership.members import NodeEntry
from registry.membership.seam import LeaveSent, Node, NodeState
from registry.membership.suspicion import Suspicion, SuspicionLimits
from registry.membership.swim_context import SwimContext
from registry.membership.wire import NODES_MAX, Alive, Dead, Encodable, Suspect, encode

_INCARNATION_MAX = 0xFFFF_FFFF


class Rumours:
    def __init__(self, context: SwimContext) -> None:
        self._context = context
        # (deadline, tie-break, node, suspicion); entries that were overtaken stay until they come
        # to the top, where they are recognised by the suspicion's present deadline.
        self._timers: list[tuple[float, int, NodeEntry, Suspicion]] = []
        self._ties = itertools.count()
        #: Told when somebody else has made us suspect a node.
        self.suspected: Callable[[NodeEntry], None] = lambda entry: None
        #: Told when a node has come, or come back.
        self.came: Callable[[], None] = lambda: None

    # Ourselves.

    def introduce_ourselves(self, meta: bytes) -> None:
        context = self._context
        entry = NodeEntry(
            context.name,
            context.address,
            meta,
            context.config.versions,
            1,
            NodeState.ALIVE,
            context.now_ms,
        )
        context.nodes.add(entry)
        self._tell_alive(entry)
        context.delegate.node_joined(entry.view())

    def change_meta(self, meta: bytes) -> None:
        entry = self._context.myself
        entry.meta = meta
        entry.incarnation = min(entry.incarnation + 1, _INCARNATION_MAX)
        self._tell_alive(entry)
        self._context.delegate.node_updated(entry.view())

    def leave(self) -> None:
        """Tell everybody that we are dead by our own word."""
        context = self._context
        if context.is_leaving:
            return
        context.is_leaving = True
        name = context.name
        self.dead(Dead(context.myself.incarnation, name, name))
        if not context.has_hearers:
            # Nobody is there who could be told.
            context.leave_broadcast = None
            context.outputs.append(LeaveSent())

    def own_word(self) -> Alive:
        return _alive(self._context.myself)

    def _refute(self, entry: NodeEntry, incarnation: int) -> None:
        """Contradict what was said of us with `incarnation`."""
        entry.incarnation = min(max(entry.incarnation, incarnation) + 1, _INCARNATION_MAX)
        # Whoever is accused has been slow to answer: doubt our own view of others, too.
        self._context.health.change(1)
        self._tell_alive(entry)

    # Alive.

    def alive(self, message: Alive) -> None:
        context = self._context
        is_self = message.node == context.name
        entry = context.nodes.get(message.node)
        if (is_self and context.is_leaving) or (
            entry is not None and _is_old(message, entry, is_self=is_self)
        ):
            return
        if not self._is_acceptable(message):
            return
        if entry is None:
            if len(context.nodes) >= NODES_MAX:
                context.drop("too-many-nodes", f"node={message.node}")
                return
            entry = self._newcomer(message)
        is_reclaimed = entry.address != message.address
        if is_reclaimed and not self._may_reclaim(entry):
            context.dropped["name-conflict"] += 1
            context.delegate.conflict(entry.view(), _presented(message))
        elif is_self:
            self._heard_of_ourselves(entry, message)
        elif is_reclaimed or message.incarnation > entry.incarnation:
            self._take_alive(entry, message)

    def _is_acceptable(self, message: Alive) -> bool:
        versions = message.versions
        if not 0 < versions.protocol_min <= versions.protocol_max:
            self._context.drop("versions", f"node={message.node} versions={versions}")
            return False
        if reason := self._context.delegate.alive_allowed(_presented(message)):
            self._context.drop("refused", f"node={message.node}: {reason}")
            return False
        return True

    def _newcomer(self, message: Alive) -> NodeEntry:
        entry = NodeEntry(
            message.node,
            message.address,
            b"",
            message.versions,
            0,
            NodeState.DEAD,
            self._context.now_ms,
        )
        self._context.nodes.add(entry)
        return entry

    def _may_reclaim(self, entry: NodeEntry) -> bool:
        """Whether another address may take over the name."""
        if entry.state is NodeState.LEFT:
            return True
        reclaim_ms = self._context.config.dead_node_reclaim_ms
        dead_for_ms = self._context.now_ms - entry.changed_ms
        return entry.state is NodeState.DEAD and 0 < reclaim_ms < dead_for_ms

    def _heard_of_ourselves(self, entry: NodeEntry, message: Alive) -> None:
        """Somebody remembers us from an earlier life, or gossips our own words back."""
        is_echo = message.incarnation < entry.incarnation or (
            message.incarnation == entry.incarnation
            and message.meta == entry.meta
            and message.versions == entry.versions
        )
        if not is_echo:
            self._refute(entry, message.incarnation)

    def _take_alive(self, entry: NodeEntry, message: Alive) -> None:
        context = self._context
        was_gone, old_meta = entry.is_gone, entry.meta
        entry.suspicion = None
        entry.incarnation = message.incarnation
        entry.meta = message.meta
        entry.versions = message.versions
        context.nodes.move(entry, message.address)
        entry.change(NodeState.ALIVE, context.now_ms)
        self._broadcast(entry, message)
        if was_gone:
            context.delegate.node_joined(entry.view())
            self.came()
        elif old_meta != entry.meta:
            context.delegate.node_updated(entry.view())

    # Suspect.

    def suspect(self, message: Suspect) -> None:
        context = self._context
        entry = context.nodes.get(message.node)
        if entry is None or message.incarnation < entry.incarnation:
            return
        if entry.suspicion is not None:
            if entry.suspicion.confirm(message.accuser):
                self._schedule(entry, entry.suspicion)
                self._broadcast(entry, message)
        elif entry.state is NodeState.ALIVE:
            if context.is_other(entry):
                self._take_suspect(entry, message)
            else:
                self._refute(entry, message.incarnation)

    def _take_suspect(self, entry: NodeEntry, message: Suspect) -> None:
        context = self._context
        self._broadcast(entry, message)
        entry.incarnation = message.incarnation
        entry.change(NodeState.SUSPECT, context.now_ms)
        limits = SuspicionLimits.of(context.config, len(context.nodes))
        entry.suspicion = Suspicion(message.accuser, context.now_ms, limits)
        self._schedule(entry, entry.suspicion)
        if message.accuser != context.name:
            self.suspected(entry)

    def _schedule(self, entry: NodeEntry, suspicion: Suspicion) -> None:
        timer = (suspicion.deadline_ms, next(self._ties), entry, suspicion)
        heapq.heappush(self._timers, timer)

    def postpone(self, by_ms: float) -> None:
        """Every suspect gets so much more time."""
        self._timers.clear()
        for entry in self._context.nodes:
            if entry.suspicion is not None:
                entry.suspicion.started_ms += by_ms
                self._schedule(entry, entry.suspicion)

    def next_deadline_ms(self) -> float | None:
        while self._timers:
            deadline_ms, _, entry, suspicion = self._timers[0]
            if entry.suspicion is suspicion and deadline_ms == suspicion.deadline_ms:
                return deadline_ms
            heapq.heappop(self._timers)
        return None

    def advance(self) -> None:
        """Those who have not contradicted in time are dead."""
        context = self._context
        while True:
            deadline_ms = self.next_deadline_ms()
            if deadline_ms is None or deadline_ms > context.now_ms:
                return
            entry = self._timers[0][2]
            context.note(f"suspicion timed out: node={entry.name}", is_warning=False)
            self.dead(Dead(entry.incarnation, entry.name, context.name))

    # Dead.

    def dead(self, message: Dead) -> None:
        context = self._context
        entry = context.nodes.get(message.node)
        if entry is None or message.incarnation < entry.incarnation:
            return
        if entry.is_gone:
            return
        if not context.is_other(entry) and not context.is_leaving:
            self._refute(entry, message.incarnation)
            return
        broadcast = self._broadcast(entry, message)
        if not context.is_other(entry):
            context.leave_broadcast = broadcast
        entry.suspicion = None
        entry.incarnation = message.incarnation
        is_own_word = message.accuser == message.node
        entry.change(NodeState.LEFT if is_own_word else NodeState.DEAD, context.now_ms)
        context.delegate.node_left(entry.view())

    # Spreading.

    def _tell_alive(self, entry: NodeEntry) -> None:
        self._broadcast(entry, _alive(entry))

    def _broadcast(self, entry: NodeEntry, message: Encodable) -> Broadcast:
        return self._context.queue.add(entry.name, encode(message))


def _is_old(message: Alive, entry: NodeEntry, *, is_self: bool) -> bool:
    """Nearly all that comes is: say so before anything is asked of the layer above.

    What is said of ourselves under our present incarnation still has to be compared.
    """
    if message.address != entry.address:
        return False
    return message.incarnation < entry.incarnation + (not is_self)


def _alive(entry: NodeEntry) -> Alive:
    return Alive(entry.incarnation, entry.name, entry.address, entry.meta, entry.versions)


def _presented(message: Alive) -> Node:
    return Node(
        message.node,
        message.address,
        message.meta,
        message.incarnation,
        NodeState.ALIVE,
        message.versions,
    )
