"""`keyring`: the keys that gossip is encrypted with."""

from __future__ import annotations

from typing import Any

from registry.cli.command import Command, CommandError, Invocation, UsageError, say, say_outline
from registry.errors import RegistryError
from registry.goflags import Flag, boolean, integer

PATH = "/v1/operator/keyring"
RELAY_FACTOR_MAX = 5

#: Flag -> method and what is said before.
_CHANGES = {
    "install": ("POST", "Installing new gossip encryption key..."),
    "use": ("PUT", "Changing primary gossip encryption key..."),
    "remove": ("DELETE", "Removing gossip encryption key..."),
}


def keyring(call: Invocation) -> int:
    actions = [flag for flag in _CHANGES if call[flag]] + (["list"] if call["list"] else [])
    if not actions:
        raise UsageError("")
    if len(actions) > 1:
        raise CommandError("Only a single action is allowed")
    [action] = actions
    if not 0 <= call["relay-factor"] <= RELAY_FACTOR_MAX:
        raise CommandError(
            f"Error parsing relay factor: Relay factor must be in range: [0, {RELAY_FACTOR_MAX}]"
        )
    if call["local-only"] and action != "list":
        raise CommandError(
            "Error validating local-only: local-only can only be set for list requests"
        )
    parameters = {"relay-factor": call["relay-factor"] or None}
    try:
        if action == "list":
            _list(call, parameters)
        else:
            _change(call, action, parameters)
    except RegistryError as problem:
        raise CommandError(f"error: {problem}") from problem
    return 0


def _change(call: Invocation, action: str, parameters: dict[str, Any]) -> None:
    method, about = _CHANGES[action]
    say_outline(about)
    call.client.request(method, PATH, parameters, json_body={"Key": call[action]})


def _list(call: Invocation, parameters: dict[str, Any]) -> None:
    say_outline("Gathering installed encryption keys...")
    parameters["local-only"] = "true" if call["local-only"] else None
    for pool in call.client.get(PATH, parameters).json():
        say("")
        say(f"{_pool_name(pool)}:")
        for node, message in sorted((pool["Messages"] or {}).items()):
            say(f"\t{node}: {message}")
        for key, nodes in sorted(pool["Keys"].items()):
            say(f"  {key} [{nodes}/{pool['NumNodes']}]")


def _pool_name(pool: dict[str, Any]) -> str:
    if pool["WAN"]:
        return "WAN"
    segment = f" [{pool['Segment']}]" if pool.get("Segment") else ""
    return f"{pool['Datacenter']} (LAN){segment}"


COMMANDS = {
    "keyring": Command(
        "keyring",
        "",
        "Manages the keys that gossip is encrypted with, on all nodes at once. To change the key:\n"
        "install the new one, use it, remove the old one; look at -list after each step.",
        keyring,
        (
            Flag("install", "Add a key; it is not used before -use.", default="", metavar="key"),
            Flag("list", "List the keys and how many nodes have them.", boolean, False),
            Flag("local-only", "Ask only this agent, with -list.", boolean, False),
            Flag("relay-factor", "Nodes to relay answers through, 0 to 5.", integer, 0),
            Flag("remove", "Drop a key that is not in use.", default="", metavar="key"),
            Flag("use", "Encrypt with this installed key.", default="", metavar="key"),
        ),
        "client",
    ),
}
