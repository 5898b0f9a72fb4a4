"""Intents about members whom the lower layer has not told us of yet.

A join or leave intent may overtake the alive message of its node. It is kept for a while and
decides in what state the member begins. Only the newest per node counts, whichever kind it is.

Source: gossip sheet, section 8.3.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

#: Anybody can send intents about names that do not exist; the oldest is forgotten for a new one.
INTENTS_MAX = 4096


class IntentKind(enum.Enum):
    JOIN = "join"
    LEAVE = "leave"


@dataclass(slots=True, frozen=True)
class Intent:
    kind: IntentKind
    l_time: int
    heard_at_ms: int


class RecentIntents:
    """The newest intent per unknown node, for `keep_ms`."""

    def __init__(self, keep_ms: int) -> None:
        self._keep_ms = keep_ms
        self._intents: dict[str, Intent] = {}

    def __len__(self) -> int:
        return len(self._intents)

    def remember(self, kind: IntentKind, node: str, l_time: int, now_ms: int) -> bool:
        """Keep it if it is newer than what is kept; only then is it worth gossiping on."""
        kept = self._intents.get(node)
        if kept is not None and l_time <= kept.l_time:
            return False
        self._intents.pop(node, None)  # so that the order of the dict is the order of hearing
        if len(self._intents) >= INTENTS_MAX:
            del self._intents[next(iter(self._intents))]
        self._intents[node] = Intent(kind, l_time, now_ms)
        return True

    def get(self, node: str) -> Intent | None:
        return self._intents.get(node)

    def expire(self, now_ms: int) -> None:
        stale = [
            node
            for node, intent in self._intents.items()
            if now_ms - intent.heard_at_ms > self._keep_ms
        ]
        for node in stale:
            del self._intents[node]
