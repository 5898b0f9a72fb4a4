"""The protocol without a socket: what is sent, what is accepted, what breaks it."""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import (
    LocalProtocolError,
    NoLeader,
    Overloaded,
    RemoteProtocolError,
    TooLarge,
)
from registry.rpc.faults import Fault, error_of, fault_of
from registry.rpc.stream import (
    PREFACE,
    AnyFrame,
    Cancel,
    Failure,
    Goodbye,
    Hello,
    Limits,
    Notice,
    Phase,
    Ping,
    Pong,
    Request,
    Response,
    Side,
    Stream,
)

CLIENT = Hello("dc1", "client")
SERVER = Hello("dc1", "server", "id-1", "127.0.0.1:8300")


def raw(frame: AnyFrame) -> bytes:
    body = msgspec.msgpack.encode(frame)
    return struct.pack(">I", len(body)) + body


def pair(limits: Limits | None = None) -> tuple[Stream, Stream]:
    """A dialler and an acceptor that have said Hello."""
    dialler, acceptor = Stream(Side.DIALLER, CLIENT, limits), Stream(Side.ACCEPTOR, SERVER, limits)
    assert acceptor.receive(dialler.data_to_send()) == [CLIENT]
    acceptor.welcome()
    assert dialler.receive(acceptor.data_to_send()) == [SERVER]
    return dialler, acceptor


def test_hello_opens_both_sides() -> None:
    dialler, acceptor = pair()
    assert (dialler.phase, acceptor.phase) == (Phase.OPEN, Phase.OPEN)
    assert (dialler.peer, acceptor.peer) == (SERVER, CLIENT)


def test_a_frame_is_its_length_and_an_array_that_begins_with_its_kind() -> None:
    dialler, _ = pair()
    dialler.request("read", b"\x01")
    assert dialler.data_to_send() == b"\x00\x00\x00\x0b" + b"\x94\x03\x01\xa4read\xc4\x01\x01"


def test_answers_come_in_any_order() -> None:
    dialler, acceptor = pair()
    first, second = dialler.request("a", b"1"), dialler.request("b", b"2")
    frames = acceptor.receive(dialler.data_to_send())
    assert frames == [Request(first, "a", b"1"), Request(second, "b", b"2")]
    acceptor.respond(second, b"two")
    acceptor.fail(first, fault_of(NoLeader()))
    answers = dialler.receive(acceptor.data_to_send())
    assert answers[0] == Response(second, b"two")
    assert isinstance(answers[1], Failure)
    assert isinstance(error_of(answers[1].fault), NoLeader)
    assert dialler.requests_open == acceptor.requests_open == 0


def test_a_cancelled_request_is_told_once_and_its_answer_is_dropped() -> None:
    dialler, acceptor = pair()
    request = dialler.request("a", b"")
    acceptor.receive(dialler.data_to_send())
    acceptor.respond(request, b"too late")
    crossing = acceptor.data_to_send()
    dialler.cancel(request)
    dialler.cancel(request)
    cancel = dialler.data_to_send()
    assert cancel == raw(Cancel(request))
    assert dialler.receive(crossing) == []
    assert acceptor.receive(cancel) == []


def test_no_answer_goes_out_to_a_cancelled_request() -> None:
    dialler, acceptor = pair()
    request = dialler.request("a", b"")
    acceptor.receive(dialler.data_to_send())
    dialler.cancel(request)
    assert acceptor.receive(dialler.data_to_send()) == [Cancel(request)]
    acceptor.respond(request, b"unwanted")
    acceptor.fail(request, fault_of(NoLeader()))
    assert acceptor.data_to_send() == b""


def test_notices_and_pings() -> None:
    dialler, acceptor = pair()
    dialler.notice("raft", b"x")
    dialler.ping(7)
    assert acceptor.receive(dialler.data_to_send()) == [Notice("raft", b"x")]
    assert dialler.receive(acceptor.data_to_send()) == [Pong(7)]


def test_after_goodbye_what_is_under_way_is_answered_and_nothing_new_begun() -> None:
    dialler, acceptor = pair()
    request = dialler.request("a", b"")
    acceptor.receive(dialler.data_to_send())
    acceptor.goodbye("restarting")
    acceptor.respond(request, b"done")
    assert dialler.receive(acceptor.data_to_send()) == [
        Goodbye("restarting"),
        Response(request, b"done"),
    ]
    assert dialler.phase is Phase.LEAVING
    with pytest.raises(LocalProtocolError):
        dialler.request("b", b"")


def test_an_acceptor_may_refuse_with_a_reason() -> None:
    dialler, acceptor = Stream(Side.DIALLER, CLIENT), Stream(Side.ACCEPTOR, SERVER)
    acceptor.receive(dialler.data_to_send())
    acceptor.goodbye("this is dc2")
    assert dialler.receive(acceptor.data_to_send()) == [Goodbye("this is dc2")]


def test_requests_beyond_the_limit_are_refused_by_both_sides() -> None:
    dialler, _ = pair(Limits(requests_max=1))
    _, acceptor = pair(Limits(requests_max=1))
    dialler.request("a", b"")
    with pytest.raises(Overloaded):
        dialler.request("b", b"")
    assert acceptor.receive(raw(Request(1, "a", b"")) + raw(Request(2, "b", b""))) == [
        Request(1, "a", b"")
    ]
    refusal = msgspec.msgpack.decode(acceptor.data_to_send()[4:], type=Failure)
    assert refusal.id == 2
    assert isinstance(error_of(refusal.fault), Overloaded)


def test_what_is_too_large_is_not_sent() -> None:
    dialler, acceptor = pair(Limits(frame_bytes_max=200))
    with pytest.raises(TooLarge):
        dialler.request("a", bytes(200))
    assert dialler.data_to_send() == b""
    request = dialler.request("a", b"")
    acceptor.receive(dialler.data_to_send())
    acceptor.respond(request, bytes(200))
    assert (
        error_of(_only_failure(dialler.receive(acceptor.data_to_send())))
        .args[0]
        .startswith("a message of 2")
    )


def _only_failure(frames: list[AnyFrame]) -> Fault:
    (frame,) = frames
    assert isinstance(frame, Failure)
    return frame.fault


BROKEN_ACCEPTOR = [
    pytest.param(lambda: b"GET / HTTP/1.1\r\n", "no peer of ours", id="another protocol"),
    pytest.param(lambda: PREFACE[:5] + b"?", "no peer of ours", id="a preface that goes wrong"),
    pytest.param(lambda: PREFACE + raw(Ping(1)), "Ping is out of place", id="no Hello first"),
    pytest.param(
        lambda: PREFACE + raw(CLIENT) + raw(CLIENT), "Hello is out of place", id="two Hellos"
    ),
    pytest.param(
        lambda: PREFACE + raw(CLIENT) + raw(Ping(1)),
        "Ping is out of place",
        id="does not wait for the answer",
    ),
    pytest.param(
        lambda: PREFACE + struct.pack(">I", 5000), "5000 bytes is over", id="a long Hello"
    ),
    pytest.param(lambda: PREFACE + raw(Hello("dc1", "x", version=0)), "version 0", id="version 0"),
]


@pytest.mark.parametrize(("make", "what"), BROKEN_ACCEPTOR)
def test_a_stranger_is_found_out(make: Callable[[], bytes], what: str) -> None:
    acceptor = Stream(Side.ACCEPTOR, SERVER)
    with pytest.raises(RemoteProtocolError, match=what):
        acceptor.receive(make())
    assert acceptor.phase is Phase.CLOSED
    assert acceptor.receive(raw(CLIENT)) == []


BROKEN_FRAMES = [
    pytest.param(Side.ACCEPTOR, raw(Response(1, b"")), id="a dialler answers"),
    pytest.param(Side.ACCEPTOR, raw(Request(1, "a", b"")) * 2, id="an id twice"),
    pytest.param(Side.ACCEPTOR, raw(Request(0, "a", b"")), id="id 0"),
    pytest.param(Side.ACCEPTOR, raw(Cancel(1)), id="gives up what was not asked"),
    pytest.param(Side.ACCEPTOR, raw(CLIENT), id="Hello again"),
    pytest.param(Side.ACCEPTOR, struct.pack(">I", 2000), id="too long"),
    pytest.param(Side.ACCEPTOR, struct.pack(">I", 2) + b"\x91\x63", id="an unknown kind"),
    pytest.param(Side.ACCEPTOR, struct.pack(">I", 1) + b"\xc1", id="not MessagePack"),
    pytest.param(Side.ACCEPTOR, struct.pack(">I", 5) + b"\x94\x03\x01\xa1\x80", id="not UTF-8"),
    pytest.param(Side.ACCEPTOR, struct.pack(">I", 0), id="nothing"),
    pytest.param(Side.ACCEPTOR, struct.pack(">I", 500) + b"\x91" * 500, id="nested deeply"),
    pytest.param(Side.DIALLER, raw(Response(1, b"")), id="an answer to nothing"),
    pytest.param(Side.DIALLER, raw(Request(1, "a", b"")), id="an acceptor asks"),
    pytest.param(Side.DIALLER, raw(Notice("a", b"")), id="an acceptor tells"),
]


@pytest.mark.parametrize(("side", "data"), BROKEN_FRAMES)
def test_broken_rules_end_the_connection(side: Side, data: bytes) -> None:
    dialler, acceptor = pair(Limits(frame_bytes_max=1000))
    stream = dialler if side is Side.DIALLER else acceptor
    with pytest.raises(RemoteProtocolError):
        stream.receive(data)
    assert stream.phase is Phase.CLOSED
    assert stream.data_to_send() == b""


MISUSE = [
    pytest.param(lambda dialler, acceptor: acceptor.request("a", b""), id="an acceptor asks"),
    pytest.param(lambda dialler, acceptor: acceptor.notice("a", b""), id="an acceptor tells"),
    pytest.param(lambda dialler, acceptor: dialler.respond(1, b""), id="a dialler answers"),
    pytest.param(lambda dialler, acceptor: dialler.welcome(), id="a dialler welcomes"),
    pytest.param(lambda dialler, acceptor: acceptor.welcome(), id="welcome twice"),
    pytest.param(
        lambda dialler, acceptor: Stream(Side.ACCEPTOR, SERVER).welcome(), id="welcome nobody"
    ),
    pytest.param(
        lambda dialler, acceptor: Stream(Side.DIALLER, CLIENT).request("a", b""),
        id="ask before Hello",
    ),
]


@pytest.mark.parametrize("misuse", MISUSE)
def test_our_own_mistakes_are_ours(misuse: Callable[[Stream, Stream], None]) -> None:
    with pytest.raises(LocalProtocolError):
        misuse(*pair())


def test_nothing_is_sent_after_the_end() -> None:
    dialler, acceptor = pair()
    request = dialler.request("a", b"")
    for stream in (dialler, acceptor):
        stream.close()
        stream.ping(1)
        stream.goodbye("over")
        assert stream.data_to_send() == b""
    dialler.cancel(request)
    acceptor.respond(request, b"")
    assert dialler.data_to_send() == acceptor.data_to_send() == b""


# Whatever the cuts


bodies = st.binary(max_size=300)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("request"), bodies),
        st.tuples(st.just("notice"), bodies),
        st.tuples(st.just("cancel"), st.integers(1, 20)),
        st.tuples(st.just("ping"), st.integers(0, 2**32)),
    ),
    max_size=20,
)


@given(steps, st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_frames_arrive_whole_and_in_order_however_the_bytes_are_cut(
    script: list[tuple[str, bytes | int]], cuts: list[int]
) -> None:
    dialler, acceptor = pair()
    sent: list[AnyFrame] = []
    asked = 0
    cancelled: set[int] = set()
    for what, value in script:
        if what == "request":
            assert isinstance(value, bytes)
            asked = dialler.request("m", value)
            sent.append(Request(asked, "m", value))
        elif what == "notice":
            assert isinstance(value, bytes)
            dialler.notice("n", value)
            sent.append(Notice("n", value))
        elif what == "cancel":
            assert isinstance(value, int)
            dialler.cancel(value)
            if value <= asked and value not in cancelled:
                cancelled.add(value)
                sent.append(Cancel(value))
        else:
            assert isinstance(value, int)
            dialler.ping(value)
    data = dialler.data_to_send()
    received: list[AnyFrame] = []
    place = turn = 0
    while place < len(data):
        step = cuts[turn % len(cuts)]
        received += acceptor.receive(data[place : place + step])
        place, turn = place + step, turn + 1
    assert received == sent
    assert acceptor.requests_open == dialler.requests_open == asked - len(cancelled)


@given(st.binary(max_size=400), st.booleans())
def test_garbage_is_refused_or_waited_on_but_never_breaks_us(data: bytes, is_open: bool) -> None:
    acceptor = pair()[1] if is_open else Stream(Side.ACCEPTOR, SERVER)
    try:
        acceptor.receive(data if is_open else PREFACE + data)
    except RemoteProtocolError:
        assert acceptor.phase is Phase.CLOSED


@given(st.binary(min_size=1, max_size=60))
def test_garbage_in_a_frame_of_the_right_length(data: bytes) -> None:
    acceptor = pair()[1]
    try:
        acceptor.receive(struct.pack(">I", len(data)) + data)
    except RemoteProtocolError:
        assert acceptor.phase is Phase.CLOSED
