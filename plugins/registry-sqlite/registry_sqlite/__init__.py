"""A storage engine for the registry: one SQLite database, which every tool can look into."""

from __future__ import annotations

from registry.hooks import StorageEngine, hookimpl

from .store import SqliteStore

__version__ = "0.1.0"

__all__ = ["SqliteStore"]


@hookimpl
def registry_storage_engines() -> list[StorageEngine]:
    return [StorageEngine(name="sqlite", open=SqliteStore.open)]
