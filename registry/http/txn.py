"""`/v1/txn`: several operations, all or nothing (surface 1.3)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Final, NotRequired, TypedDict

import msgspec

from registry.http import errors, params
from registry.http.api import (
    ApiRequest,
    ApiResponse,
    HttpError,
    Routes,
    index_headers,
    json_response,
)
from registry.http.body_readers import (
    BodyError,
    Field,
    Fields,
    Reader,
    fields,
    object_schema,
    read_fields,
    reader,
    text,
    unsigned,
)
from registry.http.catalog_bodies import CHECK_FIELDS, SERVICE_FIELDS, read_node
from registry.http.catalog_views import (
    CheckView,
    NodeServiceView,
    NodeView,
    check_view,
    node_view,
    service_view,
)
from registry.http.kv import KvEntryObject, body_within, entry_json
from registry.http.operations import Answer, Refusal
from registry.http.operations import Operation as ApiOperation
from registry.http.options import READ, json_body
from registry.http.origin import REASON, with_origin
from registry.state.base import ReadResult
from registry.state.catalog_records import Check, CheckSpec, Node, Service
from registry.state.quote import quote
from registry.state.txn import (
    CheckOperation,
    KvOperation,
    KvResult,
    NodeOperation,
    Operation,
    ServiceOperation,
    Txn,
    TxnOutcome,
    TxnRead,
    is_write,
)

routes = Routes()

OPERATIONS_MAX: Final = 64

TOO_MANY = "Transaction contains too many operations"

_LENGTH_LIMIT_HELP = "https://www.consul.io/docs/agent/options.html#txn_max_req_len"


@reader(type="string", contentEncoding="base64")
def _base64(value: Any, path: str) -> bytes:
    try:
        plain = text(value, path).replace("\n", "").replace("\r", "")
        return base64.b64decode(plain, validate=True)
    except (binascii.Error, ValueError) as problem:
        if isinstance(problem, BodyError):
            raise
        raise BodyError("illegal base64 data") from None


def _object(table: Fields) -> Reader:
    @reader(**object_schema(table))
    def read(value: Any, path: str) -> dict[str, Any]:
        return read_fields(value, table, path)

    return read


# A namespace is let pass and not heeded here, unlike in registrations.
_SERVICE_FIELDS: Final[Fields] = {**SERVICE_FIELDS, **fields(content_hash=text, namespace=text)}
_CHECK_FIELDS: Final[Fields] = {**CHECK_FIELDS, **fields(namespace=text)}

_OPERATION_FIELDS: Final[Fields] = {
    "kv": Field(
        "kv",
        _object(
            fields(
                verb=text,
                key=text,
                value=_base64,
                flags=unsigned,
                index=unsigned,
                session=text,
                namespace=text,
            )
        ),
        "KV",
    ),
    **fields(
        node=_object(fields(verb=text, node=read_node)),
        service=_object(fields(verb=text, node=text, service=_object(_SERVICE_FIELDS))),
        check=_object(fields(verb=text, check=_object(_CHECK_FIELDS))),
    ),
}

#: What a transaction heeds of a service, a check and its definition: less than a registration.
_OF_SERVICE: Final = (
    "id",
    "name",
    "tags",
    "address",
    "meta",
    "port",
    "weights",
    "enable_tag_override",
    "modify_index",
)
_OF_CHECK: Final = (
    "node",
    "check_id",
    "name",
    "status",
    "notes",
    "output",
    "service_id",
    "service_name",
    "service_tags",
    "modify_index",
)
_OF_DEFINITION: Final = (
    "http",
    "tls_skip_verify",
    "header",
    "method",
    "body",
    "tcp",
    "interval_ns",
    "timeout_ns",
    "deregister_critical_service_after_ns",
)

_OPERATIONS_SCHEMA: Final = {
    "type": "array",
    "items": object_schema(_OPERATION_FIELDS),
    "maxItems": OPERATIONS_MAX,
}


class ResultObject(TypedDict, total=False):
    """One of the four, as the operation was."""

    KV: KvEntryObject
    Node: NodeView
    Service: NodeServiceView
    Check: CheckView


class TxnErrorObject(TypedDict):
    OpIndex: int
    What: str


class TxnObject(TypedDict):
    """What became of a transaction; the last four say how it was read, if it only read."""

    Results: list[ResultObject] | None
    Errors: list[TxnErrorObject] | None
    Index: NotRequired[int]
    LastContact: NotRequired[int]
    KnownLeader: NotRequired[bool]
    ConsistencyLevel: NotRequired[str]


@routes.put(
    "/v1/txn",
    ApiOperation(
        summary="Carry out several operations: all of them or none",
        parameters=(*READ, REASON),
        body=json_body(_OPERATIONS_SCHEMA),
        answers=(
            Answer(TxnObject, "All done"),
            Answer(TxnObject, "Nothing done: an operation failed", 409),
        ),
        refusals=(
            Refusal(400, "Failed to parse body: …"),
            Refusal(413, f"{TOO_MANY} (… > …)"),
            Refusal(413, "Request body(… bytes) too large, max size: … bytes. See …."),
            Refusal(413, 'Value for key "…" is too large (… > … bytes)'),
        ),
    ),
)
async def run(request: ApiRequest) -> ApiResponse:
    """Carry out the operations in the body; 409 with the errors when one of them fails."""
    operations = _operations(request, await _decoded(request))
    if any(map(is_write, operations)):
        params.datacenter(request)
        command = with_origin(request, Txn(operations=operations))
        outcome: TxnOutcome = errors.check(await request.agent.write(command))
        return json_response(_outcome_json(outcome), status=_status(outcome))
    options = params.read_options(request)
    meta = await request.agent.read(TxnRead(operations=operations), options)
    response = json_response(_read_json(meta), status=_status(meta.value))
    # A transaction does not block, so there is no index to go on with.
    response.headers = index_headers(meta)[1:]
    return response


def _status(outcome: TxnOutcome) -> int:
    return 409 if outcome.errors else 200


# Reading the body


async def _decoded(request: ApiRequest) -> list[Any]:
    """The list in the body. HttpError 413 when there is too much of it, 400 when it is none."""
    limits = request.agent.config.limits
    limit = max(limits.txn_max_req_len, limits.kv_max_value_size)
    body = await body_within(request, limit, _LENGTH_LIMIT_HELP)
    if not body.strip():
        raise _unreadable("EOF")
    try:
        value = params.decode_json(request, body)
    except HttpError as problem:
        raise _unreadable(problem.text.removeprefix("Request decode failed: ")) from None
    if not isinstance(value, list | None):
        raise _unreadable("json: cannot unmarshal a value that is no list into api.TxnOps")
    if value is not None and len(value) > OPERATIONS_MAX:
        raise HttpError(413, f"{TOO_MANY} ({len(value)} > {OPERATIONS_MAX})")
    return value or []


def _unreadable(reason: str) -> HttpError:
    return HttpError(400, f"Failed to parse body: {reason}")


def _operations(request: ApiRequest, items: Sequence[Any]) -> tuple[Operation, ...]:
    """The operations of the list; entries that say nothing are passed over."""
    try:
        given = [
            read_fields({} if item is None else item, _OPERATION_FIELDS, "TxnOp") for item in items
        ]
    except BodyError as problem:
        raise _unreadable(str(problem)) from None
    found = (_operation(request, each) for each in given)
    return tuple(operation for operation in found if operation is not None)


def _operation(request: ApiRequest, given: dict[str, Any]) -> Operation | None:
    if "kv" in given:
        return _kv_operation(request, **given["kv"])
    if "node" in given:
        return _node_operation(request, **given["node"])
    if "service" in given:
        return _service_operation(**given["service"])
    if "check" in given:
        return _check_operation(**given["check"])
    return None


def _kv_operation(
    request: ApiRequest,
    *,
    verb: str = "",
    key: str = "",
    value: bytes = b"",
    namespace: str = "",
    **rest: Any,
) -> KvOperation:
    limit = request.agent.config.limits.kv_max_value_size
    if len(value) > limit:
        sizes = f"({len(value)} > {limit} bytes)"
        raise HttpError(413, f"Value for key {quote(key)} is too large {sizes}")
    return KvOperation(verb=verb, key=key.encode(), value=value, **rest)


def _node_operation(
    request: ApiRequest, *, verb: str = "", node: Node | None = None
) -> NodeOperation:
    node = node or Node(node="")
    datacenter = node.datacenter or request.query.get("dc") or request.agent.datacenter
    return NodeOperation(verb=verb, node=msgspec.structs.replace(node, datacenter=datacenter))


def _service_operation(
    *, verb: str = "", node: str = "", service: dict[str, Any] | None = None
) -> ServiceOperation:
    return ServiceOperation(verb=verb, node=node, service=Service(**_known(service, _OF_SERVICE)))


def _check_operation(*, verb: str = "", check: dict[str, Any] | None = None) -> CheckOperation:
    given = check or {}
    spec = given.get("definition", CheckSpec())
    known = CheckSpec(**{name: getattr(spec, name) for name in _OF_DEFINITION})
    return CheckOperation(verb=verb, check=Check(definition=known, **_known(given, _OF_CHECK)))


def _known(given: dict[str, Any] | None, names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in (given or {}).items() if name in names}


# Showing the outcome


def _outcome_json(outcome: TxnOutcome) -> dict[str, Any]:
    if outcome.errors:
        errors = [{"OpIndex": error.op_index, "What": error.what} for error in outcome.errors]
        return {"Results": None, "Errors": errors}
    return {"Results": [_result_json(result) for result in outcome.results], "Errors": None}


def _read_json(meta: ReadResult) -> dict[str, Any]:
    return {
        **_outcome_json(meta.value),
        "Index": 0,
        "LastContact": meta.last_contact_ms * 1_000_000,
        "KnownLeader": meta.known_leader,
        "ConsistencyLevel": "",
    }


def _result_json(result: KvResult | Node | Service | Check) -> dict[str, Any]:
    if isinstance(result, KvResult):
        return {"KV": msgspec.Raw(entry_json(result.key, result.entry))}
    if isinstance(result, Node):
        return {"Node": node_view(result)}
    if isinstance(result, Service):
        return {"Service": service_view(result, null_tags=True)}
    return {"Check": check_view(result, null_tags=True)}
