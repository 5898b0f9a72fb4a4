"""`services register` and `deregister`: from definition files or from flags."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from registry.cli.command import Command, CommandError, Invocation, say
from registry.client import key_path
from registry.errors import RegistryError
from registry.goflags import Flag, integer, pair

#: What of a directory is read.
_SUFFIXES = (".json", ".hcl")

ID_FLAG = Flag("id", "ID of the service; default: its name.", default="")


def register(call: Invocation) -> int:
    addresses = dict(_tagged_address(*given) for given in call["tagged-address"])
    if not call.arguments and not call["name"]:
        raise CommandError("Service registration requires at least one argument or flags.")
    if call.arguments and call["name"]:
        raise CommandError("Service registration requires arguments or -id, not both.")
    bodies = _from_files(call.arguments) if call.arguments else [_from_flags(call, addresses)]
    for body in bodies:
        name = body.get("Name", "")  # without one it is the agent that objects
        try:
            call.client.put("/v1/agent/service/register", json_body=body)
        except RegistryError as problem:
            raise CommandError(f'Error registering service "{name}": {problem}') from problem
        say(f"Registered service: {name}")
    return 0


def deregister(call: Invocation) -> int:
    if not call.arguments and not call["id"]:
        raise CommandError("Service deregistration requires at least one argument or -id.")
    if call.arguments and call["id"]:
        raise CommandError("Service deregistration requires arguments or -id, not both.")
    found = [("", call["id"])]
    if call.arguments:
        bodies = _from_files(call.arguments)
        names = [(body.get("Name", ""), body.get("ID", "")) for body in bodies]
        found = [(name, given or name) for name, given in names if given or name]
    for name, service_id in found:
        try:
            call.client.put(key_path("/v1/agent/service/deregister", service_id))
        except RegistryError as problem:
            # The word and the name are what scripts know: an ID alone has no name.
            raise CommandError(f'Error registering service "{name}": {problem}') from problem
        say(f"Deregistered service: {service_id}")
    return 0


def _from_flags(call: Invocation, addresses: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {
        "ID": call["id"],
        "Name": call["name"],
        "Kind": call["kind"],
        "Address": call["address"],
        "Port": call["port"],
        "Tags": call["tag"],
        "Meta": dict(call["meta"]),
        "TaggedAddresses": addresses,
    }
    return {name: value for name, value in body.items() if value}


def _tagged_address(name: str, value: str) -> tuple[str, dict[str, Any]]:
    host, colon, port = value.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        return name, {"Address": value.strip("[]"), "Port": 0}
    if not (port.isascii() and port.isdigit()):
        raise CommandError(
            f'Invalid Tagged Address: strconv.Atoi: parsing "{port}": invalid syntax'
        )
    return name, {"Address": host.strip("[]"), "Port": int(port)}


def _from_files(paths: list[str]) -> list[dict[str, Any]]:
    """Registration bodies of the services in definition files, in the files' order."""
    from registry.agent.service_bodies import read_service_bodies
    from registry.plugins import Plugins

    plugins = Plugins.load()  # they may bring formats and types of checks
    bodies = []
    for path in _files(paths):
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as problem:
            reason = (problem.strerror or str(problem)).lower()
            raise CommandError(
                f"Error: config: Open failed on {path}. open {path}: {reason}"
            ) from problem
        except UnicodeDecodeError as problem:
            raise CommandError(f"Error: {path}: the file is not UTF-8 text") from problem
        try:
            bodies += read_service_bodies(path, text, plugins)
        except RegistryError as problem:
            raise CommandError(f"Error: {problem}") from problem
    return bodies


def _files(paths: list[str]) -> Iterator[Path]:
    """Files as given, and those of directories that are definitions, by name."""
    for path in map(Path, paths):
        if path.is_dir():
            yield from sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
        else:
            yield path


FLAGS = (
    ID_FLAG,
    Flag("name", "Name of the service.", default=""),
    Flag("address", "Address of the service; default: the node's.", default=""),
    Flag("port", "Port of the service.", integer, 0),
    Flag("kind", "Kind of the service.", default=""),
    Flag("meta", "Metadata; repeatable.", pair, repeat=True, metavar="key=value"),
    Flag("tag", "Tag; repeatable.", repeat=True),
    Flag(
        "tagged-address",
        "Further address; repeatable.",
        pair,
        repeat=True,
        metavar="key=address[:port]",
    ),
)

COMMANDS = {
    "services register": Command(
        "services register",
        "[FILE...]",
        "Registers services with the agent, from definition files or from flags.\n\n"
        "  registry services register web.json\n"
        "  registry services register -name=web -port=80",
        register,
        FLAGS,
    ),
    "services deregister": Command(
        "services deregister",
        "[FILE...]",
        "Deregisters services from the agent: those of definition files, or one by -id.",
        deregister,
        (ID_FLAG,),
    ),
}
