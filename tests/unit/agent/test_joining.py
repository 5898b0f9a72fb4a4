"""Joining at the start: once or until it works, and what is said when it does not."""

from __future__ import annotations

import logging

import pytest

from registry.agent.config import AgentConfig
from registry.agent.facade import Member
from registry.agent.joining import (
    JoinFailed,
    JoinPlan,
    join_any,
    join_at_start,
    join_plans,
    keep_joining,
)
from registry.errors import Unavailable


class Pool:
    """Answers at the addresses in `alive`; every other one refuses. Remembers who was asked."""

    def __init__(self, *alive: str, after: int = 0) -> None:
        self.alive = alive
        self.after = after  # so many calls fail first
        self.asked: list[tuple[str, bool]] = []

    def local_member(self) -> Member:
        return Member("n", "127.0.0.1", 8301, {})

    def members(self, *, wan: bool = False) -> list[Member]:
        return [self.local_member()]

    async def join(self, address: str, *, wan: bool = False) -> int:
        self.asked.append((address, wan))
        if address in self.alive and len(self.asked) > self.after:
            return 1
        raise Unavailable(f"Failed to join {address}: connection refused")

    async def force_leave(self, node: str, *, prune: bool = False) -> None:
        raise AssertionError("nobody asked for it")


def plan(*retry: str, start: tuple[str, ...] = (), most: int = 0, wan: bool = False) -> JoinPlan:
    return JoinPlan(wan=wan, start=start, retry=retry, interval_ns=0, attempts_max=most)


def test_each_pool_has_its_own_settings() -> None:
    config = AgentConfig(
        start_join=("a",), retry_join=("b",), retry_interval_ns=1, retry_max=2,
        start_join_wan=("c",), retry_join_wan=("d",), retry_interval_wan_ns=3, retry_max_wan=4,
    )  # fmt: skip
    assert join_plans(config) == (
        JoinPlan(False, ("a",), ("b",), 1, 2),
        JoinPlan(True, ("c",), ("d",), 3, 4),
    )


async def test_one_address_that_answers_is_enough() -> None:
    assert await join_any(Pool("b", "c"), ["a", "b", "c"], wan=False) == 2


async def test_every_reason_is_told_when_nobody_answers() -> None:
    with pytest.raises(JoinFailed) as failure:
        await join_any(Pool(), ["a", "b"], wan=True)
    assert "join a:" in str(failure.value)
    assert "join b:" in str(failure.value)


async def test_a_start_without_addresses_asks_nobody() -> None:
    pool = Pool()
    await join_at_start(pool, plan())
    await keep_joining(pool, plan())
    assert pool.asked == []


async def test_a_failed_start_names_the_remedy() -> None:
    with pytest.raises(
        JoinFailed, match=r"join a: connection refused; start .* retry_join to wait"
    ):
        await join_at_start(Pool(), plan(start=("a",)))


async def test_retrying_ends_with_the_first_answer(caplog: pytest.LogCaptureFixture) -> None:
    pool = Pool("a", after=2)
    with caplog.at_level(logging.WARNING):
        await keep_joining(pool, plan("a", wan=True))
    assert pool.asked == [("a", True)] * 3
    assert len(caplog.records) == 2
    assert "Join cluster failed, will retry: cluster=WAN" in caplog.text


async def test_retrying_ends_after_the_last_retry() -> None:
    pool = Pool()
    with pytest.raises(JoinFailed, match="max join retry exhausted, exiting: Failed to join a"):
        await keep_joining(pool, plan("a", most=2))
    assert len(pool.asked) == 3


async def test_retrying_without_a_limit_goes_on() -> None:
    pool = Pool("a", after=50)
    await keep_joining(pool, plan("a", most=0))
    assert len(pool.asked) == 51


async def test_a_provider_that_no_plugin_knows_is_named() -> None:
    pool = Pool()
    with pytest.raises(JoinFailed, match="provider 'aws'"):
        await join_any(pool, ["provider=aws tag_key=x"], wan=False)
    assert pool.asked == []
