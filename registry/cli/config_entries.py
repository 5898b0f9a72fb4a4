"""`config`: configuration entries, by kind and name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from registry.cli.command import (
    PROGRAM,
    Command,
    CommandError,
    Invocation,
    file_problem,
    say,
)
from registry.client import ApiError, key_path
from registry.errors import RegistryError
from registry.goflags import Flag, boolean, unsigned
from registry.watch_views import encode


def _need(call: Invocation, *flags: str) -> list[str]:
    for flag in flags:
        if not call[flag]:
            raise CommandError(f"Must specify the -{flag} parameter")
    return [call[flag] for flag in flags]


def read(call: Invocation) -> int:
    kind, name = _need(call, "kind", "name")
    try:
        entry = call.client.get(key_path("/v1/config", kind, name)).json()
    except RegistryError as problem:
        reason = f"invalid config entry kind: {kind}"
        if not isinstance(problem, ApiError) or problem.text != reason:
            reason = str(problem)
        raise CommandError(f"Error reading config entry {kind}/{name}: {reason}") from problem
    if entry.get("Config", ...) is None:
        del entry["Config"]
    say(encode(entry, indent=4))
    return 0


def list_(call: Invocation) -> int:
    [kind] = _need(call, "kind")
    try:
        entries = call.client.get(key_path("/v1/config", kind)).json()
    except RegistryError as problem:
        raise CommandError(
            f'Error listing config entries for kind "{kind}": {problem}'
        ) from problem
    for entry in entries:
        say(entry["Name"])
    return 0


def delete(call: Invocation) -> int:
    kind, name = _need(call, "kind", "name")
    try:
        call.client.delete(key_path("/v1/config", kind, name))
    except RegistryError as problem:
        raise CommandError(f"Error deleting config entry {kind}/{name}: {problem}") from problem
    say(f"Config entry deleted: {kind}/{name}")
    return 0


def write(call: Invocation) -> int:
    if len(call.arguments) != 1:
        raise CommandError(
            "Must provide exactly one positional argument to specify the config entry to write"
        )
    entry = _entry(call.arguments[0])
    kind, name = _field(entry, "kind"), _field(entry, "name")
    parameters = {"cas": call["modify-index"] if call["cas"] else None}
    try:
        done = call.client.put("/v1/config", parameters, json_body=entry).json()
    except RegistryError as problem:
        raise _write_failure(f"{kind}/{name}", problem) from problem
    if not done:
        raise CommandError(f"Config entry not updated: {kind}/{name}")
    say(f"Config entry written: {kind}/{name}")
    return 0


def _write_failure(entry: str, problem: RegistryError) -> CommandError:
    """What the agent cannot read is told as scripts know it: as found before anything is sent."""
    if isinstance(problem, ApiError) and problem.text.startswith(_UNREADABLE):
        reason = problem.text.removeprefix(_UNREADABLE)
        if reason.startswith("invalid config key "):
            reason = f"1 error occurred:\n\t* {reason}\n\n"
        return CommandError(f"Failed to decode config entry input: {reason}")
    return CommandError(f"Error writing config entry {entry}: {problem}")


def _entry(argument: str) -> dict[str, Any]:
    """The entry in a file, or on standard input; JSON or HCL."""
    from registry.agent.formats import load_hcl

    if not argument:
        raise CommandError(
            "Failed to load data: Failed to load data: must specify a file path or '-' for stdin"
        )
    try:
        data = sys.stdin.buffer.read() if argument == "-" else Path(argument).read_bytes()
    except OSError as problem:
        reason = file_problem(argument, problem)
        raise CommandError(f"Failed to load data: Failed to read file: {reason}") from problem
    try:
        entry = dict(load_hcl(Path(argument), data.decode("utf-8", "replace")))
    except RegistryError as problem:
        raise CommandError(f"Failed to decode config entry input: {problem}") from problem
    return {name: _single_blocks(value, name) for name, value in entry.items()}


def _single_blocks(value: Any, name: str = "") -> Any:
    """HCL gives every block as a list of one; here most fields are one object."""
    if isinstance(value, list):
        items = [_single_blocks(item) for item in value]
        one_object = len(items) == 1 and isinstance(items[0], dict)
        return items[0] if one_object and name.lower() not in _LISTS else items
    if isinstance(value, dict):
        return {key: _single_blocks(item, key) for key, item in value.items()}
    return value


def _field(entry: dict[str, Any], field: str) -> str:
    """A field of the entry by its name in any letter case."""
    for name, value in entry.items():
        if name.lower() == field:
            return str(value)
    return ""


#: How an agent begins when it cannot read a body.
_UNREADABLE = "Bad request: Request decoding failed: "

#: Fields of entries that are lists of objects, even of a single one.
_LISTS = ("listeners", "paths", "routes", "services", "splits")

NO_CLIENT = f"Error connect to {PROGRAM} agent"

KIND_FLAG = Flag("kind", "Kind of the entry.", default="")
NAME_FLAG = Flag("name", "Name of the entry.", default="")

COMMANDS = {
    "config read": Command(
        "config read",
        "-kind <config kind> -name <config name>",
        "Shows a configuration entry as JSON.",
        read,
        (KIND_FLAG, NAME_FLAG),
        no_client=NO_CLIENT,
    ),
    "config list": Command(
        "config list",
        "-kind <config kind>",
        "Lists the names of all configuration entries of a kind.",
        list_,
        (KIND_FLAG,),
        no_client=NO_CLIENT,
    ),
    "config delete": Command(
        "config delete",
        "-kind <config kind> -name <config name>",
        "Deletes a configuration entry.",
        delete,
        (KIND_FLAG, NAME_FLAG),
        no_client=NO_CLIENT,
    ),
    "config write": Command(
        "config write",
        "FILE",
        "Creates or replaces a configuration entry from a file in JSON or HCL, or from - for\n"
        "standard input.",
        write,
        (
            Flag("cas", "Check-and-set: write only while -modify-index holds.", boolean, False),
            Flag("modify-index", "ModifyIndex that the entry must have.", unsigned, 0),
        ),
        no_client=NO_CLIENT,
    ),
}
