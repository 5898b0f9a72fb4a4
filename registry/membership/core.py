"""SWIM with Lifeguard: who is in the pool and who is alive. No socket, no clock, no global chance.

    packets, streams, time ──> SwimCore ──> take_output: packets and streams to send, joins, notices
                                  │
                                  └──> Delegate: who came, went and changed; opaque messages

The parts, each in its file: `probe` asks nodes whether they are there, `relay` asks for others,
`rumours` decides what to believe, `exchange` compares everything with one other node, and gossip,
below, spreads what is new. They share a `SwimContext`.

Whatever comes in from the network is at worst dropped and counted, by reason, in `statistics`.

Source: SWIM (Das et al. 2002); Lifeguard (Dadgar et al. 2017); gossip sheet, sections 2 to 7.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from registry.errors import RemoteProtocolError, TooLarge
from registry.membership.addresses import Address
from registry.membership.awareness import Awareness
from registry.membership.broadcast import TransmitQueue
from registry.membership.config import SwimConfig
from registry.membership.crypto import Keyring
from registry.membership.exchange import Exchange
from registry.membership.members import NodeEntry, NodeTable
from registry.membership.packets import COMPOUND_ENTRY_BYTES, COMPOUND_HEADER_BYTES, Envelope
from registry.membership.probe import Prober
from registry.membership.relay import Relays
from registry.membership.rumours import Rumours
from registry.membership.seam import META_BYTES_MAX, Delegate, Node, SwimOutput
from registry.membership.swim_context import SwimContext
from registry.membership.wire import (
    Ack,
    Alive,
    Dead,
    IndirectPing,
    Nack,
    Ping,
    Suspect,
    UserMessage,
    decode_packet_message,
    encode,
    encode_user_stream,
)


class SwimCore:
    """One node. Call `start` first; see `registry.membership.seam` for what each method promises.

    `now_ms` may have a fraction: round-trip times are as exact as what it is told.
    """

    def __init__(
        self,
        config: SwimConfig,
        name: str,
        address: Address,
        *,
        rng: random.Random,
        keyring: Keyring | None = None,
    ) -> None:
        self._config = config
        self._name = name
        self._address = address
        self._rng = rng
        self._envelope = Envelope(
            keyring=keyring,
            compresses=config.compresses,
            verifies_incoming=config.verifies_incoming,
            encrypts_outgoing=config.encrypts_outgoing,
        )

    def start(self, delegate: Delegate, now_ms: float) -> None:
        config, rng = self._config, self._rng
        overhead = COMPOUND_HEADER_BYTES + COMPOUND_ENTRY_BYTES + self._envelope.overhead_bytes
        self._context = context = SwimContext(
            config=config,
            name=self._name,
            address=self._address,
            rng=rng,
            envelope=self._envelope,
            nodes=NodeTable(rng),
            queue=TransmitQueue(config.retransmit_mult, config.packet_bytes_max - overhead),
            health=Awareness(config.awareness_max),
            delegate=delegate,
            now_ms=now_ms,
        )
        self._rumours = Rumours(context)
        self._prober = Prober(context, self._rumours)
        self._rumours.suspected = self._prober.challenge
        self._relays = Relays(context)
        self._exchange = Exchange(context, self._rumours)
        self._rumours.came = self._exchange.newcomer
        self._gossip_ms = now_ms + rng.random() * config.gossip_interval_ms
        self._handlers: dict[type[Any], Callable[[Any, Address], None]] = {
            Ping: self._on_ping,
            IndirectPing: self._relays.serve,
            Ack: self._on_ack,
            Nack: lambda nack, _: self._prober.nack(nack.seq_no),
            Suspect: self._on_suspect,
            Alive: lambda alive, _: self._rumours.alive(alive),
            Dead: self._on_dead,
            UserMessage: lambda user, _: delegate.message_received(user.data),
        }
        self._rumours.introduce_ourselves(_checked(delegate.meta()))

    # Time.

    def at(self, now_ms: float) -> None:
        """What follows happens now."""
        self._context.now_ms = now_ms

    def next_deadline_ms(self) -> int:
        deadlines = (
            self._gossip_ms,
            self._prober.next_deadline_ms(),
            self._exchange.next_deadline_ms(),
            self._relays.next_deadline_ms(),
            self._rumours.next_deadline_ms(),
        )
        return math.ceil(min(deadline for deadline in deadlines if deadline is not None))

    def advance(self, now_ms: float) -> None:
        self.at(now_ms)
        # Gossip is due several times a second, so this shows whether we were there all the time.
        late_ms = now_ms - self._gossip_ms
        if late_ms > self._config.probe_timeout_ms:
            self._stood_still(late_ms)
        self._rumours.advance()
        self._relays.advance()
        self._prober.advance()
        self._exchange.advance()
        if now_ms >= self._gossip_ms:
            self._gossip_ms = now_ms + self._config.gossip_interval_ms
            self._gossip()

    def _stood_still(self, for_ms: float) -> None:
        """The process, or its machine, did not run: answers may have come that we did not read.

        To judge others by the time that passed meanwhile would be to blame them for our own fault.
        """
        self._rumours.postpone(for_ms)
        self._prober.postpone(for_ms)

    def _gossip(self) -> None:
        """Hand what is new to a few nodes."""
        context = self._context
        for node in self._next_to_hear():
            node.gossiped_ms = context.now_ms
            if messages := context.riders(node.address, context.packet_room):
                context.send_all(node.address, messages)
            elif not context.is_small_pool:
                return  # nothing for one is nothing for all

    def _next_to_hear(self) -> list[NodeEntry]:
        """Random ones; in a small pool in turn, so that nobody waits for its luck."""
        context, count = self._context, self._config.gossip_nodes
        if not context.is_small_pool:
            return context.nodes.choose(count, context.hears_gossip)
        nodes = context.hearers()
        self._rng.shuffle(nodes)
        return sorted(nodes, key=lambda node: node.gossiped_ms)[:count]

    # The network.

    def receive_packet(self, data: bytes, source: Address, now_ms: float) -> None:
        """Never raises, whatever the bytes are."""
        self.at(now_ms)
        try:
            for message in self._envelope.open_packet(data):
                self._receive_message(message, source)
        except RemoteProtocolError as problem:
            self._context.drop("packet", f"source={source[0]}:{source[1]} {problem}")

    def _receive_message(self, data: bytes, source: Address) -> None:
        """One part of a packet; that it is bad says nothing about the others."""
        try:
            message = decode_packet_message(data)
        except RemoteProtocolError as problem:
            self._context.drop("message", f"source={source[0]}:{source[1]} {problem}")
            return
        self._handlers[type(message)](message, source)

    def _on_ping(self, ping: Ping, source: Address) -> None:
        context = self._context
        if ping.node not in ("", context.name):
            context.drop("ping-for-another", f"node={ping.node} source={source[0]}:{source[1]}")
            return
        context.send(ping.source or source, Ack(ping.seq_no, context.delegate.ack_payload()))

    def _on_ack(self, ack: Ack, source: Address) -> None:
        if not self._prober.ack(ack):
            self._relays.ack(ack.seq_no)

    def _on_suspect(self, suspect: Suspect, source: Address) -> None:
        self._rumours.suspect(suspect)
        self._answer_accusation(suspect.node, source)

    def _on_dead(self, dead: Dead, source: Address) -> None:
        self._rumours.dead(dead)
        self._answer_accusation(dead.node, source)

    def _answer_accusation(self, accused: str, source: Address) -> None:
        """Whoever says that we are failing is told straight away that we are not.

        It may be the one node that missed our contradiction when gossip spread it. Strangers get
        no answer: their addresses may be made up, and it is longer than the accusation.
        """
        context = self._context
        is_about_us = accused == context.name and not context.is_leaving
        if is_about_us and context.nodes.at(source) is not None:
            context.send_all(source, [encode(self._rumours.own_word())])

    def receive_stream_request(self, data: bytes, source: Address, now_ms: float) -> bytes | None:
        """Never raises, whatever the bytes are; the answer, if there is one."""
        self.at(now_ms)
        return self._exchange.serve(data)

    def stream_reply(self, token: int, data: bytes | None, now_ms: float) -> None:
        self.at(now_ms)
        on_reply = self._context.streams.pop(token, None)
        assert on_reply is not None, "each stream is answered exactly once"
        on_reply(data)

    # Wishes.

    def join(self, address: Address) -> int:
        return self._exchange.join(address)

    def rejoin(self, address: Address) -> None:
        self._exchange.rejoin(address)

    def leave(self) -> None:
        self._rumours.leave()

    def update_meta(self, meta: bytes) -> None:
        self._rumours.change_meta(_checked(meta))

    def forget(self, name: str) -> None:
        """A live node is not forgotten: that it is there would be news at once."""
        entry = self._context.nodes.get(name)
        if entry is not None and entry.is_gone and self._context.is_other(entry):
            self._context.nodes.drop(entry)

    def send_user(self, address: Address, data: bytes) -> None:
        self._context.send_user(address, data)

    def send_user_reliably(self, address: Address, data: bytes) -> None:
        self._context.open_stream(
            address,
            encode_user_stream(data),
            timeout_ms=self._config.stream_timeout_ms,
            on_reply=lambda reply: None,
            expects_reply=False,
        )

    # What comes out, and what anybody may look at.

    def take_output(self) -> list[SwimOutput]:
        outputs, self._context.outputs = self._context.outputs, []
        return outputs

    @property
    def nodes(self) -> list[Node]:
        return [entry.view() for entry in self._context.nodes]

    def node(self, name: str) -> Node | None:
        entry = self._context.nodes.get(name)
        return entry.view() if entry else None

    @property
    def has_hearers(self) -> bool:
        return self._context.has_hearers

    @property
    def health_score(self) -> int:
        return self._context.health.score

    def statistics(self) -> dict[str, int]:
        context = self._context
        return {
            "nodes": len(context.nodes),
            "health_score": context.health.score,
            "broadcast_queue": len(context.queue),
            **{f"dropped_{reason}": count for reason, count in sorted(context.dropped.items())},
        }


def _checked(meta: bytes) -> bytes:
    if len(meta) > META_BYTES_MAX:
        raise TooLarge(f"Meta exceeds {META_BYTES_MAX} bytes: {len(meta)}")
    return meta
