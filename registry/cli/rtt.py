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
    try:
        names = list(call.arguments)
        find = _find_wan if call["wan"] else _find_lan
        if call["wan"]:
            for name in names:
                _split(name)  # before anything is asked
        if len(names) == 1:
            names.append(_own_name(call))
        first, second = find(call, names)
    except RegistryError as problem:
        raise CommandError(f"Error getting coordinates: {problem}") from problem
    pool = "WAN" if call["wan"] else "LAN"
    estimate = distance_s(first, second) * 1000
    say(f"Estimated {names[0]} <-> {names[1]} rtt: {estimate:.3f} ms (using {pool} coordinates)")
    return 0


def _own_name(call: Invocation) -> str:
    config = call.client.get("/v1/agent/self").json()["Config"]
    name: str = config["NodeName"]
    return f"{name}.{config['Datacenter']}" if call["wan"] else name


def _find_lan(call: Invocation, names: list[str]) -> list[dict[str, Any]]:
    found = call.client.get("/v1/coordinate/nodes").json()
    by_name = {entry["Node"]: entry["Coord"] for entry in found}
    return [_known(by_name.get(name), name) for name in names]


def _find_wan(call: Invocation, names: list[str]) -> list[dict[str, Any]]:
    by_name = {
        (entry["Node"], area["Datacenter"]): entry["Coord"]
        for area in call.client.get("/v1/coordinate/datacenters").json()
        for entry in area["Coordinates"]
    }
    return [_known(by_name.get(_split(name)), name) for name in names]


def _split(name: str) -> tuple[str, str]:
    node, dot, datacenter = name.rpartition(".")
    if not dot:
        raise CommandError("Node names must be specified as <node name>.<datacenter> with -wan")
    return node, datacenter


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
