"""Finding the command that was asked for, and running it.

The table below is all that is loaded for a help text or an unknown command; a family's module comes
in when one of its commands runs, so that `registry kv get` does not pay for the agent.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from registry.cli.command import PROGRAM, Command, CommandError, Invocation, UsageError, warn
from registry.errors import RegistryError
from registry.goflags import FlagError, HelpWanted, parse_flags

#: Command -> (module, summary). A name of several words makes its first words groups.
COMMANDS = {
    "agent": ("agent", "Run an agent"),
    "catalog datacenters": ("catalog", "List datacenters"),
    "catalog nodes": ("catalog", "List nodes"),
    "catalog services": ("catalog", "List services"),
    "force-leave": ("cluster", "Move a failed member to the state left"),
    "info": ("cluster", "Show statistics of an agent"),
    "join": ("cluster", "Tell an agent to join a cluster"),
    "keygen": ("local", "Make a gossip encryption key"),
    "kv delete": ("kv", "Delete a key or a prefix"),
    "kv export": ("kv", "Print a prefix as JSON"),
    "kv get": ("kv", "Read keys"),
    "kv import": ("kv", "Write what export printed"),
    "kv put": ("kv", "Write a key"),
    "leave": ("cluster", "Make an agent leave gracefully"),
    "maint": ("maint", "Show or switch maintenance mode"),
    "members": ("cluster", "List the members of the cluster"),
    "monitor": ("cluster", "Follow the log of an agent"),
    "plugins list": ("plugins", "List the plugins of an agent"),
    "reload": ("cluster", "Make an agent read its configuration again"),
    "services deregister": ("services", "Deregister services from the agent"),
    "services register": ("services", "Register services with the agent"),
    "validate": ("local", "Check configuration files"),
    "version": ("local", "Show the version"),
    "watch": ("watch", "Print a view once, or run a program on each change"),
}

GROUPS = {
    "catalog": "Look into the catalog",
    "kv": "Work with the key-value store",
    "plugins": "Look at plugins",
    "services": "Work with an agent's services",
}

HELP_WORDS = ("-h", "-help", "--help", "help")
VERSION_WORDS = ("-v", "-version", "--version")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the exit status. 127 for a command that does not exist."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "COMP_LINE" in os.environ:
        from registry.cli.completion import complete

        return complete(os.environ["COMP_LINE"], os.environ.get("COMP_POINT"))
    try:
        return _dispatch(words)
    except CommandError as problem:
        warn(problem.text)
        return problem.status
    except RegistryError as problem:
        warn(f"Error: {problem}")
        return 1
    except BrokenPipeError:
        # The reader has gone (`registry kv export | head`): nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        return 130


def _dispatch(words: list[str]) -> int:
    if not words:
        print(overview(), file=sys.stderr)
        return 127
    first = words[0]
    if first in HELP_WORDS:
        return _show_help(words[1:])
    if first in VERSION_WORDS:
        return run(load("version"), words[1:])
    if first in ("-autocomplete-install", "-autocomplete-uninstall"):
        from registry.cli.completion import install, uninstall

        return (install if first.endswith("-install") else uninstall)()
    for length in (3, 2, 1):
        name = " ".join(words[:length])
        if name in COMMANDS:
            return run(load(name), words[length:])
    if first in GROUPS:
        wanted = any(word in HELP_WORDS for word in words[1:])
        if len(words) > 1 and not wanted:
            warn(f"There is no command {PROGRAM} {first} {words[1]}.")
        print(group_help(first), file=sys.stdout if wanted else sys.stderr)
        return 0 if wanted else 1
    return _run_from_plugin(words)


def _show_help(words: list[str]) -> int:
    name = " ".join(words)
    if name in COMMANDS:
        print(load(name).help())
    elif name in GROUPS:
        print(group_help(name))
    else:
        print(overview())
    return 0


def load(name: str) -> Command:
    """The command of this name, with its family's module."""
    module = import_module(f"registry.cli.{COMMANDS[name][0]}")
    commands: dict[str, Command] = module.COMMANDS
    return commands[name]


def run(command: Command, words: Sequence[str]) -> int:
    """Read the command's flags and run it; its help on standard error when they make no sense."""
    try:
        if command.raw:
            return command.run(Invocation(command, parse_flags((), ()), list(words))) or 0
        flags = parse_flags(command.all_flags, words)
        return command.run(Invocation(command, flags, flags.arguments)) or 0
    except HelpWanted:
        print(command.help())
        return 0
    except FlagError as problem:
        warn(f"{problem} (see {PROGRAM} {command.name} -help)")
        return 1
    except UsageError as problem:
        if problem.text:
            warn(f"{problem.text}\n")
        print(command.help(), file=sys.stderr)
        return problem.status


def _run_from_plugin(words: list[str]) -> int:
    """A plugin's command, or the overview and 127: plugins are looked for only here."""
    from registry.cli.plugins import find_command

    found = find_command(words)
    if found is not None:
        return found()
    warn(f"There is no command {PROGRAM} {words[0]}.")
    print(overview(), file=sys.stderr)
    return 127


def overview() -> str:
    """The help text of the program as a whole."""
    tops = {name: about for name, (_, about) in COMMANDS.items() if " " not in name} | GROUPS
    return (
        f"Usage: {PROGRAM} [--version] [--help] <command> [<args>]\n\n"
        "Available commands are:\n" + _listing(tops)
    )


def group_help(group: str) -> str:
    below = {
        name.removeprefix(group + " "): about
        for name, (_, about) in COMMANDS.items()
        if name.startswith(group + " ")
    }
    return (
        f"Usage: {PROGRAM} {group} <subcommand> [options] [args]\n\n  {GROUPS[group]}.\n\n"
        "Subcommands:\n" + _listing(below)
    )


def _listing(names: dict[str, str]) -> str:
    width = max(map(len, names))
    return "\n".join(f"    {name.ljust(width)}    {names[name]}" for name in sorted(names))
