"""What is to be done in the loop's next step, and the bell that has the loop take it.

Input is collected and then handled in one go: nothing changes the core from within a callback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from registry.raft.messages import AnyMessage, AppendRequest


class Inbox:
    """Messages of the peers and requests of our own, in the order in which they came.

    At most `messages_max` messages wait; more are dropped, and counted in `dropped` (R-5).
    """

    def __init__(self, messages_max: int) -> None:
        self.dropped = 0
        self._messages_max = messages_max
        self._messages: list[AnyMessage] = []
        self._requests: list[Callable[[], None]] = []
        self._awake = False
        self._waker: asyncio.Future[None] | None = None

    def receive(self, message: AnyMessage) -> None:
        if len(self._messages) >= self._messages_max:
            self.dropped += 1
            return
        self._messages.append(message)
        self.wake()

    def ask(self, request: Callable[[], None]) -> None:
        """Have something done in the next step."""
        self._requests.append(request)
        self.wake()

    def wake(self) -> None:
        """There is something to do, here or elsewhere: have the next step come."""
        self._awake = True
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)

    async def wait(self) -> None:
        """Return when the next step is due."""
        if self._awake:
            await asyncio.sleep(0)  # the last step left something; others on the loop have a turn
        else:
            self._waker = asyncio.get_running_loop().create_future()
            await self._waker
            self._waker = None
        self._awake = False

    def take_messages(self, entries_max: int) -> list[AnyMessage]:
        """The messages up to the one with which they bring so many entries; the rest stays."""
        entries = taken = 0
        while taken < len(self._messages) and entries < entries_max:
            message = self._messages[taken]
            taken += 1
            if isinstance(message, AppendRequest):
                entries += len(message.entries)
        messages = self._messages[:taken]
        del self._messages[:taken]
        if self._messages:
            self.wake()
        return messages

    def take_requests(self) -> list[Callable[[], None]]:
        requests, self._requests = self._requests, []
        return requests
