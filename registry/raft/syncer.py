"""One thread that only syncs the store, so that the event loop never waits for a disk."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue

from registry.storage.store import Store


class Syncer:
    """Runs `store.sync()` on request, one at a time, and calls back on the loop.

    `done(token, error)` is called on the loop for every request, in order. A failed sync is
    reported once and the thread ends: it is never retried (R-8).
    """

    def __init__(
        self,
        store: Store,
        loop: asyncio.AbstractEventLoop,
        done: Callable[[int, BaseException | None], None],
    ) -> None:
        self._store = store
        self._loop = loop
        self._done = done
        self._requests: SimpleQueue[int | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="raft-sync", daemon=True)
        self._thread.start()

    def request(self, token: int) -> None:
        """Ask that everything written so far becomes durable; at most one request at a time."""
        self._requests.put(token)

    def close(self) -> None:
        """Wait for a sync under way and end the thread."""
        self._requests.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while (token := self._requests.get()) is not None:
            error: BaseException | None = None
            try:
                self._store.sync()
            except BaseException as raised:  # whatever it is, the owner must hear of it and stop
                error = raised
            # RuntimeError: the loop was closed under us; then nobody waits for the answer.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._done, token, error)
            if error is not None:
                return
