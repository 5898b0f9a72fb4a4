"""`plugins list`, and the commands that plugins bring along."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from registry.cli.command import PROGRAM, Command, CommandError, Invocation, say, table
from registry.errors import RegistryError

if TYPE_CHECKING:
    from registry.hooks import CliCommand


def plugins_list(call: Invocation) -> int:
    try:
        found = call.client.get("/v1/agent/plugins").json()
    except RegistryError as problem:
        raise CommandError(f"Error listing plugins: {problem}") from problem
    rows = [["Plugin", "Version", "Hooks", "Calls", "Errors"]]
    rows += [
        [
            plugin["Name"],
            plugin["Version"] or "-",
            ",".join(plugin["Hooks"]),
            str(plugin["Calls"]),
            str(len(plugin["Errors"])),
        ]
        for plugin in found
    ]
    say(table(rows))
    return 0


def find_command(words: list[str]) -> Callable[[], int] | None:
    """What runs these words by a plugin's command, None when no installed plugin has one."""
    from registry.plugins import Plugins

    commands = {command.name: command for command in Plugins.load().cli_commands()}
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
}
