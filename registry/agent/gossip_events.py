"""User events that travel by gossip: fired here, seen by every agent whose services they concern.

On the wire an event `NAME` of the HTTP API is a gossip event `consul:event:NAME`, whose payload is
a map in MessagePack (gossip sheet, section 12.4). It comes back to the agent that fired it like to
any other, so it is seen once, and in the same order.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from registry.agent.events import LocalEvents, UserEvent, check_event

logger = logging.getLogger("registry.agent")

PREFIX = "consul:event:"

#: Told by each new leader, with its node's name: time to compare with the catalog.
NEW_LEADER = "consul:new-leader"

#: Travels like a user event, but is remote execution's.
REMOTE_EXEC = "_rexec"


class _Wire(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event as it travels; the names are those of the protocol."""

    ID: str
    n: str
    p: bytes = b""
    nf: str = ""
    sf: str = ""
    tf: str = ""
    v: int = 0


_decoder = msgspec.msgpack.Decoder(_Wire)


def encode_event(event: UserEvent) -> bytes:
    wire = _Wire(
        ID=event.id,
        n=event.name,
        p=event.payload,
        nf=event.node_filter,
        sf=event.service_filter,
        tf=event.tag_filter,
        v=event.version,
    )
    return msgspec.msgpack.encode(wire)


def decode_event(payload: bytes) -> UserEvent:
    """Raises `ValueError` for what is no event."""
    wire = _decoder.decode(payload)
    uuid.UUID(wire.ID)
    return UserEvent(
        id=wire.ID,
        name=wire.n,
        payload=wire.p,
        node_filter=wire.nf,
        service_filter=wire.sf,
        tag_filter=wire.tf,
        version=wire.v,
    )


def _checked(event: UserEvent) -> UserEvent:
    """The event with an id. Raises `Rejected`, `TooLarge`."""
    check_event(event)
    return msgspec.structs.replace(event, id=str(uuid.uuid4()))


class SeenEvents(Protocol):
    """What an agent has seen; the rest of `registry.agent.facade.Events`."""

    def list(self, name: str = "") -> list[UserEvent]: ...
    async def wait(self, timeout_s: float) -> bool: ...


class EventsElsewhere:
    """`registry.agent.facade.Events` that are fired in another datacenter; those that are listed
    are still the ones that this agent has seen."""

    def __init__(self, seen: SeenEvents, send: Callable[[str, bytes], Awaitable[None]]) -> None:
        self._seen, self._send = seen, send

    async def fire(self, event: UserEvent) -> UserEvent:
        """Give the event an id and send it. Raises `Rejected`, `TooLarge`, `NoPath`."""
        fired = _checked(event)
        await self._send(fired.name, encode_event(fired))
        return fired

    def list(self, name: str = "") -> list[UserEvent]:
        return self._seen.list(name)

    async def wait(self, timeout_s: float) -> bool:
        return await self._seen.wait(timeout_s)


class GossipEvents(LocalEvents):
    """`registry.agent.facade.Events` over a pool. `send` puts a gossip event out."""

    def __init__(
        self, send: Callable[[str, bytes], None], wanted: Callable[[UserEvent], bool]
    ) -> None:
        super().__init__(wanted)
        self._send = send

    async def fire(self, event: UserEvent) -> UserEvent:
        """Give the event an id and gossip it. Raises `Rejected`, `TooLarge`."""
        fired = _checked(event)
        self._send(PREFIX + fired.name, encode_event(fired))
        return fired

    def receive_gossip(self, name: str, payload: bytes) -> None:
        """Take in what the pool delivered under a name with our prefix."""
        try:
            self.receive(decode_event(payload))
        except (ValueError, msgspec.MsgspecError) as problem:
            logger.warning("dropped an event that cannot be read: name=%s error=%s", name, problem)
