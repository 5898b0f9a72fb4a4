"""Members that are forgotten: gone for too long, or put out by force with `prune`.

Source: gossip sheet, section 8.8.
"""

from __future__ import annotations

from registry.membership.context import SerfContext
from registry.membership.coordinate import CoordinateClient
from registry.membership.serf_values import MemberStatus


class Reaper:
    """Erases members from both layers, and says so."""

    def __init__(self, context: SerfContext, coordinates: CoordinateClient) -> None:
        self._context = context
        self._coordinates = coordinates
        self._reap_at_ms = context.now_ms + context.config.reap_interval_ms
        self._prunes: list[tuple[int, str]] = []  # (when, who)

    def next_deadline_ms(self) -> int:
        return min([self._reap_at_ms, *(at_ms for at_ms, _ in self._prunes)])

    def advance(self) -> None:
        now_ms = self._context.now_ms
        self._prune_due(now_ms)
        if now_ms >= self._reap_at_ms:
            self._reap_at_ms = now_ms + self._context.config.reap_interval_ms
            self._reap(now_ms)

    def _reap(self, now_ms: int) -> None:
        config = self._context.config
        for name in self._context.members.due(
            now_ms,
            failed_after_ms=config.reconnect_timeout_ms,
            left_after_ms=config.tombstone_timeout_ms,
        ):
            self._erase(name)

    def prune(self, name: str) -> None:
        """Erase a member, but one that is leaving only once it is gone.

        A leaving member is still there. Either it is about to go, or it was put out by force and
        has contradicted, which we may have missed: erased, it would be missing here for good, as
        the lower layer, to which it never went, does not announce it again. (The real agent erases
        it after this delay in any case.)
        """
        member = self._context.members.get(name)
        if member is not None and member.status is MemberStatus.LEAVING:
            config = self._context.config
            delay_ms = config.broadcast_timeout_ms + config.leave_propagate_delay_ms
            self._prunes.append((self._context.now_ms + delay_ms, name))
        else:
            self._erase(name)

    def _prune_due(self, now_ms: int) -> None:
        due = [name for at_ms, name in self._prunes if at_ms <= now_ms]
        if due:
            self._prunes = [prune for prune in self._prunes if prune[0] > now_ms]
        for name in due:
            self.prune(name)

    def _erase(self, name: str) -> None:
        event = self._context.members.erase(name)
        if event is not None:
            self._coordinates.forget(name)
            self._context.lower.forget(name)
            self._context.deliver(event)
