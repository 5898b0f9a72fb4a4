"""User events of one agent."""

import asyncio

import pytest

from registry.agent.events import EVENTS_KEPT, LocalEvents, UserEvent, check_event, concerns
from registry.errors import Rejected, TooLarge


def event(name: str = "deploy", **fields: object) -> UserEvent:
    return UserEvent(id="", name=name, **fields)  # type: ignore[arg-type]


async def test_only_the_last_events_are_kept() -> None:
    events = LocalEvents()
    for number in range(EVENTS_KEPT + 5):
        await events.fire(event(f"e{number}"))
    kept = events.list()
    assert (len(kept), kept[0].name, kept[-1].l_time) == (EVENTS_KEPT, "e5", EVENTS_KEPT + 5)


async def test_an_event_wakes_all_who_wait() -> None:
    events = LocalEvents()
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(events.wait(60)) for _ in range(3)]
        await asyncio.sleep(0)
        await events.fire(event())
    assert [task.result() for task in waiting] == [True] * 3
    assert await events.wait(0.001) is False


async def test_an_event_that_does_not_concern_this_node_is_not_kept() -> None:
    events = LocalEvents(lambda event: event.name == "mine")
    await events.fire(event("other"))
    await events.fire(event("mine"))
    assert [(kept.name, kept.l_time) for kept in events.list()] == [("mine", 2)]


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, True),
        ({"node_filter": "^n"}, True),
        ({"node_filter": "^x"}, False),
        ({"service_filter": "web"}, True),
        ({"service_filter": "db"}, False),
        ({"service_filter": "web", "tag_filter": "v1"}, True),
        ({"service_filter": "web", "tag_filter": "v2"}, False),
    ],
)
def test_filters(fields: dict[str, object], wanted: bool) -> None:
    assert concerns(event(**fields), "n1", {"web": ["v1"]}) is wanted


def test_a_filter_that_would_backtrack_for_ever_is_answered_at_once() -> None:
    assert not concerns(event(node_filter="(a+)+$"), "a" * 60 + "!", {})


def test_a_filter_that_is_no_pattern_is_refused_and_lets_nothing_pass() -> None:
    with pytest.raises(Rejected, match="Invalid node filter: error parsing regexp: "):
        check_event(event(node_filter="("))
    assert not concerns(event(node_filter="("), "(", {})


def test_the_size_limit_counts_the_name_twice() -> None:
    check_event(event("n" * 10, payload=b"x" * 425))
    with pytest.raises(TooLarge, match="512 bytes before encoding"):
        check_event(event("n" * 10, payload=b"x" * 426))


def test_a_tag_filter_needs_a_service_filter() -> None:
    with pytest.raises(Rejected, match="Cannot provide tag filter without service filter"):
        check_event(event(tag_filter="v1"))
