"""Commands about the agent and its cluster: members, info, join, leave, reload, monitor."""

from __future__ import annotations

import re
import sys
from typing import Any

from registry.cli.command import (
    Command,
    CommandError,
    Invocation,
    UsageError,
    ended_by_signals,
    say,
    table,
    warn,
)
from registry.client import key_path
from registry.errors import RegistryError
from registry.goflags import Flag, boolean

ALL_SEGMENTS = "_all"

STATUS_NAMES = {0: "none", 1: "alive", 2: "leaving", 3: "left", 4: "failed"}


def members(call: Invocation) -> int:
    try:
        wanted = re.compile(call["status"])
    except re.error as problem:
        raise CommandError(
            f"Failed to compile status regexp: error parsing regexp: {problem}"
        ) from problem
    segment = call["segment"]
    parameters = {"wan": "1" if call["wan"] else None, "segment": segment}
    try:
        found = call.client.get("/v1/agent/members", parameters).json() or []
    except RegistryError as problem:
        raise CommandError(f"Error retrieving members: {problem}") from problem
    shown = [member for member in found if wanted.search(STATUS_NAMES[member["Status"]])]
    if not shown:
        return 2
    for member in shown:
        member["Tags"]["segment"] = _shown_segment(member["Tags"], segment)
    # Where all segments are asked for this has servers first, as people look for them.
    shown.sort(key=lambda member: (member["Tags"]["segment"], member["Name"]))
    rows = _detailed_rows(shown) if call["detailed"] else _member_rows(shown)
    say(table(rows))
    return 0


def _shown_segment(tags: dict[str, str], asked: str) -> str:
    """Servers are in all segments, and shown so where all are asked for."""
    if asked == ALL_SEGMENTS and tags.get("role") == "consul":
        return "<all>"
    return tags.get("segment") or "<default>"


def _address(member: dict[str, Any]) -> str:
    host = member["Addr"]
    return f"[{host}]:{member['Port']}" if ":" in host else f"{host}:{member['Port']}"


def _member_rows(found: list[dict[str, Any]]) -> list[list[str]]:
    rows = [["Node", "Address", "Status", "Type", "Build", "Protocol", "DC", "Segment"]]
    for member in found:
        tags = member["Tags"]
        server = tags.get("role") == "consul"
        rows.append(
            [
                member["Name"],
                _address(member),
                STATUS_NAMES[member["Status"]],
                "server" if server else "client",
                tags.get("build", "").partition(":")[0] or "< 0.3",
                tags.get("vsn", ""),
                tags.get("dc", ""),
                tags["segment"],
            ]
        )
    return rows


def _detailed_rows(found: list[dict[str, Any]]) -> list[list[str]]:
    rows = [["Node", "Address", "Status", "Tags"]]
    for member in found:
        tags = ",".join(f"{name}={value}" for name, value in sorted(member["Tags"].items()))
        rows.append([member["Name"], _address(member), STATUS_NAMES[member["Status"]], tags])
    return rows


def info(call: Invocation) -> int:
    try:
        stats = call.client.get("/v1/agent/self").json()["Stats"]
    except RegistryError as problem:
        raise CommandError(f"Error querying agent: {problem}") from problem
    for block in sorted(stats):
        say(f"{block}:")
        for name in sorted(stats[block]):
            say(f"\t{name} = {stats[block][name]}")
    return 0


def join(call: Invocation) -> int:
    if not call.arguments:
        raise UsageError("At least one address to join must be specified.")
    joined = 0
    for address in call.arguments:
        path = key_path("/v1/agent/join", address)
        try:
            call.client.put(path, {"wan": "1" if call["wan"] else None})
        except RegistryError as problem:
            print(f"Error joining address '{address}': {problem}", file=sys.stderr)
        else:
            joined += 1
    if not joined:
        raise CommandError("Failed to join any nodes.")
    say(f"Successfully joined cluster by contacting {joined} nodes.")
    return 0


def leave(call: Invocation) -> int:
    if call.arguments:
        warn(f"Error found unexpected args: [{' '.join(call.arguments)}]")
        say(call.command.help())
        return 1
    try:
        call.client.put("/v1/agent/leave")
    except RegistryError as problem:
        raise CommandError(f"Error leaving: {problem}") from problem
    say("Graceful leave complete")
    return 0


def force_leave(call: Invocation) -> int:
    if len(call.arguments) != 1:
        raise UsageError("A single node name must be specified to force leave.")
    path = key_path("/v1/agent/force-leave", call.arguments[0])
    try:
        call.client.put(path, {"prune": call["prune"]})
    except RegistryError as problem:
        raise CommandError(f"Error force leaving: {problem}") from problem
    return 0


def reload(call: Invocation) -> int:
    try:
        answer = call.client.put("/v1/agent/reload").json() or {}
    except RegistryError as problem:
        raise CommandError(f"Error reloading: {problem}") from problem
    say("Configuration reload triggered")
    for item in answer.get("Items", []):
        detail = f" ({item['Detail']})" if item["Detail"] else ""
        say(f"  {item['Kind']} {item['Name']}: {item['Change']}, {item['Outcome']}{detail}")
    return 0


def monitor(call: Invocation) -> int:
    parameters = {"loglevel": call["log-level"], "logjson": "true" if call["log-json"] else None}
    started = False
    try:
        with ended_by_signals():
            for chunk in call.client.stream("/v1/agent/monitor", parameters):
                started = True
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
    except KeyboardInterrupt:
        return 0
    except RegistryError as problem:
        if not started:
            raise CommandError(f"Error starting monitor: {problem}") from problem
    say(
        "\nRemote side ended the monitor! This usually means that the\n"
        "remote side has exited or crashed."
    )
    return 1


COMMANDS = {
    "members": Command(
        "members",
        "",
        "Lists the members of the cluster that an agent knows.",
        members,
        (
            Flag("detailed", "Show all tags.", boolean, False),
            Flag("segment", "Accepted for compatibility.", default=ALL_SEGMENTS),
            Flag("status", "Only members whose status fits this expression.", default=".*"),
            Flag("wan", "The pool of servers of all datacenters.", boolean, False),
        ),
        "client",
    ),
    "info": Command("info", "", "Shows statistics of an agent, in blocks.", info, (), "client"),
    "join": Command(
        "join",
        "address ...",
        "Tells the agent to join a cluster through these addresses.",
        join,
        (Flag("wan", "Join the pool of servers of all datacenters.", boolean, False),),
        "client",
    ),
    "leave": Command("leave", "", "Makes the agent leave and end.", leave, (), "client"),
    "force-leave": Command(
        "force-leave",
        "name",
        "Moves a member that failed to the state left.",
        force_leave,
        (Flag("prune", "Remove it from the list at once.", boolean, False),),
        "client",
    ),
    "reload": Command(
        "reload",
        "",
        "Makes the agent read its configuration again, and lists what changed.",
        reload,
        (),
        "client",
    ),
    "monitor": Command(
        "monitor",
        "",
        "Follows the log of the agent until interrupted.",
        monitor,
        (
            Flag("log-json", "Lines as JSON.", boolean, False),
            Flag("log-level", "Least level to show; default INFO.", default="INFO"),
        ),
        "client",
    ),
}
