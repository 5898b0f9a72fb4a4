"""`config`: configuration entries, by kind and name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from registry.cli.command import Command, CommandError, Invocation, read_data, say
from registry.client import key_path
from registry.errors import RegistryError
from registry.goflags import Flag, boolean, unsigned


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
        raise CommandError(f"Error reading config entry {kind}/{name}: {problem}") from problem
    say(json.dumps(entry, indent=4, ensure_ascii=False))
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
    if call["cas"] and "modify-index" not in call.flags.given:
        raise CommandError("Must specify -modify-index with -cas!")
    entry = _entry(call.arguments[0])
    kind, name = _field(entry, "kind"), _field(entry, "name")
    parameters = {"cas": call["modify-index"] if call["cas"] else None}
    try:
        done = call.client.put("/v1/config", parameters, json_body=entry).json()
    except RegistryError as problem:
        raise CommandError(f"Error writing config entry {kind}/{name}: {problem}") from problem
    if not done:
        raise CommandError(f"Config entry not updated: {kind}/{name}")
    say(f"Config entry written: {kind}/{name}")
    return 0


def _entry(argument: str) -> dict[str, Any]:
    """The entry in a file, or on standard input; JSON or HCL."""
    from registry.agent.formats import load_hcl

    data = read_data(argument if argument == "-" else f"@{argument}")
    try:
        return dict(load_hcl(Path(argument), data.decode("utf-8", "replace")))
    except RegistryError as problem:
        raise CommandError(f"Failed to decode config entry input: {problem}") from problem


def _field(entry: dict[str, Any], field: str) -> str:
    """A field of the entry by its name in any letter case."""
    for name, value in entry.items():
        if name.lower() == field:
            return str(value)
    return ""


KIND_FLAG = Flag("kind", "Kind of the entry.", default="")
NAME_FLAG = Flag("name", "Name of the entry.", default="")

COMMANDS = {
    "config read": Command(
        "config read",
        "-kind <config kind> -name <config name>",
        "Shows a configuration entry as JSON.",
        read,
        (KIND_FLAG, NAME_FLAG),
    ),
    "config list": Command(
        "config list",
        "-kind <config kind>",
        "Lists the names of all configuration entries of a kind.",
        list_,
        (KIND_FLAG,),
    ),
    "config delete": Command(
        "config delete",
        "-kind <config kind> -name <config name>",
        "Deletes a configuration entry.",
        delete,
        (KIND_FLAG, NAME_FLAG),
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
    ),
}
