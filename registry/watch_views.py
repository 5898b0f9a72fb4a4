"""What a watch hands to its handler: the answer of an endpoint, spelt as handlers know it.

Handlers written for Consul read the structures of its Go client, whose members stand in another
order than in the HTTP answer and are written out where the answer leaves them away. Pure functions
of parsed JSON, for the command line and the agent alike. Source: API pages of the endpoints named
in `ENDPOINTS`, and recorded output of `watch`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

#: Types of watch that need nothing but an agent's HTTP API.
TYPES = ("key", "keyprefix", "services", "nodes", "service", "checks", "event", "agent_service")


#: Type -> the fields of a watch that mean something to it.
FIELDS = {
    "key": {"key", "stale"},
    "keyprefix": {"prefix", "stale"},
    "services": {"stale"},
    "nodes": {"stale"},
    "service": {"service", "tag", "passingonly", "stale"},
    "checks": {"service", "state", "stale"},
    "event": {"name"},
    "agent_service": {"service_id"},
}


class WatchError(ValueError):
    """The watch makes no sense; the message is one line."""


def endpoint(kind: str, given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Path and parameters of a watch of this type.

    `given` holds the watch's own fields: key, prefix, service, tag (list), passingonly, state,
    name, service_id. Raises `WatchError`.
    """
    match kind:
        case "key":
            return f"/v1/kv/{_need(given, 'key', 'key')}", {}
        case "keyprefix":
            return f"/v1/kv/{_need(given, 'prefix', 'prefix')}", {"recurse": True}
        case "services" | "nodes":
            return f"/v1/catalog/{kind}", {}
        case "service":
            path = f"/v1/health/service/{_need(given, 'service', 'service')}"
            passing = bool(given.get("passingonly"))
            return path, {"tag": list(given.get("tag") or []), "passing": passing}
        case "checks":
            return _checks_endpoint(given), {}
        case "event":
            return "/v1/event/list", {"name": given.get("name") or None}
        case "agent_service":
            return f"/v1/agent/service/{_need(given, 'service_id', 'service_id')}", {}
    raise WatchError(f"Unsupported watch type: {kind}")


def refuse_foreign_fields(kind: str, given: Iterable[str]) -> None:
    """Raises `WatchError` for fields that mean nothing to this type."""
    if foreign := sorted(set(given) - FIELDS[kind]):
        raise WatchError(f"Invalid parameters: [{' '.join(foreign)}]")


def _need(given: Mapping[str, Any], field: str, what: str) -> str:
    value = given.get(field)
    if not value or not isinstance(value, str):
        raise WatchError(f"Must specify a single {what} to watch")
    return quote(value, safe="/")


def _checks_endpoint(given: Mapping[str, Any]) -> str:
    service, state = given.get("service"), given.get("state")
    if service and state:
        raise WatchError("Cannot specify service and state")
    if service:
        return f"/v1/health/checks/{quote(service, safe='/')}"
    return f"/v1/health/state/{quote(state or 'any', safe='/')}"


def view(kind: str, answer: Any) -> Any:
    """The data for the handler, from the endpoint's JSON (None for a 404)."""
    match kind:
        case "key":
            return _key(answer[0]) if answer else None
        case "keyprefix":
            return [_key(entry) for entry in answer or []] or None
        case "services":
            return dict(sorted((answer or {}).items()))
        case "nodes":
            return [_node(node) for node in answer or []]
        case "service":
            return [_instance(entry) for entry in answer or []]
        case "checks":
            return [_check(check) for check in answer or []]
        case "event":
            return [_event(event) for event in answer or []]
    return answer


def event_index(event_id: str) -> int:
    """The index of an event list that ends with this event: its UUID's halves, XORed."""
    number = uuid.UUID(event_id).int
    return (number >> 64) ^ (number & (1 << 64) - 1)


def new_events(events: Sequence[Mapping[str, Any]], seen_index: int) -> list[Mapping[str, Any]]:
    """Those after the event that `seen_index` stands for; all when it is no longer listed."""
    for position, event in enumerate(events):
        if event_index(event["ID"]) == seen_index:
            return list(events[position + 1 :])
    return list(events)


#: What Go's encoder escapes beside what JSON asks for.
_ESCAPED = str.maketrans({sign: f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"})


def encode(data: Any, *, indent: int | str | None = None) -> str:
    """JSON as Go's encoder writes it: compact or indented, with `<`, `>` and `&` escaped."""
    separators = (",", ": ") if indent else (",", ":")
    text = json.dumps(data, indent=indent, separators=separators, ensure_ascii=False)
    return text.translate(_ESCAPED)


def _pick(source: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: source.get(name, default) for name, default in fields.items()}


def _key(entry: Mapping[str, Any]) -> dict[str, Any]:
    return _pick(
        entry,
        {
            "Key": "",
            "CreateIndex": 0,
            "ModifyIndex": 0,
            "LockIndex": 0,
            "Flags": 0,
            "Value": None,
            "Session": "",
        },
    )


def _node(node: Mapping[str, Any]) -> dict[str, Any]:
    return _pick(
        node,
        {
            "ID": "",
            "Node": "",
            "Address": "",
            "Datacenter": "",
            "TaggedAddresses": None,
            "Meta": None,
            "CreateIndex": 0,
            "ModifyIndex": 0,
        },
    )


def _instance(entry: Mapping[str, Any]) -> dict[str, Any]:
    service = entry["Service"]
    shown = {"Kind": service["Kind"]} if service.get("Kind") else {}
    shown |= _pick(
        service, {"ID": "", "Service": "", "Tags": None, "Meta": None, "Port": 0, "Address": ""}
    )
    if service.get("TaggedAddresses"):
        shown["TaggedAddresses"] = service["TaggedAddresses"]
    shown |= _pick(
        service,
        {
            "Weights": {"Passing": 1, "Warning": 1},
            "EnableTagOverride": False,
            "CreateIndex": 0,
            "ModifyIndex": 0,
            "Proxy": {"MeshGateway": {}, "Expose": {}},
            "Connect": {},
        },
    )
    checks = [_check(check) for check in entry["Checks"]]
    return {"Node": _node(entry["Node"]), "Service": shown, "Checks": checks}


def _check(check: Mapping[str, Any]) -> dict[str, Any]:
    definition = _pick(
        check.get("Definition") or {},
        {
            "Interval": "0s",
            "Timeout": "0s",
            "DeregisterCriticalServiceAfter": "0s",
            "HTTP": "",
            "Header": None,
            "Method": "",
            "Body": "",
            "TLSSkipVerify": False,
            "TCP": "",
        },
    )
    return _pick(
        {**check, "Definition": definition},
        {
            "Node": "",
            "CheckID": "",
            "Name": "",
            "Status": "",
            "Notes": "",
            "Output": "",
            "ServiceID": "",
            "ServiceName": "",
            "ServiceTags": None,
            "Type": "",
            "Definition": None,
            "CreateIndex": 0,
            "ModifyIndex": 0,
        },
    )


def _event(event: Mapping[str, Any]) -> dict[str, Any]:
    return _pick(
        event,
        {
            "ID": "",
            "Name": "",
            "Payload": None,
            "NodeFilter": "",
            "ServiceFilter": "",
            "TagFilter": "",
            "Version": 1,
            "LTime": 0,
        },
    )
