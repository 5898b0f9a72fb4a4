"""`rtt`: the round-trip time between two nodes, from their network coordinates."""

from __future__ import annotations

import math
from typing import Any

from registry.cli.command import Command, CommandError, Invocation, UsageError, say
from registry.errors import RegistryError
from registry.goflags import Flag, boolean


def rtt(call: Invocation) -> int:
    if not 1 <= len(call.arguments) <= 2:
        raise UsageError("One or two node names must be specified")
    names = list(call.arguments)
    find = _find_wan if call["wan"] else _find_lan
    if len(names) == 1:
        names.append(_own_name(call))
    try:
        first, second = find(call, names)
    except RegistryError as problem:
        raise CommandError(f"Error getting coordinates: {problem}") from problem
    pool = "WAN" if call["wan"] else "LAN"
    estimate = distance_s(first, second) * 1000
    say(f"Estimated {names[0]} <-> {names[1]} rtt: {estimate:.3f} ms (using {pool} coordinates)")
    return 0


def _own_name(call: Invocation) -> str:
    try:
        config = call.client.get("/v1/agent/self").json()["Config"]
    except RegistryError as problem:
        raise CommandError(f"Unable to look up agent info: {problem}") from problem
    name: str = config["NodeName"]
    return f"{name}.{config['Datacenter']}" if call["wan"] else name


def _find_lan(call: Invocation, names: list[str]) -> list[dict[str, Any]]:
    found = call.client.get("/v1/coordinate/nodes").json()
    by_name = {entry["Node"].lower(): entry["Coord"] for entry in found}
    return [_known(by_name.get(name.lower()), name) for name in names]


def _find_wan(call: Invocation, names: list[str]) -> list[dict[str, Any]]:
    wanted = [_split(name) for name in names]
    by_name = {
        (entry["Node"].lower(), area["Datacenter"]): entry["Coord"]
        for area in call.client.get("/v1/coordinate/datacenters").json()
        for entry in area["Coordinates"]
    }
    found = [by_name.get(name) for name in wanted]
    if None in found:  # two areas may not be compared, so it is always the first that is missed
        found[0] = None
    return [_known(coordinate, name) for coordinate, name in zip(found, names, strict=True)]


def _split(name: str) -> tuple[str, str]:
    """Node in lower case, and datacenter."""
    node, dot, datacenter = name.partition(".")
    if not dot or "." in datacenter:
        raise CommandError("Node names must be specified as <node name>.<datacenter> with -wan")
    return node.lower(), datacenter


def _known(coordinate: dict[str, Any] | None, name: str) -> dict[str, Any]:
    if coordinate is None:
        raise CommandError(f'Could not find a coordinate for node "{name}"')
    return coordinate


def distance_s(first: dict[str, Any], second: dict[str, Any]) -> float:
    """Seconds for a round trip. Source: Dabek et al., "Vivaldi" (2004), with Serf's adjustments.

    The adjustments may not make it negative; then the plain distance counts.
    """
    plain = math.dist(first["Vec"], second["Vec"]) + first["Height"] + second["Height"]
    adjusted = plain + first["Adjustment"] + second["Adjustment"]
    return float(adjusted if adjusted > 0 else plain)


COMMANDS = {
    "rtt": Command(
        "rtt",
        "node1 [node2]",
        "Estimates the round-trip time between two nodes, or between a node and the agent's own.\n"
        "With -wan nodes are named with their datacenter: name.datacenter",
        rtt,
        (Flag("wan", "Between servers of datacenters.", boolean, False),),
        "client",
    ),
}
