"""A network that loses, repeats, delays and reorders messages, and can be cut in every way."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from registry.raft.messages import AnyMessage
from registry.testing.clock import MS, Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFaults:
    """How bad the network is. Probabilities per message; delays in microseconds."""

    drop: float = 0.0
    duplicate: float = 0.0
    delay_min: int = MS // 2
    delay_max: int = 2 * MS
    #: A message is `tail_delay_max` late instead with this probability.
    tail: float = 0.0
    tail_delay_max: int = 200 * MS
    #: A duplicate comes up to this much later than the original.
    duplicate_delay_max: int = 500 * MS
    #: Whether cutting a link also loses what is under way on it.
    cuts_lose_under_way: bool = True
    #: Some links are this much slower than the others.
    slow_link_factor: int = 1


class SimulatedNetwork:
    """Carries messages over a `Schedule`; every choice comes from the one random generator."""

    def __init__(
        self,
        schedule: Schedule,
        rng: random.Random,
        faults: NetworkFaults,
        deliver: Callable[[AnyMessage], None],
    ) -> None:
        self.faults = faults
        self._schedule = schedule
        self._random = rng
        self._deliver = deliver
        self._cut: dict[tuple[str, str], None] = {}
        self._muted: tuple[type, ...] = ()
        self._slowness: dict[tuple[str, str], int] = {}
        self.carried = 0
        self.lost = 0

    def send(self, messages: Iterable[AnyMessage]) -> None:
        for message in messages:
            self._send(message)

    def _send(self, message: AnyMessage) -> None:
        if self._is_cut(message) or self._random.random() < self.faults.drop:
            self.lost += 1
            return
        delay = self._delay(message)
        self._plan(message, delay)
        if self._random.random() < self.faults.duplicate:
            later = self._random.randint(0, self.faults.duplicate_delay_max)
            self._plan(message, delay + later)

    def _plan(self, message: AnyMessage, delay: int) -> None:
        def arrive() -> None:
            if self.faults.cuts_lose_under_way and self._is_cut(message):
                self.lost += 1
                return
            self.carried += 1
            self._deliver(message)

        self._schedule.after(delay, arrive)

    def _delay(self, message: AnyMessage) -> int:
        faults = self.faults
        if self._random.random() < faults.tail:
            return self._random.randint(faults.delay_max, faults.tail_delay_max)
        link = (message.sender, message.receiver)
        if link not in self._slowness:
            slow = faults.slow_link_factor > 1 and self._random.random() < 0.3
            self._slowness[link] = faults.slow_link_factor if slow else 1
        return self._random.randint(faults.delay_min, faults.delay_max) * self._slowness[link]

    def _is_cut(self, message: AnyMessage) -> bool:
        return (message.sender, message.receiver) in self._cut or isinstance(message, self._muted)

    # -- partitions --------------------------------------------------------------------------

    def heal(self) -> None:
        """Restore every link and every kind of message."""
        self._cut.clear()
        self._muted = ()

    def cut(self, sender: str, receiver: str) -> None:
        """One direction of one link."""
        self._cut[sender, receiver] = None

    def cut_between(self, some: Sequence[str], others: Sequence[str]) -> None:
        """Both directions of every link between two groups."""
        for one in some:
            for other in others:
                if one != other:
                    self.cut(one, other)
                    self.cut(other, one)

    def mute(self, *kinds: type) -> None:
        """Lose every message of these types ("only votes lost")."""
        self._muted = kinds
