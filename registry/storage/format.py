"""The version of the layout that a store was written in, kept in the store itself.

The number covers everything below `registry.storage.keys`: which keys exist and how their values
are encoded. It is raised when an older program would misread what a newer one wrote; additions
that old programs skip do not need that.
"""

from __future__ import annotations

from pathlib import Path

from registry.errors import Corrupt, NewerFormat
from registry.storage.keys import META
from registry.storage.store import Batch, Store

#: What this program writes, and the newest that it reads.
FORMAT = 1

FORMAT_KEY = META + b"format"


def check_format(store: Store, directory: Path, *, stamp: bool = True) -> None:
    """Refuse a store that this program would misread; stamp an empty one with `FORMAT`.

    Every durable engine calls it before handing out a store. The stamp is synced, so that no
    directory holds data without saying what they are. With `stamp` False (read-only) an empty
    store is left as it is.

    Raises `NewerFormat`, or `Corrupt` when there are data but no stamp.
    """
    raw = store.get(FORMAT_KEY)
    if raw is None:
        if next(iter(store.scan(b"", limit=1)), None) is not None:
            raise Corrupt(
                f"data directory {directory}: holds data without a format version, so it was not "
                "written by this program: choose another directory"
            )
        if stamp:
            batch = Batch()
            batch.put(FORMAT_KEY, str(FORMAT).encode())
            store.write(batch)
            store.sync()
    elif not raw.isdigit():
        raise Corrupt(
            f"data directory {directory}: the format version is unreadable ({raw!r}): "
            "restore the directory from a backup, or empty it and rejoin as a new server"
        )
    elif int(raw) > FORMAT:
        raise NewerFormat(
            f"data directory {directory}: written in format {int(raw)}, this version reads formats "
            f"up to {FORMAT}: run the newer version, or choose another directory"
        )
