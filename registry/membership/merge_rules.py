"""Who may be in a pool with us: checked for each alive message and for each join as a whole.

Source: gossip sheet, section 12.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from registry.membership.agent_tags import UNIQUE_IDS_SINCE, build_of, is_client, read_server
from registry.membership.serf_values import Member, MemberStatus


class MergeRules(Protocol):
    """Says why these members, as somebody presents them, must not come in; None when they may."""

    def objection(self, members: Sequence[Member]) -> str | None: ...


class OpenRules:
    """Anybody may come in."""

    def objection(self, members: Sequence[Member]) -> str | None:
        return None


class LanRules:
    """Agents of one datacenter and segment, no two of them with the same id."""

    def __init__(self, *, name: str, node_id: str, datacenter: str, segment: str = "") -> None:
        self._name = name
        self._node_id = node_id
        self._datacenter = datacenter
        self._segment = segment

    def objection(self, members: Sequence[Member]) -> str | None:
        ids: dict[str, str] = {}
        for member in members:
            if reason := self._id_objection(member, ids) or self._place_objection(member):
                return reason
        return None

    def _id_objection(self, member: Member, ids: dict[str, str]) -> str | None:
        node_id = member.tags.get("id", "")
        if not node_id or member.status is MemberStatus.LEFT:
            return None
        if node_id == self._node_id and member.name != self._name:
            return _same_id(member, "this agent's ID")
        holder = ids.setdefault(node_id, member.name)
        if holder != member.name and _has_unique_id(member):
            return _same_id(member, f"member '{holder}'")
        return None

    def _place_objection(self, member: Member) -> str | None:
        datacenter = member.tags.get("dc", "")
        belongs = is_client(member.tags) or read_server(member.tags) is not None
        if belongs and datacenter != self._datacenter:
            return f"Member '{member.name}' part of wrong datacenter '{datacenter}'"
        segment = member.tags.get("segment", "")
        if segment != self._segment:
            return (
                f"Member '{member.name}' part of wrong segment '{segment}'"
                f" (expected '{self._segment}')"
            )
        return None


class WanRules:
    """Servers, of whatever datacenter."""

    def objection(self, members: Sequence[Member]) -> str | None:
        for member in members:
            if read_server(member.tags) is None:
                return f"Member '{member.name}' is not a server"
        return None


def _same_id(member: Member, whose: str) -> str:
    return f"Member '{member.name}' has conflicting node ID '{member.tags['id']}' with {whose}"


def _has_unique_id(member: Member) -> bool:
    try:
        return build_of(member.tags) >= UNIQUE_IDS_SINCE
    except ValueError:
        return False
