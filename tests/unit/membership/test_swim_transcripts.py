"""What one SWIM core does, told as transcripts of what it hears and what it sends.

The node under test is `me`; the others exist only in what is said about them. Commands:

    start SETTING=N …            begin, with these settings in place of the defaults; with
                                 `answered` all pings are answered at once and not shown
    alive|suspect|dead NAME I …  a packet with this news; options: from= address= meta= by=
    ping|ack|nack SEQ …          a packet of probe traffic; options: node= source=
    indirect-ping SEQ NODE …     the same; options: nack
    sync [join] NAME:STATE:I …   somebody opens a push/pull with this state
    reply NAME:STATE:I … | none  the answer to the stream opened last
    stream-ack SEQ               the answer to a ping by stream
    run MS                       let time pass
    join ADDRESS | rejoin ADDRESS | leave | update-meta TEXT | forget NAME
    nodes                        what the core believes

Names get addresses by their first letter: `bob` is at 10.0.0.98.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from registry.errors import RegistryError
from registry.membership.addresses import Address
from registry.membership.config import SwimConfig
from registry.membership.core import SwimCore
from registry.membership.packets import Envelope
from registry.membership.seam import (
    JoinFinished,
    JoinUnconfirmed,
    LeaveSent,
    Node,
    NodeState,
    Notice,
    OpenStream,
    SendPacket,
    SwimOutput,
    Versions,
)
from registry.membership.wire import (
    Ack,
    Alive,
    Dead,
    Encodable,
    IndirectPing,
    Nack,
    Ping,
    PushPull,
    Suspect,
    decode_packet_message,
    decode_stream_message,
    encode,
    encode_push_pull,
)
from registry.testing.swim import RecordingDelegate
from registry.testing.transcripts import play

TRANSCRIPTS = sorted((Path(__file__).parent / "testdata" / "swim").glob("*.txt"))

PORT = 8301


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path, request: pytest.FixtureRequest) -> None:
    play(path, SwimTranscript(), rewrite=request.config.getoption("--rewrite"))


def address_of(name: str) -> Address:
    return f"10.0.0.{ord(name[0])}", PORT


class SwimTranscript:
    """Runs commands; their output is what the core sent, said and told the layer above."""

    def __init__(self) -> None:
        self._envelope = Envelope(compresses=False)
        self._start()

    def __call__(self, command: list[str]) -> list[str]:
        verb, *words = command
        arguments = [word for word in words if "=" not in word]
        options = dict(word.split("=", 1) for word in words if "=" in word)
        try:
            getattr(self, "_" + verb.replace("-", "_"))(*arguments, **options)
        except RegistryError as error:
            return [f"{type(error).__name__}: {error}", *self._take()]
        return self._take()

    # Commands.

    def _start(self, *words: str, **settings: str) -> None:
        self._is_answered = "answered" in words
        numbers = {name: int(value) for name, value in settings.items()}
        config = msgspec.structs.replace(SwimConfig(compresses=False, stream_ping=False), **numbers)
        self._now_ms = 0
        self._delegate = RecordingDelegate(b"mine")
        self._core = SwimCore(config, "me", address_of("me"), rng=random.Random(1))
        self._core.start(self._delegate, 0)
        self._printed: list[str] = []
        self._stream: OpenStream | None = None

    def _alive(self, name: str, incarnation: str, address: str = "", meta: str = "") -> None:
        where = (address, PORT) if address else address_of(name)
        self._hear(Alive(int(incarnation), name, where, meta.encode(), Versions()))

    # `from` is a keyword of the language, so these two take all options as a mapping.

    def _suspect(self, name: str, incarnation: str, **options: str) -> None:
        self._hear(Suspect(int(incarnation), name, options["from"]), options.get("by", "x"))

    def _dead(self, name: str, incarnation: str, **options: str) -> None:
        self._hear(Dead(int(incarnation), name, options["from"]), options.get("by", "x"))

    def _ping(self, seq_no: str, node: str = "me", source: str = "") -> None:
        self._hear(Ping(int(seq_no), node, address_of(source) if source else None, source))

    def _ack(self, seq_no: str) -> None:
        self._hear(Ack(int(seq_no), b"payload"))

    def _nack(self, seq_no: str) -> None:
        self._hear(Nack(int(seq_no)))

    def _indirect_ping(self, seq_no: str, node: str, nack: str = "", source: str = "") -> None:
        where = address_of(source) if source else None
        self._hear(IndirectPing(int(seq_no), address_of(node), node, bool(nack), where, source))

    def _sync(self, *words: str) -> None:
        join = words[:1] == ("join",)
        request = push_pull(words[1:] if join else words, join=join)
        reply = self._core.receive_stream_request(request, address_of("x"), self._now_ms)
        self._print("<- " + (described_stream(reply) if reply is not None else "silence"))

    def _reply(self, *words: str) -> None:
        assert self._stream is not None, "no stream was opened"
        data = None if words == ("none",) else push_pull(words, join=True)
        self._core.stream_reply(self._stream.token, data, self._now_ms)

    def _stream_ack(self, seq_no: str) -> None:
        assert self._stream is not None, "no stream was opened"
        self._core.stream_reply(self._stream.token, encode(Ack(int(seq_no))), self._now_ms)

    def _run(self, duration_ms: str) -> None:
        end_ms = self._now_ms + int(duration_ms)
        while (at_ms := self._core.next_deadline_ms()) <= end_ms:
            self._now_ms = max(self._now_ms, at_ms)
            self._core.advance(self._now_ms)
            self._collect()
        self._now_ms = end_ms
        self._core.at(end_ms)

    def _join(self, name: str) -> None:
        self._core.join(address_of(name))

    def _rejoin(self, name: str) -> None:
        self._core.rejoin(address_of(name))

    def _leave(self) -> None:
        self._core.leave()

    def _update_meta(self, text: str) -> None:
        self._core.update_meta(text.encode())

    def _forget(self, name: str) -> None:
        self._core.forget(name)

    def _nodes(self) -> None:
        for node in sorted(self._core.nodes, key=lambda node: node.name):
            host = node.address[0]
            state = node.state.name.lower()
            self._print(f"{node.name} {state} i={node.incarnation} {host} {node.meta.decode()}")
        self._print(f"health={self._core.health_score}")

    # What goes in and comes out.

    def _hear(self, message: Encodable, by: str = "x") -> None:
        self._core.receive_packet(encode(message), address_of(by), self._now_ms)

    def _take(self) -> list[str]:
        self._collect()
        printed, self._printed = self._printed, []
        return printed

    def _collect(self) -> None:
        for kind, name in self._delegate.events:
            self._print(f"tell {kind} {name}")
        self._delegate.events.clear()
        for name, rtt_ms in [] if self._is_answered else self._delegate.rtts:
            self._print(f"tell rtt {name} {rtt_ms:g}")
        self._delegate.rtts.clear()
        for output in self._core.take_output():
            if not (self._is_answered and self._answer(output)):
                self._print(self._described(output))

    def _answer(self, output: SwimOutput) -> bool:
        if not isinstance(output, SendPacket):
            return False
        for part in self._envelope.open_packet(output.data):
            ping = decode_packet_message(part)
            if isinstance(ping, Ping):
                self._hear(Ack(ping.seq_no))
                return True
        return False

    def _print(self, text: str) -> None:
        self._printed.append(f"{self._now_ms:>6} {text}".rstrip())

    def _described(self, output: SwimOutput) -> str:
        match output:
            case SendPacket():
                parts = [described(part) for part in self._envelope.open_packet(output.data)]
                return f"-> {output.address[0]} " + " + ".join(parts)
            case OpenStream():
                self._stream = output
                return f"=> {output.address[0]} {described_stream(output.data)}"
            case JoinFinished():
                return f"join finished error={output.error}"
            case JoinUnconfirmed():
                return f"join unconfirmed {output.address[0]}"
            case LeaveSent():
                return "leave sent"
            case Notice():
                return f"note {output.text}"


def described(data: bytes) -> str:
    message = decode_packet_message(data)
    descriptions: dict[type, Callable[..., str]] = {
        Ping: lambda ping: f"ping {ping.seq_no} {ping.node}",
        IndirectPing: lambda ping: f"indirect-ping {ping.seq_no} {ping.node}",
        Ack: lambda ack: f"ack {ack.seq_no}" + (" payload" if ack.payload else ""),
        Nack: lambda nack: f"nack {nack.seq_no}",
        Suspect: lambda news: f"suspect {news.node} i={news.incarnation} from {news.accuser}",
        Alive: lambda news: f"alive {news.node} i={news.incarnation}",
        Dead: lambda news: f"dead {news.node} i={news.incarnation} from {news.accuser}",
    }
    return descriptions[type(message)](message)


def described_stream(data: bytes) -> str:
    message = decode_stream_message(data)
    if isinstance(message, Ping):
        return described(data)
    assert isinstance(message, PushPull)
    nodes = [f"{node.name}:{node.state.name.lower()}:{node.incarnation}" for node in message.nodes]
    return " ".join(["join" if message.join else "sync", *sorted(nodes)])


def push_pull(words: tuple[str, ...], *, join: bool) -> bytes:
    nodes = []
    for word in words:
        name, state, incarnation = word.split(":")
        meta = b"mine" if name == "me" else b""
        nodes.append(Node(name, address_of(name), meta, int(incarnation), NodeState[state.upper()]))
    return encode_push_pull(PushPull(join, nodes))
