"""Events to listeners: in order, and no slow one holds up the rest."""

from __future__ import annotations

import asyncio

from registry.membership.serf_values import Event, UserEvent
from registry.membership.shell.listeners import BACKLOG_MAX, Listeners


async def test_each_listener_hears_everything_in_order() -> None:
    listeners = Listeners()
    with listeners.add() as first, listeners.add() as second:
        for number in range(3):
            listeners.put(UserEvent(number, "e"))
        listeners.close()
        for stream in (first, second):
            heard = [event async for event in stream]
            assert heard == [UserEvent(number, "e") for number in range(3)]


async def test_an_event_wakes_who_waits() -> None:
    listeners = Listeners()
    heard: list[Event] = []

    async def listen() -> None:
        with listeners.add() as stream:
            async for event in stream:
                heard.append(event)
                return

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(listen())
        await asyncio.sleep(0)
        listeners.put(UserEvent(1, "e"))
    assert heard == [UserEvent(1, "e")]
    listeners.put(UserEvent(2, "e"))  # nobody is left to hear it
    assert len(heard) == 1


async def test_who_is_too_slow_loses_the_oldest() -> None:
    listeners = Listeners()
    stream = listeners.add()
    for number in range(BACKLOG_MAX + 5):
        listeners.put(UserEvent(number, "e"))
    assert stream.dropped == 5
    assert await anext(stream) == UserEvent(5, "e")
