"""Finding the command that was asked for, and running it.

The table below is all that is loaded for a help text or an unknown command; a family's module comes
in when one of its commands runs, so that `registry kv get` does not pay for the agent.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Container, Sequence
from importlib import import_module
from itertools import dropwhile, takewhile

from registry.cli.command import (
    PROGRAM,
    Command,
    CommandError,
    Invocation,
    UsageError,
    warn,
    write_utf8,
)
from registry.errors import RegistryError
from registry.goflags import FlagError, HelpWanted, parse_flags

#: Command -> (module, summary). A name of several words makes its first words groups.
COMMANDS = {
    "agent": ("agent", "Run an agent"),
    "catalog datacenters": ("catalog", "List datacenters"),
    "catalog nodes": ("catalog", "List nodes"),
    "catalog services": ("catalog", "List services"),
    "config delete": ("config_entries", "Delete a configuration entry"),
    "config list": ("config_entries", "List the configuration entries of a kind"),
    "config read": ("config_entries", "Show a configuration entry"),
    "config write": ("config_entries", "Create or replace a configuration entry"),
    "debug": ("debug", "Collect what is needed to look into a problem"),
    "event": ("event", "Fire a user event"),
    "exec": ("remote_exec", "Run a command on many nodes"),
    "force-leave": ("cluster", "Move a failed member to the state left"),
    "info": ("cluster", "Show statistics of an agent"),
    "join": ("cluster", "Tell an agent to join a cluster"),
    "keygen": ("local", "Make a gossip encryption key"),
    "keyring": ("keyring", "Manage gossip encryption keys"),
    "kv delete": ("kv", "Delete a key or a prefix"),
    "kv export": ("kv", "Print a prefix as JSON"),
    "kv get": ("kv", "Read keys"),
    "kv import": ("kv", "Write what export printed"),
    "kv put": ("kv", "Write a key"),
    "leave": ("cluster", "Make an agent leave gracefully"),
    "lock": ("lock", "Run a program while holding a lock"),
    "login": ("login", "Trade a bearer token for an ACL token"),
    "logout": ("login", "Destroy a token from login"),
    "maint": ("maint", "Show or switch maintenance mode"),
    "members": ("cluster", "List the members of the cluster"),
    "monitor": ("cluster", "Follow the log of an agent"),
    "operator autopilot get-config": ("operator", "Show the settings of autopilot"),
    "operator autopilot set-config": ("operator", "Change the settings of autopilot"),
    "operator raft list-peers": ("operator", "List the servers in the Raft configuration"),
    "operator raft remove-peer": ("operator", "Remove a server from the Raft configuration"),
    "plugins check": ("plugins", "Try out plugins without an agent"),
    "plugins info": ("plugins", "Show one plugin of an agent"),
    "plugins list": ("plugins", "List the plugins of an agent"),
    "plugins new": ("plugins", "Write a new plugin's package"),
    "reload": ("cluster", "Make an agent read its configuration again"),
    "rtt": ("rtt", "Estimate the round-trip time between two nodes"),
    "services deregister": ("services", "Deregister services from the agent"),
    "services register": ("services", "Register services with the agent"),
    "snapshot inspect": ("snapshot", "Show what is in a snapshot file"),
    "snapshot restore": ("snapshot", "Replace the state by that of a snapshot file"),
    "snapshot save": ("snapshot", "Save the state into a file"),
    "validate": ("local", "Check configuration files"),
    "version": ("local", "Show the version"),
    "watch": ("watch", "Print a view once, or run a program on each change"),
}

GROUPS = {
    "catalog": "Look into the catalog",
    "config": "Work with configuration entries",
    "kv": "Work with the key-value store",
    "operator": "Look after a cluster's servers",
    "operator autopilot": "See or change how dead servers are dealt with",
    "operator raft": "See or repair the Raft configuration",
    "plugins": "Look at plugins, or write one",
    "services": "Work with an agent's services",
    "snapshot": "Save, look into and restore the state of the servers",
}

#: The longest name of a command or group, in words.
NAME_WORDS_MAX = 3

HELP_FLAGS = ("-h", "-help", "--help")
HELP_WORDS = (*HELP_FLAGS, "help")
VERSION_WORDS = ("-v", "-version", "--version")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the exit status. 127 for a command that does not exist."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "COMP_LINE" in os.environ:
        from registry.cli.completion import complete

        return complete(os.environ["COMP_LINE"], os.environ.get("COMP_POINT"))
    write_utf8()
    try:
        status = _dispatch(words)
        sys.stdout.flush()  # here, where a reader that has gone is no surprise
        return status
    except CommandError as problem:
        warn(problem.text)
        return problem.status
    except RegistryError as problem:
        warn(f"Error: {problem}")
        return 1
    except BrokenPipeError:
        # The reader has gone (`registry kv export | head`): nobody is left to tell.
        _drop_output()
        return 1
    except OSError as problem:
        warn(f"Error: {problem.strerror or problem}")
        _drop_output()
        return 1
    except KeyboardInterrupt:
        return 130


def _drop_output() -> None:
    """What could not be written is not tried again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


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
    if name := longest_name(words, COMMANDS):
        return run(load(name), words[len(name.split()) :])
    if group := longest_name(words, GROUPS):
        return _show_group(group, words[len(group.split()) :])
    if first.startswith("-"):
        return _refuse_flags(words)
    return _run_from_plugin(words)


def longest_name(words: Sequence[str], names: Container[str]) -> str:
    """The longest of these names that the words begin with, "" for none."""
    for length in range(NAME_WORDS_MAX, 0, -1):
        name = " ".join(words[:length])
        if name in names:
            return name
    return ""


def _show_group(group: str, words: list[str]) -> int:
    """A group does nothing by itself: its help, and 1 unless that was what was asked for."""
    wanted = any(word in HELP_WORDS for word in words)
    print(group_help(group), file=sys.stdout if wanted else sys.stderr)
    if words and not wanted:
        warn(f"\nThere is no command {PROGRAM} {group} {words[0]}.")
    return 0 if wanted else 1


def _refuse_flags(words: list[str]) -> int:
    """Flags stand behind the command; the help of what stands behind these."""
    rest = list(dropwhile(lambda word: word.startswith("-"), words))
    if any(word in HELP_FLAGS for word in words):
        return _show_help([word for word in rest if word not in HELP_FLAGS])
    name = longest_name(rest, {*COMMANDS, *GROUPS})
    if not name:
        return _unknown(words)
    warn(
        "Invalid flags before the subcommand. If these flags are for\n"
        "the subcommand, please put them after the subcommand.\n"
    )
    print(load(name).help() if name in COMMANDS else group_help(name), file=sys.stderr)
    return 1


def _show_help(words: list[str]) -> int:
    if name := longest_name(words, COMMANDS):
        return run(load(name), ["-h"])
    if name := longest_name(words, GROUPS):
        print(group_help(name))
    elif words:
        return _run_from_plugin([*words, "-h"])
    else:
        print(overview() + _plugins_overview())
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
        if not command.takes_program and _wants_help(words):
            raise HelpWanted
        return command.run(Invocation(command, flags, flags.arguments)) or 0
    except HelpWanted:
        print(command.help())
        return 0
    except FlagError as problem:
        warn(str(problem))
        print(command.help(), file=sys.stderr)
        return 1
    except UsageError as problem:
        if problem.text:
            warn(f"{problem.text}\n")
        print(command.help(), file=sys.stderr)
        return problem.status


def _wants_help(words: Sequence[str]) -> bool:
    """Whether the help is asked for anywhere, behind arguments too, before a `--`."""
    return any(word in HELP_FLAGS for word in takewhile(lambda word: word != "--", words))


def _run_from_plugin(words: list[str]) -> int:
    """A plugin's command, or the overview and 127: plugins are looked for only here."""
    from registry.cli.plugins import find_command

    found = find_command(words)
    return _unknown(words) if found is None else found()


def _unknown(words: list[str]) -> int:
    """The overview, and below it, where it is seen, what is wrong."""
    print(overview(), file=sys.stderr)
    warn(f"\nThere is no command {PROGRAM} {words[0]}.")
    return 127


def overview() -> str:
    """The help text of the program as a whole."""
    tops = {name: about for name, (_, about) in COMMANDS.items()} | GROUPS
    tops = {name: about for name, about in tops.items() if " " not in name}
    return (
        f"Usage: {PROGRAM} [--version] [--help] <command> [<args>]\n\n"
        "Available commands are:\n" + _listing(tops)
    )


def _plugins_overview() -> str:
    """What plugins add to the overview; only a wish for help is worth the time to load them."""
    from registry.cli.plugins import cli_commands

    found = {name: command.help for name, command in cli_commands().items()}
    return "\n\nCommands of plugins:\n" + _listing(found) if found else ""


def group_help(group: str) -> str:
    """The help text of a group: what it is for, and its commands and groups."""
    below = {name: about for name, (_, about) in COMMANDS.items()} | GROUPS
    below = {
        name.removeprefix(group + " "): about
        for name, about in below.items()
        if name.startswith(group + " ") and len(name.split()) == len(group.split()) + 1
    }
    return (
        f"Usage: {PROGRAM} {group} <subcommand> [options] [args]\n\n  {GROUPS[group]}.\n\n"
        "Subcommands:\n" + _listing(below)
    )


def _listing(names: dict[str, str]) -> str:
    width = max(map(len, names))
    return "\n".join(f"    {name.ljust(width)}    {names[name]}" for name in sorted(names))
