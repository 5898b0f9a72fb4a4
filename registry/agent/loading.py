"""The whole way from a command line to a configuration: `load_config`.

    defaults < -dev < files and directories, in order < -hcl < other flags

Each source is checked by itself, so that an error names its file and line; then all are merged,
settled and judged. Nothing is kept of a load that fails.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from registry.agent.address_templates import host_interfaces
from registry.agent.config import DEV, AgentConfig
from registry.agent.config_files import ConfigSource, Load, find_files, read_paths, read_source
from registry.agent.config_keys import KeyProblem
from registry.agent.config_merge import flattened, merged
from registry.agent.config_rules import refuse_unknown_level
from registry.agent.config_settling import Host, settle
from registry.agent.definition_reader import read_check, read_service, read_watch
from registry.agent.definition_rules import (
    DefinitionRefused,
    refuse_scripts,
    service_warnings,
    validate_check,
    validate_service,
    with_minimums,
)
from registry.agent.definitions import CheckDefinition, ServiceDefinition, WatchDefinition
from registry.agent.flags import COMMAND_LINE, AgentFlags, parse_agent_flags
from registry.agent.formats import FORMATS, load_hcl
from registry.agent.transforms import transformed_now
from registry.errors import ConfigError
from registry.hooks import CheckType, DefinitionSource, WatchHandler
from registry.plugins.guards import GuardedTransform
from registry.plugins.settings import PluginSelection

T = TypeVar("T")


class Extensions(Protocol):
    """What loading asks of the plugins."""

    def definition_sources(self) -> Iterable[DefinitionSource]: ...
    def check_types(self) -> Iterable[CheckType]: ...
    def watch_handlers(self) -> Iterable[WatchHandler]: ...
    def service_transforms(self) -> Sequence[GuardedTransform]: ...
    def judged_settings(self, given: Mapping[str, Any]) -> dict[str, msgspec.Struct]: ...


class LoadedConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All that an agent was told, checked.

    `paths` are the files and directories as given, `sources` the files that were read, in order,
    and `ignored` the keys that were accepted without effect, by path.
    """

    config: AgentConfig
    services: tuple[ServiceDefinition, ...] = ()
    checks: tuple[CheckDefinition, ...] = ()
    watches: tuple[WatchDefinition, ...] = ()
    warnings: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    ignored: dict[str, Any] = msgspec.field(default_factory=dict)
    #: The plugins' settings, each of its plugin's own type.
    plugin_settings: dict[str, msgspec.Struct] = msgspec.field(default_factory=dict)


def load_config(
    arguments: Sequence[str], plugins: Extensions | None = None, *, host: Host | None = None
) -> LoadedConfig:
    """The configuration that the words after `registry agent` ask for.

    Reads files, changes nothing. Raises `ConfigError` with one line that names file, line and key,
    or `registry.goflags.HelpWanted`.
    """
    return load_flags(parse_agent_flags(arguments), plugins, host=host)


def load_flags(
    flags: AgentFlags, plugins: Extensions | None = None, *, host: Host | None = None
) -> LoadedConfig:
    """Like `load_config`, for flags that were parsed before the plugins were loaded."""
    sources = list(_sources(flags, file_formats(plugins)))
    config, warnings = _settled(sources, flags, host or this_host())
    with_source(sources, refuse_unknown_level, config)
    plugin_settings = with_source(sources, _judged_settings, config, plugins)
    definitions = _Definitions(config, plugins)
    for source in sources:
        definitions.take(source)
    return LoadedConfig(
        config=replace(config, plugin_dirs=flags.plugin_dirs),
        services=tuple(definitions.services.values()),
        checks=tuple(definitions.checks.values()),
        watches=tuple(definitions.watches),
        warnings=(*warnings, *definitions.warnings),
        sources=tuple(source.name for source in sources if source.text and _is_file(source)),
        paths=flags.paths,
        ignored={
            path: value for source in sources for path, value in source.decoded.ignored.items()
        },
        plugin_settings=plugin_settings,
    )


def validate_sources(
    paths: Sequence[str],
    config_format: str = "",
    plugins: Extensions | None = None,
    *,
    host: Host | None = None,
) -> None:
    """Check shape and cross rules, as `registry validate` does; raises `ConfigError`.

    Whether checks are complete, the types of watches and the log level are not looked at (surface
    4.1).
    """
    flags = AgentFlags(values={}, paths=tuple(paths), config_format=config_format)
    sources = list(_sources(flags, file_formats(plugins)))
    config, _ = _settled(sources, flags, host or this_host())
    with_source(sources, _judged_settings, config, plugins)
    check_types = [kind.key for kind in plugins.check_types()] if plugins else []
    for source in sources:
        for where, mapping in source.decoded.definitions["services"]:
            with_source(
                [source], read_service, mapping, source="file", where=where, check_types=check_types
            )
        for where, mapping in source.decoded.definitions["checks"]:
            with_source(
                [source], read_check, mapping, source="file", where=where, check_types=check_types
            )


def file_formats(plugins: Extensions | None) -> dict[str, Load]:
    """Readers of files by suffix: the built-in ones, and those of plugins."""
    formats: dict[str, Load] = dict(FORMATS)
    if plugins:
        formats |= {entry.suffix: entry.load for entry in plugins.definition_sources()}
    return formats


def plugin_selection(flags: AgentFlags, formats: Mapping[str, Load] = FORMATS) -> PluginSelection:
    """Which plugins the files ask for, as far as it can be told without any plugin.

    Plugins are loaded before the configuration is read, since they may bring its formats; what is
    wrong with a file, and what those formats say, is found out then.
    """
    sections = [
        section
        for text, load in _readable(flags, formats)
        if isinstance(section := _plugins_section(text, load), Mapping)
    ]
    selection = PluginSelection()
    for section in sections:
        with suppress(msgspec.ValidationError):
            selection = selection.joined(msgspec.convert(section, PluginSelection))
    return selection


def selection_of(config: AgentConfig) -> PluginSelection:
    """The same of the whole configuration."""
    section = config.plugins
    return PluginSelection(
        enable=section.enable,
        disable=section.disable,
        order=section.order,
        settings=section.settings,
    )


def _readable(
    flags: AgentFlags, formats: Mapping[str, Load]
) -> Iterator[tuple[tuple[Path, str], Load]]:
    for given in flags.paths:
        with suppress(ConfigError, OSError, UnicodeDecodeError):
            for path in list(find_files([given], flags.config_format, formats)):
                suffix = f".{flags.config_format}" if flags.config_format else path.suffix.lower()
                yield (path, path.read_text()), formats[suffix]
    for fragment in flags.fragments:
        yield (Path("-hcl"), fragment), load_hcl


def _plugins_section(source: tuple[Path, str], load: Load) -> object:
    with suppress(ConfigError):
        return load(*source).get("plugins")
    return None


def _judged_settings(config: AgentConfig, plugins: Extensions | None) -> dict[str, msgspec.Struct]:
    if plugins is None:
        return {}
    try:
        return plugins.judged_settings(config.plugins.settings)
    except KeyProblem:
        raise
    except ConfigError as problem:
        raise KeyProblem(problem.field or "plugins", str(problem)) from problem


def this_host() -> Host:
    return Host(socket.gethostname(), host_interfaces())


def with_source(
    sources: Sequence[ConfigSource], call: Callable[..., T], *arguments: Any, **named: Any
) -> T:
    """`call(...)`; a `KeyProblem` it raises gets the file and line of its key's last mention."""
    try:
        return call(*arguments, **named)
    except KeyProblem as problem:
        for source in reversed(sources):
            if problem.field is not None and _mentions(source, problem.field):
                raise source.problem(problem) from None
        raise


def _sources(flags: AgentFlags, formats: Mapping[str, Load]) -> Iterator[ConfigSource]:
    if flags.dev:
        yield read_source("-dev", "", DEV)
    yield from read_paths(flags.paths, flags.config_format, formats)
    for fragment in flags.fragments:
        yield read_source("-hcl", fragment, load_hcl(Path("-hcl"), fragment))
    yield read_source(COMMAND_LINE, "", flags.values)


def _is_file(source: ConfigSource) -> bool:
    return source.name not in ("-dev", "-hcl", COMMAND_LINE)


def _settled(
    sources: Sequence[ConfigSource], flags: AgentFlags, host: Host
) -> tuple[AgentConfig, list[str]]:
    values: dict[str, Any] = {}
    warnings = []
    for source in sources:
        values = merged(values, source.decoded.values)
        warnings += [f"{source.name}: {line}" for line in source.decoded.warnings()]
    config, more = with_source(sources, settle, values, host=host, dev=flags.dev)
    return config, warnings + more


def _mentions(source: ConfigSource, path: str) -> bool:
    if any(
        leaf == path or leaf.startswith(f"{path}.") for leaf in flattened(source.decoded.values)
    ):
        return True
    # A definition's path names its place in this very file.
    return any(
        path == where or path.startswith(f"{where}.")
        for entries in source.decoded.definitions.values()
        for where, _ in entries
    )


class _Definitions:
    """The definitions of all sources, judged; of two with one id the later counts (and warns)."""

    def __init__(self, config: AgentConfig, plugins: Extensions | None) -> None:
        self._config = config
        self._check_types = [kind.key for kind in plugins.check_types()] if plugins else []
        self._transforms = plugins.service_transforms() if plugins else ()
        self._handlers = [kind.key for kind in plugins.watch_handlers()] if plugins else []
        self._origins: dict[tuple[str, str], str] = {}
        self.services: dict[str, ServiceDefinition] = {}
        self.checks: dict[str, CheckDefinition] = {}
        self.watches: list[WatchDefinition] = []
        self.warnings: list[str] = []

    def take(self, source: ConfigSource) -> None:
        read: Mapping[str, Any] = {
            "services": self._service,
            "checks": self._check,
            "watches": self._watch,
        }
        for kind, entries in source.decoded.definitions.items():
            for where, mapping in entries:
                try:
                    with_source([source], read[kind], source, where, mapping)
                except DefinitionRefused as refused:
                    raise ConfigError(
                        refused.reason, file=source.locate(where), field=where
                    ) from None

    def _service(self, source: ConfigSource, where: str, mapping: Mapping[str, Any]) -> None:
        service = read_service(mapping, source="file", where=where, check_types=self._check_types)
        validate_service(service)
        service = transformed_now(self._transforms, service, "file", self._check_types)
        place = source.locate(where)
        service = replace(
            service,
            checks=tuple(
                self._settled_check(check, f"{place}: check of service {service.name!r}")
                for check in service.checks
            ),
        )
        self.warnings += [f"{place}: {line}" for line in service_warnings(service)]
        service_id = service.id or service.name
        self._note("service", service_id, place)
        self.services[service_id] = service

    def _check(self, source: ConfigSource, where: str, mapping: Mapping[str, Any]) -> None:
        check = read_check(mapping, source="file", where=where, check_types=self._check_types)
        # In a file an id will do for a name.
        check = replace(check, name=check.name or check.id)
        validate_check(check)
        check_id, place = check.id or check.name, source.locate(where)
        self._note("check", check_id, place)
        self.checks[check_id] = self._settled_check(check, f"{place}: check {check_id!r}")

    def _watch(self, source: ConfigSource, where: str, mapping: Mapping[str, Any]) -> None:
        self.watches.append(read_watch(mapping, where=where, handlers=self._handlers))

    def _settled_check(self, check: CheckDefinition, name: str) -> CheckDefinition:
        refuse_scripts(
            check,
            source="file",
            enable_script_checks=self._config.enable_script_checks,
            enable_local_script_checks=self._config.enable_local_script_checks,
        )
        check, warnings = with_minimums(check, name)
        self.warnings += warnings
        return check

    def _note(self, kind: Literal["service", "check"], name: str, place: str) -> None:
        earlier = self._origins.get((kind, name))
        if earlier:
            self.warnings.append(f"{place}: {kind} {name!r} replaces the one of {earlier}")
        self._origins[kind, name] = place
