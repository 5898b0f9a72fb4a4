"""Catalog objects as JSON: how nodes, services and checks are shown, and how bodies are read.

Field order, and what is null, empty or absent, is what clients of the API have always seen. The
readers take field names in any letter case and refuse unknown ones, with the texts that clients
know; `Request decode failed: ` before them is the handler's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from registry.agent.durations import format_duration, parse_duration
from registry.http.api import ApiRequest, HttpError
from registry.http.operations import DURATION
from registry.http.params import decode_json
from registry.state.catalog_commands import Deregister, Register
from registry.state.catalog_queries import NodeServicesResult, ServiceInstance
from registry.state.catalog_records import (
    Check,
    CheckSpec,
    Node,
    Service,
    ServiceAddress,
    Weights,
)
from registry.state.health import InstanceHealth

_ACRONYMS = {"id": "ID", "http": "HTTP", "tls": "TLS", "tcp": "TCP", "ttl": "TTL", "grpc": "GRPC"}


def spelled(name: str) -> str:
    """The API's spelling of a field name: "service_id" is "ServiceID"."""
    return "".join(_ACRONYMS.get(word, word.capitalize()) for word in name.split("_"))


# Showing.


class View(msgspec.Struct, frozen=True, rename=spelled):
    """An object as the API shows it; fields are encoded in the order in which they stand here."""


class NodeView(View, frozen=True):
    id: str
    node: str
    address: str
    datacenter: str
    tagged_addresses: dict[str, str] | None
    meta: dict[str, str] | None
    create_index: int
    modify_index: int


class AddressView(View, frozen=True):
    address: str
    port: int


class WeightsView(View, frozen=True):
    passing: int
    warning: int


class CheckView(View, frozen=True):
    node: str
    check_id: str
    name: str
    status: str
    notes: str
    output: str
    service_id: str
    service_name: str
    service_tags: tuple[str, ...] | None
    type: str
    definition: dict[str, Any]
    create_index: int
    modify_index: int


class NodeServiceView(View, frozen=True):
    """A service as part of its node."""

    kind: str | UnsetType
    id: str
    service: str
    tags: tuple[str, ...] | None
    address: str
    tagged_addresses: dict[str, AddressView] | UnsetType
    meta: dict[str, str] | None
    port: int
    weights: WeightsView
    enable_tag_override: bool
    proxy: dict[str, Any]
    connect: dict[str, Any]
    create_index: int
    modify_index: int


class ServiceNodeView(View, frozen=True):
    """A service with its node's fields beside its own."""

    id: str
    node: str
    address: str
    datacenter: str
    tagged_addresses: dict[str, str] | None
    node_meta: dict[str, str] | None
    service_kind: str
    service_id: str
    service_name: str
    service_tags: tuple[str, ...]
    service_address: str
    service_tagged_addresses: dict[str, AddressView] | UnsetType
    service_weights: WeightsView
    service_meta: dict[str, str]
    service_port: int
    service_enable_tag_override: bool
    service_proxy: dict[str, Any]
    service_connect: dict[str, Any]
    create_index: int
    modify_index: int


class InstanceView(View, frozen=True):
    node: NodeView
    service: NodeServiceView
    checks: list[CheckView]


class NodeServicesView(View, frozen=True):
    node: NodeView
    services: dict[str, NodeServiceView]


class NodeServiceListView(View, frozen=True):
    node: NodeView | None
    services: list[NodeServiceView] | None


def node_view(node: Node) -> NodeView:
    return NodeView(
        node.id,
        node.node,
        node.address,
        node.datacenter,
        node.tagged_addresses,
        node.meta,
        node.create_index,
        node.modify_index,
    )


def service_view(service: Service, *, null_tags: bool = False) -> NodeServiceView:
    """A service; no tags are shown as an empty list unless `null_tags` (transactions do that)."""
    weights = service.weights or Weights()
    return NodeServiceView(
        service.kind or UNSET,
        service.id,
        service.name,
        service.tags if null_tags else service.tags or (),
        service.address,
        _addresses(service),
        service.meta,
        service.port,
        WeightsView(weights.passing, weights.warning),
        service.enable_tag_override,
        proxy_view(service.proxy),
        service.connect or {},
        service.create_index,
        service.modify_index,
    )


def _addresses(service: Service) -> dict[str, AddressView] | UnsetType:
    if not service.tagged_addresses:
        return UNSET
    return {
        name: AddressView(each.address, each.port)
        for name, each in service.tagged_addresses.items()
    }


def service_node_view(found: ServiceInstance) -> ServiceNodeView:
    node, service = found.node, found.service
    weights = service.weights or Weights()
    return ServiceNodeView(
        node.id,
        service.node,
        node.address,
        node.datacenter,
        node.tagged_addresses,
        node.meta,
        service.kind,
        service.id,
        service.name,
        service.tags or (),
        service.address,
        _addresses(service),
        WeightsView(weights.passing, weights.warning),
        service.meta or {},
        service.port,
        service.enable_tag_override,
        proxy_view(service.proxy),
        service.connect or {},
        service.create_index,
        service.modify_index,
    )


def check_view(check: Check, *, null_tags: bool = False) -> CheckView:
    return CheckView(
        check.node,
        check.check_id,
        check.name,
        check.status,
        check.notes,
        check.output,
        check.service_id,
        check.service_name,
        check.service_tags if null_tags else check.service_tags or (),
        check.type,
        definition_view(check.definition),
        check.create_index,
        check.modify_index,
    )


def instance_view(found: InstanceHealth) -> InstanceView:
    return InstanceView(
        node_view(found.node),
        service_view(found.service),
        [check_view(check) for check in found.checks],
    )


def node_services_view(found: NodeServicesResult) -> NodeServicesView:
    services = {service.id: service_view(service) for service in found.services}
    return NodeServicesView(node_view(found.node), services)


#: Mesh settings of a service in the order in which they are shown.
_PROXY_FIELDS = (
    "DestinationServiceName",
    "DestinationServiceID",
    "LocalServiceAddress",
    "LocalServicePort",
    "Config",
    "Upstreams",
    "MeshGateway",
    "Expose",
)


#: Fields of an upstream likewise, each with what is shown when it is not set, if anything.
_UPSTREAM_FIELDS: Mapping[str, Any] = {
    "DestinationType": "",
    "DestinationNamespace": None,
    "DestinationName": "",
    "Datacenter": "",
    "LocalBindAddress": None,
    "LocalBindPort": 0,
    "Config": None,
    "MeshGateway": {},
}
_LOCAL_UPSTREAM_FIELDS = {
    name: unset if name in ("DestinationName", "MeshGateway") else None
    for name, unset in _UPSTREAM_FIELDS.items()
}
_EXPOSED_PATH_FIELDS: Mapping[str, Any] = dict.fromkeys(
    ("ListenerPort", "Path", "LocalPathPort", "Protocol", "ParsedFromCheck")
)
_LOCAL_EXPOSED_PATH_FIELDS = {**_EXPOSED_PATH_FIELDS, "ParsedFromCheck": False}


def proxy_view(proxy: Mapping[str, Any] | None, *, local: bool = False) -> dict[str, Any]:
    """Mesh settings of a service; two of them are always shown. `local`: as agents show their own
    services, which differs from the catalog in what is left out."""
    given = proxy or {}
    shown = {name: given[name] for name in _PROXY_FIELDS if given.get(name)}
    if upstreams := shown.get("Upstreams"):
        table = _LOCAL_UPSTREAM_FIELDS if local else _UPSTREAM_FIELDS
        shown["Upstreams"] = [_filled(each, table) for each in upstreams]
    shown["MeshGateway"] = given.get("MeshGateway") or {}
    exposed = given.get("Expose") or {}
    shown["Expose"] = expose = {
        name: exposed[name] for name in ("Checks", "Paths") if exposed.get(name)
    }
    if paths := expose.get("Paths"):
        table = _LOCAL_EXPOSED_PATH_FIELDS if local else _EXPOSED_PATH_FIELDS
        expose["Paths"] = [_filled(each, table) for each in paths]
    return shown


def _filled(given: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `table` that are set, and those that are shown in any case."""
    shown = ((name, given.get(name) or unset) for name, unset in table.items())
    return {name: value for name, value in shown if value is not None}


#: Field of `CheckSpec`, its name in the API, and whether it is a duration shown as text.
_SPEC_FIELDS = (
    ("interval_ns", "Interval", True),
    ("output_max_size", "OutputMaxSize", False),
    ("timeout_ns", "Timeout", True),
    ("deregister_critical_service_after_ns", "DeregisterCriticalServiceAfter", True),
    ("http", "HTTP", False),
    ("tls_skip_verify", "TLSSkipVerify", False),
    ("header", "Header", False),
    ("method", "Method", False),
    ("body", "Body", False),
    ("tcp", "TCP", False),
    ("script_args", "ScriptArgs", False),
    ("docker_container_id", "DockerContainerID", False),
    ("shell", "Shell", False),
    ("grpc", "GRPC", False),
    ("grpc_use_tls", "GRPCUseTLS", False),
    ("alias_node", "AliasNode", False),
    ("alias_service", "AliasService", False),
    ("ttl_ns", "TTL", False),
)

_NO_SPEC = CheckSpec()


def definition_view(spec: CheckSpec) -> dict[str, Any]:
    """What is set of a check's definition."""
    if spec == _NO_SPEC:
        return {}
    values = ((name, getattr(spec, field), timed) for field, name, timed in _SPEC_FIELDS)
    return {
        name: format_duration(value) if timed else value for name, value, timed in values if value
    }


# Reading.


class BodyError(ValueError):
    """A body that is no such object; the message says what is wrong with which field."""


@dataclass(frozen=True, slots=True)
class Reader:
    """How a JSON value is read, given the value and its path, and its schema for the document."""

    read: Callable[[Any, str], Any]
    schema: Mapping[str, Any]

    def __call__(self, value: Any, path: str) -> Any:
        return self.read(value, path)


def reader(**schema: Any) -> Callable[[Callable[[Any, str], Any]], Reader]:
    """Decorator: the function as a reader of values with this schema."""
    return lambda read: Reader(read, schema)


class Field(NamedTuple):
    """Where a JSON field goes, how its value is read and how the API spells it."""

    name: str
    read: Reader
    shown: str


Fields = Mapping[str, Field]


def fields(**readers: Reader) -> dict[str, Field]:
    """A table of fields by their lower-case API names; keywords are our names of them."""
    table = (Field(name, read, spelled(name)) for name, read in readers.items())
    return {field.shown.lower(): field for field in table}


def object_schema(table: Fields) -> dict[str, Any]:
    """An object of the fields of a table; each of them may stay away."""
    members = {field.shown: dict(field.read.schema) for field in table.values()}
    return {"type": "object", "properties": members, "additionalProperties": False}


def _kind(value: Any) -> str:
    kinds = ((bool, "bool"), ((int, float), "number"), (str, "string"), (list, "array"))
    return next((name for types, name in kinds if isinstance(value, types)), "object")


def _mismatch(value: Any, path: str, wanted: str) -> BodyError:
    return BodyError(
        f"json: cannot unmarshal {_kind(value)} into Go struct field {path} of type {wanted}"
    )


@reader(type="string")
def text(value: Any, path: str) -> str:
    if value is None:
        return ""  # in a list or a map, that is: fields that are null are not there
    if not isinstance(value, str):
        raise _mismatch(value, path, "string")
    return value


@reader(type="integer", minimum=-(1 << 63) + 1, maximum=(1 << 63) - 1)
def integer(value: Any, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 63:
        raise _mismatch(value, path, "int")
    return value


@reader(type="integer", minimum=0, maximum=(1 << 64) - 1)
def unsigned(value: Any, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise _mismatch(value, path, "uint64")
    return value


@reader(type="number")
def number(value: Any, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _mismatch(value, path, "float64")
    if not abs(value) <= sys.float_info.max:
        raise BodyError(
            f"json: cannot unmarshal number into Go struct field {path} of type float64"
        )
    return float(value)


@reader(type="boolean")
def flag(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise _mismatch(value, path, "bool")
    return value


@reader(oneOf=[DURATION, {"type": "integer"}])
def duration(value: Any, path: str) -> int:
    """Nanoseconds, from a text such as "10s" or a number of nanoseconds."""
    if isinstance(value, str):
        try:
            return parse_duration(value) if value else 0
        except ValueError as problem:
            raise BodyError(str(problem)) from None
    return int(number(value, path))


@reader()
def anything(value: Any, path: str) -> Any:
    return value


def many(read: Reader) -> Reader:
    @reader(type="array", items=read.schema)
    def read_list(value: Any, path: str) -> list[Any]:
        if not isinstance(value, list):
            raise _mismatch(value, path, "[]")
        return [read(item, path) for item in value]

    return read_list


@reader(type="array", items=text.schema)
def texts(value: Any, path: str) -> tuple[str, ...]:
    return tuple(many(text)(value, path))


def mapping(read: Reader) -> Reader:
    @reader(type="object", additionalProperties=read.schema)
    def read_mapping(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _mismatch(value, path, "map")
        return {key: read(item, path) for key, item in value.items()}

    return read_mapping


text_map = mapping(text)


def struct(kind: Callable[..., Any], table: Fields, *, lenient: bool = False) -> Reader:
    """A reader of an object into `kind(**fields)`; `lenient` passes over unknown fields."""

    @reader(**object_schema(table))
    def read_struct(value: Any, path: str) -> Any:
        return kind(**read_fields(value, table, path, lenient=lenient))

    return read_struct


def read_fields(value: Any, table: Fields, path: str, *, lenient: bool = False) -> dict[str, Any]:
    """The fields of a JSON object by our names. Raises `BodyError`; null fields stay away."""
    if not isinstance(value, dict):
        raise BodyError(f"json: cannot unmarshal {_kind(value)} into Go value of type {path}")
    found: dict[str, Any] = {}
    for key, item in value.items():
        field = table.get(key.lower())
        if field is None:
            if lenient:
                continue
            enterprise = " - Namespaces are a Consul Enterprise feature" * (key == "Namespace")
            raise BodyError(f'json: unknown field "{key}"{enterprise}')
        if item is not None:
            found[field.name] = field.read(item, f"{path}.{key}")
    return found


async def read_body(request: ApiRequest, table: Fields, path: str) -> dict[str, Any]:
    """The fields of the request's body; HttpError 400 when it is no such object."""
    body = await request.body()
    value = decode_json(request, body)
    if value is None and not body.strip():
        raise HttpError(400, "Request decode failed: EOF")
    try:
        return read_fields({} if value is None else value, table, path)
    except BodyError as problem:
        raise HttpError(400, f"Request decode failed: {problem}") from None


def canonical(
    table: Mapping[str, str], nested: Mapping[str, Reader] | None = None, *, lenient: bool = False
) -> Reader:
    """A reader of mesh settings: any letter case, underscores or not; `lenient` passes over
    unknown ones."""

    read_of = nested or {}
    members = {name: read_of.get(name, anything).schema for name in table.values()}

    @reader(type="object", properties=members)
    def read_settings(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _mismatch(value, path, "object")
        found: dict[str, Any] = {}
        for key, item in value.items():
            name = table.get(key.lower().replace("_", ""))
            if name is None and not lenient:
                raise BodyError(f'json: unknown field "{key}"')
            if name is not None and item is not None:
                found[name] = read_of.get(name, anything)(item, f"{path}.{name}")
        return found

    return read_settings


def _names(*names: str) -> dict[str, str]:
    return {name.lower(): name for name in names}


read_mesh_gateway = canonical(_names("Mode"), {"Mode": text})
read_expose = canonical(
    _names("Checks", "Paths"),
    {
        "Checks": flag,
        "Paths": many(
            canonical(
                _names(*_EXPOSED_PATH_FIELDS),
                {
                    "ListenerPort": integer,
                    "Path": text,
                    "LocalPathPort": integer,
                    "Protocol": text,
                    "ParsedFromCheck": flag,
                },
            )
        ),
    },
)
read_proxy = canonical(
    _names(*_PROXY_FIELDS),
    {
        "DestinationServiceName": text,
        "DestinationServiceID": text,
        "LocalServiceAddress": text,
        "LocalServicePort": integer,
        "Config": mapping(anything),
        "Upstreams": many(
            canonical(
                _names(*_UPSTREAM_FIELDS),
                {
                    "DestinationType": text,
                    "DestinationNamespace": text,
                    "DestinationName": text,
                    "Datacenter": text,
                    "LocalBindAddress": text,
                    "LocalBindPort": integer,
                    "Config": mapping(anything),
                    "MeshGateway": read_mesh_gateway,
                },
            )
        ),
        "MeshGateway": read_mesh_gateway,
        "Expose": read_expose,
    },
)
read_connect = canonical(_names("Native", "SidecarService"), {"Native": flag}, lenient=True)

_INDEXES = {"create_index": unsigned, "modify_index": unsigned}

_SPEC_READERS: dict[str, Reader] = {
    "output_max_size": unsigned,
    "tls_skip_verify": flag,
    "grpc_use_tls": flag,
    "header": mapping(many(text)),
    "script_args": texts,
}
_SPEC_TABLE = {
    name.lower(): Field(
        field, duration if field.endswith("_ns") else _SPEC_READERS.get(field, text), name
    )
    for field, name, _ in _SPEC_FIELDS
}

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
    definition=struct(CheckSpec, _SPEC_TABLE, lenient=True),
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
