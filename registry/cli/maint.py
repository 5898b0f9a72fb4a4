"""`maint`: maintenance mode of a node or a service."""

from __future__ import annotations

from registry.cli.command import Command, CommandError, Invocation, say
from registry.client import key_path
from registry.errors import RegistryError
from registry.goflags import Flag, boolean

NODE_CHECK = "_node_maintenance"
SERVICE_CHECK_PREFIX = "_service_maintenance:"


def maint(call: Invocation) -> int:
    enable, disable, service = call["enable"], call["disable"], call["service"]
    if enable and disable:
        raise CommandError("Only one of -enable or -disable may be provided")
    if not enable and call["reason"]:
        raise CommandError("Reason may only be provided with -enable")
    if not enable and not disable:
        if service:
            raise CommandError("Service requires either -enable or -disable")
        return _show(call)
    call.own_agent()
    return _switch(call, "enabl" if enable else "disabl")


def _switch(call: Invocation, verb: str) -> int:
    service = call["service"]
    parameters = {
        "enable": "true" if call["enable"] else "false",
        "reason": call["reason"] or None,
    }
    path = "/v1/agent/maintenance"
    if service:
        path = key_path("/v1/agent/service/maintenance", service)
    try:
        call.client.put(path, parameters)
    except RegistryError as problem:
        what = "service" if service else "node"
        raise CommandError(f"Error {verb}ing {what} maintenance: {problem}") from problem
    if service:
        say(f'Service maintenance is now {verb}ed for "{service}"')
    else:
        say(f"Node maintenance is now {verb}ed")
    return 0


def _show(call: Invocation) -> int:
    node = call.own_agent()["Config"]["NodeName"]
    try:
        checks = call.client.get("/v1/agent/checks").json()
    except RegistryError as problem:
        raise CommandError(f"Error getting checks: {problem}") from problem
    for check_id in sorted(checks):
        reason = checks[check_id]["Notes"]
        if check_id == NODE_CHECK:
            say(f"Node:\n  Name:   {node}\n  Reason: {reason}\n")
        elif check_id.startswith(SERVICE_CHECK_PREFIX):
            service = checks[check_id]["ServiceID"]
            say(f"Service:\n  ID:     {service}\n  Reason: {reason}\n")
    return 0


COMMANDS = {
    "maint": Command(
        "maint",
        "",
        "Takes a node or one of its services out of service for a while, or back in.\n"
        "Without flags lists what is in maintenance.",
        maint,
        (
            Flag("enable", "Switch maintenance on.", boolean, False),
            Flag("disable", "Switch maintenance off.", boolean, False),
            Flag("reason", "Text that others see, with -enable.", default=""),
            Flag("service", "ID of a service; without it the whole node.", default=""),
        ),
        "client",
    ),
}
