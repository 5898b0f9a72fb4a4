"""Finding plugins: entry points of installed distributions, and files of plugin directories."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from registry.errors import ConfigError

#: The group of entry points that plugins are found by.
GROUP = "registry"


@dataclass(frozen=True, slots=True)
class Found:
    """A plugin that is there and not yet loaded."""

    name: str
    source: str
    version: str
    load: Callable[[], object]


def installed() -> list[Found]:
    """Plugins of installed distributions, by name."""
    from importlib.metadata import entry_points

    return [
        Found(
            name=point.name,
            source="entry point",
            version=point.dist.version if point.dist else "",
            load=point.load,
        )
        for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)
    ]


def in_directories(directories: Sequence[Path]) -> Iterator[Found]:
    """Every module and package of the directories but those that begin with `_` or `.`."""
    for directory in directories:
        if not directory.is_dir():
            raise ConfigError(f"{directory} is not a directory", field="plugin-dir")
        for path in sorted(directory.iterdir()):
            if path.name.startswith(("_", ".")):
                continue
            file = path / "__init__.py" if path.is_dir() else path
            if file.suffix == ".py" and file.is_file():
                yield Found(path.stem, str(file), "", _loader(file, path))


def _loader(file: Path, path: Path) -> Callable[[], ModuleType]:
    def load() -> ModuleType:
        # A name of our own, so that a plugin called like an installed module stands beside it.
        # A package imports its own modules relatively.
        name = "registry_plugin_" + re.sub(r"\W", "_", str(path.resolve().with_suffix("")))
        spec = importlib.util.spec_from_file_location(
            name, file, submodule_search_locations=[str(path)] if path.is_dir() else None
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module

    return load
