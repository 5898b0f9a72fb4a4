"""`plugins list`, `info`, `check` and `new`, and the commands that plugins bring along."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from registry.cli import new_plugin
from registry.cli.command import (
    PROGRAM,
    Command,
    CommandError,
    Invocation,
    only_argument,
    say,
    table,
)
from registry.errors import RegistryError

if TYPE_CHECKING:
    from registry.hooks import CliCommand


#: What every hook's name begins with.
_PREFIX = "registry_"
#: Room that the hooks have however narrow the terminal is: the longest name.
_HOOKS_MIN = 20
#: Columns and lines where nobody looks: whoever reads the output has a plugin in each line.
_NO_TERMINAL = (1 << 16, 24)


def plugins_list(call: Invocation) -> int:
    try:
        found = call.client.get("/v1/agent/plugins").json()
    except RegistryError as problem:
        raise CommandError(f"Error listing plugins: {problem}") from problem
    say(listing(found, shutil.get_terminal_size(fallback=_NO_TERMINAL).columns))
    return 0


def listing(plugins: Sequence[dict[str, Any]], width: int) -> str:
    """The plugins as a table. Hooks are wrapped so that lines have at most `width` characters, as
    far as the other columns leave room for them."""
    rows = [["Plugin", "Version", "Calls", "Errors", "Hooks"]]
    hooks = []
    for plugin in plugins:
        rows.append(
            [
                plugin["Name"],
                plugin["Version"] or "-",
                str(plugin["Calls"]),
                str(plugin["ErrorCount"]),
            ]
        )
        hooks.append(", ".join(hook.removeprefix(_PREFIX) for hook in plugin["Hooks"]))
    used = sum(max(len(row[at]) for row in rows) + 2 for at in range(4))
    lines = [rows[0]]
    for row, text in zip(rows[1:], hooks, strict=True):
        first, *more = textwrap.wrap(text, max(width - used, _HOOKS_MIN)) or ["-"]
        lines += [[*row, first], *(["", "", "", "", line] for line in more)]
    return table(lines)


def info(call: Invocation) -> int:
    name = only_argument(call, "NAME")
    try:
        found = call.client.get("/v1/agent/plugins").json()
    except RegistryError as problem:
        raise CommandError(f"Error listing plugins: {problem}") from problem
    for plugin in found:
        if plugin["Name"] == name:
            _describe(plugin)
            return 0
    raise CommandError(f"The agent has no plugin {name} (see {PROGRAM} plugins list)")


def _describe(plugin: dict[str, Any]) -> None:
    rows = [
        ["Name", plugin["Name"]],
        ["Version", plugin["Version"] or "-"],
        ["Source", plugin["Source"]],
        ["Calls", f"{plugin['Calls']}, {plugin['TimeMs']} ms in all"],
        *_settings(plugin),
        *(["Hook", f"{hook}{_when(plugin, hook)}"] for hook in plugin["Hooks"]),
        *(["Error", str(error)] for error in plugin["Errors"]),
    ]
    say(table(rows))


def _when(plugin: dict[str, Any], hook: str) -> str:
    return ", after a restart" if hook in plugin.get("NeedsRestart", ()) else ""


def _settings(plugin: dict[str, Any]) -> list[list[str]]:
    # An older agent tells nothing of settings.
    if not plugin.get("Configured", True):
        return [["Settings", f"none: it waits for plugins.settings.{plugin['Name']}"]]
    settings: dict[str, Any] = plugin.get("Settings") or {}
    return [["Setting", f"{name} = {json.dumps(value)}"] for name, value in settings.items()]


def check(call: Invocation) -> int:
    """Load plugins as an agent would: 1 when one of them has errors."""
    from pathlib import Path

    from registry.plugins import Plugins

    loaded = Plugins.load([Path(path) for path in call.arguments]).report()
    for number, plugin in enumerate(loaded):
        if number:
            say("")
        _describe(plugin)
    return 1 if any(plugin["Errors"] for plugin in loaded) else 0


def cli_commands() -> dict[str, CliCommand]:
    """The commands of the installed plugins by name."""
    from registry.plugins import Plugins

    return {command.name: command for command in Plugins.load().cli_commands()}


def find_command(words: list[str]) -> Callable[[], int] | None:
    """What runs these words by a plugin's command, None when no installed plugin has one."""
    commands = cli_commands()
    for length in range(min(3, len(words)), 0, -1):
        if command := commands.get(" ".join(words[:length])):
            return lambda: _run(command, words[length:])
    return None


def _run(command: CliCommand, words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} {command.name}", description=command.help)
    command.configure(parser)
    try:
        parsed = parser.parse_args(words)
    except SystemExit as end:
        return 1 if end.code else 0  # argparse has said why
    return command.run(parsed)


COMMANDS = {
    "plugins list": Command(
        "plugins list",
        "",
        "Lists the agent's plugins, built-in ones included, with their hooks and errors.",
        plugins_list,
        (),
        "client",
    ),
    "plugins info": Command(
        "plugins info",
        "NAME",
        "Shows one plugin of the agent: where it comes from, its hooks and what went wrong in it.",
        info,
        (),
        "client",
    ),
    "plugins check": Command(
        "plugins check",
        "[DIRECTORY...]",
        "Loads the installed plugins, and those of plugin directories, as an agent would, and\n"
        "shows them. Ends with 1 when one of them has errors.",
        check,
        (),
        "",
    ),
    "plugins new": Command(
        "plugins new",
        "NAME",
        "Writes a package registry-NAME: a plugin that works, with its settings and its tests, to\n"
        "be changed into what it is to be. A directory that is there already is left alone.",
        new_plugin.new,
        new_plugin.FLAGS,
        "",
    ),
}
