"""Snapshots at rest, and on their way over a link that loses what it likes."""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from registry.errors import Corrupt, RemoteProtocolError, StorageError
from registry.raft.messages import Configuration, Server, SnapshotChunk, SnapshotMeta, SnapshotReply
from registry.raft.snapshots import (
    FileSnapshots,
    MemorySnapshots,
    SnapshotStore,
    new_snapshot_id,
    write_snapshot,
)
from registry.raft.streaming import Receiving, Sending, StreamSettings

CONFIGURATION = Configuration((Server("a", "a:1"),), index=1)


def meta(index: int, term: int = 1) -> SnapshotMeta:
    return SnapshotMeta(new_snapshot_id(term, index), index, term, CONFIGURATION)


@pytest.fixture(params=["file", "memory"])
def snapshots(request: pytest.FixtureRequest, tmp_path: Path) -> SnapshotStore:
    return FileSnapshots(tmp_path / "snapshots") if request.param == "file" else MemorySnapshots()


def test_what_was_written_is_read_back(snapshots: SnapshotStore) -> None:
    written = write_snapshot(snapshots, meta(7), [b"one", b"", b"two"])
    assert written.size == 6
    assert snapshots.latest() == snapshots.find(written.id) == written
    assert b"".join(snapshots.chunks(written.id)) == b"onetwo"
    assert snapshots.read(written.id, 2, 3) == b"etw"
    assert snapshots.read(written.id, 6, 3) == b""


def test_only_the_newest_and_those_in_use_are_kept(snapshots: SnapshotStore) -> None:
    written = [write_snapshot(snapshots, meta(index), [b"x"]) for index in (1, 2, 3, 4)]
    snapshots.prune(frozenset([written[0].id]))
    kept = [w.index for w in written if snapshots.find(w.id) is not None]
    assert kept == [1, 3, 4]
    with pytest.raises(StorageError):
        snapshots.read(written[1].id, 0, 1)


def test_one_that_breaks_off_leaves_nothing(snapshots: SnapshotStore) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise StorageError("read error")

    with pytest.raises(StorageError, match="read error"):
        write_snapshot(snapshots, meta(1), chunks())
    assert snapshots.latest() is None


def test_received_bytes_must_be_those_sent(snapshots: SnapshotStore) -> None:
    promised = write_snapshot(MemorySnapshots(), meta(5), [b"state"])
    incoming = snapshots.receive(promised)
    incoming.write(b"stale")
    with pytest.raises(Corrupt, match="checksum"):
        incoming.finish()
    assert snapshots.latest() is None


def test_files_survive_reopening_and_halves_do_not(tmp_path: Path) -> None:
    root = tmp_path / "snapshots"
    first = FileSnapshots(root)
    whole = write_snapshot(first, meta(3), [b"state"])
    broken = write_snapshot(first, meta(4), [b"state"])
    (root / broken.id / "state.bin").write_bytes(b"sta")
    building = first.build(meta(5))
    building.write(b"never finished")
    (root / "a foreign file").write_text("x")
    again = FileSnapshots(root)
    assert again.latest() == whole
    assert again.find(broken.id) is None
    assert not list(root.glob("building-*"))
    building.abort()


@pytest.mark.parametrize("id_", ["../../etc/x", "1-2-zz", "", "1-2-ab/.."])
def test_an_id_that_is_no_id_does_not_become_a_path(tmp_path: Path, id_: str) -> None:
    evil = msgspec.structs.replace(meta(1), id=id_)
    with pytest.raises(RemoteProtocolError):
        FileSnapshots(tmp_path / "snapshots").receive(evil)


class Link:
    """Joins a sender and a receiver, losing and damaging what the test wants."""

    def __init__(self, source: SnapshotStore, target: SnapshotStore, loss: float) -> None:
        self._loss = loss
        self._random = random.Random(5)
        self._executor = ThreadPoolExecutor(1)
        self.received: list[SnapshotMeta] = []
        self.chunks_sent = 0
        self.receiving = Receiving(target, self._executor, self._acknowledge, self._finished)
        self._source = source
        self.sending: Sending | None = None

    async def send(self, snapshot: SnapshotMeta) -> bool:
        settings = StreamSettings(
            chunk_bytes=10, bytes_per_second=1 << 30, answer_timeout_s=0.02 if self._loss else 10
        )
        self.sending = Sending(snapshot, self._source, settings, self._executor, self._chunk)
        async with asyncio.TaskGroup() as group:
            receiver = group.create_task(self.receiving.run())
            delivered = await self.sending.run()
            receiver.cancel()
        self._executor.shutdown()
        return delivered

    def _chunk(self, offset: int, data: bytes, done: bool) -> None:
        assert self.sending is not None
        self.chunks_sent += 1
        checksum = zlib.crc32(data)
        if self._random.random() < self._loss:
            return
        if self._random.random() < self._loss:
            data = data[:-1] + b"?"
        self.receiving.accept(
            SnapshotChunk(
                sender="a",
                receiver="b",
                term=1,
                meta=self.sending.meta,
                offset=offset,
                data=data,
                checksum=checksum,
                done=done,
            )
        )

    def _acknowledge(self, sender: str, of: SnapshotMeta, offset: int, refused: bool) -> None:
        self._reply(of, offset, refused=refused)

    async def _finished(self, of: SnapshotMeta, sender: str) -> None:
        self.received.append(of)
        assert self.sending is not None
        if self._random.random() >= self._loss:
            self.sending.reached(of.index)

    def _reply(self, of: SnapshotMeta, offset: int, *, refused: bool) -> None:
        assert self.sending is not None
        if self._random.random() < self._loss:
            return
        self.sending.answer(
            SnapshotReply(
                sender="b",
                receiver="a",
                term=1,
                snapshot_id=of.id,
                offset=offset,
                refused=refused,
            )
        )


@pytest.mark.parametrize("loss", [0.0, 0.25])
async def test_a_transfer_arrives_whole(snapshots: SnapshotStore, loss: float) -> None:
    source = MemorySnapshots()
    data = [b"%03d" % number for number in range(100)]
    sent = write_snapshot(source, meta(9), data)
    link = Link(source, snapshots, loss)
    async with asyncio.timeout(20):
        assert await link.send(sent)
    assert link.received[0] == sent
    assert b"".join(snapshots.chunks(sent.id)) == b"".join(data)
    if not loss:
        assert link.chunks_sent == 30


async def test_an_empty_state_can_be_sent(snapshots: SnapshotStore) -> None:
    source = MemorySnapshots()
    sent = write_snapshot(source, meta(9), [])
    assert await Link(source, snapshots, 0.0).send(sent)
    assert snapshots.latest() == sent


async def test_a_silent_receiver_is_given_up(snapshots: SnapshotStore) -> None:
    source = MemorySnapshots()
    sent = write_snapshot(source, meta(9), [b"x" * 100])
    link = Link(source, snapshots, 1.0)
    assert not await link.send(sent)
    assert link.chunks_sent == 10


async def test_a_refusing_receiver_is_believed(tmp_path: Path) -> None:
    source = MemorySnapshots()
    sent = write_snapshot(source, msgspec.structs.replace(meta(9), id="not an id"), [b"x"])
    link = Link(source, FileSnapshots(tmp_path / "snapshots"), 0.0)
    assert not await link.send(sent)
    assert link.chunks_sent == 1
