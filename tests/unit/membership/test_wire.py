"""The dialect of the fields: what is forgiven in what others send, and what is not."""

from __future__ import annotations

from typing import Any

import msgpack  # type: ignore[import-untyped]  # no stubs are published
import pytest

from registry.errors import RemoteProtocolError
from registry.membership.seam import Node, Versions
from registry.membership.stream_buffer import StreamBuffer
from registry.membership.wire import (
    NODES_MAX,
    STREAM_BYTES_MAX,
    Ack,
    Alive,
    Ping,
    PushPull,
    UserMessage,
    decode_packet_message,
    decode_stream_message,
    encode,
    encode_push_pull,
    encode_user_stream,
)

VSN = bytes([1, 5, 2, 2, 5, 4])


def packed(value: Any) -> bytes:
    result: bytes = msgpack.packb(value, use_bin_type=False)
    return result


def alive(**changes: Any) -> bytes:
    fields = {
        "Incarnation": 1,
        "Node": "bob",
        "Addr": bytes([10, 0, 0, 1]),
        "Port": 8301,
        "Meta": b"",
        "Vsn": VSN,
    }
    return b"\x04" + packed(fields | changes)


ALIVE = Alive(1, "bob", ("10.0.0.1", 8301), b"", Versions())


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(alive(), id="as-it-should-be"),
        pytest.param(alive(Unknown={"a": [1]}), id="unknown-field"),
        pytest.param(alive(Meta=None), id="nil-meta"),
        pytest.param(alive(Addr=bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 1])), id="v4-mapped"),
        pytest.param(
            b"\x04" + packed([1, "bob", bytes([10, 0, 0, 1]), 8301, b"", VSN]), id="as-an-array"
        ),
        pytest.param(
            b"\x04"
            + b"\x86\xabIncarnation\xd3\0\0\0\0\0\0\0\x01\xa4Node\xd9\x03bob"
            + b"\xa4Addr\xc4\x04\x0a\0\0\x01\xa4Port\xcf\0\0\0\0\0\0\x20\x6d"
            + b"\xa4Meta\xc4\0\xa3Vsn\xa6"
            + VSN,
            id="wide-integers-str8-and-bin",
        ),
    ],
)
def test_what_is_forgiven(data: bytes) -> None:
    assert decode_packet_message(data) == ALIVE


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x04", id="no-map"),
        pytest.param(b"\x04\x86", id="cut-off"),
        pytest.param(b"\x04\xc1", id="no-msgpack"),
        pytest.param(b"\x04\x05", id="an-integer"),
        pytest.param(b"\x04\x81\x80\x01", id="a-map-as-a-key"),
        pytest.param(b"\xf4", id="a-label"),
        pytest.param(b"\x06\x80", id="push-pull-in-a-packet"),
        pytest.param(b"\x0c\0\0\0\0", id="checksum-inside"),
        pytest.param(alive(Node=""), id="no-name"),
        pytest.param(alive(Node=b"\xff\xfe"), id="name-is-no-text"),
        pytest.param(alive(Node=5), id="name-is-a-number"),
        pytest.param(alive(Addr=b"123"), id="address-of-3-bytes"),
        pytest.param(alive(Port=65536), id="port-too-great"),
        pytest.param(alive(Port=-1), id="port-negative"),
        pytest.param(alive(Port=1.5), id="port-is-a-float"),
        pytest.param(alive(Incarnation=1 << 32), id="incarnation-too-great"),
        pytest.param(alive(Incarnation=True), id="incarnation-is-a-boolean"),
        pytest.param(alive(Meta=bytes(513)), id="meta-too-long"),
        pytest.param(alive(Vsn=b"\x01"), id="one-version"),
        pytest.param(alive(Vsn=None), id="no-versions"),
        pytest.param(b"\x00" + b"\x81\xa5SeqNo\xc7\x00\x05", id="ext"),
    ],
)
def test_what_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_packet_message(data)


def test_missing_fields_are_zero() -> None:
    assert decode_packet_message(b"\x00\x80") == Ping(0, "")
    assert decode_packet_message(b"\x02\xc0") == Ack(0)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="none"),
        pytest.param({"SourceAddr": bytes(4)}, id="address-alone"),
        pytest.param({"SourcePort": 5}, id="port-alone"),
    ],
)
def test_a_source_is_an_address_with_a_port(fields: dict[str, Any]) -> None:
    message = decode_packet_message(b"\x00" + packed({"SeqNo": 1, "Node": "a"} | fields))
    assert message == Ping(1, "a")


def test_ipv6_travels_as_16_bytes() -> None:
    ping = Ping(1, "a", ("fd00::1", 8301), "b")
    assert decode_packet_message(encode(ping)) == ping


# Streams.


def node(**changes: Any) -> dict[str, Any]:
    fields = {
        "Name": "bob",
        "Addr": bytes([10, 0, 0, 1]),
        "Port": 8301,
        "Meta": b"",
        "Incarnation": 1,
        "State": 0,
        "Vsn": VSN,
    }
    return fields | changes


def push_pull(nodes: list[dict[str, Any]], tail: bytes = b"", **header: Any) -> bytes:
    fields = {"Nodes": len(nodes), "UserStateLen": len(tail), "Join": False} | header
    return b"\x06" + packed(fields) + b"".join(map(packed, nodes)) + tail


def test_a_push_pull_comes_out_as_it_went_in() -> None:
    nodes = [Node(f"n{number}", ("10.0.0.1", number), b"m", number) for number in range(50)]
    message = PushPull(True, nodes, b"tail")
    assert decode_stream_message(encode_push_pull(message)) == message


def test_a_node_without_versions_speaks_0() -> None:
    message = decode_stream_message(push_pull([node(Vsn=None)]))
    assert isinstance(message, PushPull)
    assert message.nodes[0].versions == Versions(0, 0, 0, 0, 0, 0)


BAD_STREAMS = [
    pytest.param(b"", id="empty"),
    pytest.param(b"\x05\x80", id="dead-in-a-stream"),
    pytest.param(push_pull([node()], Nodes=2), id="a-node-missing"),
    pytest.param(push_pull([node()], UserStateLen=5), id="tail-cut-off"),
    pytest.param(push_pull([], Nodes=NODES_MAX + 1), id="too-many-nodes"),
    pytest.param(push_pull([], UserStateLen=STREAM_BYTES_MAX + 1), id="tail-too-long"),
    pytest.param(push_pull([node(State=4)]), id="unknown-state"),
    pytest.param(push_pull([node(Vsn=b"1")]), id="one-version"),
    pytest.param(b"\x08" + packed({"UserMsgLen": 9}) + b"short", id="user-message-cut-off"),
    pytest.param(
        b"\x08" + packed({"UserMsgLen": STREAM_BYTES_MAX + 1}), id="user-message-too-long"
    ),
]


@pytest.mark.parametrize("data", BAD_STREAMS)
def test_streams_that_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_stream_message(data)


def test_a_user_message_has_its_length_in_front() -> None:
    assert decode_stream_message(encode_user_stream(b"hello")) == UserMessage(b"hello")


def test_what_follows_a_message_is_not_part_of_it() -> None:
    whole = push_pull([node()], b"tail")
    assert StreamBuffer().feed(whole + b"more") == whole


def test_nothing_is_no_message_yet() -> None:
    buffer = StreamBuffer()
    assert buffer.feed(b"") is None
    assert buffer.feed(b"\x00\x80") == b"\x00\x80"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x05\x80", id="no-stream-message"),
        pytest.param(b"\x00\xc1", id="no-msgpack"),
        pytest.param(b"\x0a\xff\xff\xff\xff", id="encrypted-too-long"),
        pytest.param(push_pull([], UserStateLen=900), id="push-pull-too-long"),
        pytest.param(b"\x08" + packed({"UserMsgLen": 1000}), id="user-message-too-long"),
        pytest.param(b"\x00" + packed({"Node": "x" * 2000}), id="map-too-long"),
        pytest.param(b"\x0a\x00\x00" + bytes(2000), id="more-than-announced"),
    ],
)
def test_a_stream_that_cannot_become_a_message_ends_at_once(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        StreamBuffer(bytes_max=900).feed(data)
