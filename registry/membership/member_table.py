"""The Serf layer's members: the lower layer says *that* a node went, intents say *what that means*.

             join intent                   lower layer: dead
    alive <--------------> leaving ---------------------------> left
      |      leave intent                                        ^
      |                                    leave intent          |
      +--- lower layer: dead ---> failed ------------------------+

Each member has a *status time*, the Lamport time of the last intent that was accepted about it. An
intent that is not newer is a repeat or has been overtaken. A graceful leave therefore needs both
the intent and the lower layer's word, the intent first; a node that only falls silent has failed.

Pure: methods change the table and return what is to be told. Source: gossip sheet, 8.2, 8.3, 8.8.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from registry.membership.intents import IntentKind, RecentIntents
from registry.membership.serf_values import Member, MemberEvent, MemberEventKind, MemberStatus

_GONE = (MemberStatus.LEFT, MemberStatus.FAILED)


@dataclass(slots=True)
class _Entry:
    member: Member
    status_time: int
    gone_at_ms: int = 0

    def become(self, status: MemberStatus) -> Member:
        self.member = msgspec.structs.replace(self.member, status=status)
        return self.member


@dataclass(slots=True)
class Verdict:
    """What follows from an intent."""

    gossip_on: bool = False
    event: MemberEvent | None = None
    #: The member is to be erased: now, or once its leave had time to get around.
    prune: bool = False


class MemberTable:
    """Every member that is known, in whatever state."""

    def __init__(self, *, recent_intent_timeout_ms: int) -> None:
        self._entries: dict[str, _Entry] = {}
        self._intents = RecentIntents(recent_intent_timeout_ms)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[Member]:
        return (entry.member for entry in self._entries.values())

    def get(self, name: str) -> Member | None:
        entry = self._entries.get(name)
        return entry.member if entry else None

    def having(self, *statuses: MemberStatus) -> list[Member]:
        return [member for member in self if member.status in statuses]

    def status_times(self) -> dict[str, int]:
        return {name: entry.status_time for name, entry in self._entries.items()}

    # What the lower layer says.

    def joined(self, node: Member) -> MemberEvent:
        """The node is alive; one that was unknown begins as its buffered intent has it."""
        entry = self._entries.get(node.name)
        if entry is None:
            entry = self._entries[node.name] = self._begin(node)
        else:
            entry.member = msgspec.structs.replace(node, status=MemberStatus.ALIVE)
        return MemberEvent(MemberEventKind.JOIN, entry.member)

    def _begin(self, node: Member) -> _Entry:
        intent = self._intents.get(node.name)
        leaves = intent is not None and intent.kind is IntentKind.LEAVE
        status = MemberStatus.LEAVING if leaves else MemberStatus.ALIVE
        member = msgspec.structs.replace(node, status=status)
        return _Entry(member, intent.l_time if intent else 0)

    def gone(self, name: str, now_ms: int) -> MemberEvent | None:
        """The node is dead to the lower layer, whether it said so itself or not."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        if entry.member.status is MemberStatus.LEAVING:
            kind, status = MemberEventKind.LEAVE, MemberStatus.LEFT
        elif entry.member.status is MemberStatus.ALIVE:
            kind, status = MemberEventKind.FAILED, MemberStatus.FAILED
        else:
            return None
        entry.gone_at_ms = now_ms
        return MemberEvent(kind, entry.become(status))

    def updated(self, node: Member) -> MemberEvent | None:
        """The node has other tags, another address or other versions."""
        entry = self._entries.get(node.name)
        if entry is None:
            return None
        entry.member = msgspec.structs.replace(node, status=entry.member.status)
        return MemberEvent(MemberEventKind.UPDATE, entry.member)

    # What intents say.

    def join_intent(self, name: str, l_time: int, now_ms: int) -> Verdict:
        entry = self._entries.get(name)
        if entry is None:
            return Verdict(self._intents.remember(IntentKind.JOIN, name, l_time, now_ms))
        if l_time <= entry.status_time:
            return Verdict()
        entry.status_time = l_time
        if entry.member.status is MemberStatus.LEAVING:
            entry.become(MemberStatus.ALIVE)
        return Verdict(gossip_on=True)

    def is_stale(self, name: str, l_time: int) -> bool:
        """Whether a known member has accepted an intent as new as `l_time`."""
        entry = self._entries.get(name)
        return entry is not None and l_time <= entry.status_time

    def leave_intent(
        self, name: str, l_time: int, now_ms: int, *, prune: bool = False, is_guess: bool = False
    ) -> Verdict:
        """`is_guess`: the time is not that of an intent, but one above the last that is known.

        It is then compared, and not kept: a contradiction may have just that time.
        """
        entry = self._entries.get(name)
        kept_time = l_time - 1 if is_guess else l_time
        if entry is None:
            return Verdict(self._intents.remember(IntentKind.LEAVE, name, kept_time, now_ms))
        if l_time <= entry.status_time:
            return Verdict()
        entry.status_time = kept_time
        if entry.member.status is MemberStatus.ALIVE:
            entry.become(MemberStatus.LEAVING)
        elif entry.member.status is MemberStatus.FAILED:
            event = MemberEvent(MemberEventKind.LEAVE, entry.become(MemberStatus.LEFT))
            return Verdict(gossip_on=True, event=event, prune=prune)
        return Verdict(gossip_on=True, prune=prune)

    # What time does.

    def erase(self, name: str) -> MemberEvent | None:
        """Forget a member that is gone (or leaving); one that came back meanwhile stays."""
        entry = self._entries.get(name)
        if entry is None or entry.member.status is MemberStatus.ALIVE:
            return None
        del self._entries[name]
        return MemberEvent(MemberEventKind.REAP, entry.member)

    def due(self, now_ms: int, *, failed_after_ms: int, left_after_ms: int) -> list[str]:
        """Names of members that have been gone for too long to be kept. Old intents are dropped."""
        self._intents.expire(now_ms)
        keep_ms = {MemberStatus.FAILED: failed_after_ms, MemberStatus.LEFT: left_after_ms}
        return [
            name
            for name, entry in self._entries.items()
            if entry.member.status in _GONE
            and now_ms - entry.gone_at_ms > keep_ms[entry.member.status]
        ]
