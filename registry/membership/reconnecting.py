"""Failed members are tried again, so that the halves of a parted pool find each other.

Source: gossip sheet, section 8.8.
"""

from __future__ import annotations

from registry.membership.context import Phase, SerfContext
from registry.membership.serf_values import MemberStatus


class Reconnecting:
    """Tries a failed member now and then; the pool as a whole tries each about once per interval.

    Nodes that start together, or saw the same failure, shall not try all at one moment: after a
    partition somebody tries soon then, wherever in the interval it ends.
    """

    def __init__(self, context: SerfContext) -> None:
        self._context = context
        interval_ms = context.config.reconnect_interval_ms
        self._due_at_ms = context.now_ms + int(context.rng.random() * interval_ms)

    def next_deadline_ms(self) -> int:
        return self._due_at_ms

    def advance(self) -> None:
        now_ms = self._context.now_ms
        if now_ms >= self._due_at_ms:
            self._due_at_ms = now_ms + self._context.config.reconnect_interval_ms
            self._try_one()

    def _try_one(self) -> None:
        context = self._context
        failed = context.members.having(MemberStatus.FAILED)
        if not failed or context.phase is not Phase.ALIVE:
            return
        alive = len(context.members.having(MemberStatus.ALIVE))
        if context.rng.random() < len(failed) / max(1, alive):
            member = context.rng.choice(failed)
            context.lower.rejoin((member.address, member.port))
