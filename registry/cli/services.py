"""`services register` and `deregister`: from definition files or from flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from registry.cli.command import Command, CommandError, Invocation, say
from registry.client import key_path
from registry.errors import RegistryError
from registry.goflags import Flag, integer

ID_FLAG = Flag("id", "ID of the service; default: its name.", default="")


def register(call: Invocation) -> int:
    given = call.flags.given - {flag.name for flag in call.command.all_flags[len(FLAGS) :]}
    if not call.arguments and not call["name"]:
        raise CommandError("Service registration requires at least one argument or flags.")
    if call.arguments and given:
        raise CommandError("Service registration requires arguments or -id, not both.")
    bodies = _from_files(call.arguments) if call.arguments else [_from_flags(call)]
    for body in bodies:
        try:
            call.client.put("/v1/agent/service/register", json_body=body)
        except RegistryError as problem:
            raise CommandError(
                f'Error registering service "{body["Name"]}": {problem}'
            ) from problem
        say(f"Registered service: {body['Name']}")
    return 0


def deregister(call: Invocation) -> int:
    if not call.arguments and not call["id"]:
        raise CommandError("Service deregistration requires at least one argument or -id.")
    if call.arguments and call["id"]:
        raise CommandError("Service deregistration requires arguments or -id, not both.")
    ids = [call["id"]]
    if call.arguments:
        ids = [body.get("ID") or body["Name"] for body in _from_files(call.arguments)]
    for service_id in ids:
        try:
            call.client.put(key_path("/v1/agent/service/deregister", service_id))
        except RegistryError as problem:
            raise CommandError(
                f'Error deregistering service "{service_id}": {problem}'
            ) from problem
        say(f"Deregistered service: {service_id}")
    return 0


def _from_flags(call: Invocation) -> dict[str, Any]:
    body: dict[str, Any] = {
        "ID": call["id"],
        "Name": call["name"],
        "Kind": call["kind"],
        "Address": call["address"],
        "Port": call["port"],
        "Tags": call["tag"],
        "Meta": dict(_pair("meta", text) for text in call["meta"]),
        "TaggedAddresses": dict(_tagged_address(text) for text in call["tagged-address"]),
    }
    return {name: value for name, value in body.items() if value}


def _pair(flag: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise CommandError(f"Error: -{flag} wants key=value, not {text}")
    return name, value


def _tagged_address(text: str) -> tuple[str, dict[str, Any]]:
    name, value = _pair("tagged-address", text)
    host, colon, port = value.rpartition(":")
    if colon and port.isdigit() and (":" not in host or host.endswith("]")):
        return name, {"Address": host.strip("[]"), "Port": int(port)}
    return name, {"Address": value.strip("[]"), "Port": 0}


def _from_files(paths: list[str]) -> list[dict[str, Any]]:
    """Registration bodies of the services in definition files, in the files' order."""
    from registry.agent.service_bodies import read_service_bodies
    from registry.plugins import Plugins

    plugins = Plugins.load()  # they may bring formats and types of checks
    bodies = []
    for path in paths:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as problem:
            reason = (problem.strerror or str(problem)).lower()
            raise CommandError(
                f"Error: config: Open failed on {path}. open {path}: {reason}"
            ) from problem
        except UnicodeDecodeError as problem:
            raise CommandError(f"Error: {path}: the file is not UTF-8 text") from problem
        try:
            bodies += read_service_bodies(Path(path), text, plugins)
        except RegistryError as problem:
            raise CommandError(f"Error: {problem}") from problem
    return bodies


FLAGS = (
    ID_FLAG,
    Flag("name", "Name of the service.", default=""),
    Flag("address", "Address of the service; default: the node's.", default=""),
    Flag("port", "Port of the service.", integer, 0),
    Flag("kind", "Kind of the service.", default=""),
    Flag("meta", "Metadata; repeatable.", repeat=True, metavar="key=value"),
    Flag("tag", "Tag; repeatable.", repeat=True),
    Flag(
        "tagged-address",
        "Further address; repeatable.",
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
