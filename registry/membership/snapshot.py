"""The snapshot file: who was alive, and what time it was, when this agent last ran.

A text file, one fact per line, appended as things happen; later lines win:

    alive: NAME IP:PORT      not-alive: NAME      leave
    clock: N                 event-clock: N       query-clock: N

An agent that restarts reads it to find somebody to join, and so as not to hear events again that it
had heard before. This module decides what is written and when; the shell does the writing. Nothing
here is a promise to anybody: a lost line costs one attempt to join, so only a leave is forced to
the disk.

Source: gossip sheet, section 11.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec

#: How long lines are gathered before they are written.
FLUSH_INTERVAL_MS = 500

#: The file is written anew when it is longer than these, whichever is greater.
COMPACT_BYTES_MIN, COMPACT_BYTES_PER_NODE = 128 * 1024, 256


@dataclass(slots=True)
class SnapshotState:
    """What the lines of a snapshot add up to; a clock of 0 says nothing."""

    alive: dict[str, str] = field(default_factory=dict)  # name -> "ip:port"
    clock: int = 0
    event_clock: int = 0
    query_clock: int = 0

    def clear(self) -> None:
        self.alive.clear()
        self.clock = self.event_clock = self.query_clock = 0

    def lines(self) -> list[str]:
        """The shortest snapshot that replays to this state."""
        return [
            *(f"alive: {name} {address}" for name, address in self.alive.items()),
            f"clock: {self.clock}",
            f"event-clock: {self.event_clock}",
            f"query-clock: {self.query_clock}",
        ]


class SnapshotWrite(msgspec.Struct, frozen=True):
    """What the shell must do to the file: append `text`, or put it in place of all there is."""

    text: str
    replace: bool = False
    sync: bool = False


def replay(
    lines: Iterable[str], *, rejoin_after_leave: bool = False
) -> tuple[SnapshotState, list[str]]:
    """What `lines` add up to, and those that are no lines of a snapshot (for the log)."""
    state, strange = SnapshotState(), []
    for line in lines:
        kind, _, rest = line.rstrip("\n").partition(" ")
        if kind == "leave" and not rest:
            if not rejoin_after_leave:
                state.clear()
        elif kind.startswith("#") or kind in ("", "coordinate:"):
            continue
        elif kind not in _REPLAY or not _REPLAY[kind](state, rest):
            strange.append(line.rstrip("\n"))
    return state, strange


def _alive(state: SnapshotState, rest: str) -> bool:
    # A name may hold spaces, an address cannot: the last space parts them.
    name, _, address = rest.rpartition(" ")
    if name:
        state.alive[name] = address
    return bool(name)


def _not_alive(state: SnapshotState, rest: str) -> bool:
    state.alive.pop(rest, None)
    return True


def _clock(state: SnapshotState, rest: str) -> bool:
    if valid := _is_time(rest):
        state.clock = int(rest)
    return valid


def _event_clock(state: SnapshotState, rest: str) -> bool:
    if valid := _is_time(rest):
        state.event_clock = int(rest)
    return valid


def _query_clock(state: SnapshotState, rest: str) -> bool:
    if valid := _is_time(rest):
        state.query_clock = int(rest)
    return valid


def _is_time(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 19


_REPLAY: dict[str, Callable[[SnapshotState, str], bool]] = {
    "alive:": _alive,
    "not-alive:": _not_alive,
    "clock:": _clock,
    "event-clock:": _event_clock,
    "query-clock:": _query_clock,
}


class SnapshotLog:
    """Gathers facts into lines, and says when they are to be written.

    `state` is what the file holds already, `size_bytes` how long it is.
    """

    def __init__(self, state: SnapshotState, size_bytes: int, *, rejoin_after_leave: bool) -> None:
        self._state = state
        self._size_bytes = size_bytes
        self._rejoin_after_leave = rejoin_after_leave
        self._lines: list[str] = []
        self._flush_at_ms: int | None = None
        self._left = False

    @property
    def next_deadline_ms(self) -> int | None:
        """When `take_write` will have something; None when nothing waits."""
        return self._flush_at_ms

    def alive(self, name: str, address: str, now_ms: int) -> None:
        if not self._left and name.isprintable():  # a line feed in a name would forge a line
            self._state.alive[name] = address
            self._add(f"alive: {name} {address}", now_ms)

    def not_alive(self, name: str, now_ms: int) -> None:
        if not self._left and self._state.alive.pop(name, None) is not None:
            self._add(f"not-alive: {name}", now_ms)

    def clock(self, time: int, now_ms: int) -> None:
        """The member clock; the only fact that is still noted after a leave."""
        if time > self._state.clock:
            self._state.clock = time
            self._add(f"clock: {time}", now_ms)

    def event_clock(self, time: int, now_ms: int) -> None:
        if not self._left and time > self._state.event_clock:
            self._state.event_clock = time
            self._add(f"event-clock: {time}", now_ms)

    def query_clock(self, time: int, now_ms: int) -> None:
        if not self._left and time > self._state.query_clock:
            self._state.query_clock = time
            self._add(f"query-clock: {time}", now_ms)

    def leave(self, now_ms: int) -> None:
        """This agent leaves of its own will: the next start must not rejoin by itself."""
        if self._left:
            return
        self._left = True
        if not self._rejoin_after_leave:
            self._state.clear()
        self._lines.append("leave")
        self._flush_at_ms = now_ms

    def take_write(self, now_ms: int) -> SnapshotWrite | None:
        """What is due to be written, if anything is."""
        if self._flush_at_ms is None or now_ms < self._flush_at_ms:
            return None
        self._flush_at_ms = None
        lines, self._lines = self._lines, []
        text = _text(lines)
        self._size_bytes += len(text.encode())
        if self._left or self._size_bytes <= self._size_bytes_max:
            return SnapshotWrite(text, sync="leave" in lines)
        text = _text(self._state.lines())
        self._size_bytes = len(text.encode())
        return SnapshotWrite(text, replace=True, sync=True)

    @property
    def _size_bytes_max(self) -> int:
        return max(COMPACT_BYTES_MIN, COMPACT_BYTES_PER_NODE * len(self._state.alive))

    def _add(self, line: str, now_ms: int) -> None:
        self._lines.append(line)
        if self._flush_at_ms is None:
            self._flush_at_ms = now_ms + FLUSH_INTERVAL_MS


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
