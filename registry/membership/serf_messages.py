"""Messages of the Serf layer: one type byte and a map, carried as opaque user messages below.

`encode` and `decode` are inverse for everything that a pool sends. What comes in is believed in
nothing: every field is checked for type and range, every list for length, and whatever does not fit
raises `RemoteProtocolError`. Missing fields are zero, unknown ones ignored.

Source: gossip sheet, sections 3 and 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import msgspec

from registry.errors import RemoteProtocolError
from registry.membership.coordinate import Coordinate
from registry.membership.events import BufferedEvent, EventSlot
from registry.membership.fields import Fields, pack, unpack_prefix
from registry.membership.serf_values import Member, MemberStatus

#: Bounds of what one message may list; far above any pool that this protocol can carry.
MEMBERS_MAX = 100_000
EVENT_SLOTS_MAX = 4096
EVENTS_PER_SLOT_MAX = 4096
FILTERS_MAX = 64
KEYS_MAX = 1024

_COORDINATE_VERSION = 1
_TAGS_MAGIC = 0xFF


class LeaveIntent(msgspec.Struct, frozen=True):
    l_time: int
    node: str
    prune: bool = False


class JoinIntent(msgspec.Struct, frozen=True):
    l_time: int
    node: str


class State(msgspec.Struct, frozen=True):
    """The Serf layer's part of a push/pull."""

    l_time: int
    status_times: dict[str, int]
    left_members: tuple[str, ...]
    event_l_time: int
    events: tuple[EventSlot, ...]
    query_l_time: int


class UserEventMessage(msgspec.Struct, frozen=True):
    l_time: int
    name: str
    payload: bytes | None = None
    coalesce: bool = False


class Query(msgspec.Struct, frozen=True):
    l_time: int
    query_id: int
    address: bytes
    port: int
    source: str
    filters: tuple[bytes, ...] = ()
    flags: int = 0
    relay_factor: int = 0
    timeout_ns: int = 0
    name: str = ""
    payload: bytes | None = None


class QueryResponse(msgspec.Struct, frozen=True):
    l_time: int
    query_id: int
    node: str
    flags: int = 0
    payload: bytes | None = None


class ConflictResponse(msgspec.Struct, frozen=True):
    """What a node knows of a member; only inside the payload of a query response."""

    member: Member
    address: bytes


class KeyRequest(msgspec.Struct, frozen=True):
    """Only inside the payload of a query."""

    key: bytes = b""


class KeyResponse(msgspec.Struct, frozen=True):
    """Only inside the payload of a query response."""

    result: bool
    message: str = ""
    keys: tuple[str, ...] | None = None
    primary_key: str = ""


class Relay(msgspec.Struct, frozen=True):
    """Please hand `inner`, a whole message, on to somebody."""

    address: bytes
    port: int
    name: str
    inner: bytes
    zone: str = ""


SerfMessage: TypeAlias = (
    LeaveIntent
    | JoinIntent
    | State
    | UserEventMessage
    | Query
    | QueryResponse
    | ConflictResponse
    | KeyRequest
    | KeyResponse
    | Relay
)


def encode(message: SerfMessage) -> bytes:
    """`message` with its type byte in front."""
    kind, to_map = _ENCODERS[type(message)]
    encoded = bytes([kind]) + pack(to_map(message))
    return encoded + message.inner if isinstance(message, Relay) else encoded


def encode_nobody() -> bytes:
    """The conflict response of a node that knows nobody by the name."""
    return bytes([_ENCODERS[ConflictResponse][0]]) + pack(None)


def decode(data: bytes) -> SerfMessage:
    """Raises `RemoteProtocolError`."""
    if not data or data[0] not in _DECODERS:
        raise RemoteProtocolError(f"no such type of message: {data[:1].hex() or 'empty'}")
    order, from_fields = _DECODERS[data[0]]
    value, used = unpack_prefix(data[1:])
    if data[0] == 9:
        return _relay(Fields(value, order), data[1 + used :])
    return from_fields(Fields(value, order))


# Each message as a map (names in byte order), and read back from one.


def _leave_intent_map(message: LeaveIntent) -> dict[str, Any]:
    return {"LTime": message.l_time, "Node": message.node, "Prune": message.prune}


def _leave_intent(fields: Fields) -> LeaveIntent:
    return LeaveIntent(fields.uint("LTime"), fields.text("Node"), fields.flag("Prune"))


def _join_intent_map(message: JoinIntent) -> dict[str, Any]:
    return {"LTime": message.l_time, "Node": message.node}


def _join_intent(fields: Fields) -> JoinIntent:
    return JoinIntent(fields.uint("LTime"), fields.text("Node"))


def _state_map(message: State) -> dict[str, Any]:
    return {
        "EventLTime": message.event_l_time,
        "Events": [
            {
                "Events": [{"Name": e.name, "Payload": e.payload} for e in slot.events],
                "LTime": slot.l_time,
            }
            for slot in message.events
        ],
        "LTime": message.l_time,
        "LeftMembers": list(message.left_members),
        "QueryLTime": message.query_l_time,
        "StatusLTimes": message.status_times,
    }


def _state(fields: Fields) -> State:
    return State(
        l_time=fields.uint("LTime"),
        status_times=fields.times("StatusLTimes", MEMBERS_MAX),
        left_members=tuple(fields.texts("LeftMembers", MEMBERS_MAX)),
        event_l_time=fields.uint("EventLTime"),
        events=tuple(_slots(fields.items("Events", EVENT_SLOTS_MAX))),
        query_l_time=fields.uint("QueryLTime"),
    )


def _slots(items: Iterable[Any]) -> Iterable[EventSlot]:
    for item in items:
        if item is None:  # an empty slot of the sender's ring
            continue
        slot = Fields(item, ("LTime", "Events"))
        events = slot.items("Events", EVENTS_PER_SLOT_MAX)
        yield EventSlot(slot.uint("LTime"), tuple(_buffered(event) for event in events))


def _buffered(item: Any) -> BufferedEvent:
    event = Fields(item, ("Name", "Payload"))
    return BufferedEvent(event.text("Name"), event.raw("Payload"))


def _user_event_map(message: UserEventMessage) -> dict[str, Any]:
    return {
        "CC": message.coalesce,
        "LTime": message.l_time,
        "Name": message.name,
        "Payload": message.payload,
    }


def _user_event(fields: Fields) -> UserEventMessage:
    return UserEventMessage(
        fields.uint("LTime"), fields.text("Name"), fields.raw("Payload"), fields.flag("CC")
    )


def _query_map(message: Query) -> dict[str, Any]:
    return {
        "Addr": message.address,
        "Filters": list(message.filters) or None,
        "Flags": message.flags,
        "ID": message.query_id,
        "LTime": message.l_time,
        "Name": message.name,
        "Payload": message.payload,
        "Port": message.port,
        "RelayFactor": message.relay_factor,
        "SourceNode": message.source,
        "Timeout": message.timeout_ns,
    }


def _query(fields: Fields) -> Query:
    return Query(
        l_time=fields.uint("LTime"),
        query_id=fields.uint("ID", 32),
        address=fields.raw("Addr") or b"",
        port=fields.uint("Port", 16),
        source=fields.text("SourceNode"),
        filters=tuple(fields.raws("Filters", FILTERS_MAX)),
        flags=fields.uint("Flags", 32),
        relay_factor=fields.uint("RelayFactor", 8),
        timeout_ns=fields.int64("Timeout"),
        name=fields.text("Name"),
        payload=fields.raw("Payload"),
    )


def _query_response_map(message: QueryResponse) -> dict[str, Any]:
    return {
        "Flags": message.flags,
        "From": message.node,
        "ID": message.query_id,
        "LTime": message.l_time,
        "Payload": message.payload,
    }


def _query_response(fields: Fields) -> QueryResponse:
    return QueryResponse(
        fields.uint("LTime"),
        fields.uint("ID", 32),
        fields.text("From"),
        fields.uint("Flags", 32),
        fields.raw("Payload"),
    )


def _conflict_map(message: ConflictResponse) -> dict[str, Any]:
    member = message.member
    return {
        "Addr": message.address,
        "DelegateCur": member.delegate_current,
        "DelegateMax": member.delegate_max,
        "DelegateMin": member.delegate_min,
        "Name": member.name,
        "Port": member.port,
        "ProtocolCur": member.protocol_current,
        "ProtocolMax": member.protocol_max,
        "ProtocolMin": member.protocol_min,
        "Status": int(member.status),
        "Tags": dict(member.tags),
    }


def _conflict(fields: Fields) -> ConflictResponse:
    status = fields.uint("Status", 8)
    member = Member(
        name=fields.text("Name"),
        address="",
        port=fields.uint("Port", 16),
        tags=fields.text_map("Tags", 256),
        status=MemberStatus(status) if status <= 4 else MemberStatus.NONE,
        protocol_min=fields.uint("ProtocolMin", 8),
        protocol_max=fields.uint("ProtocolMax", 8),
        protocol_current=fields.uint("ProtocolCur", 8),
        delegate_min=fields.uint("DelegateMin", 8),
        delegate_max=fields.uint("DelegateMax", 8),
        delegate_current=fields.uint("DelegateCur", 8),
    )
    return ConflictResponse(member, fields.raw("Addr") or b"")


def _key_request_map(message: KeyRequest) -> dict[str, Any]:
    return {"Key": message.key}


def _key_request(fields: Fields) -> KeyRequest:
    return KeyRequest(fields.raw("Key") or b"")


def _key_response_map(message: KeyResponse) -> dict[str, Any]:
    return {
        "Keys": None if message.keys is None else list(message.keys),
        "Message": message.message,
        "PrimaryKey": message.primary_key,
        "Result": message.result,
    }


def _key_response(fields: Fields) -> KeyResponse:
    return KeyResponse(
        fields.flag("Result"),
        fields.text("Message"),
        tuple(fields.texts("Keys", KEYS_MAX)),
        fields.text("PrimaryKey"),
    )


def _relay_map(message: Relay) -> dict[str, Any]:
    return {
        "DestAddr": {"IP": message.address, "Port": message.port, "Zone": message.zone},
        "DestName": message.name,
    }


def _relay(fields: Fields, inner: bytes = b"") -> Relay:
    destination = Fields(fields.any("DestAddr"), ("IP", "Port", "Zone"))
    return Relay(
        address=destination.raw("IP") or b"",
        port=destination.uint("Port", 16),
        name=fields.text("DestName"),
        inner=inner,
        zone=destination.text("Zone"),
    )


_ENCODERS: dict[type, tuple[int, Callable[[Any], dict[str, Any]]]] = {
    LeaveIntent: (0, _leave_intent_map),
    JoinIntent: (1, _join_intent_map),
    State: (2, _state_map),
    UserEventMessage: (3, _user_event_map),
    Query: (4, _query_map),
    QueryResponse: (5, _query_response_map),
    ConflictResponse: (6, _conflict_map),
    KeyRequest: (7, _key_request_map),
    KeyResponse: (8, _key_response_map),
    Relay: (9, _relay_map),
}

#: Per type byte the fields in order of declaration (a struct may be sent as a bare array), and what
#: makes a message of them.
_DECODERS: dict[int, tuple[tuple[str, ...], Callable[[Fields], SerfMessage]]] = {
    0: (("LTime", "Node", "Prune"), _leave_intent),
    1: (("LTime", "Node"), _join_intent),
    2: (
        ("LTime", "StatusLTimes", "LeftMembers", "EventLTime", "Events", "QueryLTime"),
        _state,
    ),
    3: (("LTime", "Name", "Payload", "CC"), _user_event),
    4: (
        (
            "LTime",
            "ID",
            "Addr",
            "Port",
            "SourceNode",
            "Filters",
            "Flags",
            "RelayFactor",
            "Timeout",
            "Name",
            "Payload",
        ),
        _query,
    ),
    5: (("LTime", "ID", "From", "Flags", "Payload"), _query_response),
    6: ((), _conflict),
    7: (("Key",), _key_request),
    8: (("Result", "Message", "Keys", "PrimaryKey"), _key_response),
    9: (("DestAddr", "DestName"), _relay),
}


# Values that ride in fields of the lower layer.


def encode_tags(tags: dict[str, str]) -> bytes:
    """A node's meta."""
    return bytes([_TAGS_MAGIC]) + pack(tags)


def decode_tags(meta: bytes) -> dict[str, str]:
    """Meta without the magic byte is the value of `role`. Raises `RemoteProtocolError`."""
    if not meta or meta[0] != _TAGS_MAGIC:
        return {"role": meta.decode(errors="replace")}
    value, _ = unpack_prefix(meta[1:])
    return Fields({b"tags": value}).text_map("tags", 512)


def encode_coordinate(coordinate: Coordinate) -> bytes:
    """The payload of an acknowledgement."""
    fields = {
        "Adjustment": float(coordinate.adjustment),
        "Error": float(coordinate.error),
        "Height": float(coordinate.height),
        "Vec": [float(part) for part in coordinate.vec],
    }
    return bytes([_COORDINATE_VERSION]) + pack(fields)


def decode_coordinate(payload: bytes) -> Coordinate | None:
    """None when there is none, or of a version that we do not know; may raise as `decode`."""
    if not payload or payload[0] != _COORDINATE_VERSION:
        return None
    value, _ = unpack_prefix(payload[1:])
    fields = Fields(value, ("Vec", "Error", "Adjustment", "Height"))
    return Coordinate(
        tuple(fields.numbers("Vec", 64)),
        fields.number("Error"),
        fields.number("Adjustment"),
        fields.number("Height"),
    )
