"""One life of a server, from a start to the next crash: what all parts of the process share."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from registry.raft.core import RaftCore
from registry.raft.messages import AnyMessage, AppendReply
from registry.testing.checkers import Promise
from registry.testing.clock import Event
from registry.testing.disk import SimulatedDisk
from registry.testing.simulation.world import World


class CrashPoint(Exception):
    """Thrown within a step to crash the server right there."""


@dataclass(slots=True, kw_only=True)
class Life:
    """The core with its surroundings. What is planned for a life does not happen after it."""

    world: World
    server_id: str
    disk: SimulatedDisk
    random: random.Random
    core: RaftCore
    handle: Callable[[Callable[[], None]], None]  # takes one input of the server
    is_over: bool = False

    def later(self, delay: int, action: Callable[[], None]) -> Event:
        """An input of this life of the server, some time from now."""

        def act() -> None:
            if not self.is_over:
                self.handle(action)

        return self.world.schedule.after(delay, act)

    def crash_point(self) -> None:
        """A boundary within a step, at which it may end."""
        chance = self.world.options.crash_point if self.world.faulty else 0.0
        if chance and self.random.random() < chance:
            raise CrashPoint

    def promises(self, messages: Iterable[AnyMessage]) -> list[Promise]:
        return [self._promise(message) for message in messages]

    def _promise(self, message: AnyMessage) -> Promise:
        if isinstance(message, AppendReply) and message.success:
            return Promise(message, self.disk.term(message.match_index))
        return Promise(message)

    def send(self, promises: list[Promise]) -> None:
        self.world.checker.sending(self.server_id, promises)
        self.world.network.send([promise.message for promise in promises])
