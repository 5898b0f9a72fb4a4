"""How a server's core comes to be: from what its disk holds, or anew on a server that is blank."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

from registry.errors import Corrupt
from registry.raft.config import RaftConfig
from registry.raft.core import RaftCore
from registry.raft.disk import DiskLog, Identity
from registry.raft.machine import Machine
from registry.raft.messages import Configuration, SnapshotMeta
from registry.raft.settings import RaftSettings
from registry.storage.store import Store

logger = logging.getLogger("registry.raft")

#: The most that is applied in one go, but at least one entry: a millisecond or two of work.
_APPLY_BYTES = 32 << 10


class Startup:
    """Makes the core of one server; `log` is the one that it is made on.

    `cluster_id` is for a new server; "" takes the one on disk. Raises `StorageError` when the store
    is another server's.
    """

    def __init__(
        self,
        *,
        server_id: str,
        cluster_id: str,
        store: Store,
        machine: Machine,
        settings: RaftSettings,
        rng: random.Random,
    ) -> None:
        self._server_id = server_id
        self._store = store
        self._machine = machine
        self._settings = settings
        self._random = rng
        self.log = DiskLog(store)
        self._is_restart = not self.log.is_empty
        if not cluster_id and self.log.identity is not None:
            cluster_id = self.log.identity.cluster_id
        self._cluster_id = cluster_id
        self.log.establish(Identity(server_id, cluster_id))

    def recover(self, install: Callable[[SnapshotMeta], None]) -> RaftCore:
        """The core of what the disk holds, with what a crash interrupted finished first.

        Raises `Corrupt` when log and state do not belong together.
        """
        if (meta := self.log.pending_install) is not None:
            logger.warning("finishing the installation of snapshot %s after a restart", meta.id)
            install(meta)
        # A killed process leaves writes that it never synced, and from here on the core takes all
        # that is in the log for durable: so make it so, before it counts towards any promise.
        self._store.sync()
        applied, first, last = (
            self._machine.applied_index,
            self.log.first_index(),
            self.log.last_index(),
        )
        if not first - 1 <= applied <= last:
            raise Corrupt(
                f"the state is at index {applied}, but the Raft log holds {first}..{last}; "
                "restore this server from a backup, or wipe it and let it rejoin as a new one"
            )
        return self._new_core(restarted=self._is_restart)

    def found(self, configuration: Configuration) -> RaftCore:
        """The core of a server that begins a cluster as one of `configuration`."""
        self.log.begin(configuration)
        return self._core_anew()

    def adopt(self, cluster_id: str) -> RaftCore:
        """The core of a server that waits to hear from the cluster with this id."""
        self.log.reidentify(Identity(self._server_id, cluster_id))
        self._cluster_id = cluster_id
        return self._core_anew()

    def _core_anew(self) -> RaftCore:
        # On the loop, for once in the life of a server: the new core takes what is written for
        # durable, and may acknowledge it to a leader at once.
        self._store.sync()
        return self._new_core(restarted=False)

    def _new_core(self, *, restarted: bool) -> RaftCore:
        return RaftCore(
            self._config(),
            self.log,
            self.log.hard_state,
            self.log.configuration,
            self._machine.applied_index,
            self._random,
            restarted=restarted,
        )

    def _config(self) -> RaftConfig:
        settings = self._settings
        return RaftConfig(
            id=self._server_id,
            cluster_id=self._cluster_id,
            election_ticks=settings.election_ticks,
            sticky_ticks=settings.sticky_ticks,
            heartbeat_ticks=settings.heartbeat_ticks,
            max_proposals=settings.proposals_max,
            max_proposal_bytes=settings.proposal_bytes_max,
            max_apply_bytes=_APPLY_BYTES,
        )
