"""What the Serf layer tells and asks of the world around it: members, events and effects."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from registry.membership.seam import Notice


class MemberStatus(enum.IntEnum):
    """What the pool believes of a member; the numbers are those of the wire and of the API."""

    NONE = 0
    ALIVE = 1
    LEAVING = 2
    LEFT = 3
    FAILED = 4


class Member(msgspec.Struct, frozen=True):
    """One member of the pool, as it is at one moment."""

    name: str
    address: str
    port: int
    tags: Mapping[str, str] = {}
    status: MemberStatus = MemberStatus.ALIVE
    protocol_min: int = 1
    protocol_max: int = 5
    protocol_current: int = 2
    delegate_min: int = 2
    delegate_max: int = 5
    delegate_current: int = 4


class MemberEventKind(enum.Enum):
    JOIN = "member-join"
    LEAVE = "member-leave"
    FAILED = "member-failed"
    UPDATE = "member-update"
    REAP = "member-reap"


class MemberEvent(msgspec.Struct, frozen=True):
    kind: MemberEventKind
    member: Member


class UserEvent(msgspec.Struct, frozen=True):
    l_time: int
    name: str
    payload: bytes = b""
    coalesce: bool = False


class QueryEvent(msgspec.Struct, frozen=True):
    """Somebody asks. Answer with `SerfCore.respond`, once, before the deadline."""

    l_time: int
    query_id: int
    name: str
    payload: bytes
    source: str
    deadline_ms: int
    reply_to: tuple[str, int]
    relay_factor: int = 0


Event: TypeAlias = MemberEvent | UserEvent | QueryEvent


class Deliver(msgspec.Struct, frozen=True):
    """Tell the listeners."""

    event: Event


class QueryAnswer(msgspec.Struct, frozen=True):
    """An answer to a query of ours, or with `is_ack` the acknowledgement that it came through."""

    query_id: int
    node: str
    payload: bytes = b""
    is_ack: bool = False


class QueryClosed(msgspec.Struct, frozen=True):
    """The deadline of a query of ours has passed: nothing more will come."""

    query_id: int


class PersistKeyring(msgspec.Struct, frozen=True):
    """The ring has changed: write it, then call `SerfCore.keyring_persisted` with `token`."""

    token: int
    keys: tuple[bytes, ...]


class Left(msgspec.Struct, frozen=True):
    """The leave is through: the sockets may be closed."""


class NameLost(msgspec.Struct, frozen=True):
    """Most of the pool knows another node by our name: stop, without leaving."""

    matching: int
    answers: int


SerfOutput: TypeAlias = (
    Deliver | QueryAnswer | QueryClosed | PersistKeyring | Left | NameLost | Notice
)
