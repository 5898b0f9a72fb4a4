"""Who this node is: an id made once and kept in the data directory (surface, section 10)."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from registry.errors import ConfigError, StorageError

FILE_NAME = "node-id"


def node_id(data_dir: Path | None, configured: str = "") -> str:
    """The configured id, else the stored one, else a new one; stored when there is a directory.

    Raises `ConfigError` for what is no UUID and `StorageError` when the file cannot be used.
    """
    chosen = _checked(configured, "node_id") if configured else ""
    if data_dir is None:
        return chosen or str(uuid.uuid4())
    path = data_dir / FILE_NAME
    stored = _read(path)
    if stored and not chosen:
        return _checked(stored, str(path))
    chosen = chosen or str(uuid.uuid4())
    if chosen != stored:
        _write(path, chosen)
    return chosen


def _checked(text: str, where: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise ConfigError(f"not a UUID: {text!r}; give a valid node id", field=where) from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as problem:
        raise StorageError(f"cannot read the node id from {path}: {problem}") from problem


def _write(path: Path, chosen: str) -> None:
    """Written aside, synced and renamed: a crash leaves the old id or the new one, never half."""
    aside = path.with_suffix(".new")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(chosen)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as problem:
        raise StorageError(f"cannot write the node id to {path}: {problem}") from problem
