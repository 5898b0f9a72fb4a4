"""Probing one node after another: is it there?

    sent            + probe timeout                 + interval x (health score + 1)
     │ ping            │ no ack: ping by stream,       │ still none: suspect it
     │ (+ suspect)     │ ask others to ping it         │

A nack from a helper says "I am well connected, it did not answer me": it tells a node whose own
network is down, and hears nothing at all, from one whose target is down.

Source: SWIM, section 4.1; Lifeguard, section IV.A; gossip sheet, section 5.1.
"""

from __future__ import annotations

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


@dataclass(slots=True)
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


class Prober:
    """At most one probe at a time; the next begins an interval after the last began."""

    def __init__(self, context: SwimContext, rumours: Rumours) -> None:
        self._context = context
        self._rumours = rumours
        self._probe: Probe | None = None
        # Nodes that start together shall not probe together.
        interval_ms = context.config.probe_interval_ms
        self._next_ms = context.now_ms + context.rng.random() * interval_ms

    def next_deadline_ms(self) -> float:
        probe = self._probe
        if probe is None:
            return self._next_ms
        return probe.deadline_ms if probe.has_asked_others else probe.indirect_at_ms

    def advance(self) -> None:
        now_ms = self._context.now_ms
        probe = self._probe
        if probe is not None and not probe.has_asked_others and now_ms >= probe.indirect_at_ms:
            self._ask_others(probe)
        if probe is not None and now_ms >= probe.deadline_ms:
            self._conclude(probe)
        if self._probe is None and now_ms >= self._next_ms:
            self._begin()

    def _begin(self) -> None:
        context, config = self._context, self._context.config
        self._next_ms = context.now_ms + config.probe_interval_ms
        node = context.nodes.next_to_probe(self._is_worth_probing, self._drop_the_dead)
        if node is None:
            return
        self._probe = Probe(
            node=node,
            incarnation=node.incarnation,
            seq_no=context.next_seq_no(),
            sent_ms=context.now_ms,
            indirect_at_ms=context.now_ms + config.probe_timeout_ms,
            deadline_ms=context.now_ms + context.health.scale(config.probe_interval_ms),
        )
        ping = self._ping(self._probe)
        if node.state is NodeState.SUSPECT:
            # The accused shall learn of it at once, so that it can contradict.
            accusation = Suspect(node.incarnation, node.name, context.name)
            context.send_all(node.address, [encode(ping), encode(accusation)])
        else:
            context.send(node.address, ping)

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
        """True if it answers our probe: it comes from the node itself, or through a helper."""
        probe = self._probe
        if probe is None or probe.seq_no != message.seq_no:
            return False
        if not probe.has_asked_others:
            # Only a prompt answer can have come by the direct way, and times it.
            rtt_ms = max(0.0, self._context.now_ms - probe.sent_ms)
            self._context.delegate.ping_completed(probe.node.name, rtt_ms, message.payload)
        self._succeed()
        return True

    def nack(self, seq_no: int) -> None:
        if self._probe is not None and self._probe.seq_no == seq_no:
            self._probe.nacked_by += 1

    def _succeed(self) -> None:
        self._probe = None
        self._context.health.change(-1)

    def _conclude(self, probe: Probe) -> None:
        context, name = self._context, probe.node.name
        if probe.answered_by_stream:
            context.note(f"a node answers by TCP but not by UDP: node={name}")
            self._succeed()
            return
        self._probe = None
        missing = max(0, probe.nacks_expected - probe.nacked_by)
        context.health.change(missing if probe.nacks_expected else 1)
        context.note(f"no answer to a probe: node={name}", is_warning=False)
        self._rumours.suspect(Suspect(probe.incarnation, name, context.name))
