"""How well this node itself is doing, judged by how its probes go.

A node that is slow or cut off sees everybody else fail. Lifeguard's answer: the worse our own
score, the longer we wait before we accuse.

Source: Lifeguard, section IV.A; gossip sheet, section 5.2.
"""

from __future__ import annotations


class Awareness:
    """A score of 0 (healthy) to `score_max - 1`."""

    def __init__(self, score_max: int) -> None:
        self._score_max = score_max
        self.score = 0

    def change(self, by: int) -> None:
        self.score = min(max(0, self.score + by), self._score_max - 1)

    def scale(self, interval_ms: int) -> int:
        return interval_ms * (self.score + 1)
