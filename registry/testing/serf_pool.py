"""Several Serf cores in one process, over a lower layer that is as plain as can be.

Everybody hears everybody: a node's broadcasts reach all the others every 200 ms of virtual time,
and a death is noticed when the test says so. What is left is the Serf layer's own behaviour, which
transcripts show: each command's output is what came out of the cores.
"""

from __future__ import annotations

import random
from base64 import b64decode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import msgspec

from registry.membership import key_queries
from registry.membership.addresses import Address
from registry.membership.context import Phase, SerfContext
from registry.membership.crypto import Keyring
from registry.membership.filters import Filter, NodeFilter, PatternCompiler, TagFilter
from registry.membership.member_table import MemberTable
from registry.membership.merge_rules import OpenRules
from registry.membership.query_desk import Question
from registry.membership.seam import Node as SwimNode
from registry.membership.seam import Notice
from registry.membership.serf import SerfCore
from registry.membership.serf_config import SerfConfig
from registry.membership.serf_messages import KeyResponse, decode, encode_tags
from registry.membership.serf_values import (
    Deliver,
    Left,
    Member,
    MemberEvent,
    NameLost,
    PersistKeyring,
    QueryAnswer,
    QueryClosed,
    QueryEvent,
    SerfOutput,
    UserEvent,
)

GOSSIP_INTERVAL_MS = 200
PACKET_BYTES, MESSAGE_OVERHEAD = 1400, 3


@dataclass(slots=True)
class Node:
    """One core, and the lower layer's view it stands on: the names it has heard alive."""

    pool: SerfPool
    node: SwimNode
    core: SerfCore = field(init=False)
    knows: set[str] = field(default_factory=set)
    is_up: bool = True

    @property
    def name(self) -> str:
        return self.node.name

    # LowerLayer.

    @property
    def has_hearers(self) -> bool:
        return bool(self.knows - {self.name})

    def send_user(self, address: Address, data: bytes) -> None:
        self.pool.mail.append((address, data))

    def rejoin(self, address: Address) -> None:
        self.pool.sync(self, self.pool.at(address))

    def leave(self) -> None:
        self.pool.bury(self)
        self.core.swim_left()

    def update_meta(self, meta: bytes) -> None:
        self.node = msgspec.structs.replace(self.node, meta=meta)
        for other in self.pool.up():
            if self.name in other.knows:
                other.core.node_updated(self.node)

    def forget(self, name: str) -> None:
        self.knows.discard(name)


class SerfPool:
    """Nodes by name, on one clock."""

    def __init__(self, compile_pattern: PatternCompiler, config: SerfConfig, seed: int = 1) -> None:
        self.now_ms = 0
        self.nodes: dict[str, Node] = {}
        self.mail: list[tuple[Address, bytes]] = []
        self.heard: list[str] = []
        self.questions: dict[str, QueryEvent] = {}
        self._compile_pattern = compile_pattern
        self._config = config
        self._rng = random.Random(seed)

    def start(self, name: str, tags: dict[str, str], *, keys: Sequence[bytes] = ()) -> Node:
        """A node by itself; one of the same name is replaced, which is what a restart does."""
        address = ("10.0.0.1", 8000 + len(self.nodes))
        node = Node(self, SwimNode(name, address, encode_tags(tags)))
        context = SerfContext(
            config=self._config,
            name=name,
            address=address,
            tags=tags,
            rng=random.Random(self._rng.random()),
            compile_pattern=self._compile_pattern,
            members=MemberTable(recent_intent_timeout_ms=self._config.recent_intent_timeout_ms),
            lower=node,
            gossip_interval_ms=GOSSIP_INTERVAL_MS,
            ring=Keyring(keys) if keys else None,
            now_ms=self.now_ms,
        )
        node.core = SerfCore(context, rules=OpenRules(), retransmit_mult=4)
        self.nodes[name] = node
        self._hear_alive(node, node)
        return node

    def up(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.is_up]

    def at(self, address: Address) -> Node | None:
        found = (node for node in self.up() if node.node.address == address)
        return next(found, None)

    def join(self, node: Node, other: Node) -> None:
        self.sync(node, other)
        node.core.announce_join()

    def sync(self, node: Node, other: Node | None) -> None:
        """A push/pull: both know afterwards what each knew before."""
        if other is None:
            return
        states = [one.core.local_state(join=True) for one in (node, other)]
        known = (node.knows | other.knows) & {one.name for one in self.up()}
        for one in sorted(known):
            for hearer in self.up():
                if hearer.knows & known:
                    self._hear_alive(hearer, self.nodes[one])
        other.core.merge_remote_state(states[0], join=True)
        node.core.merge_remote_state(states[1], join=True)

    def _hear_alive(self, hearer: Node, subject: Node) -> None:
        if subject.name not in hearer.knows:
            hearer.knows.add(subject.name)
            hearer.core.node_joined(subject.node)

    def bury(self, node: Node) -> None:
        """Every node that knew this one is told by its lower layer that it is dead."""
        for other in self.up():
            if node.name in other.knows:
                other.knows.discard(node.name)
                other.core.node_left(node.node)

    def run(self, duration_ms: int) -> None:
        """Let time pass."""
        until_ms = self.now_ms + duration_ms
        while self.now_ms < until_ms:
            self.now_ms += GOSSIP_INTERVAL_MS
            for node in self.up():
                node.core.at(self.now_ms)
                node.core.advance()
            self._gossip()
            self._deliver_mail()
            self._listen()

    def _gossip(self) -> None:
        for node in self.up():
            for data in node.core.broadcasts(PACKET_BYTES, MESSAGE_OVERHEAD):
                for other in self.up():
                    if other is not node and other.name in node.knows:
                        other.core.message_received(data)

    def _deliver_mail(self) -> None:
        while self.mail:
            address, data = self.mail.pop(0)
            node = self.at(address)
            if node is not None:
                node.core.message_received(data)

    def _listen(self) -> None:
        for name, node in list(self.nodes.items()):
            for output in node.core.take_output():
                self._hear(name, node, output)

    def _hear(self, name: str, node: Node, output: SerfOutput) -> None:
        if isinstance(output, Left | NameLost):
            node.is_up = False
        if isinstance(output, Deliver) and isinstance(output.event, QueryEvent):
            self.questions[name] = output.event
        if node.is_up or node.core.phase is Phase.LEFT or isinstance(output, NameLost):
            line = describe(output)
            if line:
                self.heard.append(f"{name}: {line}")


def describe(output: SerfOutput) -> str:
    """One line of a transcript; "" for what no reader wants to see."""
    return _WORDS[type(output)](output) if type(output) in _WORDS else ""


def _event(output: Deliver) -> str:
    event = output.event
    if isinstance(event, MemberEvent):
        return f"{event.kind.value} {event.member.name}"
    if isinstance(event, UserEvent):
        return f"event {event.name} payload={event.payload.decode()} time={event.l_time}"
    return f"query {event.name} from={event.source}"


def _answer(output: QueryAnswer) -> str:
    if output.is_ack:
        return f"ack from={output.node}"
    return f"answer {_payload(output.payload)} from={output.node}"


def _payload(payload: bytes) -> str:
    if payload[:1] != b"\x08":
        return payload.decode()
    response = decode(payload)
    assert isinstance(response, KeyResponse)
    if response.keys:
        return "keys=" + "".join(_letter(key) for key in response.keys)
    return response.message or "done"


def _key(letter: str) -> bytes:
    return letter.encode() * 16


def _letter(key: str) -> str:
    return b64decode(key)[:1].decode()


_WORDS: dict[type, Callable[..., str]] = {
    Deliver: _event,
    QueryAnswer: _answer,
    QueryClosed: lambda output: "query closed",
    Left: lambda output: "left",
    NameLost: lambda output: f"name lost matching={output.matching} answers={output.answers}",
    PersistKeyring: lambda output: f"persist {len(output.keys)} keys token={output.token}",
    Notice: lambda output: output.text if output.is_warning else "",
}


class SerfTranscript:
    """Runs the commands of a transcript on a pool."""

    def __init__(self, compile_pattern: PatternCompiler) -> None:
        self._compile_pattern = compile_pattern
        self._pool = SerfPool(compile_pattern, SerfConfig())

    def __call__(self, command: list[str]) -> list[str]:
        verb, *words = command
        lines = self._commands[verb](self, words)
        self._pool._listen()
        heard, self._pool.heard = self._pool.heard, []
        return [*heard, *lines]

    def _configure(self, words: list[str]) -> list[str]:
        changes = {name: int(value) for name, value in _pairs(words)}
        config = msgspec.structs.replace(SerfConfig(), **changes)
        self._pool = SerfPool(self._compile_pattern, config)
        return []

    def _start(self, words: list[str]) -> list[str]:
        tags = dict(_pairs(words[1:]))
        keys = [_key(letter) for letter in tags.pop("keys", "")]
        self._pool.start(words[0], tags, keys=keys)
        return []

    def _keys(self, words: list[str]) -> list[str]:
        by, change, *letter = words
        payload = key_queries.encode_request(_key(letter[0]) if letter else b"")
        name = f"_serf_{change}-{'keys' if change == 'list' else 'key'}"
        self._node(by).core.query(Question(name=name, payload=payload))
        return []

    def _persisted(self, words: list[str]) -> list[str]:
        """The node's ring is written, or could not be."""
        by, token, *error = words
        self._node(by).core.keyring_persisted(int(token), " ".join(error) or None)
        return []

    def _join(self, words: list[str]) -> list[str]:
        self._pool.join(self._node(words[0]), self._node(words[1]))
        return []

    def _sync(self, words: list[str]) -> list[str]:
        self._pool.sync(self._node(words[0]), self._node(words[1]))
        return []

    def _run(self, words: list[str]) -> list[str]:
        self._pool.run(int(words[0]))
        return []

    def _kill(self, words: list[str]) -> list[str]:
        node = self._node(words[0])
        node.is_up = False
        self._pool.bury(node)
        return []

    def _leave(self, words: list[str]) -> list[str]:
        self._node(words[0]).core.leave()
        return []

    def _force_leave(self, words: list[str]) -> list[str]:
        self._node(words[0]).core.force_leave(words[1], prune="prune" in words[2:])
        return []

    def _event(self, words: list[str]) -> list[str]:
        by, name, *payload = words
        self._node(by).core.user_event(name, " ".join(payload).encode(), coalesce=False)
        return []

    def _query(self, words: list[str]) -> list[str]:
        by, name, *options = words
        given = dict(_pairs(options))
        question = Question(
            name=name,
            payload=given.get("payload", "").encode(),
            filters=tuple(_filters(given)),
            wants_acks="ack" in options,
            relay_factor=int(given.get("relay", "0")),
        )
        self._node(by).core.query(question)
        return []

    def _respond(self, words: list[str]) -> list[str]:
        by, *payload = words
        question = self._pool.questions[by]
        self._node(by).core.respond(question, " ".join(payload).encode())
        return []

    def _tags(self, words: list[str]) -> list[str]:
        self._node(words[0]).core.set_tags(dict(_pairs(words[1:])))
        return []

    def _conflict(self, words: list[str]) -> list[str]:
        """One node hears the other's name, or its own, from another port."""
        hearer, subject = self._node(words[0]), self._node(words[1])
        other = msgspec.structs.replace(subject.node, address=("10.0.0.1", int(words[2])))
        hearer.core.conflict(subject.node, other)
        return []

    def _refused(self, words: list[str]) -> list[str]:
        """The node finds that the pool does not list it."""
        self._node(words[0]).core.is_refused = True
        return []

    def _believe(self, words: list[str]) -> list[str]:
        """One node knows the other at another port."""
        hearer, subject = self._node(words[0]), self._node(words[1])
        moved = msgspec.structs.replace(subject.node, address=("10.0.0.1", int(words[2])))
        hearer.core.node_updated(moved)
        return []

    def _members(self, words: list[str]) -> list[str]:
        members = sorted(self._node(words[0]).core.members, key=lambda member: member.name)
        return [_member_line(member) for member in members]

    def _node(self, name: str) -> Node:
        return self._pool.nodes[name]

    _commands: ClassVar[dict[str, Callable[[SerfTranscript, list[str]], list[str]]]] = {
        "configure": _configure,
        "start": _start,
        "join": _join,
        "sync": _sync,
        "run": _run,
        "kill": _kill,
        "leave": _leave,
        "force-leave": _force_leave,
        "event": _event,
        "query": _query,
        "respond": _respond,
        "tags": _tags,
        "keys": _keys,
        "persisted": _persisted,
        "conflict": _conflict,
        "believe": _believe,
        "refused": _refused,
        "members": _members,
    }


def _pairs(words: Iterable[str]) -> list[tuple[str, str]]:
    parted = [word.partition("=") for word in words if "=" in word]
    return [(name, value) for name, _, value in parted]


def _filters(given: dict[str, str]) -> Iterable[Filter]:
    if "nodes" in given:
        yield NodeFilter(tuple(given["nodes"].split(",")))
    if "tag" in given:
        tag, _, expression = given["tag"].partition("~")
        yield TagFilter(tag, expression)


def _member_line(member: Member) -> str:
    tags = ",".join(f"{name}={value}" for name, value in sorted(member.tags.items()))
    return f"{member.name} {member.status.name.lower()} {tags}".rstrip()
