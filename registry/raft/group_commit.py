"""Writing what a `Ready` has for the disk, and holding back its promises until that is durable.

**Group commit.** There is at most one sync under way. Whatever was written while it ran is covered
by the next one, so a thousand concurrent proposals share a sync and a single one pays for one
(R-11). Messages that promise something (`Ready.after`) wait in line behind the sync that makes the
promise durable (section 3 of the requirements); nothing is acknowledged before.

**Failure.** A failed sync or write is final: the process must stop and trust only what it reads
back (R-8).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from registry.raft.core import RaftCore
from registry.raft.disk import DiskLog
from registry.raft.messages import SnapshotMeta
from registry.raft.ready import Ready
from registry.raft.syncer import Syncer
from registry.raft.transport import Transport
from registry.storage.store import Store


class GroupCommit:
    """One server's line of what is written and not yet durable.

    `install` puts a snapshot in the place of log and state; `wake` has the next step come, which is
    to `settle`.
    """

    def __init__(
        self,
        *,
        store: Store,
        log: DiskLog,
        transport: Transport,
        install: Callable[[SnapshotMeta], None],
        wake: Callable[[], None],
    ) -> None:
        self.syncs = 0
        self._store = store
        self._log = log
        self._transport = transport
        self._install = install
        self._wake = wake
        self._unsynced: deque[Ready] = deque()  # written or waiting in line, in token order
        self._syncing = False
        self._syncer: Syncer | None = None
        self._synced: int | None = None
        self._failure: BaseException | None = None

    @property
    def is_idle(self) -> bool:
        """Whether all is durable."""
        return not self._unsynced

    def begin(self) -> None:
        self._syncer = Syncer(self._store, asyncio.get_running_loop(), self._on_synced)

    def end(self) -> None:
        if self._syncer is not None:
            self._syncer.close()

    def write(self, ready: Ready, core: RaftCore) -> None:
        """Write it, without a sync; its promises leave when it is durable."""
        if ready.must_sync:
            if ready.snapshot is not None:
                self._install(ready.snapshot)
            if ready.hard_state is not None or ready.entries:
                self._log.save(ready.hard_state, ready.entries)
            self._unsynced.append(ready)
            self._start_sync()
        elif self._unsynced:
            self._unsynced.append(ready)  # its promises may rest on what is being synced
        else:
            self._complete(ready, core)

    def settle(self, core: RaftCore) -> None:
        """Go on after a sync that has ended since; raises the error that it ended with."""
        if self._failure is not None:
            raise self._failure
        if self._synced is not None:
            self._finish_sync(self._synced, core)

    def _start_sync(self) -> None:
        if not self._syncing:
            assert self._syncer is not None
            self._syncing = True
            self.syncs += 1
            self._syncer.request(self._unsynced[-1].token)

    def _on_synced(self, token: int, error: BaseException | None) -> None:
        if error is None:
            self._synced = token
        else:
            self._failure = error
        self._wake()

    def _finish_sync(self, token: int, core: RaftCore) -> None:
        """Everything written before the sync began is durable; go on with what came after."""
        self._synced = None
        self._syncing = False
        while self._unsynced and (
            self._unsynced[0].token <= token or not self._unsynced[0].must_sync
        ):
            self._complete(self._unsynced.popleft(), core)
        if self._unsynced:
            self._start_sync()

    def _complete(self, ready: Ready, core: RaftCore) -> None:
        """`ready` is durable: tell the core, and let its promises go."""
        core.persisted(ready.token)
        if ready.after:
            # While it waited, a later write may have overwritten what it rests on; that takes a
            # new term, so a promise of an older one is not kept any more and stays here.
            term = core.term
            self._transport.send([message for message in ready.after if message.term >= term])
