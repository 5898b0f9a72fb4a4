"""Messages of the lower layer: one type byte and a map each.

`encode` and `decode` are inverse for everything that a pool sends. Every field that comes in is
checked for type and range, and whatever does not fit raises `RemoteProtocolError`. Missing fields
are zero, unknown ones ignored; nil and empty bytes are the same here, and go out as nil.

Source: gossip sheet, sections 2.1, 3 and 4.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec

from registry.errors import RemoteProtocolError
from registry.membership.addresses import Address, pack_ip, unpack_ip
from registry.membership.fields import Fields, ValueReader, pack, unpack_prefix
from registry.membership.seam import META_BYTES_MAX, Node, NodeState, Versions

#: Nodes in one push/pull, and its length with all layers off: far above any real pool.
NODES_MAX = 100_000
STREAM_BYTES_MAX = 20 << 20


class MessageType(enum.IntEnum):
    PING = 0
    INDIRECT_PING = 1
    ACK = 2
    SUSPECT = 3
    ALIVE = 4
    DEAD = 5
    PUSH_PULL = 6
    COMPOUND = 7
    USER = 8
    COMPRESS = 9
    ENCRYPT = 10
    NACK = 11
    CRC = 12
    ERROR = 13


class Ping(msgspec.Struct, frozen=True):
    """Are you there, `node`? Answer `source` if it is given, else whoever sent the packet."""

    seq_no: int
    node: str
    source: Address | None = None
    source_node: str = ""


class IndirectPing(msgspec.Struct, frozen=True):
    """Ping `node` for me; with `wants_nack`, also say so when it does not answer."""

    seq_no: int
    target: Address
    node: str
    wants_nack: bool = False
    source: Address | None = None
    source_node: str = ""


class Ack(msgspec.Struct, frozen=True):
    seq_no: int
    payload: bytes = b""


class Nack(msgspec.Struct, frozen=True):
    seq_no: int


class Suspect(msgspec.Struct, frozen=True):
    incarnation: int
    node: str
    accuser: str


class Alive(msgspec.Struct, frozen=True):
    incarnation: int
    node: str
    address: Address
    meta: bytes
    versions: Versions


class Dead(msgspec.Struct, frozen=True):
    """`accuser` is the node itself when it left by its own will."""

    incarnation: int
    node: str
    accuser: str


class ErrorReply(msgspec.Struct, frozen=True):
    """The answer to a stream whose outer layers could not be read."""

    error: str


class UserMessage(msgspec.Struct, frozen=True):
    """A message of the layer above; `decode` gives it, `encode_user*` makes it."""

    data: bytes


class PushPull(msgspec.Struct, frozen=True):
    """Everything that a node knows of the pool, and the upper layer's part of it."""

    join: bool
    nodes: Sequence[Node]
    user_state: bytes = b""


_NEWS = frozenset((MessageType.SUSPECT, MessageType.ALIVE, MessageType.DEAD))

#: Longer messages are not remembered: what strangers send must not fill our memory.
_CACHED_BYTES_MAX = 2048

PacketMessage: TypeAlias = Ping | IndirectPing | Ack | Nack | Suspect | Alive | Dead | UserMessage
StreamMessage: TypeAlias = Ping | Ack | ErrorReply | UserMessage | PushPull
Encodable: TypeAlias = Ping | IndirectPing | Ack | Nack | Suspect | Alive | Dead | ErrorReply


def encode(message: Encodable) -> bytes:
    """Type byte and map, the names of the fields in byte order."""
    message_type, to_map = _ENCODERS[type(message)]
    return bytes([message_type]) + pack(to_map(message))


def encode_user(data: bytes) -> bytes:
    """A user message for a packet."""
    return bytes([MessageType.USER]) + data


def encode_user_stream(data: bytes) -> bytes:
    """A user message for a stream, with its length in front."""
    return bytes([MessageType.USER]) + pack({"UserMsgLen": len(data)}) + data


def encode_push_pull(message: PushPull) -> bytes:
    header = {
        "Join": message.join,
        "Nodes": len(message.nodes),
        "UserStateLen": len(message.user_state),
    }
    parts = [bytes([MessageType.PUSH_PULL]), pack(header)]
    parts += [pack(_node_map(node)) for node in message.nodes]
    parts.append(message.user_state)
    return b"".join(parts)


def decode_packet_message(data: bytes) -> PacketMessage:
    """One message as it comes in packets, layers off. Raises `RemoteProtocolError`."""
    if not data:
        raise RemoteProtocolError("empty message")
    if data[0] == MessageType.USER:
        return UserMessage(data[1:])
    if data[0] in _NEWS and len(data) <= _CACHED_BYTES_MAX:
        return _decode_again(data)
    return _decode_map(data)


@lru_cache(maxsize=1024)
def _decode_again(data: bytes) -> PacketMessage:
    """Each piece of news comes many times, that is how gossip works: decode it once."""
    return _decode_map(data)


def _decode_map(data: bytes) -> PacketMessage:
    decoder = _PACKET_DECODERS.get(data[0])
    if decoder is None:
        raise RemoteProtocolError(f"message type {data[0]} in a packet")
    order, build = decoder
    value, _ = unpack_prefix(data[1:])
    return build(Fields(value, order))


def decode_stream_message(data: bytes) -> StreamMessage:
    """One message as it comes by stream, layers off. Raises `RemoteProtocolError`."""
    if not data:
        raise RemoteProtocolError("empty message")
    if data[0] == MessageType.USER:
        return _decode_user_stream(data)
    if data[0] == MessageType.PUSH_PULL:
        return _decode_push_pull(data)
    decoder = _STREAM_DECODERS.get(data[0])
    if decoder is None:
        raise RemoteProtocolError(f"message type {data[0]} in a stream")
    order, build = decoder
    value, _ = unpack_prefix(data[1:])
    return build(Fields(value, order))


def _decode_user_stream(data: bytes) -> UserMessage:
    header, used = unpack_prefix(data[1:])
    length = user_length(header)
    start = 1 + used
    if len(data) - start < length:
        raise RemoteProtocolError("a user message is cut off")
    return UserMessage(data[start : start + length])


def _decode_push_pull(data: bytes) -> PushPull:
    values = ValueReader(data[1:])
    header = values.next()
    node_count, state_length, join = push_pull_header(header)
    nodes = [_node(Fields(values.next(), _NODE_ORDER)) for _ in range(node_count)]
    tail = 1 + values.position
    if len(data) - tail < state_length:
        raise RemoteProtocolError("the tail of a push/pull is cut off")
    return PushPull(join, nodes, data[tail : tail + state_length])


def push_pull_header(value: Any) -> tuple[int, int, bool]:
    """Nodes, length of the tail, and whether it is a join."""
    header = Fields(value, ("Nodes", "UserStateLen", "Join"))
    nodes, state_length = header.uint("Nodes"), header.uint("UserStateLen")
    if nodes > NODES_MAX or state_length > STREAM_BYTES_MAX:
        raise RemoteProtocolError(f"a push/pull of {nodes} nodes and {state_length} bytes")
    return nodes, state_length, header.flag("Join")


def user_length(value: Any) -> int:
    length = Fields(value, ("UserMsgLen",)).uint("UserMsgLen")
    if length > STREAM_BYTES_MAX:
        raise RemoteProtocolError(f"a user message of {length} bytes")
    return length


# Fields to values and back. One pair of functions per message, in the order of the type bytes.


@lru_cache(maxsize=4096)
def _pack_ip(text: str) -> bytes:
    return pack_ip(text)


@lru_cache(maxsize=4096)
def _unpack_ip(raw: bytes) -> str:
    return unpack_ip(raw)


def _source_map(source: Address | None, source_node: str) -> dict[str, Any]:
    """What older senders do not have is left out when empty."""
    fields: dict[str, Any] = {}
    if source is not None:
        fields["SourceAddr"] = _pack_ip(source[0])
    if source_node:
        fields["SourceNode"] = source_node
    if source is not None:
        fields["SourcePort"] = source[1]
    return fields


def _source(fields: Fields) -> Address | None:
    raw, port = fields.raw("SourceAddr"), fields.uint("SourcePort", 16)
    return (_unpack_ip(raw), port) if raw and port else None


def _ping_map(ping: Ping) -> dict[str, Any]:
    return {
        "Node": ping.node,
        "SeqNo": ping.seq_no,
        **_source_map(ping.source, ping.source_node),
    }


def _ping(fields: Fields) -> Ping:
    return Ping(
        fields.uint("SeqNo", 32), fields.text("Node"), _source(fields), fields.text("SourceNode")
    )


def _indirect_ping_map(ping: IndirectPing) -> dict[str, Any]:
    source = _source_map(ping.source, ping.source_node)
    return {
        "Nack": ping.wants_nack,
        "Node": ping.node,
        "Port": ping.target[1],
        "SeqNo": ping.seq_no,
        **source,
        "Target": _pack_ip(ping.target[0]),
    }


def _indirect_ping(fields: Fields) -> IndirectPing:
    return IndirectPing(
        fields.uint("SeqNo", 32),
        _address(fields, "Target"),
        fields.text("Node"),
        fields.flag("Nack"),
        _source(fields),
        fields.text("SourceNode"),
    )


def _ack_map(ack: Ack) -> dict[str, Any]:
    return {"Payload": ack.payload or None, "SeqNo": ack.seq_no}


def _ack(fields: Fields) -> Ack:
    return Ack(fields.uint("SeqNo", 32), fields.raw("Payload") or b"")


def _nack_map(nack: Nack) -> dict[str, Any]:
    return {"SeqNo": nack.seq_no}


def _nack(fields: Fields) -> Nack:
    return Nack(fields.uint("SeqNo", 32))


def _accusation_map(message: Suspect | Dead) -> dict[str, Any]:
    return {
        "From": message.accuser,
        "Incarnation": message.incarnation,
        "Node": message.node,
    }


def _suspect(fields: Fields) -> Suspect:
    return Suspect(fields.uint("Incarnation", 32), fields.text("Node"), fields.text("From"))


def _dead(fields: Fields) -> Dead:
    return Dead(fields.uint("Incarnation", 32), fields.text("Node"), fields.text("From"))


def _alive_map(alive: Alive) -> dict[str, Any]:
    return {
        "Addr": _pack_ip(alive.address[0]),
        "Incarnation": alive.incarnation,
        "Meta": alive.meta or None,
        "Node": alive.node,
        "Port": alive.address[1],
        "Vsn": alive.versions.pack(),
    }


def _alive(fields: Fields) -> Alive:
    return Alive(
        fields.uint("Incarnation", 32),
        _name(fields, "Node"),
        _address(fields, "Addr"),
        _meta(fields),
        _versions(fields.raw("Vsn") or b""),
    )


def _node_map(node: Node) -> dict[str, Any]:
    return {
        "Addr": _pack_ip(node.address[0]),
        "Incarnation": node.incarnation,
        "Meta": node.meta or None,
        "Name": node.name,
        "Port": node.address[1],
        "State": int(node.state),
        "Vsn": node.versions.pack(),
    }


_NODE_ORDER = ("Name", "Addr", "Port", "Meta", "Incarnation", "State", "Vsn")
_UNKNOWN_VERSIONS = Versions(0, 0, 0, 0, 0, 0)


def _node(fields: Fields) -> Node:
    vsn = fields.raw("Vsn")
    return Node(
        _name(fields, "Name"),
        _address(fields, "Addr"),
        _meta(fields),
        fields.uint("Incarnation", 32),
        _state(fields.uint("State")),
        # Somebody too old to say: the merge as a whole will be refused for it.
        _versions(vsn) if vsn else _UNKNOWN_VERSIONS,
    )


def _error_map(message: ErrorReply) -> dict[str, Any]:
    return {"Error": message.error}


def _error(fields: Fields) -> ErrorReply:
    return ErrorReply(fields.text("Error"))


def _name(fields: Fields, field: str) -> str:
    name = fields.text(field)
    if not name:
        raise RemoteProtocolError("a node without a name")
    return name


def _address(fields: Fields, field: str) -> Address:
    return _unpack_ip(fields.raw(field) or b""), fields.uint("Port", 16)


def _meta(fields: Fields) -> bytes:
    meta = fields.raw("Meta") or b""
    if len(meta) > META_BYTES_MAX:
        raise RemoteProtocolError(f"Meta of {len(meta)} bytes")
    return meta


@lru_cache(maxsize=256)
def _versions(raw: bytes) -> Versions:
    # Others index into these bytes without looking, and fall over what is shorter.
    if len(raw) != 6:
        raise RemoteProtocolError(f"Vsn of {len(raw)} bytes")
    return Versions(*raw)


def _state(number: int) -> NodeState:
    try:
        return NodeState(number)
    except ValueError as problem:
        raise RemoteProtocolError(f"unknown node state {number}") from problem


_ENCODERS: dict[type[Any], tuple[MessageType, Callable[[Any], dict[str, Any]]]] = {
    Ping: (MessageType.PING, _ping_map),
    IndirectPing: (MessageType.INDIRECT_PING, _indirect_ping_map),
    Ack: (MessageType.ACK, _ack_map),
    Suspect: (MessageType.SUSPECT, _accusation_map),
    Alive: (MessageType.ALIVE, _alive_map),
    Dead: (MessageType.DEAD, _accusation_map),
    Nack: (MessageType.NACK, _nack_map),
    ErrorReply: (MessageType.ERROR, _error_map),
}

# With each decoder, the order of the fields in a struct that comes as an array.
_SOURCE_ORDER = ("SourceAddr", "SourcePort", "SourceNode")
_PING = (("SeqNo", "Node", *_SOURCE_ORDER), _ping)
_ACK = (("SeqNo", "Payload"), _ack)
_PACKET_DECODERS: dict[int, tuple[tuple[str, ...], Callable[[Fields], PacketMessage]]] = {
    MessageType.PING: _PING,
    MessageType.INDIRECT_PING: (
        ("SeqNo", "Target", "Port", "Node", "Nack", *_SOURCE_ORDER),
        _indirect_ping,
    ),
    MessageType.ACK: _ACK,
    MessageType.SUSPECT: (("Incarnation", "Node", "From"), _suspect),
    MessageType.ALIVE: (("Incarnation", "Node", "Addr", "Port", "Meta", "Vsn"), _alive),
    MessageType.DEAD: (("Incarnation", "Node", "From"), _dead),
    MessageType.NACK: (("SeqNo",), _nack),
}
_STREAM_DECODERS: dict[int, tuple[tuple[str, ...], Callable[[Fields], StreamMessage]]] = {
    MessageType.PING: _PING,
    MessageType.ACK: _ACK,
    MessageType.ERROR: (("Error",), _error),
}
