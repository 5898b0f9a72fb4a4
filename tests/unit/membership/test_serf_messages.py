"""Serf messages: every recorded one decodes to what was recorded and encodes to the same bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from registry.errors import RemoteProtocolError
from registry.membership.coordinate import Coordinate
from registry.membership.events import BufferedEvent, EventSlot
from registry.membership.filters import decode_filter, encode_filter
from registry.membership.serf_messages import (
    ConflictResponse,
    JoinIntent,
    KeyRequest,
    KeyResponse,
    LeaveIntent,
    Query,
    QueryResponse,
    Relay,
    SerfMessage,
    State,
    UserEventMessage,
    decode,
    decode_coordinate,
    decode_tags,
    encode,
    encode_coordinate,
    encode_nobody,
    encode_tags,
)

VECTORS = sorted((Path(__file__).parent / "testdata" / "gossip").glob("*.json"))
KINDS = {
    "leave_intent": 0,
    "join_intent": 1,
    "state": 2,
    "user_event": 3,
    "query": 4,
    "query_response": 5,
    "conflict_response": 6,
    "key_request": 7,
    "key_response": 8,
    "relay": 9,
}
BYTES = {"Addr", "Payload", "Key", "IP"}


def walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in items:
        yield from walk(item)


def unhex(value: Any) -> Any:
    """A recorded body as the wire has it."""
    if isinstance(value, dict):
        if set(value) == {"hex"}:
            return bytes.fromhex(value["hex"])
        if set(value) == {"slots", "set"}:  # a ring, of which the filled slots were recorded
            return [unhex(value["set"].get(str(slot))) for slot in range(value["slots"])]
        return {name: unhex(item) for name, item in value.items()}
    return [unhex(item) for item in value] if isinstance(value, list) else value


def as_bytes(message: dict[str, Any]) -> bytes:
    """The recorded message, put together with nothing of ours."""
    packed: bytes = msgpack.packb(unhex(message["body"]), use_bin_type=False)
    inner = as_bytes(message["inner"]) if "inner" in message else b""
    return bytes([KINDS[message["serf"]]]) + packed + inner


def recorded() -> list[Any]:
    return [
        pytest.param(message, id=f"{path.stem}-{message['serf']}")
        for path in VECTORS
        for message in walk(json.loads(path.read_text()).get("decoded"))
        if message.get("serf") in KINDS and "body" in message
    ]


@pytest.mark.parametrize("message", recorded())
def test_recorded_messages_come_back_as_they_were(message: dict[str, Any]) -> None:
    data = as_bytes(message)
    decoded = decode(data)
    if isinstance(decoded, State):
        # The real ring is sent with its empty slots; ours are left out, which receivers accept.
        assert decode(encode(decoded)) == decoded
    elif isinstance(decoded, KeyResponse) and not decoded.keys:
        assert decode(encode(decoded)) == decoded
    else:
        assert encode(decoded) == data


def test_the_recordings_hold_every_kind_of_message() -> None:
    assert {param.values[0]["serf"] for param in recorded()} == set(KINDS)


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_recorded_tags_coordinates_and_filters(path: Path) -> None:
    for part in walk(json.loads(path.read_text()).get("decoded")):
        body = part.get("body", {})
        if "tags" in part and isinstance(body, dict) and "Meta" in body:
            meta = unhex(body["Meta"]) or b""
            assert decode_tags(meta) == part["tags"]
        if part.get("msg") == "ack" and unhex(body.get("Payload")):
            payload = unhex(body["Payload"])
            coordinate = decode_coordinate(payload)
            assert coordinate is not None
            assert encode_coordinate(coordinate) == payload
        for raw in body.get("Filters") or [] if isinstance(body, dict) else []:
            assert encode_filter(decode_filter(unhex(raw))) == unhex(raw)


EXAMPLES: list[SerfMessage] = [
    LeaveIntent(7, "beta", True),
    JoinIntent(2**63, "a node with a name of more than thirty-two bytes"),
    State(
        3, {"alpha": 1, "beta": 2}, ("beta",), 5, (EventSlot(4, (BufferedEvent("x", b"\xff"),)),), 6
    ),
    UserEventMessage(1, "deploy", b"x" * 300, True),
    Query(1, 2**32 - 1, b"\x7f\0\0\1", 8301, "alpha", (b"\0\x90",), 3, 2, 10**9, "uptime", b""),
    QueryResponse(1, 2, "alpha", 1, None),
    KeyRequest(b"0" * 32),
    KeyResponse(True, "", ("a", "b"), "a"),
    Relay(b"\x7f\0\0\1", 8301, "alpha", encode(JoinIntent(1, "a"))),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_encoding_and_decoding_are_inverse(message: Any) -> None:
    assert decode(encode(message)) == message


def test_nothing_is_ever_sent_in_the_newer_msgpack_types() -> None:
    for message in EXAMPLES:
        first = encode(message)[1:2]
        assert first[0] & 0xF0 == 0x80  # a map
    assert b"\xd9" not in encode(JoinIntent(1, "n" * 40))  # str8
    assert b"\xc4" not in encode(UserEventMessage(1, "e", b"p" * 40))  # bin8


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_damaged_messages_are_refused_or_read_but_never_break(message: Any) -> None:
    data = encode(message)
    rng = random.Random(data)
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        cut = bytes(damaged[: rng.randint(0, len(damaged))])
        try:
            decode(cut)
        except RemoteProtocolError:
            continue


def wire(kind: int, value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=False)
    return bytes([kind]) + packed


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "no such type", id="empty"),
        pytest.param(wire(10, {}), "no such type", id="unknown type"),
        pytest.param(b"\x00", "not readable", id="no body"),
        pytest.param(wire(0, 7), "a map was expected", id="no map"),
        pytest.param(wire(1, [1, "a", 3]), "a map was expected", id="longer than the struct"),
        pytest.param(wire(1, {"LTime": -1}), "LTime must be an integer", id="negative"),
        pytest.param(wire(1, {"LTime": "1"}), "LTime must be an integer", id="text as number"),
        pytest.param(wire(1, {"LTime": True}), "LTime must be an integer", id="flag as number"),
        pytest.param(wire(1, {"Node": 1}), "Node must be bytes", id="number as text"),
        pytest.param(wire(1, {"Node": b"\xff"}), "Node is not text", id="no text"),
        pytest.param(wire(0, {"Prune": 1}), "Prune must be a boolean", id="number as flag"),
        pytest.param(wire(4, {"Port": 65536}), "Port must be an integer", id="too large"),
        pytest.param(wire(4, {"Filters": [1]}), "Filters must be a list", id="wrong item"),
        pytest.param(wire(4, {"Filters": ["x"] * 65}), "Filters must be a list", id="long list"),
        pytest.param(wire(2, {"Events": 1}), "Events must be a list", id="no list"),
        pytest.param(wire(2, {"StatusLTimes": {"a": "b"}}), "StatusLTimes must be", id="no times"),
        pytest.param(wire(2, {"StatusLTimes": {1: 2}}), "StatusLTimes must be", id="no names"),
        pytest.param(wire(2, {"StatusLTimes": [1]}), "StatusLTimes must be", id="list as map"),
        pytest.param(wire(6, {"Tags": {"a": 1}}), "Tags must be", id="no texts"),
    ],
)
def test_what_does_not_fit_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        decode(data)


def test_a_struct_may_come_as_an_array_and_with_fields_that_nobody_knows() -> None:
    assert decode(wire(0, [4, "beta"])) == LeaveIntent(4, "beta")
    assert decode(wire(1, {"LTime": 4, "Node": "beta", "Later": [1]})) == JoinIntent(4, "beta")


def test_a_conflict_response_about_nobody() -> None:
    decoded = decode(encode_nobody())
    assert isinstance(decoded, ConflictResponse)
    assert decoded.member.name == ""


def test_tags() -> None:
    assert encode_tags({}) == b"\xff\x80"
    assert decode_tags(b"") == {"role": ""}
    assert decode_tags(b"db") == {"role": "db"}
    with pytest.raises(RemoteProtocolError):
        decode_tags(b"\xff\x81\xa1a\x01")


def test_coordinates_that_are_none() -> None:
    assert decode_coordinate(b"") is None
    assert decode_coordinate(b"\x02\x80") is None
    assert decode_coordinate(wire(1, {"Vec": [0] * 8, "Error": 1})) == Coordinate(
        (0.0,) * 8, 1.0, 0.0, 0.0
    )
    with pytest.raises(RemoteProtocolError, match="Vec must be a number"):
        decode_coordinate(wire(1, {"Vec": ["0"]}))
