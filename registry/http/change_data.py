"""Records of the catalog as change sinks get them: in the API's shapes."""

from __future__ import annotations

from typing import Any

import msgspec

from registry.http.catalog_views import check_view, node_view, service_view
from registry.state.catalog_records import Check, Node, Service


def show_record(record: Node | Service | Check) -> Any:
    """Plain data; a service also says which `Node` it is on."""
    if isinstance(record, Node):
        return msgspec.to_builtins(node_view(record))
    if isinstance(record, Service):
        return {"Node": record.node, **msgspec.to_builtins(service_view(record))}
    return msgspec.to_builtins(check_view(record))
