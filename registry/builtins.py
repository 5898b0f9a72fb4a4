"""What the registry can do without any plugin, registered through the hooks that plugins use.

This module names everything and imports nothing: each hook loads its layer when it is called, so
that a command that needs no storage engine does not load one.
"""

from __future__ import annotations

from pathlib import Path

from registry.hooks import (
    CheckType,
    DefinitionSource,
    StorageEngine,
    WatchHandler,
    hookimpl,
)
from registry.storage.store import Store


@hookimpl
def registry_storage_engines() -> list[StorageEngine]:
    return [
        StorageEngine(name="rocksdict", open=_open_rocks),
        StorageEngine(name="memory", open=_open_memory, durable=False),
    ]


@hookimpl
def registry_check_types() -> list[CheckType]:
    from registry.agent.checks import builtin_check_types

    return builtin_check_types()


@hookimpl
def registry_definition_sources() -> list[DefinitionSource]:
    from registry.agent.formats import load_hcl, load_json

    return [
        DefinitionSource(suffix=".json", load=load_json),
        DefinitionSource(suffix=".hcl", load=load_hcl),
    ]


@hookimpl
def registry_watch_handlers() -> list[WatchHandler]:
    from registry.agent.watches import builtin_watch_handlers

    return builtin_watch_handlers()


def _open_rocks(directory: Path) -> Store:
    from registry.storage.rocks import RocksStore

    return RocksStore.open(directory)


def _open_memory(directory: Path) -> Store:
    from registry.storage.memory import MemoryStore

    return MemoryStore()
