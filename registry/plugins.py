"""Plugins: found, loaded, put in order, called one by one, and reported on.

A plugin is found by an entry point of group `registry` in an installed distribution, or as a module
or package in a `-plugin-dir`. Order is built-in features first, then installed plugins by name,
then directories as given and by name within each; in that order contributions are collected, and
the first to claim a name ("http" as a check type, `GET /v1/kv/` as a route) has it.

**Isolation.** Every implementation is called by itself. One that raises while loading or in a hook,
or returns what the hook does not allow, costs its own contribution only: it is logged with its
traceback, kept for `report`, and the rest goes on. What a plugin hands over to be called later (the
runner of its check type, its HTTP handler) is wrapped to the same end. Nothing can stop a plugin
that blocks the thread it is called in; its time is in the report.
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pluggy
from msgspec.structs import replace

from registry import hooks
from registry.errors import ConfigError, PluginError, RegistryError
from registry.hooks import (
    CheckResult,
    CheckRunner,
    CheckType,
    CliCommand,
    DefinitionSource,
    HttpRoute,
    StorageEngine,
    WatchHandler,
)

logger = logging.getLogger("registry.plugins")

GROUP = "registry"
BUILTIN = "builtin"
# Errors that are kept per plugin: the first ones tell the most, and a check that fails every
# second must not fill the memory.
_ERRORS_MAX = 20

_HOOKS = [name for name in vars(hooks) if name.startswith("registry_")]

T = TypeVar("T")


@dataclass(slots=True)
class PluginRecord:
    """What is known of one plugin; also of one that could not be loaded."""

    name: str
    source: str  # "builtin", "entry point" or the file
    version: str = ""
    hooks: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    calls: int = 0
    seconds: float = 0.0

    @contextmanager
    def called(self) -> Iterator[None]:
        """Counts one call into the plugin and its time."""
        begin = time.perf_counter()
        self.calls += 1
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - begin

    def failed(self, hook: str, error: BaseException | str, *, log: bool = True) -> PluginError:
        """Keep a failure and log it, and give it as an error to raise where somebody waits for it.

        `log` is False where the caller logs what it is raised.
        """
        if isinstance(error, str):
            reason, traceback = error, None
        else:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            traceback = error
        if len(self.errors) < _ERRORS_MAX:
            self.errors.append(f"{hook}: {reason}")
        if log:
            text = "plugin failed plugin=%s hook=%s reason=%s"
            logger.error(text, self.name, hook, reason, exc_info=traceback)
        return PluginError(self.name, hook, reason)


@dataclass(frozen=True, slots=True)
class _Found:
    """A plugin that is there and not yet loaded."""

    name: str
    source: str
    version: str
    load: Callable[[], object]


class Plugins:
    """All plugins of this process. Made by `load`; what they contribute is asked for once."""

    def __init__(self) -> None:
        # One manager for each plugin: a call reaches that plugin alone, and one whose registration
        # fails half-way leaves nothing behind.
        self._managers: dict[str, pluggy.PluginManager] = {}
        self._records: dict[str, PluginRecord] = {}
        self._contributions: dict[str, list[Any]] = {}

    @classmethod
    def load(cls, plugin_dirs: Sequence[Path] = (), disabled: Iterable[str] = ()) -> Plugins:
        """Find and load everything but the plugins named in `disabled`.

        Raises `ConfigError` when a plugin directory does not exist; a plugin that cannot be loaded
        raises nothing.
        """
        from registry import builtins

        plugins = cls()
        plugins.add(BUILTIN, builtins, source=BUILTIN)
        skipped = set(disabled)
        for found in (*_installed(), *_in_directories(plugin_dirs)):
            if found.name in skipped:
                logger.info("plugin disabled plugin=%s", found.name)
            else:
                plugins._load(found)
        return plugins

    def add(self, name: str, plugin: object, *, source: str = "", version: str = "") -> None:
        """Register a loaded module or object; what is wrong with its hooks is recorded."""
        record = self._record(name, source, version)
        manager = pluggy.PluginManager(hooks.PROJECT)
        manager.add_hookspecs(hooks)
        options = {name: manager.parse_hookimpl_opts(plugin, name) for name in dir(plugin)}
        marked = [found["specname"] or name for name, found in options.items() if found]
        _validate(plugin, marked, record)
        try:
            manager.register(plugin, name=record.name)
        except (pluggy.PluginValidationError, ValueError) as error:
            record.failed("load", _last_line(error))
            return
        self._managers[record.name] = manager
        record.hooks = [hook for hook in _HOOKS if hook in marked]

    # -- contributions

    def storage_engine(self, name: str) -> StorageEngine:
        """The engine of that name; `ConfigError` with those that there are."""
        engines = {engine.name: engine for engine in self.storage_engines()}
        if name not in engines:
            known = ", ".join(sorted(engines))
            raise ConfigError(
                f"there is no storage engine {name!r}; known are {known}", field="storage_engine"
            )
        return engines[name]

    def storage_engines(self) -> list[StorageEngine]:
        return self._collect(
            "registry_storage_engines", StorageEngine, lambda engine: engine.name, _guard_engine
        )

    def check_type(self, key: str) -> CheckType | None:
        """The check type that a definition's field `key` selects."""
        return next((kind for kind in self.check_types() if kind.key == key), None)

    def check_types(self) -> list[CheckType]:
        return self._collect(
            "registry_check_types", CheckType, lambda kind: kind.key, _guard_check_type
        )

    def definition_sources(self) -> list[DefinitionSource]:
        return self._collect(
            "registry_definition_sources", DefinitionSource, lambda it: it.suffix, _guard_source
        )

    def watch_handler(self, key: str) -> WatchHandler | None:
        """The handler that a watch definition's field `key` selects."""
        return next((handler for handler in self.watch_handlers() if handler.key == key), None)

    def watch_handlers(self) -> list[WatchHandler]:
        return self._collect(
            "registry_watch_handlers", WatchHandler, lambda handler: handler.key, _guard_handler
        )

    def http_routes(self) -> list[HttpRoute]:
        return self._collect(
            "registry_http_routes",
            HttpRoute,
            lambda route: f"{route.method.upper()} {route.pattern}",
            _guard_route,
        )

    def cli_commands(self) -> list[CliCommand]:
        return self._collect(
            "registry_cli_commands", CliCommand, lambda command: command.name, _guard_command
        )

    def report(self) -> list[dict[str, Any]]:
        """Every plugin as plain data, for `GET /v1/agent/plugins`; in the order of loading."""
        return [
            {
                "Name": record.name,
                "Version": record.version,
                "Source": record.source,
                "Hooks": list(record.hooks),
                "Errors": list(record.errors),
                "Calls": record.calls,
                "TimeMs": round(record.seconds * 1000, 3),
            }
            for record in self._records.values()
        ]

    # -- insides

    def _collect(
        self,
        hook: str,
        kind: type[T],
        name_of: Callable[[T], str],
        guard: Callable[[T, PluginRecord], T],
    ) -> list[T]:
        """What all plugins contribute to `hook`, in order, each asked once."""
        if hook not in self._contributions:
            owners: dict[str, str] = {}
            collected: list[T] = []
            for record in self._records.values():
                if hook not in record.hooks:
                    continue
                for item in self._contribution(hook, kind, record):
                    name = name_of(item)
                    if name in owners:
                        record.failed(hook, f"{name!r} is already there, from {owners[name]}")
                        continue
                    owners[name] = record.name
                    collected.append(item if record.name == BUILTIN else guard(item, record))
            self._contributions[hook] = collected
        return list(self._contributions[hook])

    def _contribution(self, hook: str, kind: type[T], record: PluginRecord) -> list[T]:
        """What one plugin contributes; nothing if it fails or gives anything else than `kind`."""
        caller: Callable[[], list[Iterable[T]]] = getattr(self._managers[record.name].hook, hook)
        try:
            with record.called():
                items = [item for result in caller() for item in result]
        # SystemExit: a plugin must not end the agent either.
        except (Exception, SystemExit) as error:
            record.failed(hook, error)
            return []
        wrong = [item for item in items if not isinstance(item, kind)]
        if wrong:
            record.failed(hook, f"gave {type(wrong[0]).__name__}, expected {kind.__name__}")
            return []
        return items

    def _record(self, name: str, source: str, version: str) -> PluginRecord:
        unique, number = name, 1
        while unique in self._records:
            number += 1
            unique = f"{name} ({number})"
        record = self._records[unique] = PluginRecord(unique, source, version)
        if number > 1:
            other = self._records[name].source
            logger.warning("two plugins of one name plugin=%s sources=%s, %s", name, other, source)
        return record

    def _load(self, found: _Found) -> None:
        try:
            plugin = found.load()
        except (Exception, SystemExit) as error:
            self._record(found.name, found.source, found.version).failed("load", error)
            return
        version = found.version or str(getattr(plugin, "__version__", ""))
        self.add(found.name, plugin, source=found.source, version=version)
        logger.info(
            "plugin loaded plugin=%s version=%s source=%s", found.name, version, found.source
        )


def _validate(plugin: object, marked: list[str], record: PluginRecord) -> None:
    """Name what looks like a mistake: hooks that do not exist, hooks that are not marked."""
    for name in marked:
        if name not in _HOOKS:
            near = difflib.get_close_matches(name, _HOOKS, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            record.failed(name, f"there is no hook of this name{hint}")
    for name in _HOOKS:
        if name not in marked and callable(getattr(plugin, name, None)):
            record.failed(name, "not marked with @hookimpl, so never called")
    if not marked:
        record.failed("load", "implements no hook")


# -- finding


def _installed() -> list[_Found]:
    """Plugins of installed distributions, by name."""
    from importlib.metadata import entry_points

    return [
        _Found(
            name=point.name,
            source="entry point",
            version=point.dist.version if point.dist else "",
            load=point.load,
        )
        for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)
    ]


def _in_directories(directories: Sequence[Path]) -> Iterator[_Found]:
    """Every module and package of the directories but those that begin with `_` or `.`."""
    for directory in directories:
        if not directory.is_dir():
            raise ConfigError(f"{directory} is not a directory", field="plugin-dir")
        for path in sorted(directory.iterdir()):
            if path.name.startswith(("_", ".")):
                continue
            file = path / "__init__.py" if path.is_dir() else path
            if file.suffix == ".py" and file.is_file():
                yield _Found(path.stem, str(file), "", _loader(file, path))


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


def _last_line(error: Exception) -> str:
    """pluggy explains over several lines, the last of which says what is wrong."""
    return " ".join(str(error).split("\n")[-1].split())


# -- guarding what is called later


def _guard_engine(engine: StorageEngine, record: PluginRecord) -> StorageEngine:
    def open_store(directory: Path) -> Any:
        return _guarded(record, "registry_storage_engines", engine.open, directory)

    return replace(engine, open=open_store)


def _guard_source(source: DefinitionSource, record: PluginRecord) -> DefinitionSource:
    def load(path: Path, text: str) -> Mapping[str, Any]:
        hook = "registry_definition_sources"
        try:
            value: object = _guarded(record, hook, source.load, path, text)
        except PluginError as error:
            raise ConfigError(str(error), file=str(path)) from error
        if not isinstance(value, Mapping):
            wrong = record.failed(hook, f"gave {type(value).__name__}, expected a mapping")
            raise ConfigError(str(wrong), file=str(path))
        return value

    return replace(source, load=load)


def _guard_check_type(kind: CheckType, record: PluginRecord) -> CheckType:
    hook = "registry_check_types"

    def create(definition: Any) -> CheckRunner:
        try:
            with record.called():
                runner = kind.create(definition)
        except ValueError:
            raise  # the definition's fault
        except Exception as error:
            raise ValueError(str(record.failed(hook, error))) from error
        # A runner that is more than a function (bind, follow, timed_out) is handed on as it is:
        # the agent looks for those methods on the object itself.
        if any(hasattr(runner, name) for name in ("bind", "follow", "timed_out")):
            return runner
        return _GuardedRunner(runner, record)

    return replace(kind, create=create)


class _GuardedRunner:
    """Counts the runs of a plugin's check and keeps what goes wrong in them."""

    __slots__ = ("_record", "_runner")

    def __init__(self, runner: CheckRunner, record: PluginRecord) -> None:
        self._runner = runner
        self._record = record

    async def run(self) -> CheckResult:
        hook = "registry_check_types"
        # Whoever runs checks logs why one is critical.
        result: object = await _guarded_async(self._record, hook, self._runner.run, log=False)
        if not isinstance(result, CheckResult):
            problem = f"gave {type(result).__name__}, expected CheckResult"
            raise self._record.failed(hook, problem, log=False)
        return result


def _guard_handler(handler: WatchHandler, record: PluginRecord) -> WatchHandler:
    hook = "registry_watch_handlers"

    def create(definition: Any) -> Callable[[int, bytes], Awaitable[None]]:
        try:
            with record.called():
                function = handler.create(definition)
        except ValueError:
            raise  # the definition's fault
        except Exception as error:
            raise ValueError(str(record.failed(hook, error))) from error

        async def handle(index: int, data: bytes) -> None:
            await _guarded_async(record, hook, function, index, data, log=False)

        return handle

    return replace(handler, create=create)


def _guard_route(route: HttpRoute, record: PluginRecord) -> HttpRoute:
    @wraps(route.handler)
    async def handle(request: Any) -> Any:
        return await _guarded_async(record, "registry_http_routes", route.handler, request)

    return replace(route, handler=handle)


def _guard_command(command: CliCommand, record: PluginRecord) -> CliCommand:
    def run(arguments: Any) -> int:
        status: int = _guarded(record, "registry_cli_commands", command.run, arguments)
        return status

    return replace(command, run=run)


def _guarded(record: PluginRecord, hook: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """The call's result; our own errors pass, any other is recorded and raised as `PluginError`."""
    try:
        with record.called():
            return call(*arguments)
    except RegistryError:
        raise
    except Exception as error:
        raise record.failed(hook, error) from error


async def _guarded_async(
    record: PluginRecord,
    hook: str,
    call: Callable[..., Awaitable[Any]],
    *arguments: Any,
    log: bool = True,
) -> Any:
    try:
        with record.called():
            return await call(*arguments)
    except RegistryError:
        raise
    except Exception as error:
        raise record.failed(hook, error, log=log) from error
