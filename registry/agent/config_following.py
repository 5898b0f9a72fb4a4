"""Following the configuration on disk: tells when something in it was edited.

The operating system tells (through watchfiles); nothing is read until it does. Directories are
watched as they are, files through their directory, since editors replace a file rather than write
into it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from pathlib import Path

from watchfiles import Change, awatch

logger = logging.getLogger("registry.agent")

#: Changes that come this close together are one edit; together they stay well below a second.
DEBOUNCE_MS, STEP_MS = 200, 50


class ConfigPaths:
    """The files and directories that configuration is read from."""

    def __init__(self, paths: Sequence[str], suffixes: Callable[[], Collection[str]]) -> None:
        """`suffixes` gives those of the formats that there are now, which a reload may add to."""
        existing = [Path(path).absolute() for path in paths if Path(path).exists()]
        self._directories = {path for path in existing if path.is_dir()}
        self._files = {path for path in existing if not path.is_dir()}
        self._suffixes = suffixes

    @property
    def watched(self) -> list[Path]:
        return sorted(self._directories | {path.parent for path in self._files})

    def concerns(self, change: Change, changed: str) -> bool:
        """Whether this file is one that configuration is, or was, read from."""
        path = Path(changed)
        if path in self._files:
            return True
        # A name that starts with ".." is how a mounted volume swaps all its files at once.
        swapped = path.name.startswith("..")
        return path.parent in self._directories and (path.suffix in self._suffixes() or swapped)


async def edits(paths: ConfigPaths) -> AsyncIterator[set[str]]:
    """The names of the files of each edit, as it happens; ends when nothing can be watched."""
    if not paths.watched:
        return
    watching = awatch(
        *paths.watched,
        watch_filter=paths.concerns,
        debounce=DEBOUNCE_MS,
        step=STEP_MS,
        recursive=False,
    )
    async for changes in watching:
        yield {Path(name).name for _, name in changes}
