"""`event`: fire a user event."""

from __future__ import annotations

from typing import Any

from registry.cli.command import Command, CommandError, Invocation, UsageError, check_pattern, say
from registry.client import Client, key_path
from registry.errors import RegistryError
from registry.goflags import Flag

FILTER_FLAGS = (
    Flag("node", "Only nodes whose name fits this expression.", default=""),
    Flag("service", "Only nodes with a service that fits this expression.", default=""),
    Flag("tag", "Only services with a tag that fits this expression.", default=""),
)


def event(call: Invocation) -> int:
    if not call["name"]:
        raise UsageError("Event name must be specified")
    filters = checked_filters(call)
    if len(call.arguments) > 1:
        raise UsageError("Too many command line arguments.")
    payload = call.arguments[0] if call.arguments else ""
    call.own_agent()
    try:
        fired = fire(call.client, call["name"], filters, payload.encode(errors="surrogateescape"))
    except RegistryError as problem:
        raise CommandError(f"Error firing event: {problem}") from problem
    say(f"Event ID: {fired['ID']}")
    return 0


def checked_filters(call: Invocation) -> dict[str, str | None]:
    """The filters of the command's flags as parameters. Raises `CommandError`."""
    check_pattern(call["node"], "node filter")
    check_pattern(call["service"], "service filter")
    check_pattern(call["tag"], "tag filter")
    if call["tag"] and not call["service"]:
        raise CommandError("Cannot provide tag filter without service filter.")
    return {name: call[name] or None for name in ("node", "service", "tag")}


def fire(
    client: Client, name: str, filters: dict[str, str | None], payload: bytes
) -> dict[str, Any]:
    answer: dict[str, Any] = client.put(
        key_path("/v1/event/fire", name), filters, body=payload
    ).json()
    return answer


COMMANDS = {
    "event": Command(
        "event",
        "[payload]",
        "Fires a user event at all nodes, or at those that fit.\n\n"
        "  registry event -name=deploy -service=web 1.2.3",
        event,
        (Flag("name", "Name of the event; required.", default=""), *FILTER_FLAGS),
        "client",
    ),
}
