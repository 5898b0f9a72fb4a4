"""The data of watches, as handlers get it: the API's shapes, respelt by `registry.watch_views`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from registry.http.agent_services import agent_service_view, content_hash
from registry.http.catalog_views import check_view, instance_view, node_view
from registry.http.kv import entry_json
from registry.watch_views import encode, view


def _key(value: Any) -> Any:
    return None if value is None else [msgspec.json.decode(entry_json(*value))]


def _keys(value: Any) -> Any:
    return [msgspec.json.decode(entry_json(*pair)) for pair in value]


def _plain(shape: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: [msgspec.to_builtins(shape(item)) for item in value]


def _agent_service(value: Any) -> Any:
    shown = agent_service_view(value)
    return msgspec.structs.replace(shown, content_hash=content_hash(shown))


_ANSWERS: Mapping[str, Callable[[Any], Any]] = {
    "key": _key,
    "keyprefix": _keys,
    "services": lambda value: value,
    "nodes": _plain(node_view),
    "service": _plain(instance_view),
    "checks": _plain(check_view),
    "event": lambda value: [event.to_api() for event in value],
    "agent_service": _agent_service,
}


def render_watch(kind: str, value: Any) -> bytes:
    """The JSON for a handler of a watch of this type, from what the watch's source gave."""
    return encode(view(kind, msgspec.to_builtins(_ANSWERS[kind](value)))).encode()
