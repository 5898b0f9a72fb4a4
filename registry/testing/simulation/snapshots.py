"""Snapshots that one server sends to peers which are behind its log, and those that it receives."""

from __future__ import annotations

from registry.raft.membership import decode_configuration
from registry.raft.messages import AnyMessage, AppendReply, SnapshotChunk, SnapshotMeta
from registry.testing.clock import Event
from registry.testing.disk import Image
from registry.testing.simulation.life import Life
from registry.testing.simulation.options import T
from registry.testing.simulation.world import CLUSTER_ID


class SnapshotTransfers:
    """One transfer per peer: a single chunk, given up when the peer shows no success in time."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._under_way: dict[str, tuple[SnapshotMeta, Event]] = {}

    def send(self, peer: str) -> None:
        life = self._life
        if peer in self._under_way:
            self._under_way[peer][1].cancel()
        meta = snapshot_meta(life.disk.written, life.disk.written.applied_index)
        # The same index is the same state on every server, so one name does for all of them.
        life.world.snapshots[meta.id] = dict(life.disk.written.state)

        def give_up() -> None:
            self._under_way.pop(peer, None)
            life.core.snapshot_finished(peer, False, meta.index)

        self._under_way[peer] = meta, life.later(2 * T, give_up)
        chunk = SnapshotChunk(
            sender=life.server_id,
            receiver=peer,
            term=life.core.term,
            cluster_id=CLUSTER_ID,
            meta=meta,
            done=True,
        )
        life.world.network.send([chunk])

    def receive(self, message: AnyMessage) -> None:
        """A message that the core has seen: it may bring a snapshot, or tell of one's success."""
        core = self._life.core
        if isinstance(message, SnapshotChunk) and self._accepts(message):
            core.snapshot_received(message.meta, message.sender)
        if isinstance(message, AppendReply) and message.sender in self._under_way:
            meta, timer = self._under_way[message.sender]
            if message.success and message.match_index >= meta.index:
                timer.cancel()
                del self._under_way[message.sender]
                core.snapshot_finished(message.sender, True, meta.index)

    def _accepts(self, chunk: SnapshotChunk) -> bool:
        core = self._life.core
        return core.leader_id == chunk.sender and core.term == chunk.term


def snapshot_meta(image: Image, index: int) -> SnapshotMeta:
    """What a snapshot of the state at `index`, which is in the log or at its base, is called."""
    term = image.term(index)
    assert term is not None
    configuration = image.configuration_at(index, decode_configuration)
    return SnapshotMeta(f"{term}-{index}", index, term, configuration)
