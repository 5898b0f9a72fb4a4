"""Both engines against a dictionary: any sequence of batches, reads, snapshots and reopenings."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from registry.errors import StorageError
from registry.storage import Batch, Reader, Snapshot, Store
from registry.storage.memory import MemoryStore
from registry.storage.rocks import RocksStore
from registry.testing.storage import own

Pairs = dict[bytes, bytes]

# Few and short keys, so that operations meet; every one of them sorts below the engine's own.
keys = st.binary(max_size=3).map(lambda raw: b"k" + bytes(byte % 4 * 85 for byte in raw))
operations = st.one_of(
    st.tuples(st.just(Batch.PUT), keys, st.binary(max_size=20)),
    st.tuples(st.just(Batch.DELETE), keys, st.just(b"")),
    st.tuples(st.just(Batch.DELETE_RANGE), keys, keys),
)


def changed(model: Pairs, changes: list[tuple[int, bytes, bytes]]) -> Pairs:
    after = dict(model)
    for kind, key, value in changes:
        if kind == Batch.PUT:
            after[key] = value
        elif kind == Batch.DELETE:
            after.pop(key, None)
        else:
            after = {other: kept for other, kept in after.items() if not key <= other < value}
    return after


class StoreModel(RuleBasedStateMachine):
    """Subclasses say how the store is opened; what was written is in `model`."""

    snapshots = Bundle("snapshots")

    def open(self) -> Store:
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        self.model: Pairs = {}
        self.store = self.open()
        self.openings = 1

    @rule(changes=st.lists(operations, max_size=12))
    def write(self, changes: list[tuple[int, bytes, bytes]]) -> None:
        batch = Batch()
        batch.operations.extend(changes)
        self.store.write(batch)
        self.model = changed(self.model, changes)

    @rule(target=snapshots)
    def snapshot(self) -> tuple[Snapshot, Pairs, int]:
        return self.store.snapshot(), self.model, self.openings

    @rule(
        taken=consumes(snapshots),
        key=keys,
        start=keys,
        stop=st.none() | keys,
        reverse=st.booleans(),
        limit=st.none() | st.integers(0, 5),
    )
    def read_snapshot(
        self,
        taken: tuple[Snapshot, Pairs, int],
        key: bytes,
        start: bytes,
        stop: bytes | None,
        reverse: bool,
        limit: int | None,
    ) -> None:
        snapshot, model, opening = taken
        if opening == self.openings:
            self.compare(snapshot, model, key, start, stop, reverse, limit)
            snapshot.close()
        else:
            with pytest.raises(StorageError, match="closed"):
                snapshot.get(key)

    @rule(
        key=keys,
        start=keys,
        stop=st.none() | keys,
        reverse=st.booleans(),
        limit=st.none() | st.integers(0, 5),
    )
    def read(
        self, key: bytes, start: bytes, stop: bytes | None, reverse: bool, limit: int | None
    ) -> None:
        self.compare(self.store, self.model, key, start, stop, reverse, limit)

    def compare(
        self,
        reader: Reader,
        model: Pairs,
        key: bytes,
        start: bytes,
        stop: bytes | None,
        reverse: bool,
        limit: int | None,
    ) -> None:
        assert reader.get(key) == model.get(key)
        expected = sorted(model.items(), reverse=reverse)
        expected = [
            (found, value)
            for found, value in expected
            if start <= found and (stop is None or found < stop)
        ]
        # Without an upper bound the engine's own key is in the range, before or after the others.
        asked = None if limit is None else limit + (limit > 0)
        pairs = own(reader.scan(start, stop, reverse=reverse, limit=asked))
        assert pairs[:limit] == expected[:limit]

    @invariant()
    def whole_content(self) -> None:
        if hasattr(self, "store"):
            assert own(self.store.scan(b"")) == sorted(self.model.items())

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()


class MemoryModel(StoreModel):
    def open(self) -> Store:
        return MemoryStore()


class RocksModel(StoreModel):
    def open(self) -> Store:
        self.directory = Path(tempfile.mkdtemp(prefix="store-model-"))
        return RocksStore.open(self.directory)

    @rule()
    def flush(self) -> None:
        assert isinstance(self.store, RocksStore)
        self.store._database.flush()

    @rule(synced=st.booleans())
    def reopen(self, synced: bool) -> None:
        if synced:
            self.store.sync()
        self.store.close()
        self.store = RocksStore.open(self.directory)
        self.openings += 1

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.mark.parametrize(
    ("model", "examples"), [(MemoryModel, 150), (RocksModel, 40)], ids=["memory", "rocks"]
)
def test_store_behaves_like_a_sorted_dictionary(model: type[StoreModel], examples: int) -> None:
    run_state_machine_as_test(
        model,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
