"""A pool of SWIM cores on a virtual clock: delays, loss, partitions and stopped nodes by choice.

The cores are the real ones; with `with_serf`, so is the Serf layer on top of each. A node is
stopped as a process is by a pulled plug: nothing it is sent is answered. One that is blocked stands
still as by SIGSTOP or a busy machine: what it is sent waits in its sockets. All chance comes from
one seed, so a run can be repeated.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from registry.membership.addresses import Address
from registry.membership.config import SwimConfig
from registry.membership.context import SerfContext
from registry.membership.core import SwimCore
from registry.membership.crypto import Keyring
from registry.membership.member_table import MemberTable
from registry.membership.merge_rules import OpenRules
from registry.membership.pool_core import PoolCore, PoolOutput
from registry.membership.seam import (
    ANYBODY,
    Node,
    NodeState,
    OpenStream,
    Recipient,
    SendPacket,
    SwimOutput,
)
from registry.membership.serf import SerfCore
from registry.membership.serf_config import SerfConfig
from registry.state.regexp import compile_pattern


@dataclass(slots=True)
class RecordingDelegate:
    """A layer above that carries nothing and remembers what it was told."""

    tags: bytes = b""
    events: list[tuple[str, str]] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)
    merged: list[bytes] = field(default_factory=list)
    rtts: list[tuple[str, float]] = field(default_factory=list)
    outgoing: list[bytes] = field(default_factory=list)
    refuses: Callable[[Node], str | None] = lambda node: None

    def meta(self) -> bytes:
        return self.tags

    def message_received(self, data: bytes) -> None:
        self.received.append(data)

    def broadcasts(self, limit: int, overhead: int, recipient: Recipient = ANYBODY) -> list[bytes]:
        taken: list[bytes] = []
        while self.outgoing and len(self.outgoing[0]) + overhead <= limit:
            limit -= len(self.outgoing[0]) + overhead
            taken.append(self.outgoing.pop(0))
        return taken

    def local_state(self, *, join: bool) -> bytes:
        return b"state" if join else b""

    def merge_remote_state(self, data: bytes, *, join: bool) -> None:
        self.merged.append(data)

    def node_joined(self, node: Node) -> None:
        self.events.append(("join", node.name))

    def node_left(self, node: Node) -> None:
        self.events.append(("leave", node.name))

    def node_updated(self, node: Node) -> None:
        self.events.append(("update", node.name))

    def conflict(self, existing: Node, other: Node) -> None:
        self.events.append(("conflict", existing.name))

    def merge_allowed(self, nodes: Sequence[Node]) -> str | None:
        return next((reason for node in nodes if (reason := self.refuses(node))), None)

    def alive_allowed(self, node: Node) -> str | None:
        return self.refuses(node)

    def ack_payload(self) -> bytes:
        return b"here"

    def ping_completed(self, name: str, rtt_ms: float, payload: bytes) -> None:
        self.rtts.append((name, rtt_ms))


@dataclass(slots=True, eq=False)
class SimulatedNode:
    """`driver` takes the inputs: the SWIM core itself, or both layers as one."""

    name: str
    address: Address
    core: SwimCore
    driver: SwimCore | PoolCore
    delegate: RecordingDelegate  # unused when there is a Serf layer
    serf: SerfCore | None = None
    is_running: bool = True
    is_blocked: bool = False
    #: What is to be done when it is no longer blocked, in order.
    waiting: list[Callable[[], None]] = field(default_factory=list)
    #: How often it was started and resumed: alarms set before do not count.
    lives: int = 0
    #: What the core said besides what it sent, in order.
    outputs: list[SwimOutput | PoolOutput] = field(default_factory=list)

    def sees(self, name: str) -> NodeState | None:
        node = self.core.node(name)
        return node.state if node else None


class SwimPool:
    """Nodes `n0`, `n1`, … on one network. Time passes only in `run`."""

    def __init__(
        self,
        seed: int,
        *,
        config: SwimConfig | None = None,
        keys: Sequence[bytes] = (),
        delay_ms: tuple[float, float] = (0.2, 2.0),
        with_serf: bool = False,
    ) -> None:
        self.seed = seed
        self.now_ms = 0.0
        self.loss = 0.0
        self.streams_fail = False
        self.packets = 0
        self.nodes: dict[str, SimulatedNode] = {}
        self._config = config or SwimConfig.lan()
        self._keys = tuple(keys)
        self._delay_ms = delay_ms
        self._with_serf = with_serf
        self._rng = random.Random(seed)
        self._by_address: dict[Address, SimulatedNode] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._ties = itertools.count()
        self._side: dict[str, int] = {}

    # The pool.

    def add(self, name: str | None = None, *, tags: bytes = b"") -> SimulatedNode:
        """A new node, known to nobody; under a name that was there before it replaces that one."""
        number = len(self.nodes)
        name = name or f"n{number}"
        old = self.nodes.get(name)
        address = (
            old.address if old else (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 8301)
        )
        core = SwimCore(
            self._config,
            name,
            address,
            rng=random.Random(self._rng.getrandbits(64)),
            keyring=self._ring(),
        )
        if self._with_serf:
            node = self._serf_node(name, address, core)
        else:
            node = SimulatedNode(name, address, core, core, RecordingDelegate(tags))
            core.start(node.delegate, self.now_ms)
        if old is not None:
            old.is_running = False
        self.nodes[name] = self._by_address[address] = node
        self._flush(node)
        self._wake(node)
        return node

    def _serf_node(self, name: str, address: Address, core: SwimCore) -> SimulatedNode:
        config = SerfConfig()
        context = SerfContext(
            config=config,
            name=name,
            address=address,
            tags={"role": "node"},
            rng=random.Random(self._rng.getrandbits(64)),
            compile_pattern=compile_pattern,
            members=MemberTable(recent_intent_timeout_ms=config.recent_intent_timeout_ms),
            lower=core,
            gossip_interval_ms=self._config.gossip_interval_ms,
            now_ms=int(self.now_ms),
        )
        serf = SerfCore(context, rules=OpenRules(), retransmit_mult=self._config.retransmit_mult)
        driver = PoolCore(core, serf, int(self.now_ms))
        return SimulatedNode(name, address, core, driver, RecordingDelegate(), serf)

    def _ring(self) -> Keyring | None:
        if not self._keys:
            return None
        return Keyring(self._keys, lambda: self._rng.randbytes(12))

    def grow(self, count: int) -> None:
        """`count` nodes that joined through a random earlier one, and all know one another."""
        for _ in range(count):
            earlier = list(self.nodes.values())
            node = self.add()
            if earlier:
                node.core.join(self._rng.choice(earlier).address)
                self._flush(node)

    def stop(self, *names: str) -> None:
        for name in names:
            self.nodes[name].is_running = False

    def resume(self, *names: str) -> None:
        for name in names:
            node = self.nodes[name]
            node.is_running = True
            node.lives += 1
            self._wake(node)

    def block(self, name: str) -> None:
        self.nodes[name].is_blocked = True

    def unblock(self, name: str) -> None:
        """The clock is looked at before the sockets, which is the worse order."""
        node = self.nodes[name]
        node.is_blocked = False
        waiting, node.waiting = node.waiting, []
        if node.is_running:
            node.driver.advance(self.now_ms)
            self._flush(node)
        for act in waiting:
            act()

    def split(self, *sides: Iterable[str]) -> None:
        """Nothing passes between nodes of different sides."""
        self._side = {name: number for number, side in enumerate(sides) for name in side}

    def heal(self) -> None:
        self._side = {}
        self.loss = 0.0

    def ask(self, node: SimulatedNode, wish: Callable[[SwimCore], object]) -> None:
        """Something that the layer above wants of the core, now."""
        node.driver.at(self.now_ms)
        wish(node.core)
        self._flush(node)

    @property
    def running(self) -> list[SimulatedNode]:
        return [node for node in self.nodes.values() if node.is_running]

    # Time.

    def run(self, duration_ms: float, until: Callable[[], bool] | None = None) -> bool:
        """Let time pass; true as soon as `until` holds, which is looked at every 100 ms."""
        end_ms = self.now_ms + duration_ms
        while self.now_ms < end_ms:
            self._run_to(min(end_ms, self.now_ms + 100 if until else end_ms))
            if until is not None and until():
                return True
        return False

    def _run_to(self, end_ms: float) -> None:
        while self._queue and self._queue[0][0] <= end_ms:
            self.now_ms, _, act = heapq.heappop(self._queue)
            act()
        self.now_ms = end_ms

    def _later(self, delay_ms: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now_ms + delay_ms, next(self._ties), act))

    def _wake(self, node: SimulatedNode) -> None:
        """Advance the node at its deadlines, for as long as it runs."""
        life = node.lives

        def wake() -> None:
            if node.is_blocked:
                node.waiting.append(wake)
            elif node.is_running and node.lives == life:
                node.driver.advance(self.now_ms)
                self._flush(node)
                self._wake(node)

        self._later(max(0.0, node.driver.next_deadline_ms() - self.now_ms), wake)

    # The network.

    def _flush(self, node: SimulatedNode) -> None:
        for output in node.driver.take_output():
            if isinstance(output, SendPacket):
                self._send(node, output)
            elif isinstance(output, OpenStream):
                self._open(node, output)
            else:
                node.outputs.append(output)

    def _send(self, sender: SimulatedNode, packet: SendPacket) -> None:
        self.packets += 1
        receiver = self._by_address.get(packet.address)
        if receiver is None or self._rng.random() < self.loss or self._is_cut(sender, receiver):
            return

        def arrive() -> None:
            if receiver.is_blocked:
                receiver.waiting.append(arrive)
            elif receiver.is_running:
                receiver.driver.receive_packet(packet.data, sender.address, self.now_ms)
                self._flush(receiver)

        self._later(self._rng.uniform(*self._delay_ms), arrive)

    def _open(self, sender: SimulatedNode, stream: OpenStream) -> None:
        """A stream gets through loss, as TCP does, but not through a cut."""
        receiver = self._by_address.get(stream.address)

        is_answered = False

        def replied(reply: bytes | None) -> None:
            nonlocal is_answered
            if sender.is_blocked:
                sender.waiting.append(lambda: replied(reply))
            elif sender.is_running and not is_answered:
                is_answered = True
                sender.driver.stream_reply(stream.token, reply, self.now_ms)
                self._flush(sender)

        def arrive() -> None:
            assert receiver is not None
            if receiver.is_blocked:
                # The kernel accepts for it; the answer may come too late.
                receiver.waiting.append(arrive)
                self._later(stream.timeout_ms, lambda: replied(None))
                return
            if not receiver.is_running:
                self._later(stream.timeout_ms, lambda: replied(None))
                return
            reply = receiver.driver.receive_stream_request(stream.data, sender.address, self.now_ms)
            self._flush(receiver)
            self._later(self._rng.uniform(*self._delay_ms), lambda: replied(reply or b""))

        if receiver is None or self.streams_fail or self._is_cut(sender, receiver):
            self._later(stream.timeout_ms, lambda: replied(None))
        else:
            self._later(self._rng.uniform(*self._delay_ms), arrive)

    def _is_cut(self, one: SimulatedNode, other: SimulatedNode) -> bool:
        return self._side.get(one.name) != self._side.get(other.name)
