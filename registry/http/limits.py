"""How much one client may take: connections and time.

A client over its connection limit is told so, with the limit and its count, instead of being reset
(a departure from Consul on purpose); only far beyond the limit are connections dropped unheard, so
that telling can not be made an attack.
"""

from __future__ import annotations

from dataclasses import dataclass

#: What is refused with a text at once, beyond the limit; the connections above are dropped.
REFUSED_AT_ONCE_MAX = 64

RETRY_AFTER_S = 1


@dataclass(slots=True)
class Deadlines:
    """Seconds that a client may take; a connection past its deadline is closed."""

    head_s: float = 10.0  # from the first byte of a request to the end of its headers
    body_s: float = 30.0  # between two pieces of a body, and ahead of `body_bytes_per_s`
    body_bytes_per_s: float = 1024.0  # slower than this on average only for `body_s`
    answer_s: float = 60.0  # without taking any of an answer that waits to be sent
    sweep_s: float = 1.0  # how often connections are compared with their deadlines
    idle_s: float = 120.0  # between two requests; longer than clients keep a connection in a pool


class BodyClock:
    """When the body being read has to be further: each byte that came buys a little time, so that
    a client can not hold its place for hours by sending a byte now and then."""

    __slots__ = ("_begun_s", "_deadlines", "_received")

    def __init__(self, deadlines: Deadlines, now_s: float) -> None:
        self._deadlines = deadlines
        self._begun_s, self._received = now_s, 0

    def received(self, size_bytes: int, now_s: float) -> float:
        """Count a piece; the deadline for the next one."""
        self._received += size_bytes
        allowed_s = self._deadlines.body_s
        bought_s = self._received / self._deadlines.body_bytes_per_s
        return min(self._begun_s + allowed_s + bought_s, now_s + allowed_s)


class ConnectionLimit:
    """Connections by client address, over HTTP and HTTPS together; unix sockets are not counted."""

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum  # 0 or less: no limit; may be changed while serving
        self._counts: dict[str, int] = {}

    def enter(self, address: str) -> int:
        """Count a connection: 0 when it may stay, else how many this client has with it."""
        if not address:
            return 0
        count = self._counts.get(address, 0) + 1
        self._counts[address] = count
        return count if 0 < self.maximum < count else 0

    def leave(self, address: str) -> None:
        if not address:
            return
        count = self._counts[address] - 1
        if count:
            self._counts[address] = count
        else:
            del self._counts[address]

    def refuse_silently_over(self) -> int:
        return self.maximum + REFUSED_AT_ONCE_MAX

    def connections(self, address: str) -> int:
        return self._counts.get(address, 0)


def too_many_connections(maximum: int, count: int) -> tuple[int, bytes, bytes]:
    """Status, text and headers for a client that has `count` connections."""
    text = (
        f"Too many connections from this address: {count} are open, the limit is {maximum} "
        "(limits.http_max_conns_per_client)"
    )
    headers = f"Retry-After: {RETRY_AFTER_S}\r\n"
    return 429, text.encode(), headers.encode()
