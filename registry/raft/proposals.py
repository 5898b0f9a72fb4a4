"""What callers want appended, from the call to the result of its apply.

    add ─> waiting for the next step ─ append_to(core) ─> appended, by index ─ answer ─> result

Before the append the outcome is "definitely not done", after it "unknown" (R-66).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from registry.errors import NotLeader, OutcomeUnknown, Overloaded, Rejected, Unavailable
from registry.raft.core import RaftCore
from registry.raft.messages import Entry, EntryKind
from registry.raft.settings import RaftSettings
from registry.raft.waiters import fail, refuse


@dataclass(slots=True)
class _Proposal:
    """Something to append, and who waits for it to be applied."""

    data: bytes
    kind: EntryKind
    future: asyncio.Future[Any]


@dataclass(slots=True)
class _Appended:
    """Who waits for the entry of this term at some index."""

    term: int
    size: int
    future: asyncio.Future[Any]


class Proposals:
    """One server's own proposals that are not applied yet, and who waits for them."""

    def __init__(self, settings: RaftSettings) -> None:
        self._proposals_max = settings.proposals_max
        self._bytes_max = settings.proposal_bytes_max
        self._waiting: list[_Proposal] = []
        self._appended: dict[int, _Appended] = {}  # by index
        self._bytes = 0  # of both

    def add(self, data: bytes, kind: EntryKind) -> asyncio.Future[Any]:
        """What the result will be in; raises `Overloaded`."""
        count = len(self._waiting) + len(self._appended)
        # The core has the same limits, but would refuse a whole group for its last member.
        too_many_bytes = self._bytes + len(data) > self._bytes_max
        if count >= self._proposals_max or too_many_bytes:
            raise Overloaded(f"{count} commands are waiting to be committed; retry later")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Proposal(data, kind, future))
        self._bytes += len(data)
        return future

    def append_to(self, core: RaftCore) -> None:
        """Everything that gathered, each kind as one call: one group, one sync."""
        if not self._waiting:
            return
        proposals, self._waiting = self._waiting, []
        for kind, group in itertools.groupby(proposals, key=lambda proposal: proposal.kind):
            batch = list(group)
            try:
                positions = core.propose([proposal.data for proposal in batch], kind)
            except (Rejected, Unavailable) as error:
                for proposal in batch:
                    self._bytes -= len(proposal.data)
                    fail(proposal.future, error)
                continue
            for proposal, (term, index) in zip(batch, positions, strict=True):
                self._appended[index] = _Appended(term, len(proposal.data), proposal.future)

    def expect(self, term: int, index: int, future: asyncio.Future[Any]) -> None:
        """Have `future` answered when this entry, appended by somebody else, is applied."""
        self._appended[index] = _Appended(term, 0, future)

    def answer(
        self, entries: Sequence[Entry], results: Sequence[Any], leader_id: str | None
    ) -> None:
        """These entries are applied, with these results."""
        for entry, result in zip(entries, results, strict=True):
            appended = self._appended.pop(entry.index, None)
            if appended is None:
                continue
            self._bytes -= appended.size
            if appended.future.done():
                continue  # the caller has gone
            if appended.term == entry.term:
                appended.future.set_result(result)
            else:
                # Another leader's entry is committed in its place, so it never will be.
                appended.future.set_exception(NotLeader(leader_id))

    def fail_appended(self, reason: str) -> None:
        """What becomes of them will not be heard here."""
        for appended in self._appended.values():
            self._bytes -= appended.size
            fail(appended.future, OutcomeUnknown(f"outcome unknown: {reason}"))
        self._appended.clear()

    def end(self) -> None:
        self.fail_appended("the server stopped")
        refuse((proposal.future for proposal in self._waiting), None)
        self._waiting.clear()
