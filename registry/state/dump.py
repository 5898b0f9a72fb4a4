"""The whole state as of one moment, on its way into a snapshot file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(slots=True)
class StateDump:
    """The replicated state as of one moment. `chunks` may be read in any thread, once; closing the
    dump (it is a context manager) lets the store forget that moment."""

    index: int
    term: int
    chunks: Iterator[bytes]
    close: Callable[[], None]

    def __enter__(self) -> StateDump:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
