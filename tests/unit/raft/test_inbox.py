"""What waits for the loop's next step: how much of it, and how much a step takes."""

from __future__ import annotations

import asyncio

from registry.raft.inbox import Inbox
from registry.raft.messages import AppendRequest, Entry, EntryKind, HeartbeatRequest


def heartbeat(round_: int = 1) -> HeartbeatRequest:
    return HeartbeatRequest(sender="b", receiver="a", term=1, round=round_)


def append(entries: int) -> AppendRequest:
    return AppendRequest(
        sender="b",
        receiver="a",
        term=1,
        prev_index=0,
        prev_term=0,
        entries=tuple(Entry(n + 1, 1, EntryKind.COMMAND) for n in range(entries)),
    )


async def test_messages_beyond_the_limit_are_dropped_and_counted() -> None:
    inbox = Inbox(2)
    for round_ in range(5):
        inbox.receive(heartbeat(round_))
    assert inbox.dropped == 3
    assert inbox.take_messages(64) == [heartbeat(0), heartbeat(1)], "the first to come are kept"
    inbox.receive(heartbeat(7))
    assert inbox.dropped == 3, "there is room again"


async def test_a_step_takes_few_entries_and_comes_again_for_the_rest() -> None:
    inbox = Inbox(100)
    messages = [append(3), append(3), heartbeat(), append(3)]
    for message in messages:
        inbox.receive(message)
    await inbox.wait()
    assert inbox.take_messages(4) == messages[:2], "as many as there are, up to the one too many"
    async with asyncio.timeout(1):
        await inbox.wait()
    assert inbox.take_messages(4) == messages[2:]


async def test_requests_are_taken_once_and_one_made_meanwhile_waits() -> None:
    inbox = Inbox(100)
    done: list[str] = []
    inbox.ask(lambda: inbox.ask(lambda: done.append("second")))
    inbox.ask(lambda: done.append("first"))
    await inbox.wait()
    for request in inbox.take_requests():
        request()
    assert done == ["first"]
    async with asyncio.timeout(1):
        await inbox.wait()
    for request in inbox.take_requests():
        request()
    assert done == ["first", "second"]
    assert inbox.take_requests() == []


async def test_who_waits_is_woken_by_the_first_that_comes() -> None:
    inbox = Inbox(100)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        waiting = group.create_task(inbox.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        inbox.receive(heartbeat())
        inbox.receive(heartbeat())
