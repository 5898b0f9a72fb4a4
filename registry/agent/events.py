"""User events as one agent has seen them: the last 256, and who waits for the next.

An event list has no Raft index: its index is made of the id of the last event in it, so it can
only be compared for equality (surface 1.1). Until events travel by gossip, an event is seen by the
agent that it was fired at.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from base64 import b64encode
from collections import deque
from collections.abc import Callable

import msgspec

from registry.errors import Rejected, TooLarge
from registry.state.regexp import PatternError, compile_pattern

EVENTS_KEPT = 256

#: The largest event, encoded as below; gossip packets have room for no more.
EVENT_BYTES_MAX = 512

#: What the encoding adds: the id, field names and lengths, and the prefix of the name outside. The
#: name is there twice, outside and in the encoded event.
_ENVELOPE_BYTES = 67
_FILTER_BYTES = 5


class UserEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event; the filters are regular expressions, "" for none."""

    id: str
    name: str
    payload: bytes = b""
    node_filter: str = ""
    service_filter: str = ""
    tag_filter: str = ""
    version: int = 1
    l_time: int = 0  # Lamport time, 0 until the event was received

    def to_api(self) -> dict[str, object]:
        return {
            "ID": self.id,
            "Name": self.name,
            "Payload": b64encode(self.payload).decode() if self.payload else None,
            "NodeFilter": self.node_filter,
            "ServiceFilter": self.service_filter,
            "TagFilter": self.tag_filter,
            "Version": self.version,
            "LTime": self.l_time,
        }


def check_event(event: UserEvent) -> None:
    """Raises `Rejected` or `TooLarge` with the text that clients know."""
    if event.tag_filter and not event.service_filter:
        raise Rejected("Cannot provide tag filter without service filter")
    for kind in ("node", "service", "tag"):
        pattern = getattr(event, f"{kind}_filter")
        try:
            compile_pattern(pattern)
        except PatternError as problem:
            raise Rejected(f"Invalid {kind} filter: error parsing regexp: {problem}") from problem
    if _encoded_size(event) > EVENT_BYTES_MAX:
        raise TooLarge(
            f"user event exceeds configured limit of {EVENT_BYTES_MAX} bytes before encoding"
        )


def _encoded_size(event: UserEvent) -> int:
    filters = (event.node_filter, event.service_filter, event.tag_filter)
    size = _ENVELOPE_BYTES + 2 * _bytes(event.name) + len(event.payload)
    return size + sum(_FILTER_BYTES + _bytes(text) for text in filters if text)


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


class LocalEvents:
    """Implements `registry.agent.facade.Events`.

    `wanted` says whether an event with filters concerns this node; one that does not is not kept.
    """

    def __init__(self, wanted: Callable[[UserEvent], bool] = lambda event: True) -> None:
        self._wanted = wanted
        self._kept: deque[UserEvent] = deque(maxlen=EVENTS_KEPT)
        self._clock = 0
        self._changed = asyncio.Event()

    async def fire(self, event: UserEvent) -> UserEvent:
        """Give the event an id and have it seen. Raises `Rejected`, `TooLarge`."""
        check_event(event)
        fired = msgspec.structs.replace(event, id=str(uuid.uuid4()))
        self.receive(fired)
        return fired

    def receive(self, event: UserEvent) -> None:
        """Take in an event, from here or from another node."""
        self._clock += 1
        if not self._wanted(event):
            return
        self._kept.append(msgspec.structs.replace(event, l_time=self._clock))
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def list(self, name: str = "") -> list[UserEvent]:
        """Oldest first; of one name, or all."""
        return [event for event in self._kept if not name or event.name == name]

    async def wait(self, timeout_s: float) -> bool:
        """Until the next event comes; False when none did in time."""
        changed = self._changed
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await changed.wait()
        return changed.is_set()


def concerns(event: UserEvent, node: str, services: dict[str, list[str]]) -> bool:
    """Whether the event's filters let it pass on a node with these services and their tags.

    A filter that is no pattern, from a node that did not check it, lets nothing pass.
    """
    try:
        return _concerns(event, node, services)
    except PatternError:
        return False


def _concerns(event: UserEvent, node: str, services: dict[str, list[str]]) -> bool:
    if not _passes(event.node_filter, node):
        return False
    if not event.service_filter:
        return True
    return any(
        _passes(event.service_filter, service)
        and (not event.tag_filter or any(_passes(event.tag_filter, tag) for tag in tags))
        for service, tags in services.items()
    )


def _passes(pattern: str, text: str) -> bool:
    return not pattern or compile_pattern(pattern).found_in(text)
