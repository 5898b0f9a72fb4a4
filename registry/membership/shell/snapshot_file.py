"""The snapshot file itself: read at the start, written to as the core says."""

from __future__ import annotations

import os
from pathlib import Path

from registry.errors import ConfigError
from registry.membership.snapshot import SnapshotState, SnapshotWrite, replay


def load(path: Path, *, rejoin_after_leave: bool) -> tuple[SnapshotState, int, list[str]]:
    """What the file adds up to, its size, and lines that nobody understands.

    Raises `ConfigError` when there is a file that cannot be read.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return SnapshotState(), 0, []
    except OSError as problem:
        raise ConfigError(f"the snapshot cannot be read: {problem}", file=str(path)) from problem
    lines = raw.decode(errors="replace").split("\n")
    state, strange = replay(lines, rejoin_after_leave=rejoin_after_leave)
    return state, len(raw), strange


def apply(path: Path, write: SnapshotWrite) -> None:
    """Append, or replace the file as a whole. May raise `OSError`; the file stays readable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    target = path.with_name(path.name + ".compact") if write.replace else path
    with target.open("w" if write.replace else "a") as file:
        file.write(write.text)
        if write.sync:
            file.flush()
            os.fsync(file.fileno())
    if write.replace:
        target.replace(path)
