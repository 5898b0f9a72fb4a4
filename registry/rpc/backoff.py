"""When to try a peer again that could not be reached."""

from __future__ import annotations

import random

FIRST_S = 0.010
MAX_S = 40.0


class Backoff:
    """Doubles the pause with each failure in a row, 10 ms to `max_s`; success starts anew.

    A pause is cut at random by up to half, so that the peers of a server that comes back do not
    all dial at once.
    """

    __slots__ = ("_failures", "_max_s", "_random", "retry_at")

    def __init__(self, rng: random.Random, max_s: float = MAX_S) -> None:
        self._random = rng
        self._max_s = max_s
        self._failures = 0
        #: The moment from which trying makes sense, on the clock of `now`.
        self.retry_at = 0.0

    def failed(self, now: float) -> float:
        """Count a failure; the pause that follows it, in seconds."""
        # The exponent is bounded too: a peer may stay away for years.
        longest: float = min(self._max_s, FIRST_S * 2.0 ** min(self._failures, 32))
        self._failures += 1
        pause = longest * self._random.uniform(0.5, 1.0)
        self.retry_at = now + pause
        return pause

    def reset(self) -> None:
        """The peer was reached, or is known to be there again."""
        self._failures = 0
        self.retry_at = 0.0

    def remaining(self, now: float) -> float:
        """Seconds until the next try; 0 when it may be now."""
        return max(0.0, self.retry_at - now)
