"""Every plugin of this process, and what all of them contribute together."""

from __future__ import annotations

import difflib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pluggy

from registry import hooks
from registry.errors import ConfigError, PluginError, RegistryError
from registry.hooks import (
    AuthMethod,
    ChangeSink,
    CheckType,
    CliCommand,
    DefinitionSource,
    DnsFilter,
    HttpMiddleware,
    HttpRoute,
    KvValidator,
    MetricsSink,
    ServiceTransform,
    StorageEngine,
    UiPanel,
    WatchHandler,
)
from registry.plugins import guards
from registry.plugins.discovery import Found, in_directories, installed
from registry.plugins.record import Counters, PluginRecord
from registry.plugins.settings import SETTINGS_KEY, PluginSelection, read_settings
from registry.plugins.shown_settings import shown_settings
from registry.plugins.threads import CLOSE_LIMIT_S, PluginThreads

logger = logging.getLogger("registry.plugins")

BUILTIN = "builtin"

#: Importing a plugin, and asking it what it contributes, at the start.
LOAD_LIMIT_S = 30.0
COLLECT_LIMIT_S = 10.0

#: Hooks whose contributions are taken at the start of an agent and at no other time. Those of all
#: others are in use as soon as their plugin is configured.
AT_START = frozenset({"registry_storage_engines"})

_HOOKS = [name for name in vars(hooks) if name.startswith("registry_")]

T = TypeVar("T")


class Plugins:
    """All plugins of this process. Made by `load`; what they contribute is asked for once."""

    def __init__(self) -> None:
        # One manager for each plugin: a call reaches that plugin alone, and one whose registration
        # fails half-way leaves nothing behind.
        self._managers: dict[str, pluggy.PluginManager] = {}
        self._records: dict[str, PluginRecord] = {}
        self._contributions: dict[str, list[Any]] = {}
        #: How the contributions to each hook that was asked for are gathered again.
        self._gatherers: dict[str, Callable[[], list[Any]]] = {}
        #: What a plugin has given to a hook, guarded; by hook and plugin.
        self._given: dict[tuple[str, str], list[Any]] = {}
        #: Goes up when contributions have changed, by settings that came or went.
        self.generation = 0
        #: None until the configuration was read.
        self._settings: dict[str, msgspec.Struct] | None = None

    @classmethod
    def load(
        cls, plugin_dirs: Sequence[Path] = (), selection: PluginSelection | None = None
    ) -> Plugins:
        """Find and load every plugin that `selection` wants; others are not even imported.

        Raises `ConfigError` when a plugin directory does not exist or the selection names a plugin
        that is not there; a plugin that cannot be loaded raises nothing.
        """
        from registry import builtins

        plugins = cls()
        plugins.add(BUILTIN, builtins, source=BUILTIN)
        wanted = selection or PluginSelection()
        found = [*installed(), *in_directories(plugin_dirs)]
        _refuse_unknown(wanted, [each.name for each in found])
        for each in sorted(found, key=lambda each: wanted.place(each.name)):
            if wanted.wants(each.name):
                plugins._load(each)
            else:
                logger.info("plugin disabled plugin=%s", each.name)
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
        self._contributions.clear()

    def narrow(self, selection: PluginSelection) -> None:
        """Let go of plugins that `selection` does not want, and put the others in its order.

        `load` did so already, as far as the selection was known then.
        """
        kept = sorted(
            (each for each in self._records.values() if each.source != BUILTIN),
            key=lambda record: selection.place(record.name),
        )
        kept = [record for record in kept if selection.wants(record.name)]
        for record in set(self._records.values()) - {*kept}:
            if record.source != BUILTIN:
                logger.info("plugin disabled plugin=%s", record.name)
        builtin = [each for each in self._records.values() if each.source == BUILTIN]
        self._records = {record.name: record for record in (*builtin, *kept)}
        self._contributions.clear()

    def close(self) -> None:
        """End the plugins' threads; those that hang are left to themselves after a moment, the same
        for all."""
        records = self._records.values()
        ending = [each.threads.begin_close() for each in records if each.threads is not None]
        deadline = time.monotonic() + CLOSE_LIMIT_S
        for thread in ending:
            if thread is not None:
                thread.join(max(0.0, deadline - time.monotonic()))

    def count_in(self, counters: Counters) -> None:
        """Count calls and errors there from now on, as `plugin.calls` and `plugin.errors`."""
        for record in self._records.values():
            record.counters = counters

    # -- settings

    def judged_settings(self, given: Mapping[str, Any]) -> dict[str, msgspec.Struct]:
        """What `plugins.settings` says, each plugin's part as the plugin's own type; changes
        nothing.

        Raises `ConfigError` naming plugin and key. A plugin that was not told its settings has its
        defaults, and is left out when it has none.
        """
        types = {
            record.name: self._settings_type(record)
            for record in self._records.values()
            if "registry_settings" in record.hooks
        }
        for name in given:
            if name not in self._records:
                raise ConfigError(
                    f"there is no plugin {name!r}; known are {self._known()}", field=SETTINGS_KEY
                )
            if name not in types:
                raise ConfigError("this plugin has no settings", field=f"{SETTINGS_KEY}.{name}")
        judged = {}
        for name, kind in types.items():
            if kind is None:
                continue
            if name in given:
                judged[name] = read_settings(name, kind, given[name])
            elif not any(one.required for one in msgspec.structs.fields(kind)):
                judged[name] = kind()
        return judged

    def configure(self, settings: Mapping[str, msgspec.Struct]) -> None:
        """Take what `judged_settings` gave. What plugins without their settings contributed is
        taken back, and what others contribute now is added.

        Asks plugins, so it may wait; meanwhile, from another thread, contributions are as before.
        """
        is_running = self._settings is not None
        before = {record.name for record in self._configured()}
        self._settings = dict(settings)
        after = {record.name for record in self._configured()}
        if before == after:
            return
        for record in self._records.values():
            if is_running and record.name in after - before:
                record.needs_restart = [hook for hook in record.hooks if hook in AT_START]
                if record.needs_restart:
                    text = "plugin is not used in full before a restart plugin=%s hooks=%s"
                    logger.warning(text, record.name, ",".join(record.needs_restart))
            elif record.name not in after:
                record.needs_restart = []
        for hook, name in list(self._given):
            if name not in after:
                del self._given[hook, name]
        self._contributions = {hook: gather() for hook, gather in self._gatherers.items()}
        self.generation += 1

    @property
    def settings(self) -> dict[str, msgspec.Struct]:
        """All settings in force."""
        return dict(self._settings or {})

    def needing_restart(self) -> dict[str, list[str]]:
        """The hooks of plugins that came into use too late for them."""
        records = self._records.values()
        return {each.name: list(each.needs_restart) for each in records if each.needs_restart}

    def _configured(self) -> list[PluginRecord]:
        return [record for record in self._records.values() if self.is_configured(record)]

    def settings_of(self, name: str) -> msgspec.Struct | None:
        """The plugin's settings in force; None without any."""
        return (self._settings or {}).get(name)

    def shown_settings(self) -> dict[str, dict[str, Any]]:
        """All settings in force by plugin, as data for JSON and without secrets."""
        shown = {}
        for name, settings in (self._settings or {}).items():
            try:
                shown[name] = shown_settings(settings)
            except Exception as problem:  # a report must not fail for what one plugin has defined
                logger.warning("settings cannot be shown plugin=%s error=%s", name, problem)
        return shown

    def is_configured(self, record: PluginRecord) -> bool:
        """False while a plugin waits for settings that it cannot do without."""
        if "registry_settings" not in record.hooks or self._settings is None:
            return True
        return record.name in self._settings

    def _settings_type(self, record: PluginRecord) -> type[msgspec.Struct] | None:
        hook = "registry_settings"
        try:
            kind = self._called(record, hook)
        except PluginError:
            return None
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return kind
        record.failed(hook, f"gave {kind!r}, expected a subclass of msgspec.Struct")
        return None

    def _known(self) -> str:
        return ", ".join(sorted(name for name in self._records if name != BUILTIN)) or "none"

    # -- life

    def records(self, hook: str) -> list[PluginRecord]:
        """The plugins that implement a hook, in order."""
        return [record for record in self._records.values() if hook in record.hooks]

    def hook_of(self, record: PluginRecord, hook: str) -> Callable[..., Any]:
        """One plugin's implementation of a hook, to be called by keyword as pluggy does."""
        caller: Callable[..., list[Any]] = getattr(self._managers[record.name].hook, hook)

        def call(**arguments: Any) -> Any:
            results = caller(**arguments)
            return results[0] if results else None

        return call

    def _called(self, record: PluginRecord, hook: str) -> Any:
        return record.call_now(hook, self.hook_of(record, hook), limit_s=COLLECT_LIMIT_S)

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
            "registry_storage_engines",
            StorageEngine,
            lambda engine: engine.name,
            guards.guard_engine,
        )

    def check_type(self, key: str) -> CheckType | None:
        """The check type that a definition's field `key` selects."""
        return next((kind for kind in self.check_types() if kind.key == key), None)

    def check_types(self) -> list[CheckType]:
        return self._collect(
            "registry_check_types", CheckType, lambda kind: kind.key, guards.guard_check_type
        )

    def definition_sources(self) -> list[DefinitionSource]:
        return self._collect(
            "registry_definition_sources",
            DefinitionSource,
            lambda it: it.suffix,
            guards.guard_source,
        )

    def service_transforms(self) -> list[guards.GuardedTransform]:
        found = self._collect(
            "registry_service_transforms",
            ServiceTransform,
            lambda transform: transform.name,
            guards.guard_transform,
        )
        return [each for each in found if isinstance(each, guards.GuardedTransform)]

    def metrics_sinks(self) -> list[MetricsSink]:
        return self._collect(
            "registry_metrics_sinks", MetricsSink, lambda sink: sink.name, guards.guard_metrics
        )

    def watch_handler(self, key: str) -> WatchHandler | None:
        """The handler that a watch definition's field `key` selects."""
        return next((handler for handler in self.watch_handlers() if handler.key == key), None)

    def watch_handlers(self) -> list[WatchHandler]:
        return self._collect(
            "registry_watch_handlers",
            WatchHandler,
            lambda handler: handler.key,
            guards.guard_handler,
        )

    def change_sinks(self) -> list[ChangeSink]:
        return self._collect(
            "registry_change_sinks", ChangeSink, lambda sink: sink.name, guards.guard_sink
        )

    def kv_validators(self) -> list[KvValidator]:
        return self._collect(
            "registry_kv_validators",
            KvValidator,
            lambda validator: validator.name,
            guards.guard_validator,
        )

    def http_routes(self) -> list[HttpRoute]:
        return self._collect(
            "registry_http_routes",
            HttpRoute,
            lambda route: f"{route.method.upper()} {route.pattern}",
            guards.guard_route,
        )

    def http_middleware(self) -> list[HttpMiddleware]:
        return self._collect(
            "registry_http_middleware", HttpMiddleware, lambda it: it.name, guards.guard_middleware
        )

    def auth_methods(self) -> list[AuthMethod]:
        return self._collect(
            "registry_auth_methods", AuthMethod, lambda method: method.name, guards.guard_auth
        )

    def ui_panels(self) -> list[guards.GuardedPanel]:
        """Panels by their plugins, each of which has slugs of its own."""
        found = self._collect(
            "registry_ui_panels",
            UiPanel,
            lambda panel: panel.slug,
            guards.guard_panel,
            shared_names=False,
        )
        return [each for each in found if isinstance(each, guards.GuardedPanel)]

    def dns_filters(self) -> list[DnsFilter]:
        return self._collect(
            "registry_dns_filters", DnsFilter, lambda it: it.name, guards.guard_dns_filter
        )

    def cli_commands(self) -> list[CliCommand]:
        return self._collect(
            "registry_cli_commands", CliCommand, lambda command: command.name, guards.guard_command
        )

    def report(self) -> list[dict[str, Any]]:
        """Every plugin as plain data, for `GET /v1/agent/plugins`; in the order of loading.

        `Settings` are null where a plugin has none, or waits for those that it cannot do without:
        then it is not `Configured`.
        """
        shown = self.shown_settings()
        return [
            {
                **record.report(),
                "Configured": self.is_configured(record),
                "Settings": shown.get(record.name),
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
        *,
        shared_names: bool = True,
    ) -> list[T]:
        """What all plugins contribute to `hook`, in order, each asked once. Names are one's own
        among all plugins' (`shared_names`) or among the plugin's."""

        def gather() -> list[T]:
            owners: dict[str, str] = {}
            collected: list[T] = []
            for record in self._configured():
                for item in self._guarded(hook, kind, guard, record):
                    name = name_of(item) if shared_names else f"{record.name}/{name_of(item)}"
                    if name in owners:
                        record.failed(hook, f"{name!r} is already there, from {owners[name]}")
                        continue
                    owners[name] = record.name
                    collected.append(item)
            return collected

        if hook not in self._contributions:
            self._gatherers[hook] = gather
            self._contributions[hook] = gather()
        return list(self._contributions[hook])

    def _guarded(
        self,
        hook: str,
        kind: type[T],
        guard: Callable[[T, PluginRecord], T],
        record: PluginRecord,
    ) -> list[T]:
        """What one plugin contributes, asked once for as long as it is configured."""
        if hook not in record.hooks:
            return []
        key = (hook, record.name)
        if key not in self._given:
            given = self._contribution(hook, kind, record)
            guarded = given if record.name == BUILTIN else [guard(each, record) for each in given]
            self._given[key] = guarded
        return self._given[key]

    def _contribution(self, hook: str, kind: type[T], record: PluginRecord) -> list[T]:
        """What one plugin contributes; nothing if it fails or gives anything else than `kind`."""

        def items() -> list[Any]:
            # Within the call, since what a plugin gives may be a generator of its own.
            result = self.hook_of(record, hook)()
            return [] if result is None else list(result)

        try:
            given = record.call_now(hook, items, limit_s=COLLECT_LIMIT_S)
        except RegistryError:
            return []
        wrong = [item for item in given if not isinstance(item, kind)]
        if wrong:
            record.failed(hook, f"gave {type(wrong[0]).__name__}, expected {kind.__name__}")
            return []
        return list(given)

    def _record(self, name: str, source: str, version: str) -> PluginRecord:
        unique, number = name, 1
        while unique in self._records:
            number += 1
            unique = f"{name} ({number})"
        threads = None if source == BUILTIN else PluginThreads(unique)
        record = PluginRecord(unique, source, version, threads=threads)
        self._records[unique] = record
        if number > 1:
            other = self._records[name].source
            logger.warning("two plugins of one name plugin=%s sources=%s, %s", name, other, source)
        return record

    def _load(self, found: Found) -> None:
        threads = PluginThreads(found.name)
        importing = PluginRecord(found.name, found.source, found.version, threads=threads)
        try:
            plugin = importing.call_now("load", found.load, limit_s=LOAD_LIMIT_S)
        except RegistryError:
            record = self._record(found.name, found.source, found.version)
            record.errors, record.errors_total = importing.errors, importing.errors_total
            return
        finally:
            threads.close()
        version = found.version or str(getattr(plugin, "__version__", ""))
        self.add(found.name, plugin, source=found.source, version=version)
        logger.info(
            "plugin loaded plugin=%s version=%s source=%s", found.name, version, found.source
        )


def _refuse_unknown(selection: PluginSelection, found: Sequence[str]) -> None:
    for key in ("enable", "order"):
        for name in getattr(selection, key):
            if name not in found:
                known = ", ".join(sorted(found)) or "none"
                raise ConfigError(
                    f"there is no plugin {name!r}; known are {known}", field=f"plugins.{key}"
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


def _last_line(error: Exception) -> str:
    """pluggy explains over several lines, the last of which says what is wrong."""
    return " ".join(str(error).split("\n")[-1].split())
