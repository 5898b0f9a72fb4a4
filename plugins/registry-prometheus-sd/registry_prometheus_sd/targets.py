"""Instances of a service, as `/v1/health/service/` shows them, as targets of Prometheus.

Labels are named and filled as those of Prometheus's own `consul_sd_configs`, so that relabelling
rules written for it go on to work.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_NO_LABEL = re.compile(r"[^a-zA-Z0-9_]")

#: Checks by which an operator takes a node or service out of use.
_MAINTENANCE = ("_node_maintenance", "_service_maintenance:")


def target_group(instance: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """One instance as a group of one target."""
    node, service = instance["Node"], instance["Service"]
    host = service["Address"] or node["Address"]
    labels = {
        "address": node["Address"],
        "dc": node["Datacenter"],
        "health": health(instance["Checks"] or ()),
        "namespace": "",
        "node": node["Node"],
        "partition": "",
        "service": service["Service"],
        "service_address": service["Address"],
        "service_id": service["ID"],
        "service_port": str(service["Port"]),
        "tags": _tags(service["Tags"] or (), separator),
        **_named("metadata", node["Meta"]),
        **_named("service_metadata", service["Meta"]),
        **_named("tagged_address", node["TaggedAddresses"]),
    }
    return {
        "targets": [f"[{host}]:{service['Port']}" if ":" in host else f"{host}:{service['Port']}"],
        "labels": {f"__meta_consul_{name}": value for name, value in labels.items()},
    }


def health(checks: Iterable[Mapping[str, Any]]) -> str:
    """The worst of the states, "maintenance" being worse than all."""
    states = set()
    for check in checks:
        if check["CheckID"] == _MAINTENANCE[0] or check["CheckID"].startswith(_MAINTENANCE[1]):
            return "maintenance"
        states.add(check["Status"])
    return next((state for state in ("critical", "warning") if state in states), "passing")


def _tags(tags: Iterable[str], separator: str) -> str:
    """With a separator at both ends, so that a rule finds each tag between two of them."""
    return separator + "".join(tag + separator for tag in tags) if tags else ""


def _named(prefix: str, values: Mapping[str, str] | None) -> dict[str, str]:
    return {f"{prefix}_{_NO_LABEL.sub('_', name)}": text for name, text in (values or {}).items()}
