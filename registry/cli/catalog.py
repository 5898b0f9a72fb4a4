"""`catalog datacenters`, `nodes` and `services`."""

from __future__ import annotations

from typing import Any

from registry.cli.command import Command, CommandError, Invocation, no_arguments, say, table, warn
from registry.client import ApiError, key_path
from registry.errors import RegistryError
from registry.goflags import Flag, boolean, pair

NODE_META = Flag(
    "node-meta",
    "Only nodes with this metadata; repeatable.",
    pair,
    repeat=True,
    metavar="key=value",
)


def _get(call: Invocation, what: str, path: str, parameters: dict[str, Any]) -> Any:
    try:
        return call.client.get(path, parameters).json()
    except (ApiError, RegistryError) as problem:
        raise CommandError(f"Error listing {what}: {problem}") from problem


def _node_meta(call: Invocation) -> list[str]:
    """Pairs as the API takes them."""
    return [f"{name}:{value}" for name, value in call["node-meta"]]


def datacenters(call: Invocation) -> int:
    no_arguments(call)
    try:
        found = _get(call, "datacenters", "/v1/catalog/datacenters", {})
    except CommandError as problem:
        warn(problem.text)
        return 0  # as scripts know it
    for name in found:
        say(name)
    return 0


def nodes(call: Invocation) -> int:
    no_arguments(call)
    parameters = {
        "near": call["near"] or None,
        "filter": call["filter"] or None,
        "node-meta": _node_meta(call),
    }
    if call["service"]:
        path = key_path("/v1/catalog/service", call["service"])
        found = _get(call, "nodes for service", path, parameters)
    else:
        found = _get(call, "nodes", "/v1/catalog/nodes", parameters)
    if not found:
        warn("No nodes match the given query - try expanding your search.")
        return 0
    rows = [["Node", "ID", "Address", "DC"]]
    if call["detailed"]:
        rows[0] += ["TaggedAddresses", "Meta"]
    # A node stands there as often as it has instances of the service.
    rows += [_node_row(node, detailed=call["detailed"]) for node in found]
    say(table(rows))
    return 0


def _node_row(node: dict[str, Any], *, detailed: bool) -> list[str]:
    identifier = node["ID"] if detailed else node["ID"].partition("-")[0]
    row = [node["Node"], identifier, node["Address"], node["Datacenter"]]
    if detailed:
        meta = node.get("Meta") or node.get("NodeMeta")
        row += [_pairs_text(node.get("TaggedAddresses")), _pairs_text(meta)]
    return row


def _pairs_text(pairs: dict[str, str] | None) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted((pairs or {}).items()))


def services(call: Invocation) -> int:
    no_arguments(call)
    if call["node"]:
        tags_by_name = _services_of_node(call)
    else:
        parameters = {"node-meta": _node_meta(call)}
        tags_by_name = _get(call, "services", "/v1/catalog/services", parameters)
    if not tags_by_name:
        warn("No services match the given query - try expanding your search.")
        return 0
    if not call["tags"]:
        for name in sorted(tags_by_name):
            say(name)
        return 0
    rows = [[name, ",".join(sorted(tags_by_name[name]))] for name in sorted(tags_by_name)]
    say(table(rows, gap=6))
    return 0


def _services_of_node(call: Invocation) -> dict[str, list[str]]:
    found = _get(call, "services for node", key_path("/v1/catalog/node", call["node"]), {})
    tags: dict[str, list[str]] = {}
    for service in ((found or {}).get("Services") or {}).values():
        tags.setdefault(service["Service"], []).extend(service["Tags"] or [])
    return tags


COMMANDS = {
    "catalog datacenters": Command(
        "catalog datacenters", "", "Lists the known datacenters, nearest first.", datacenters
    ),
    "catalog nodes": Command(
        "catalog nodes",
        "",
        "Lists nodes of the catalog, all or those that match.",
        nodes,
        (
            Flag("detailed", "Show addresses and metadata too.", boolean, False),
            Flag("filter", "Only nodes for which this expression holds.", default=""),
            Flag("near", "Sort by distance from this node; _agent: from the agent.", default=""),
            NODE_META,
            Flag("service", "Only nodes that run this service.", default=""),
        ),
    ),
    "catalog services": Command(
        "catalog services",
        "",
        "Lists the services of the catalog, all or those that match.",
        services,
        (
            Flag("node", "Only services of this node (name or id).", default=""),
            NODE_META,
            Flag("tags", "Show each service's tags.", boolean, False),
        ),
    ),
}
