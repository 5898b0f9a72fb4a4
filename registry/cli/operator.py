"""`operator`: the servers in the Raft configuration, and autopilot's settings."""

from __future__ import annotations

from typing import Any

from registry.cli.command import Command, CommandError, Invocation, say, table
from registry.errors import RegistryError
from registry.goflags import Flag, boolean, text, unsigned

NO_CLIENT = "Error initializing client"

AUTOPILOT_PATH = "/v1/operator/autopilot/configuration"


def list_peers(call: Invocation) -> int:
    try:
        found = call.client.get("/v1/operator/raft/configuration").json()["Servers"]
    except RegistryError as problem:
        raise CommandError(
            f"Error getting peers: Failed to retrieve raft configuration: {problem}"
        ) from problem
    rows = [["Node", "ID", "Address", "State", "Voter", "RaftProtocol"]]
    for server in found:
        state = "leader" if server["Leader"] else "follower"
        voter = "true" if server["Voter"] else "false"
        version = server["ProtocolVersion"] or "<=1"
        rows.append([server["Node"], server["ID"], server["Address"], state, voter, version])
    say(table(rows))
    return 0


def remove_peer(call: Invocation) -> int:
    server_id, address = call["id"], call["address"]
    if server_id and address:
        raise CommandError("Error removing peer: cannot give both an address and id")
    if not server_id and not address:
        raise CommandError(
            "Error removing peer: an address or id is required for the peer to remove"
        )
    parameters = {"id": server_id or None, "address": address or None}
    try:
        call.client.delete("/v1/operator/raft/peer", parameters)
    except RegistryError as problem:
        raise CommandError(f"Error removing peer: {problem}") from problem
    if server_id:
        say(f'Removed peer with id "{server_id}"')
    else:
        say(f'Removed peer with address "{address}"')
    return 0


#: Name of a setting -> whether it is shown in quotes; in the order shown.
_SHOWN = {
    "CleanupDeadServers": False,
    "LastContactThreshold": False,
    "MaxTrailingLogs": False,
    "MinQuorum": False,
    "ServerStabilizationTime": False,
    "RedundancyZoneTag": True,
    "DisableUpgradeMigration": False,
    "UpgradeVersionTag": True,
}

#: Flag of set-config -> the setting.
_SETTINGS = {
    "cleanup-dead-servers": "CleanupDeadServers",
    "last-contact-threshold": "LastContactThreshold",
    "max-trailing-logs": "MaxTrailingLogs",
    "min-quorum": "MinQuorum",
    "server-stabilization-time": "ServerStabilizationTime",
    "redundancy-zone-tag": "RedundancyZoneTag",
    "disable-upgrade-migration": "DisableUpgradeMigration",
    "upgrade-version-tag": "UpgradeVersionTag",
}


def get_config(call: Invocation) -> int:
    settings = _autopilot(call)
    for name, quoted in _SHOWN.items():
        say(f"{name} = {_setting(settings[name], quoted=quoted)}")
    return 0


def _setting(value: Any, *, quoted: bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if quoted else str(value)


def _autopilot(call: Invocation) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = call.client.get(AUTOPILOT_PATH).json()
    except RegistryError as problem:
        raise CommandError(f"Error querying Autopilot configuration: {problem}") from problem
    return settings


def set_config(call: Invocation) -> int:
    """Change what flags name, unless somebody else changes anything in between."""
    settings = _autopilot(call)
    settings |= {_SETTINGS[flag]: call[flag] for flag in _SETTINGS if flag in call.flags.given}
    try:
        parameters = {"cas": settings["ModifyIndex"]}
        done = call.client.put(AUTOPILOT_PATH, parameters, json_body=settings).json()
    except RegistryError as problem:
        raise CommandError(f"Error setting Autopilot configuration: {problem}") from problem
    if not done:
        say("Configuration could not be atomically updated, please try again")
        return 1
    say("Configuration updated!")
    return 0


def _duration_text(value: str) -> str:
    """The text itself, once it is known to be a duration."""
    from registry.cli.command import duration

    try:
        duration(value)
    except ValueError:
        raise ValueError(f"time: invalid duration {value}") from None
    return value


def _count(value: str) -> int:
    try:
        return unsigned(value)
    except ValueError:
        raise ValueError(f'strconv.ParseUint: parsing "{value}": invalid syntax') from None


COMMANDS = {
    "operator raft list-peers": Command(
        "operator raft list-peers",
        "",
        "Lists the servers in the Raft configuration: who leads, and who votes.",
        list_peers,
        no_client=NO_CLIENT,
    ),
    "operator raft remove-peer": Command(
        "operator raft remove-peer",
        "",
        "Removes a server that will not come back from the Raft configuration. A server that is\n"
        "alive leaves by itself: registry leave.",
        remove_peer,
        (
            Flag("address", "Address of the server, ip:port.", default=""),
            Flag("id", "Raft ID of the server.", default=""),
        ),
        no_client=NO_CLIENT,
    ),
    "operator autopilot get-config": Command(
        "operator autopilot get-config",
        "",
        "Shows how dead servers and new ones are dealt with.",
        get_config,
        no_client=NO_CLIENT,
    ),
    "operator autopilot set-config": Command(
        "operator autopilot set-config",
        "",
        "Changes the settings that are given and keeps the others.",
        set_config,
        (
            Flag(
                "cleanup-dead-servers",
                "Remove dead servers when a new one joins; =false keeps them.",
                boolean,
            ),
            Flag(
                "last-contact-threshold",
                "A server that has not heard from the leader for so long is unhealthy.",
                _duration_text,
                metavar="duration",
            ),
            Flag("max-trailing-logs", "A server so many entries behind is unhealthy.", _count),
            Flag("min-quorum", "Servers that are not removed although dead.", _count),
            Flag(
                "server-stabilization-time",
                "How long a new server must be healthy before it votes.",
                _duration_text,
                metavar="duration",
            ),
            Flag("redundancy-zone-tag", "Kept, and has no effect.", text),
            Flag("disable-upgrade-migration", "Kept, and has no effect.", boolean),
            Flag("upgrade-version-tag", "Kept, and has no effect.", text),
        ),
        no_client=NO_CLIENT,
    ),
}
