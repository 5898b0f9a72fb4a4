"""Every recorded packet and stream decodes to what it meant, and encodes back to the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.errors import RemoteProtocolError
from registry.membership import packets
from registry.membership.addresses import pack_ip
from registry.membership.crypto import Keyring
from registry.membership.packets import Envelope
from registry.membership.seam import Node
from registry.membership.stream_buffer import StreamBuffer
from registry.membership.wire import (
    Ack,
    Alive,
    Dead,
    Encodable,
    ErrorReply,
    IndirectPing,
    Nack,
    PacketMessage,
    Ping,
    PushPull,
    StreamMessage,
    Suspect,
    UserMessage,
    decode_packet_message,
    decode_stream_message,
    encode,
    encode_push_pull,
    encode_user,
    encode_user_stream,
)

VECTORS = [
    json.loads(path.read_text())
    for path in sorted((Path(__file__).parent / "testdata" / "gossip").glob("*.json"))
]
UDP = [vector for vector in VECTORS if vector["transport"] == "udp"]
TCP = [vector for vector in VECTORS if vector["transport"] == "tcp"]
DAMAGEABLE = [
    vector
    for vector in VECTORS
    if "key" in vector or vector.get("decoded", {}).get("layer") == "crc"
]


def name_of(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def envelope_for(vector: dict[str, Any]) -> Envelope:
    return Envelope(keyring=Keyring([bytes.fromhex(vector["key"])]) if "key" in vector else None)


def test_the_recordings_are_there() -> None:
    assert (len(UDP), len(TCP)) == (71, 25)


@pytest.mark.parametrize("vector", UDP, ids=name_of)
def test_a_recorded_packet(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["hex"])
    messages = list(envelope_for(vector).open_packet(raw))
    assert len(messages) == len(list(leaves(vector["decoded"])))
    for message, leaf in zip(messages, leaves(vector["decoded"]), strict=True):
        decoded = decode_packet_message(message)
        if isinstance(decoded, UserMessage):
            assert leaf["msg"] == "user"
        else:
            assert described(decoded) == leaf["body"]
        assert encoded(decoded) == message
    assert wrapped(vector["decoded"], iter(messages)) == raw


@pytest.mark.parametrize("vector", TCP, ids=name_of)
def test_a_recorded_stream(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["hex"])
    message = envelope_for(vector).open_stream(raw)
    decoded = decode_stream_message(message)
    (leaf,) = leaves(vector["decoded"])
    if isinstance(decoded, PushPull):
        assert decoded.join == leaf["header"]["Join"]
        assert [node_described(node) for node in decoded.nodes] == [
            node["state"] for node in leaf["nodes"]
        ]
        assert len(decoded.user_state) == leaf["header"]["UserStateLen"]
        assert encode_push_pull(decoded) == message
    elif isinstance(decoded, UserMessage):
        assert len(decoded.data) == leaf["header"]["UserMsgLen"]
        assert encode_user_stream(decoded.data) == message
    else:
        assert described(decoded) == leaf["body"]
        assert encode(decoded) == message
    assert wrapped(vector["decoded"], iter([message])) == raw


@pytest.mark.parametrize("size", [1, 7, 1_000_000], ids=["bytes", "sevens", "at-once"])
@pytest.mark.parametrize("vector", TCP, ids=name_of)
def test_a_stream_is_whole_with_its_last_byte(vector: dict[str, Any], size: int) -> None:
    raw = bytes.fromhex(vector["hex"])
    buffer = StreamBuffer()
    for start in range(0, len(raw), size):
        message = buffer.feed(raw[start : start + size])
        is_last = start + size >= len(raw)
        assert message == (raw if is_last else None)


@pytest.mark.parametrize("vector", DAMAGEABLE, ids=name_of)
def test_a_damaged_copy_is_refused(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["hex"])
    damaged = raw[:-1] + bytes([raw[-1] ^ 1])
    with pytest.raises(RemoteProtocolError):
        opened(envelope_for(vector), vector, damaged)


@pytest.mark.parametrize("vector", [v for v in VECTORS if "key" in v], ids=name_of)
def test_another_key_does_not_open_it(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["hex"])
    envelope = Envelope(keyring=Keyring([bytes(32)]))
    with pytest.raises(RemoteProtocolError, match="no installed key"):
        opened(envelope, vector, raw)


def opened(envelope: Envelope, vector: dict[str, Any], raw: bytes) -> list[bytes]:
    is_packet = vector["transport"] == "udp"
    return list(envelope.open_packet(raw)) if is_packet else [envelope.open_stream(raw)]


def leaves(decoded: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "layer" not in decoded:
        yield decoded
    for inner in decoded.get("parts", [decoded.get("inner")]) if "layer" in decoded else ():
        yield from leaves(inner)


def wrapped(decoded: dict[str, Any], messages: Iterator[bytes]) -> bytes:
    """The messages in the layers that the recording had."""
    layer = decoded.get("layer")
    if layer is None:
        return next(messages)
    if layer == "compound":
        return packets.compound([wrapped(part, messages) for part in decoded["parts"]])
    inner = wrapped(decoded["inner"], messages)
    if layer == "compress":
        return packets.compress(inner, leading_clear=decoded["leading_clear"])
    if layer == "crc":
        return packets.add_crc(inner)
    keyring = Keyring([bytes.fromhex(decoded["key"])])
    version, nonce = decoded["version"], bytes.fromhex(decoded["nonce"])
    if layer == "encrypt":
        return keyring.encrypt(inner, version=version, nonce=nonce)
    return packets.encrypt_stream(inner, keyring, version=version, nonce=nonce)


def encoded(message: PacketMessage) -> bytes:
    return encode_user(message.data) if isinstance(message, UserMessage) else encode(message)


def hexed(raw: bytes) -> dict[str, str] | None:
    return {"hex": raw.hex()} if raw else None


def described(message: PacketMessage | StreamMessage | Encodable) -> dict[str, Any]:
    """The message in the recordings' spelling."""
    match message:
        case Ping():
            return {"SeqNo": message.seq_no, "Node": message.node, **source_described(message)}
        case IndirectPing():
            return {
                "SeqNo": message.seq_no,
                "Target": hexed(pack_ip(message.target[0])),
                "Port": message.target[1],
                "Node": message.node,
                "Nack": message.wants_nack,
                **source_described(message),
            }
        case Ack():
            return {"SeqNo": message.seq_no, "Payload": hexed(message.payload)}
        case Nack():
            return {"SeqNo": message.seq_no}
        case Suspect() | Dead():
            return {
                "Incarnation": message.incarnation,
                "Node": message.node,
                "From": message.accuser,
            }
        case Alive():
            return {
                "Incarnation": message.incarnation,
                "Node": message.node,
                "Addr": hexed(pack_ip(message.address[0])),
                "Port": message.address[1],
                "Meta": hexed(message.meta),
                "Vsn": hexed(message.versions.pack()),
            }
        case ErrorReply():
            return {"Error": message.error}
        case _:
            raise AssertionError(f"{message} has no map")


def source_described(ping: Ping | IndirectPing) -> dict[str, Any]:
    if ping.source is None:
        return {}
    return {
        "SourceAddr": hexed(pack_ip(ping.source[0])),
        "SourcePort": ping.source[1],
        "SourceNode": ping.source_node,
    }


def node_described(node: Node) -> dict[str, Any]:
    return {
        "Name": node.name,
        "Addr": hexed(pack_ip(node.address[0])),
        "Port": node.address[1],
        "Meta": hexed(node.meta),
        "Incarnation": node.incarnation,
        "State": int(node.state),
        "Vsn": hexed(node.versions.pack()),
    }
