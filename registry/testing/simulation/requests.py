"""What clients ask of one server, from the question to the answer; a crash forgets them all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from registry.errors import Rejected, Unavailable
from registry.raft.core import RaftCore
from registry.raft.messages import Entry
from registry.raft.ready import Ready
from registry.testing.simulation.life import Life


@dataclass(slots=True)
class Attempt:
    """One client operation under way; `finish` takes the value seen, `refuse` ends it undone."""

    key: str
    value: str | None  # to write; None reads
    consistent: bool
    finish: Callable[[str | None], None]
    refuse: Callable[[str], None]  # takes the leader's id, or "" when nobody is known to lead
    position: tuple[int, int] | None = None  # index, term once appended


class Requests:
    """Writes wait for their entries to be applied, reads for the index that they must see."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._writes: dict[int, Attempt] = {}
        self._reads: dict[int, Attempt] = {}
        self._reads_ready: list[tuple[int, Attempt]] = []
        self._contexts = itertools.count(1)

    def take(self, attempt: Attempt) -> None:
        if attempt.value is None:
            self._read(attempt)
        else:
            self._write(attempt, attempt.value)

    # -- writes ------------------------------------------------------------------------------

    def _write(self, attempt: Attempt, value: str) -> None:
        core = self._life.core
        try:
            [(term, index)] = core.propose([encode_write(attempt.key, value)])
        except (Rejected, Unavailable):
            attempt.refuse(core.leader_id or "")
            return
        attempt.position = index, term
        self._writes[index] = attempt

    def applied(self, entries: Sequence[Entry]) -> None:
        """Answer the writes whose entries these are, and those whose place another one took."""
        life = self._life
        for entry in entries:
            attempt = self._writes.pop(entry.index, None)
            if attempt is None or attempt.position is None:
                continue
            if attempt.position[1] == entry.term:
                life.world.checker.acknowledged(life.server_id, *attempt.position)
                attempt.finish(attempt.value)
            else:
                attempt.refuse(life.core.leader_id or "")

    def forget_writes(self) -> None:
        """Appended, then leadership lost: the clients learn no outcome."""
        self._writes.clear()

    # -- reads -------------------------------------------------------------------------------

    def _read(self, attempt: Attempt) -> None:
        core = self._life.core
        if not attempt.consistent and _may_answer(core):
            attempt.finish(self._state_of(attempt.key))
            return
        context = next(self._contexts)
        try:
            core.read(context, consistent=attempt.consistent)
        except (Rejected, Unavailable):
            attempt.refuse(core.leader_id or "")
        else:
            self._reads[context] = attempt

    def confirm_reads(self, ready: Ready) -> None:
        """Refuse the reads that failed; the others now know which index they must see."""
        for context in ready.failed_reads:
            self._reads.pop(context).refuse(self._life.core.leader_id or "")
        for read in ready.reads:
            self._reads_ready.append((read.index, self._reads.pop(read.context)))

    def answer_reads(self) -> None:
        """Answer those whose index is applied."""
        waiting = self._reads_ready
        self._reads_ready = []
        for index, attempt in waiting:
            if index <= self._life.core.applied_index:
                attempt.finish(self._state_of(attempt.key))
            else:
                self._reads_ready.append((index, attempt))

    def _state_of(self, key: str) -> str | None:
        return self._life.disk.written.state.get(key)


def _may_answer(core: RaftCore) -> bool:
    """Whether a default read is answered at this instant, under the lease."""
    index = core.lease_read_index()
    return index is not None and index <= core.applied_index


def encode_write(key: str, value: str) -> bytes:
    return f"{key}={value}".encode()


def decode_write(entry: Entry) -> tuple[str, str]:
    key, _, value = entry.data.decode().partition("=")
    return key, value
