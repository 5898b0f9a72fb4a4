"""The protocol of one connection, without a socket: bytes in, frames out, and the other way round.

    dialler                                  acceptor
    preface, Hello ───────────────────────>  knows who calls
                   <───────────────────────  Hello, or Goodbye with the reason why not
    Request 1, Request 2, Notice ─────────>
                   <───────────────────────  Response 2, Failure 1      in any order
    Request 3, Cancel 3 ──────────────────>                             and no answer at all
    Ping ─────────────────────────────────>
                   <───────────────────────  Pong

A frame is its length in four bytes, big-endian, and a MessagePack array that begins with the number
of its kind. Only the dialler asks: who wants to ask the other way dials itself, so that each side
decides when it is too busy, and a firewall's direction is the direction of the requests.

`receive` takes whatever arrived and gives the frames that matter to the caller; what is to be sent
gathers for `data_to_send`. A peer that breaks the rules gets `RemoteProtocolError`, after which
the connection must be closed. Frames of a kind that is not known end it too: versions are agreed
on in `Hello`, so a newer peer does not send what we do not know.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

import msgspec

from registry.errors import LocalProtocolError, Overloaded, RemoteProtocolError, TooLarge
from registry.rpc.faults import Fault, fault_of

#: The first bytes of a dialler: what is no peer of ours is found out before anything is parsed.
PREFACE = b"registry-rpc\n"

#: Highest version of the protocol spoken here; peers use the lower one of theirs and ours.
VERSION = 1

_LENGTH = struct.Struct(">I")


class Frame(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """Base of everything that is sent."""


class Hello(Frame, frozen=True, array_like=True, tag=1):
    """Who speaks. `server_id` and `address` ("ip:port" of the listener) are a server's.

    The datacenter is the one that is meant: whoever calls a server of another one names that.
    """

    datacenter: str
    node: str
    server_id: str = ""
    address: str = ""
    version: int = VERSION


class Goodbye(Frame, frozen=True, array_like=True, tag=2):
    """No further requests: what is under way may still be answered, then the connection ends."""

    reason: str


class Request(Frame, frozen=True, array_like=True, tag=3):
    """Ids of one connection only grow."""

    id: int
    method: str
    body: bytes


class Response(Frame, frozen=True, array_like=True, tag=4):
    id: int
    body: bytes


class Failure(Frame, frozen=True, array_like=True, tag=5):
    id: int
    fault: Fault


class Cancel(Frame, frozen=True, array_like=True, tag=6):
    """The asker does not want the answer any more. It may cross it on the way."""

    id: int


class Notice(Frame, frozen=True, array_like=True, tag=7):
    """Something told, without an answer."""

    method: str
    body: bytes


class Ping(Frame, frozen=True, array_like=True, tag=8):
    token: int


class Pong(Frame, frozen=True, array_like=True, tag=9):
    token: int


AnyFrame = Hello | Goodbye | Request | Response | Failure | Cancel | Notice | Ping | Pong

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyFrame] = msgspec.msgpack.Decoder(AnyFrame)


class Side(enum.Enum):
    DIALLER = "dialler"
    ACCEPTOR = "acceptor"


class Phase(enum.Enum):
    OPENING = "opening"  # no Hello seen from the peer
    OPEN = "open"
    LEAVING = "leaving"  # a Goodbye was sent or seen: no new requests
    CLOSED = "closed"


#: What each side may be sent, by phase; all else breaks the protocol.
_WELCOME: dict[Side, tuple[type[Frame], ...]] = {
    Side.DIALLER: (Response, Failure, Ping, Pong, Goodbye),
    Side.ACCEPTOR: (Request, Cancel, Notice, Ping, Pong, Goodbye),
}
_FIRST: dict[Side, tuple[type[Frame], ...]] = {
    Side.DIALLER: (Hello, Goodbye),
    Side.ACCEPTOR: (Hello,),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one connection."""

    #: A listing is one frame, so this is about the largest answer there can be.
    frame_bytes_max: int = 256 << 20
    #: A stranger cannot make us gather more than this.
    hello_bytes_max: int = 4096
    #: Requests under way: above the blocking queries that an agent of thousands of watchers holds.
    requests_max: int = 16_384


class Stream:
    """One side of a connection."""

    def __init__(self, side: Side, hello: Hello, limits: Limits | None = None) -> None:
        self._side = side
        self._hello = hello
        self._limits = limits or Limits()
        self._phase = Phase.OPENING
        self._preface_left = PREFACE if side is Side.ACCEPTOR else b""
        self._received = bytearray()
        self._outgoing: list[bytes] = []
        self._last_id = 0
        self._open: set[int] = set()  # requests that were neither answered nor cancelled
        #: What the peer said of itself; None until it did.
        self.peer: Hello | None = None
        if side is Side.DIALLER:
            self._outgoing.append(PREFACE)
            self._send(hello)

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def requests_open(self) -> int:
        return len(self._open)

    # Sending

    def data_to_send(self) -> bytes:
        """Everything that is to be written now; each byte is given once."""
        if len(self._outgoing) == 1:
            return self._outgoing.pop()
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        return data

    def welcome(self) -> None:
        """Accept the peer that has said Hello."""
        self._require(Side.ACCEPTOR, Phase.OPENING)
        if self.peer is None:
            raise LocalProtocolError("there is nobody to welcome yet")
        self._phase = Phase.OPEN
        self._send(self._hello)

    def request(self, method: str, body: bytes) -> int:
        """Ask; the id that the answer will carry. Raises `TooLarge`, `Overloaded`."""
        self._require(Side.DIALLER, Phase.OPEN)
        if len(self._open) >= self._limits.requests_max:
            raise Overloaded(f"{len(self._open)} requests to this server are under way")
        request_id = self._last_id + 1
        self._send(Request(request_id, method, body))
        self._last_id = request_id
        self._open.add(request_id)
        return request_id

    def notice(self, method: str, body: bytes) -> None:
        """Tell. Raises `TooLarge`."""
        self._require(Side.DIALLER, Phase.OPEN)
        self._send(Notice(method, body))

    def cancel(self, request_id: int) -> None:
        """Give a request up; nothing when it was answered already."""
        if request_id in self._open and self._phase is not Phase.CLOSED:
            self._open.remove(request_id)
            self._send(Cancel(request_id))

    def respond(self, request_id: int, body: bytes) -> None:
        """Answer; nothing when the asker gave up. An answer over the limit becomes a failure."""
        if not self._close_request(request_id):
            return
        try:
            self._send(Response(request_id, body))
        except TooLarge as problem:
            self._send(Failure(request_id, fault_of(problem)))

    def fail(self, request_id: int, fault: Fault) -> None:
        """Answer that it did not work; nothing when the asker gave up."""
        if self._close_request(request_id):
            self._send(Failure(request_id, fault))

    def ping(self, token: int) -> None:
        if self._phase in (Phase.OPEN, Phase.LEAVING):
            self._send(Ping(token))

    def goodbye(self, reason: str) -> None:
        """Announce the end; an acceptor also refuses a peer with it."""
        if self._phase is Phase.CLOSED:
            return
        self._phase = Phase.LEAVING
        self._send(Goodbye(reason))

    def close(self) -> None:
        """The connection has ended: nothing is sent any more."""
        self._phase = Phase.CLOSED
        self._open.clear()
        self._received.clear()
        self._outgoing.clear()

    def _require(self, side: Side, phase: Phase) -> None:
        if self._side is not side:
            raise LocalProtocolError(f"only a {side.value} may do this")
        if self._phase is not phase:
            raise LocalProtocolError(f"the connection is {self._phase.value}, not {phase.value}")

    def _close_request(self, request_id: int) -> bool:
        if self._side is not Side.ACCEPTOR:
            raise LocalProtocolError("only an acceptor answers")
        if request_id not in self._open:
            return False
        self._open.remove(request_id)
        return True

    def _send(self, frame: AnyFrame) -> None:
        raw = _encoder.encode(frame)
        if len(raw) > self._limits.frame_bytes_max:
            raise TooLarge(
                f"a message of {len(raw)} bytes is over the limit of "
                f"{self._limits.frame_bytes_max}; ask for less at a time"
            )
        self._outgoing.append(_LENGTH.pack(len(raw)) + raw)

    # Receiving

    def receive(self, data: bytes) -> list[AnyFrame]:
        """The frames that `data` completes, as far as they are the caller's business.

        Pings are answered and answers to given up requests are dropped in here; requests beyond
        the limit are refused. Raises `RemoteProtocolError`; the stream is then closed.
        """
        if self._phase is Phase.CLOSED:
            return []
        self._received += data
        try:
            self._check_preface()
            return self._frames()
        except RemoteProtocolError:
            self.close()
            raise

    def _check_preface(self) -> None:
        if not self._preface_left:
            return
        have = bytes(self._received[: len(self._preface_left)])
        if not self._preface_left.startswith(have):
            raise RemoteProtocolError("this is no peer of ours: it does not speak the protocol")
        self._preface_left = self._preface_left[len(have) :]
        del self._received[: len(have)]

    def _frames(self) -> list[AnyFrame]:
        found: list[AnyFrame] = []
        start = 0
        while not self._preface_left and len(self._received) >= start + _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._received, start)
            if length > self._frame_bytes_max():
                raise RemoteProtocolError(f"a frame of {length} bytes is over the limit")
            end = start + _LENGTH.size + length
            if len(self._received) < end:
                break
            frame = self._decode(start + _LENGTH.size, end)
            start = end
            if self._take(frame):
                found.append(frame)
        del self._received[:start]
        return found

    def _frame_bytes_max(self) -> int:
        return (
            self._limits.hello_bytes_max
            if self._phase is Phase.OPENING
            else self._limits.frame_bytes_max
        )

    def _decode(self, start: int, end: int) -> AnyFrame:
        try:
            with memoryview(self._received) as view:
                return _decoder.decode(view[start:end])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
            raise RemoteProtocolError(f"not a frame of ours: {problem}") from problem

    def _take(self, frame: AnyFrame) -> bool:
        """Bring the state up to date; whether the caller is to see the frame."""
        opening = self._phase is Phase.OPENING
        welcome = _FIRST[self._side] if opening else _WELCOME[self._side]
        if not isinstance(frame, welcome) or (opening and self.peer is not None):
            raise RemoteProtocolError(f"{type(frame).__name__} is out of place here")
        if isinstance(frame, Hello):
            self._take_hello(frame)
        elif isinstance(frame, Goodbye):
            self._phase = Phase.LEAVING
        elif isinstance(frame, Ping):
            self._send(Pong(frame.token))
            return False
        elif isinstance(frame, Request):
            return self._take_request(frame)
        elif isinstance(frame, Response | Failure):
            return self._take_answer(frame.id)
        elif isinstance(frame, Cancel):
            return self._take_cancel(frame.id)
        return True

    def _take_hello(self, hello: Hello) -> None:
        if hello.version < 1:
            raise RemoteProtocolError(f"protocol version {hello.version} does not exist")
        self.peer = hello
        if self._side is Side.DIALLER:
            self._phase = Phase.OPEN

    def _take_request(self, request: Request) -> bool:
        if request.id <= self._last_id:
            raise RemoteProtocolError(f"request {request.id} came after {self._last_id}")
        self._last_id = request.id
        if len(self._open) >= self._limits.requests_max:
            busy = Overloaded(f"{len(self._open)} requests are under way; retry later")
            self._send(Failure(request.id, fault_of(busy)))
            return False
        self._open.add(request.id)
        return True

    def _take_answer(self, request_id: int) -> bool:
        if not 0 < request_id <= self._last_id:
            raise RemoteProtocolError(f"an answer to request {request_id}, which was never made")
        if request_id not in self._open:
            return False  # it crossed our Cancel
        self._open.remove(request_id)
        return True

    def _take_cancel(self, request_id: int) -> bool:
        if not 0 < request_id <= self._last_id:
            raise RemoteProtocolError(f"request {request_id} was given up but never made")
        if request_id not in self._open:
            return False  # it crossed our answer
        self._open.remove(request_id)
        return True
