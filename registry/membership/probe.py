"""Probing one node after another: is it there?

    sent            + probe timeout                 + interval x (health score + 1)
     │ ping            │ no ack: ping again, also by   │ still none: suspect it
     │ (+ suspect)     │ stream, ask others to do so   │

A nack from a helper says "I am well connected, it did not answer me": it tells a node whose own
network is down, and hears nothing at all, from one whose target is down.

In a large pool chance alone leaves a failed node unnoticed for several intervals now and then, and
its accusers come one by one. So there each node does two things besides, both at a cost that does
not grow with the pool:

* In each interval it also probes its successor in the ring. So every node is probed in every
  interval, by the one before it that still lives.
* When it hears of a suspicion and is one of the last few before the suspect in the ring, it probes
  the suspect at once. So within an interval the suspect has heard of the accusation from several
  sides, and either contradicts or has as many accusers as count (`registry.membership.suspicion`).

Twice as many probes would accuse twice as many live nodes on a lossy network. The second ping more
than makes up for that: at 20 % loss, without streams, a probe of a live node fails in 3 % of all
cases instead of 7 %.

Others need not take part: what goes over the wire are pings and suspicions like any others.

Source: SWIM, section 4.1; Lifeguard, section IV.A; gossip sheet, section 5.1. The second ping, the
successor and the challenge are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from registry.errors import RemoteProtocolError
from registry.membership.members import NodeEntry
from registry.membership.rumours import Rumours
from registry.membership.seam import NodeState
from registry.membership.swim_context import SwimContext
from registry.membership.wire import (
    Ack,
    IndirectPing,
    Ping,
    Suspect,
    decode_stream_message,
    encode,
)

#: Nodes with at least these greatest versions answer pings by stream, and send nacks.
_STREAM_PING_SINCE = 3
_NACK_SINCE = 4

#: How many nodes challenge a suspect: as many accusers as count, and a few to spare.
_CHALLENGERS = 8

#: Challenges of one node at a time. Whoever loses its own network suspects everybody, and when the
#: pool is cut in two half of it is suspected: nobody shall send a burst then.
_CHALLENGES_MAX = 3


@dataclass(slots=True, eq=False)
class Probe:
    """One node being probed. All its messages carry `seq_no`."""

    node: NodeEntry
    incarnation: int  # as known when the probe began
    seq_no: int
    sent_ms: float
    indirect_at_ms: float
    deadline_ms: float
    has_asked_others: bool = False
    nacks_expected: int = 0
    nacked_by: int = 0
    answered_by_stream: bool = field(default=False)

    @property
    def due_ms(self) -> float:
        return self.deadline_ms if self.has_asked_others else self.indirect_at_ms


@dataclass(slots=True)
class Lane:
    """At most one probe at a time; the next begins an interval after the last began."""

    choose: Callable[[], NodeEntry | None]
    next_ms: float
    probe: Probe | None = None


class Prober:
    """Two lanes, the members by turns and the successor, and challenges now and then."""

    def __init__(self, context: SwimContext, rumours: Rumours) -> None:
        self._context = context
        self._rumours = rumours
        self._running: dict[int, Probe] = {}
        # Nodes that start together shall not probe together.
        interval_ms = context.config.probe_interval_ms
        start_ms = context.now_ms + context.rng.random() * interval_ms
        self._lanes = (
            Lane(self._by_turns, start_ms),
            Lane(self._successor, start_ms + interval_ms / 2),
        )
        self._challenges: list[Probe] = []

    def next_deadline_ms(self) -> float:
        deadline_ms = min(
            lane.next_ms if lane.probe is None else lane.probe.due_ms for lane in self._lanes
        )
        return min([deadline_ms, *(probe.due_ms for probe in self._challenges)])

    def advance(self) -> None:
        now_ms = self._context.now_ms
        for probe in list(self._running.values()):
            if not probe.has_asked_others and now_ms >= probe.indirect_at_ms:
                self._ask_others(probe)
            if now_ms >= probe.deadline_ms:
                self._conclude(probe)
        for lane in self._lanes:
            if lane.probe is None and now_ms >= lane.next_ms:
                lane.next_ms = now_ms + self._context.config.probe_interval_ms
                if node := lane.choose():
                    lane.probe = self._begin(node)

    def postpone(self, by_ms: float) -> None:
        """Every probe that runs gets so much more time."""
        for probe in self._running.values():
            probe.indirect_at_ms += by_ms
            probe.deadline_ms += by_ms

    def challenge(self, suspect: NodeEntry) -> None:
        """Somebody else suspects it: see for ourselves at once, if that is ours to do."""
        nodes = self._context.nodes
        if self._context.is_small_pool or len(self._challenges) >= _CHALLENGES_MAX:
            return
        if any(probe.node is suspect for probe in self._running.values()):
            return
        if nodes.is_shortly_before(self._context.name, suspect.name, _CHALLENGERS, _is_alive):
            self._challenges.append(self._begin(suspect))

    def _by_turns(self) -> NodeEntry | None:
        return self._context.nodes.next_to_probe(self._is_worth_probing, self._drop_the_dead)

    def _successor(self) -> NodeEntry | None:
        """The next after us that is not even suspected: who is, has been challenged."""
        nodes = self._context.nodes
        if self._context.is_small_pool:
            return None
        return nodes.after(self._context.name, _is_alive)

    def _begin(self, node: NodeEntry) -> Probe:
        context, config = self._context, self._context.config
        probe = Probe(
            node=node,
            incarnation=node.incarnation,
            seq_no=context.next_seq_no(),
            sent_ms=context.now_ms,
            indirect_at_ms=context.now_ms + config.probe_timeout_ms,
            deadline_ms=context.now_ms + context.health.scale(config.probe_interval_ms),
        )
        self._running[probe.seq_no] = probe
        if node.state is NodeState.SUSPECT:
            self._ping_alone(probe)
        else:
            context.send(node.address, self._ping(probe))
        return probe

    def _ping_alone(self, probe: Probe) -> None:
        """A ping without news, which would go to waste if nobody is there any more."""
        context, node = self._context, probe.node
        messages = [encode(self._ping(probe))]
        if node.state is NodeState.SUSPECT:
            # The accused shall learn of it at once, so that it can contradict.
            messages.append(encode(Suspect(node.incarnation, node.name, context.name)))
        context.send_all(node.address, messages)

    def _end(self, probe: Probe) -> None:
        del self._running[probe.seq_no]
        for lane in self._lanes:
            if lane.probe is probe:
                lane.probe = None
                return
        self._challenges.remove(probe)

    def _ping(self, probe: Probe) -> Ping:
        context = self._context
        return Ping(probe.seq_no, probe.node.name, context.address, context.name)

    def _is_worth_probing(self, node: NodeEntry) -> bool:
        return not node.is_gone and self._context.is_other(node)

    def _drop_the_dead(self) -> None:
        """Those whose death everybody has heard of; the left stay until the layer above drops them.

        A stray old alive message would bring a forgotten node back (5.7).
        """
        context = self._context
        oldest_ms = context.now_ms - context.config.gossip_to_the_dead_ms
        for node in list(context.nodes):
            if node.state is NodeState.DEAD and node.changed_ms < oldest_ms:
                context.nodes.drop(node)

    def _ask_others(self, probe: Probe) -> None:
        context, config = self._context, self._context.config
        probe.has_asked_others = True
        # The first ping, or its answer, may just have been lost.
        self._ping_alone(probe)
        helpers = context.nodes.choose(
            config.indirect_checks,
            lambda node: (
                node.state is NodeState.ALIVE and node is not probe.node and context.is_other(node)
            ),
        )
        for helper in helpers:
            wants_nack = helper.versions.protocol_max >= _NACK_SINCE
            probe.nacks_expected += wants_nack
            request = IndirectPing(
                probe.seq_no,
                probe.node.address,
                probe.node.name,
                wants_nack,
                context.address,
                context.name,
            )
            context.send(helper.address, request)
        if config.stream_ping and probe.node.versions.protocol_max >= _STREAM_PING_SINCE:
            self._ping_by_stream(probe)

    def _ping_by_stream(self, probe: Probe) -> None:
        left_ms = int(probe.deadline_ms - self._context.now_ms)
        if left_ms <= 0:
            return

        def answered(reply: bytes | None) -> None:
            probe.answered_by_stream = self._is_ack(reply, probe.seq_no)

        self._context.open_stream(
            probe.node.address,
            encode(self._ping(probe)),
            timeout_ms=left_ms,
            on_reply=answered,
        )

    def _is_ack(self, reply: bytes | None, seq_no: int) -> bool:
        if not reply:
            return False
        try:
            message = decode_stream_message(self._context.envelope.open_stream(reply))
        except RemoteProtocolError as problem:
            self._context.drop("stream", str(problem))
            return False
        return isinstance(message, Ack) and message.seq_no == seq_no

    # Answers.

    def ack(self, message: Ack) -> bool:
        """True if it answers a probe of ours; it comes from the node itself or through a helper."""
        probe = self._running.get(message.seq_no)
        if probe is None:
            return False
        if not probe.has_asked_others:
            # Only a prompt answer can have come by the direct way, and times it.
            rtt_ms = max(0.0, self._context.now_ms - probe.sent_ms)
            self._context.delegate.ping_completed(probe.node.name, rtt_ms, message.payload)
        self._succeed(probe)
        return True

    def nack(self, seq_no: int) -> None:
        probe = self._running.get(seq_no)
        if probe is not None:
            probe.nacked_by += 1

    def _succeed(self, probe: Probe) -> None:
        self._end(probe)
        self._context.health.change(-1)

    def _conclude(self, probe: Probe) -> None:
        context, name = self._context, probe.node.name
        if probe.answered_by_stream:
            context.note(f"a node answers by TCP but not by UDP: node={name}")
            self._succeed(probe)
            return
        self._end(probe)
        missing = max(0, probe.nacks_expected - probe.nacked_by)
        context.health.change(missing if probe.nacks_expected else 1)
        context.note(f"no answer to a probe: node={name}", is_warning=False)
        self._rumours.suspect(Suspect(probe.incarnation, name, context.name))


def _is_alive(node: NodeEntry) -> bool:
    return node.state is NodeState.ALIVE
