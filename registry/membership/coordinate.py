"""Network coordinates: round-trip times of a whole pool from a handful of measurements.

Every node holds a point in an eight-dimensional space plus a *height*, so that the distance between
two points is the expected round-trip time in seconds. The model is springs: each measured time is a
spring of that length between two nodes, and both move a little towards its rest position. The
height stands for the way from a node to the network's core, which is part of each of its paths.

Awkward cases. A node that knows nothing must not disturb the ones that do: a move is weighted by
how much less certain we are than the peer. Single measurements jump: the median of three per peer
is used. The whole cloud may drift or turn without changing any distance: a weak pull to the origin
holds it. What the space cannot express is added by an *adjustment* averaged over 20 measurements.

Source: Dabek et al., "Vivaldi: A Decentralized Network Coordinate System", 2004; Ledlie et al.,
"Network Coordinates in the Wild", 2007 (latency filter, gravity); Lee et al., "On Suitability of
Euclidean Embedding for Host-based Network Coordinate Systems", 2009 (adjustment); gossip sheet, 9.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

DIMENSIONS = 8
ERROR_MAX = 1.5
_ERROR_WEIGHT = 0.25
_POSITION_WEIGHT = 0.25
_ADJUSTMENT_WINDOW = 20
HEIGHT_MIN = 1e-5
_LATENCY_FILTER_SIZE = 3
_GRAVITY_RHO = 150.0
_ZERO = 1e-6
RTT_MAX_S = 10.0


class Coordinate(msgspec.Struct, frozen=True):
    """A node's place in the network, in seconds."""

    vec: tuple[float, ...] = (0.0,) * DIMENSIONS
    error: float = ERROR_MAX
    adjustment: float = 0.0
    height: float = HEIGHT_MIN

    @property
    def is_valid(self) -> bool:
        """Eight dimensions and nothing infinite or undefined."""
        numbers = (*self.vec, self.error, self.adjustment, self.height)
        return len(self.vec) == DIMENSIONS and all(math.isfinite(number) for number in numbers)

    def raw_distance(self, other: Coordinate) -> float:
        """Seconds of round trip without the adjustments."""
        return math.dist(self.vec, other.vec) + self.height + other.height

    def distance(self, other: Coordinate) -> float:
        """Expected round-trip time between the two, in seconds."""
        raw = self.raw_distance(other)
        adjusted = raw + self.adjustment + other.adjustment
        return adjusted if adjusted > 0.0 else raw

    def pushed(self, force: float, origin: Coordinate, rng: random.Random) -> Coordinate:
        """This coordinate after `force` seconds away from `origin` (towards it when negative)."""
        direction, apart = _direction(origin.vec, self.vec, rng)
        vec = tuple(at + unit * force for at, unit in zip(self.vec, direction, strict=True))
        if apart <= _ZERO:
            return msgspec.structs.replace(self, vec=vec)
        height = (self.height + origin.height) * force / apart + self.height
        return msgspec.structs.replace(self, vec=vec, height=max(HEIGHT_MIN, height))


_ORIGIN = Coordinate()


class CoordinateClient:
    """Our own coordinate, and the last one of every peer that told us.

    Not thread-safe; `rng` gives a direction to nodes that are at the same point.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._own = Coordinate()
        self._peers: dict[str, Coordinate] = {}
        self._latencies: dict[str, deque[float]] = {}
        self._adjustments: deque[float] = deque(maxlen=_ADJUSTMENT_WINDOW)
        #: How often our coordinate became nonsense and we started afresh.
        self.resets = 0

    @property
    def own(self) -> Coordinate:
        return self._own

    def of(self, node: str) -> Coordinate | None:
        """The last coordinate that `node` told us."""
        return self._peers.get(node)

    def forget(self, node: str) -> None:
        self._peers.pop(node, None)
        self._latencies.pop(node, None)

    def update(self, node: str, peer: Coordinate, rtt_s: float) -> bool:
        """Move after a measurement; False when it cannot be believed and nothing was changed."""
        if not peer.is_valid or not 0.0 <= rtt_s <= RTT_MAX_S:
            return False
        self._peers[node] = peer
        rtt = self._filtered(node, rtt_s)
        moved = self._drawn(self._adjusted(self._sprung(peer, rtt), peer, rtt))
        if moved.is_valid:
            self._own = moved
        else:
            self._start_afresh()
        return True

    def _filtered(self, node: str, rtt_s: float) -> float:
        latest = self._latencies.setdefault(node, deque(maxlen=_LATENCY_FILTER_SIZE))
        latest.append(rtt_s)
        return sorted(latest)[len(latest) // 2]

    def _sprung(self, peer: Coordinate, rtt: float) -> Coordinate:
        own = self._own
        distance = own.distance(peer)
        rtt = max(rtt, _ZERO)
        wrongness = abs(distance - rtt) / rtt
        weight = own.error / max(own.error + peer.error, _ZERO)
        share = _ERROR_WEIGHT * weight
        error = min(ERROR_MAX, share * wrongness + own.error * (1.0 - share))
        force = _POSITION_WEIGHT * weight * (rtt - distance)
        return msgspec.structs.replace(own, error=error).pushed(force, peer, self._rng)

    def _adjusted(self, own: Coordinate, peer: Coordinate, rtt: float) -> Coordinate:
        self._adjustments.append(rtt - own.raw_distance(peer))
        adjustment = sum(self._adjustments) / (2.0 * _ADJUSTMENT_WINDOW)
        return msgspec.structs.replace(own, adjustment=adjustment)

    def _drawn(self, own: Coordinate) -> Coordinate:
        # Multiplied out: a power of a float that is too large raises instead of being infinite.
        share = _ORIGIN.distance(own) / _GRAVITY_RHO
        return own.pushed(-share * share, _ORIGIN, self._rng)

    def _start_afresh(self) -> None:
        self._own = Coordinate()
        self._adjustments.clear()
        self.resets += 1


def _direction(
    start: Sequence[float], end: Sequence[float], rng: random.Random
) -> tuple[Iterable[float], float]:
    """Unit vector from `start` to `end` and their distance; random, and 0, when at one point."""
    apart = math.dist(start, end)
    if apart > _ZERO:
        return [(b - a) / apart for a, b in zip(start, end, strict=True)], apart
    drawn = [rng.random() - 0.5 for _ in range(DIMENSIONS)]
    length = math.hypot(*drawn)
    if length > _ZERO:
        return [part / length for part in drawn], 0.0
    return [1.0, *[0.0] * (DIMENSIONS - 1)], 0.0
