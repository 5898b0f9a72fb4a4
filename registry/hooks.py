"""Every hook of the registry, one page: the catalogue of what a plugin may do.

A plugin is a module or object whose functions are marked with `@hookimpl` and named like a
specification below; it is found by entry point (group `registry`) or in a `-plugin-dir`. Arguments
that an implementation does not need may be left out. Built-in features are registered through the
same hooks, by `registry.builtins`.

For each hook: who calls it and when, what may be returned, and what happens when it raises. In all
cases a plugin that raises is named in the log and in `/v1/agent/plugins`, and the rest goes on;
nothing that is replicated ever depends on a plugin. A name that is already there (a check type
`http`, a route of the API) stays with its owner: built-in features first, then installed plugins
by name, then directories. No hook may wait; what it returns may where its signature is async.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import pluggy

if TYPE_CHECKING:
    import argparse

PROJECT = "registry"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class CheckResult(msgspec.Struct, frozen=True):
    """Outcome of one run of a check: "passing", "warning" or "critical", and what to show."""

    status: str
    output: str = ""


class CheckRunner(Protocol):
    """Runs one check once; made anew when its definition changes.

    It may have further methods, which `registry.agent.checks.base` describes: `bind` to be lent
    what the agent has, `follow` to report by itself instead of at an interval, `timed_out` to say
    in its own words that a run was cut off.
    """

    async def run(self) -> CheckResult:
        """Called every interval and cancelled at its timeout. Raising counts as critical, with the
        exception's text as output."""
        ...


class CheckType(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of check.

    `key` is the field of a check definition that selects the kind ("http", "tcp", "dns-lookup").
    `create` gets the check's definition (a `registry.agent.definitions.CheckDefinition`; a kind
    that is not built in finds its own settings in `plugin_settings`) and raises `ValueError` with
    one clear sentence when they make no sense. `type_name` is what the API shows as `Type`.
    """

    key: str
    type_name: str
    create: Callable[[Any], CheckRunner]


class StorageEngine(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that `storage_engine` in the configuration can name.

    `open` gets the directory (made if need be) and returns a `registry.storage.store.Store`; it
    raises `registry.errors.StorageError` with a message that says what to do. A durable engine
    calls `registry.storage.check_format` before it hands out the store. `durable` is False for
    engines that forget everything when closed. All of it is in `registry.testing.storage`.
    """

    name: str
    open: Callable[[Path], Any]
    durable: bool = True


class DefinitionSource(msgspec.Struct, frozen=True, kw_only=True):
    """A format of configuration and definition files: a file-name suffix and its reader.

    `suffix` begins with its dot (".toml"). `load` gets the file's path and text and returns one
    mapping, spelt like the JSON form; it raises `registry.errors.ConfigError` naming file, line and
    key.
    """

    suffix: str
    load: Callable[[Path, str], Mapping[str, Any]]


class WatchHandler(msgspec.Struct, frozen=True, kw_only=True):
    """Something a watch can call. `key` is the watch definition's field that selects it ("args",
    "http_handler_config"); `create` gets the `WatchDefinition` and gives the function to call with
    (index, data as JSON bytes). One call at a time per watch; changes in between are merged."""

    key: str
    create: Callable[[Any], Callable[[int, bytes], Awaitable[None]]]


class HttpRoute(msgspec.Struct, frozen=True, kw_only=True):
    """`method pattern` served by an async handler from `ApiRequest` to `ApiResponse`
    (`registry.http.api`). A pattern of the core can not be replaced.

    `operations` say what it takes and answers (`registry.http.operations`), one for each form of
    its path, for `/v1/openapi.json`; without them the handler's docstring is all that is told."""

    method: str
    pattern: str
    handler: Callable[[Any], Awaitable[Any]]
    operations: tuple[Any, ...] = ()


class CliCommand(msgspec.Struct, frozen=True, kw_only=True):
    """A command `registry NAME` (NAME may hold spaces: "history diff").

    `configure` adds arguments to a parser, `run` gets the parsed arguments and returns the exit
    status. `help` is one line."""

    name: str
    help: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


@hookspec
def registry_storage_engines() -> Iterable[StorageEngine]:
    """Called once at start, before anything is opened. Raising: the engines of this plugin are not
    there, and an agent that is configured to use one does not start."""
    raise NotImplementedError


@hookspec
def registry_check_types() -> Iterable[CheckType]:
    """Called once at start, on every agent. Raising: the types of this plugin are not there, and
    definitions that use them are refused by name."""
    raise NotImplementedError


@hookspec
def registry_definition_sources() -> Iterable[DefinitionSource]:
    """Called once at start and by `registry validate`, before configuration files are read.
    Raising: files of these formats are not read."""
    raise NotImplementedError


@hookspec
def registry_watch_handlers() -> Iterable[WatchHandler]:
    """Called once at start, on every agent. Raising: watches that use them are refused."""
    raise NotImplementedError


@hookspec
def registry_http_routes() -> Iterable[HttpRoute]:
    """Called once when the HTTP server is made. A handler that raises gives a 500 that names the
    plugin."""
    raise NotImplementedError


@hookspec
def registry_cli_commands() -> Iterable[CliCommand]:
    """Called by the command line only when the word typed is no built-in command."""
    raise NotImplementedError
