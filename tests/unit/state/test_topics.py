"""Topics wake exactly those who wait for what was touched, without polling."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from registry.state.topics import (
    ALL,
    Topic,
    TopicHub,
    kv_prefix_topic,
    kv_topic,
    table_topic,
)


@pytest.mark.parametrize(
    ("waited", "published", "wakes"),
    [
        pytest.param(kv_topic(b"a/b"), kv_topic(b"a/b"), True, id="the key"),
        pytest.param(kv_topic(b"a/b"), kv_topic(b"a/c"), False, id="another key"),
        pytest.param(kv_topic(b"a"), kv_topic(b"a/b"), False, id="a key below"),
        pytest.param(kv_prefix_topic(b"a/"), kv_topic(b"a/b"), True, id="prefix"),
        pytest.param(kv_prefix_topic(b"a/b"), kv_topic(b"a/b"), True, id="whole key as prefix"),
        pytest.param(kv_prefix_topic(b"a/b"), kv_topic(b"a/"), False, id="longer than the key"),
        pytest.param(kv_prefix_topic(b""), kv_topic(b"a"), True, id="everything"),
        pytest.param(kv_prefix_topic(b"\xc3"), kv_topic(b"\xc3\xa9"), True, id="half a character"),
        pytest.param(kv_prefix_topic(b"a"), table_topic("a"), False, id="another kind"),
        pytest.param(table_topic("nodes"), table_topic("nodes"), True, id="table"),
        pytest.param(table_topic("nodes"), ALL, True, id="restore"),
        pytest.param(kv_prefix_topic(b"zz"), ALL, True, id="restore wakes prefixes"),
    ],
)
def test_who_wakes(waited: Topic, published: Topic, wakes: bool) -> None:
    hub = TopicHub()
    with hub.waiting([waited]) as waiter:
        hub.publish(frozenset({published}))
        assert waiter.event.is_set() is wakes


def test_one_of_several_topics_is_enough() -> None:
    hub = TopicHub()
    with hub.waiting([kv_topic(b"a"), table_topic("nodes")]) as waiter:
        hub.publish(frozenset({table_topic("nodes")}))
        assert waiter.event.is_set()


def test_listeners_get_the_published_set_before_waiters_run() -> None:
    hub = TopicHub()
    heard: list[frozenset[Topic]] = []
    hub.listen(heard.append)
    hub.publish(frozenset({table_topic("nodes")}))
    assert heard == [frozenset({table_topic("nodes")})]


def test_nothing_is_left_of_those_who_went() -> None:
    hub = TopicHub()
    with ExitStack() as stack:
        for number in range(3):
            stack.enter_context(hub.waiting([kv_prefix_topic(b"a" * number), kv_topic(b"k")]))
        assert len(hub) == 4
    assert len(hub) == 0
    hub.publish(frozenset({kv_topic(b"aaa")}))


async def test_5000_waiters_wake_in_one_pass() -> None:
    """Each of them runs once, after one publication; nobody is asked in between."""
    hub, woken = TopicHub(), 0

    async def wait(number: int) -> None:
        nonlocal woken
        topic = kv_topic(b"hot") if number % 2 else kv_prefix_topic(b"h")
        with hub.waiting([topic]) as waiter:
            await waiter.event.wait()
            woken += 1

    async with asyncio.TaskGroup() as group:
        for number in range(5_000):
            group.create_task(wait(number))
        await asyncio.sleep(0)  # one turn of the loop: all have gone to sleep
        assert len(hub) == 2
        hub.publish(frozenset({kv_topic(b"cold")}))
        await asyncio.sleep(0)
        assert woken == 0
        hub.publish(frozenset({kv_topic(b"hot")}))
        await asyncio.sleep(0)
        assert woken == 5_000
