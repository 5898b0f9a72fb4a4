"""Whole members, both layers, on a virtual network: delay, loss, crashes and restarts by one seed.

Unlike `registry.testing.serf_pool`, whose lower layer is a sketch, here the real SWIM core spreads
what the real Serf core says, in the packets that would go out.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from registry.membership.addresses import Address
from registry.membership.context import SerfContext
from registry.membership.core import SwimCore
from registry.membership.crypto import Keyring
from registry.membership.filters import PatternCompiler
from registry.membership.member_table import MemberTable
from registry.membership.merge_rules import MergeRules, OpenRules
from registry.membership.pool_core import PoolCore, PoolOutput
from registry.membership.profiles import SERF_LOCAL, Profile
from registry.membership.seam import JoinFinished, OpenStream, SendPacket
from registry.membership.serf import SerfCore
from registry.membership.serf_values import Deliver, Event, Left, MemberStatus

_DELAY_MS = (0.2, 3.0)


@dataclass(eq=False, slots=True)
class SimulatedMember:
    name: str
    address: Address
    core: PoolCore
    is_up: bool = True
    events: list[Event] = field(default_factory=list)
    outputs: list[PoolOutput] = field(default_factory=list)

    def view(self) -> dict[str, MemberStatus]:
        return {member.name: member.status for member in self.core.serf.members}


class GossipNetwork:
    """Members by name. Time passes only in `run`."""

    def __init__(
        self,
        seed: int,
        compile_pattern: PatternCompiler,
        *,
        profile: Profile = SERF_LOCAL,
        key: bytes | None = None,
    ) -> None:
        self.now_ms = 0.0
        self.loss = 0.0
        self.members: dict[str, SimulatedMember] = {}
        self._compile_pattern = compile_pattern
        self._profile = profile
        self._key = key
        self._rng = random.Random(seed)
        self._by_address: dict[Address, SimulatedMember] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._ties = itertools.count()

    def start(self, name: str, rules: MergeRules | None = None) -> SimulatedMember:
        """A member by itself; under a name that was there before it is a restarted process."""
        old = self.members.get(name)
        address = old.address if old else (f"10.0.0.{len(self.members) + 1}", 7946)
        if old is not None:
            old.is_up = False
        member = SimulatedMember(name, address, self._core(name, address, rules or OpenRules()))
        self.members[name] = self._by_address[address] = member
        self._carry_out(member)
        return member

    def _core(self, name: str, address: Address, rules: MergeRules) -> PoolCore:
        swim_config, serf_config = self._profile.swim, self._profile.serf
        rng = random.Random(self._rng.getrandbits(64))
        ring = Keyring([self._key]) if self._key else None
        swim = SwimCore(swim_config, name, address, rng=rng, keyring=ring)
        context = SerfContext(
            config=serf_config,
            name=name,
            address=address,
            tags={"role": "node"},
            rng=rng,
            compile_pattern=self._compile_pattern,
            members=MemberTable(recent_intent_timeout_ms=serf_config.recent_intent_timeout_ms),
            lower=swim,
            gossip_interval_ms=swim_config.gossip_interval_ms,
            ring=ring,
            now_ms=int(self.now_ms),
        )
        serf = SerfCore(context, rules=rules, retransmit_mult=swim_config.retransmit_mult)
        return PoolCore(swim, serf, self.now_ms)

    def join(self, name: str, through: str) -> None:
        member = self.members[name]
        member.core.at(self.now_ms)
        member.core.swim.join(self.members[through].address)
        self._carry_out(member)

    def ask(self, name: str, what: Callable[[SerfCore], None]) -> None:
        """Have a member do something now."""
        member = self.members[name]
        member.core.at(self.now_ms)
        what(member.core.serf)
        self._carry_out(member)

    def crash(self, name: str) -> None:
        self.members[name].is_up = False

    def run(self, duration_ms: float) -> None:
        """Let time pass."""
        until_ms = self.now_ms + duration_ms
        while True:
            wakes = [(m.core.next_deadline_ms(), m.name) for m in self.members.values() if m.is_up]
            wake = min(wakes, default=(until_ms, ""))
            if self._queue and self._queue[0][0] <= min(wake[0], until_ms):
                self.now_ms, _, action = heapq.heappop(self._queue)
                action()
            elif wake[0] <= until_ms and wake[1]:
                self.now_ms = max(self.now_ms, wake[0])
                member = self.members[wake[1]]
                member.core.advance(self.now_ms)
                self._carry_out(member)
            else:
                self.now_ms = until_ms
                return

    def _later(self, delay_ms: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now_ms + delay_ms, next(self._ties), action))

    def _carry_out(self, member: SimulatedMember) -> None:
        for output in member.core.take_output():
            if isinstance(output, SendPacket):
                self._send(member, output)
            elif isinstance(output, OpenStream):
                self._open(member, output)
            elif isinstance(output, Deliver):
                member.events.append(output.event)
            else:
                self._note(member, output)

    def _note(self, member: SimulatedMember, output: PoolOutput) -> None:
        member.outputs.append(output)
        if isinstance(output, Left):
            member.is_up = False
        elif isinstance(output, JoinFinished) and output.error is None:
            self.ask(member.name, SerfCore.announce_join)

    def _send(self, sender: SimulatedMember, packet: SendPacket) -> None:
        if self._rng.random() < self.loss:
            return

        def arrive() -> None:
            receiver = self._by_address.get(packet.address)
            if receiver is not None and receiver.is_up:
                receiver.core.receive_packet(packet.data, sender.address, self.now_ms)
                self._carry_out(receiver)

        self._later(self._rng.uniform(*_DELAY_MS), arrive)

    def _open(self, sender: SimulatedMember, stream: OpenStream) -> None:
        def arrive() -> None:
            receiver = self._by_address.get(stream.address)
            reply: bytes | None = None
            if receiver is not None and receiver.is_up:
                reply = (
                    receiver.core.receive_stream_request(stream.data, sender.address, self.now_ms)
                    or b""
                )
                self._carry_out(receiver)
            self._later(self._rng.uniform(*_DELAY_MS), lambda: answered(reply))

        def answered(reply: bytes | None) -> None:
            if sender.is_up:
                sender.core.stream_reply(stream.token, reply, self.now_ms)
                self._carry_out(sender)

        self._later(self._rng.uniform(*_DELAY_MS), arrive)
