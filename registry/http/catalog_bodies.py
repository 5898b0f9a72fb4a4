"""Nodes, services and checks in request bodies, alone and as registrations of the catalog."""

from __future__ import annotations

from registry.http.api import ApiRequest
from registry.http.body_readers import (
    Field,
    fields,
    flag,
    integer,
    many,
    mapping,
    read_body,
    struct,
    text,
    text_map,
    texts,
    unsigned,
)
from registry.http.check_definitions import read_definition
from registry.http.mesh_settings import read_connect, read_proxy
from registry.state.catalog_commands import Deregister, Register
from registry.state.catalog_records import Check, Node, Service, ServiceAddress, Weights

_INDEXES = {"create_index": unsigned, "modify_index": unsigned}

NODE_FIELDS = fields(
    id=text,
    node=text,
    address=text,
    datacenter=text,
    tagged_addresses=text_map,
    meta=text_map,
    **_INDEXES,
)
SERVICE_FIELDS = {
    **fields(
        kind=text,
        id=text,
        tags=texts,
        address=text,
        tagged_addresses=mapping(
            struct(
                lambda address="", port=0: ServiceAddress(address, port),
                fields(address=text, port=integer),
            )
        ),
        meta=text_map,
        port=integer,
        weights=struct(
            lambda passing=0, warning=0: Weights(passing, warning),
            fields(passing=integer, warning=integer),
        ),
        enable_tag_override=flag,
        proxy=read_proxy,
        connect=read_connect,
        **_INDEXES,
    ),
    "service": Field("name", text, "Service"),
}
CHECK_FIELDS = fields(
    node=text,
    check_id=text,
    name=text,
    status=text,
    notes=text,
    output=text,
    service_id=text,
    service_name=text,
    service_tags=texts,
    type=text,
    definition=read_definition,
    **_INDEXES,
)

read_node = struct(lambda node="", **rest: Node(node=node, **rest), NODE_FIELDS)
read_service = struct(Service, SERVICE_FIELDS)
read_check = struct(Check, CHECK_FIELDS)

REGISTER_FIELDS = fields(
    datacenter=text,
    id=text,
    node=text,
    address=text,
    tagged_addresses=text_map,
    node_meta=text_map,
    service=read_service,
    check=read_check,
    checks=many(read_check),
    skip_node_update=flag,
    token=text,
    **_INDEXES,
)
DEREGISTER_FIELDS = fields(datacenter=text, node=text, service_id=text, check_id=text, token=text)


async def read_registration(request: ApiRequest) -> Register:
    """The body of a catalog registration, in this agent's datacenter unless it names another."""
    given = await read_body(request, REGISTER_FIELDS, "RegisterRequest")
    for unused in ("token", "create_index", "modify_index"):
        given.pop(unused, None)
    checks = list(given.pop("checks", ()))
    if (check := given.pop("check", None)) is not None:
        checks.append(check)
    given["datacenter"] = given.get("datacenter") or request.agent.datacenter
    given.setdefault("node", "")
    return Register(**given, checks=tuple(checks))


async def read_deregistration(request: ApiRequest) -> tuple[str, Deregister]:
    """The datacenter, "" for this one, and the body of a deregistration."""
    given = await read_body(request, DEREGISTER_FIELDS, "DeregisterRequest")
    command = Deregister(
        node=given.get("node", ""),
        service_id=given.get("service_id", ""),
        check_id=given.get("check_id", ""),
    )
    return given.get("datacenter", ""), command
