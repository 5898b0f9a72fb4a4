"""One server's state: committed entries are applied to it, at once or late, and the log is cut."""

from __future__ import annotations

from collections.abc import Sequence

from registry.raft.messages import Entry, EntryKind
from registry.testing.disk import Record
from registry.testing.simulation.life import Life
from registry.testing.simulation.requests import Requests, decode_write
from registry.testing.simulation.snapshots import snapshot_meta


class Applying:
    """What is committed and waits to be applied, then answers the requests that waited for it."""

    def __init__(self, life: Life, requests: Requests) -> None:
        self._life = life
        self._requests = requests
        self._waiting: list[Entry] = []
        self._is_due = False

    def commit(self, entries: Sequence[Entry]) -> None:
        """Apply the entries, now or within `apply_delay_max`."""
        self._waiting.extend(entries)
        delay = self._life.world.options.apply_delay_max
        if not delay:
            self._apply()
        elif not self._is_due:
            self._is_due = True
            self._life.later(self._life.random.randint(0, delay), self._apply_late)

    def replaced(self) -> None:
        """A snapshot takes the place of the state, and holds all that waits."""
        self._waiting.clear()

    def _apply_late(self) -> None:
        self._is_due = False
        self._apply()
        self._requests.answer_reads()

    def _apply(self) -> None:
        entries, self._waiting = self._waiting, []
        if not entries:
            return
        life = self._life
        life.world.checker.applying(
            life.server_id, life.core, entries, life.disk.written.applied_index
        )
        changes = tuple(decode_write(entry) for entry in entries if entry.kind is EntryKind.COMMAND)
        life.disk.write(Record(changes=changes, applied_index=entries[-1].index))
        life.core.applied(entries[-1].index)
        self._requests.applied(entries)
        life.crash_point()
        self._compact()

    def _compact(self) -> None:
        """Cut the log, once it is long, up to a few entries below the state."""
        life, options = self._life, self._life.world.options
        image = life.disk.written
        if not options.compact_after or len(image.entries) < options.compact_after:
            return
        index = image.applied_index - options.trailing
        if index <= image.base_index:
            return
        meta = snapshot_meta(image, index)
        life.disk.write(Record(base=meta))
        life.core.compacted(meta)
