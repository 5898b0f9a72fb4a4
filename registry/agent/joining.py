"""Joining other agents because the configuration says so: once at the start, or until it works.

`start_join` is for what must be there: nobody reached is the end of the agent. `retry_join` waits
for the others, `retry_max` tries long (0: for ever), `retry_interval` apart. One address that
answers is enough, since gossip tells of the rest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from registry.agent.config import AgentConfig
from registry.agent.durations import SECOND, format_duration
from registry.agent.facade import Membership
from registry.errors import RegistryError, Unavailable

logger = logging.getLogger("registry.agent")

#: How a string begins that asks a cloud's API for addresses.
CLOUD_PREFIX = "provider="


class JoinFailed(Unavailable):
    """None of the configured addresses could be joined."""


@dataclass(frozen=True, slots=True)
class JoinPlan:
    """What one pool's settings ask for."""

    wan: bool
    start: tuple[str, ...]
    retry: tuple[str, ...]
    interval_ns: int
    attempts_max: int  # 0: no end

    @property
    def pool(self) -> str:
        return "WAN" if self.wan else "LAN"


def join_plans(config: AgentConfig) -> tuple[JoinPlan, JoinPlan]:
    """What to do about the LAN pool and about the WAN pool."""
    return (
        JoinPlan(
            False,
            config.start_join,
            config.retry_join,
            config.retry_interval_ns,
            config.retry_max,
        ),
        JoinPlan(
            True,
            config.start_join_wan,
            config.retry_join_wan,
            config.retry_interval_wan_ns,
            config.retry_max_wan,
        ),
    )


async def join_at_start(membership: Membership, plan: JoinPlan) -> None:
    """Join once. Raises `JoinFailed`, with a line that names the remedy, when nobody answers."""
    if not plan.start:
        return
    logger.info("Joining cluster...: cluster=%s", plan.pool)
    try:
        count = await join_any(membership, plan.start, wan=plan.wan)
    except JoinFailed as problem:
        key = "retry_join_wan" if plan.wan else "retry_join"
        raise JoinFailed(f"{problem}; start that agent first, or use {key} to wait") from problem
    logger.info(
        "Join completed. Initial agents synced with: cluster=%s agents=%d", plan.pool, count
    )


async def keep_joining(membership: Membership, plan: JoinPlan) -> None:
    """Join until somebody answers; raises `JoinFailed` after the last try allowed."""
    if not plan.retry:
        return
    attempts = 0
    while True:
        attempts += 1
        logger.info("Joining cluster...: cluster=%s", plan.pool)
        try:
            count = await join_any(membership, plan.retry, wan=plan.wan)
        except JoinFailed as problem:
            # As the setting is documented: the first try is not one of the retries.
            if 0 < plan.attempts_max < attempts:
                raise JoinFailed(f"max join retry exhausted, exiting: {problem}") from problem
            logger.warning(
                "Join cluster failed, will retry: cluster=%s retry_interval=%s error=%s",
                plan.pool,
                format_duration(plan.interval_ns),
                problem,
            )
        else:
            logger.info("Join cluster completed: cluster=%s agents=%d", plan.pool, count)
            return
        await asyncio.sleep(plan.interval_ns / SECOND)


async def join_any(membership: Membership, addresses: Sequence[str], *, wan: bool) -> int:
    """How many agents answered; raises `JoinFailed` with every reason when none did."""
    count, reasons = 0, []
    for address in addresses:
        try:
            count += await _join(membership, address, wan=wan)
        except RegistryError as problem:
            reasons.append(str(problem))
    if not count:
        raise JoinFailed("; ".join(reasons))
    return count


async def _join(membership: Membership, address: str, *, wan: bool) -> int:
    if address.startswith(CLOUD_PREFIX):
        name = address.split()[0].removeprefix(CLOUD_PREFIX)
        raise Unavailable(f"Failed to join: no plugin finds addresses of the provider {name!r}")
    return await membership.join(address, wan=wan)
