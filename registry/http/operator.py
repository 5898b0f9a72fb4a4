"""`/v1/operator`: Raft's configuration, autopilot, gossip keys."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypedDict

from msgspec.structs import replace

from registry.agent.autopilot import configured_autopilot
from registry.agent.durations import MILLISECOND, format_duration, parse_duration
from registry.agent.facade import AgentFacade
from registry.http.api import (
    ApiRequest,
    ApiResponse,
    HttpError,
    Routes,
    empty_response,
    json_response,
)
from registry.http.body_readers import fields, read_body, text
from registry.http.errors import check
from registry.http.operations import BOOLEAN, TEXT, UINT64, Answer, Operation, Parameter, Refusal
from registry.http.options import DATACENTER, READ, json_body, shows
from registry.http.params import datacenter, decode_json, parse_bool, parse_uint, read_options
from registry.server.autopilot import ServerHealth
from registry.server.gossip_keys import KeyOperation, PoolKeys
from registry.state.operator import AutopilotRecord, AutopilotSettings, GetAutopilot, SetAutopilot
from registry.state.quote import quote

routes = Routes()

RELAY_FACTOR_MAX = 5


NO_GOSSIP_KEYS = "no gossip encryption is in use on this agent, so there is no keyring"

_KEYRING = (
    Parameter(
        "relay-factor",
        "Have so many other nodes pass on each answer.",
        {"type": "integer", "minimum": 0, "maximum": RELAY_FACTOR_MAX},
    ),
    Parameter("local-only", "Do not ask other datacenters; only for the list.", BOOLEAN),
)
_NO_KEYRING = (
    Refusal(500, NO_GOSSIP_KEYS),
    Refusal(500, "… error occurred:…"),
    Refusal(500, "… errors occurred:…"),
)
AUTOPILOT_CAS = Parameter("cas", "Set only if this is the index of the last change.", UINT64)


class RaftServerObject(TypedDict):
    ID: str
    Node: str
    Address: str
    Leader: bool
    ProtocolVersion: str
    Voter: bool


class RaftConfigurationObject(TypedDict):
    Servers: list[RaftServerObject]
    Index: int


class AutopilotObject(TypedDict, total=False):
    CleanupDeadServers: bool
    LastContactThreshold: str
    MaxTrailingLogs: int
    MinQuorum: int
    ServerStabilizationTime: str
    RedundancyZoneTag: str
    DisableUpgradeMigration: bool
    UpgradeVersionTag: str
    CreateIndex: int
    ModifyIndex: int


class ServerHealthObject(TypedDict):
    ID: str
    Name: str
    Address: str
    SerfStatus: str
    Version: str
    Leader: bool
    LastContact: str
    LastTerm: int
    LastIndex: int
    Healthy: bool
    Voter: bool
    StableSince: str


class AutopilotHealthObject(TypedDict):
    Healthy: bool
    FailureTolerance: int
    Servers: list[ServerHealthObject]


class PoolKeysObject(TypedDict):
    WAN: bool
    Datacenter: str
    Segment: str
    Messages: dict[str, str]
    Keys: dict[str, int]
    PrimaryKeys: dict[str, int]
    NumNodes: int


def _bad(text: str) -> HttpError:
    return HttpError(400, f"Bad request: {text}")


# Raft


@routes.get(
    "/v1/operator/raft/configuration",
    Operation(
        summary="List the servers that take part in consensus",
        parameters=READ,
        answers=shows(RaftConfigurationObject),
    ),
)
async def raft_configuration(request: ApiRequest) -> ApiResponse:
    read_options(request)  # refused like any read, though there is nothing to wait for
    index, servers = await request.agent.backend.raft_configuration()
    return json_response({"Servers": servers, "Index": index})


@routes.delete(
    "/v1/operator/raft/peer",
    Operation(
        summary="Remove a server from consensus",
        parameters=(
            DATACENTER,
            Parameter("id", "The id of the server."),
            Parameter("address", "Or its address, `IP:port`."),
        ),
        refusals=(
            Refusal(500, 'id "…" was not found in the Raft configuration'),
            Refusal(500, 'address "…" was not found in the Raft configuration'),
        ),
    ),
)
async def remove_peer(request: ApiRequest) -> ApiResponse:
    by_id, by_address = "id" in request.query, "address" in request.query
    if not by_id and not by_address:
        raise _bad(
            "Must specify either ?id with the server's ID "
            "or ?address with IP:port of peer to remove"
        )
    if by_id and by_address:
        raise _bad("Must specify only one of ?id or ?address")
    datacenter(request)
    kind, field = ("id", "ID") if by_id else ("address", "Address")
    wanted = request.query.get(kind)
    _, servers = await request.agent.backend.raft_configuration()
    found = [server for server in servers if server[field] == wanted]
    if not found:
        raise HttpError(500, f"{kind} {quote(wanted)} was not found in the Raft configuration")
    await request.agent.backend.remove_server(found[0]["ID"])
    return empty_response()


# Autopilot


@routes.get(
    "/v1/operator/autopilot/configuration",
    Operation(
        summary="Show the settings of autopilot",
        parameters=READ,
        answers=shows(AutopilotObject),
    ),
)
async def autopilot_configuration(request: ApiRequest) -> ApiResponse:
    options = read_options(request)  # first: it may make the request one for another datacenter
    at_once = replace(options, min_index=0, wait_ms=0)
    result = await request.agent.read(GetAutopilot(), at_once)
    return json_response(_shown(result.value or _configured(request.agent)))


def _configured(agent: AgentFacade) -> AutopilotRecord:
    """What holds while nobody has set anything: the agent's configuration, as of the beginning."""
    settings = configured_autopilot(agent.config)
    return AutopilotRecord(settings=settings, create_index=1, modify_index=1)


def _shown(record: AutopilotRecord) -> dict[str, Any]:
    settings = record.settings
    return {
        "CleanupDeadServers": settings.cleanup_dead_servers,
        "LastContactThreshold": format_duration(settings.last_contact_threshold_ns),
        "MaxTrailingLogs": settings.max_trailing_logs,
        "MinQuorum": settings.min_quorum,
        "ServerStabilizationTime": format_duration(settings.server_stabilization_time_ns),
        "RedundancyZoneTag": settings.redundancy_zone_tag,
        "DisableUpgradeMigration": settings.disable_upgrade_migration,
        "UpgradeVersionTag": settings.upgrade_version_tag,
        "CreateIndex": record.create_index,
        "ModifyIndex": record.modify_index,
    }


@routes.put(
    "/v1/operator/autopilot/configuration",
    Operation(
        summary="Set all settings of autopilot",
        parameters=(DATACENTER, AUTOPILOT_CAS),
        body=json_body(AutopilotObject),
        answers=shows(bool, "Whether they were set"),
    ),
)
async def set_autopilot(request: ApiRequest) -> ApiResponse:
    try:
        body = await request.body()
        given = decode_json(request, body)
        settings = autopilot_settings({} if given is None and body.strip() else given)
    except HttpError as problem:
        if problem.status != 400:
            raise
        raise _autopilot_error(problem.text.removeprefix("Request decode failed: ")) from problem
    except ValueError as problem:
        raise _autopilot_error(str(problem)) from problem
    cas_index = _cas_index(request)
    datacenter(request)
    if cas_index == 0:  # of no settings: clients know them as set from the beginning
        return json_response(False)
    result = check(await request.agent.write(SetAutopilot(settings=settings, cas_index=cas_index)))
    return json_response(result)


def _autopilot_error(reason: str) -> HttpError:
    return _bad(f"Error parsing autopilot config: {reason}")


def _cas_index(request: ApiRequest) -> int | None:
    if "cas" not in request.query:
        return None
    try:
        return parse_uint(request.query.get("cas"))
    except ValueError as problem:
        raise _bad(f"Error parsing cas value: {problem}") from problem


def autopilot_settings(body: Any) -> AutopilotSettings:
    """The settings in a decoded body; what is not in it is false, 0 or "". Raises `ValueError`."""
    if body is None:
        raise ValueError("EOF")
    if not isinstance(body, dict):
        raise ValueError(f"json: cannot unmarshal {_json_kind(body)} into an object")
    values: dict[str, Any] = {}
    for name, value in body.items():
        field, read = _FIELDS.get(name.lower(), ("", None))
        if read is None:
            raise ValueError(f'json: unknown field "{name}"')
        if field and value is not None:
            values[field] = read(name, value)
    return AutopilotSettings(**values)


def _json_kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    kinds: Mapping[type, str] = {str: "string", int: "number", float: "number", list: "array"}
    return kinds.get(type(value), "object")


def _wrong(name: str, value: Any) -> ValueError:
    return ValueError(f"json: cannot unmarshal {_json_kind(value)} into field {name}")


def _bool(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, value)
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value)
    return value


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise _wrong(name, value)
    return value


def _duration(name: str, value: Any) -> int:
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1 << 63:
        raise _wrong(name, value)
    return int(value)


#: Field and reader by the name in a body, in lower case; "" for what is only read.
_FIELDS: dict[str, tuple[str, Any]] = {
    "cleanupdeadservers": ("cleanup_dead_servers", _bool),
    "lastcontactthreshold": ("last_contact_threshold_ns", _duration),
    "maxtrailinglogs": ("max_trailing_logs", _count),
    "minquorum": ("min_quorum", _count),
    "serverstabilizationtime": ("server_stabilization_time_ns", _duration),
    "redundancyzonetag": ("redundancy_zone_tag", _text),
    "disableupgrademigration": ("disable_upgrade_migration", _bool),
    "upgradeversiontag": ("upgrade_version_tag", _text),
    "createindex": ("", _count),
    "modifyindex": ("", _count),
}


@routes.get(
    "/v1/operator/autopilot/health",
    Operation(
        summary="Tell the health of the servers",
        parameters=READ,
        answers=(
            Answer(AutopilotHealthObject, "All servers are healthy"),
            Answer(AutopilotHealthObject, "One of them is not", 429),
        ),
    ),
)
async def autopilot_health(request: ApiRequest) -> ApiResponse:
    read_options(request)
    report = await request.agent.backend.autopilot_health()
    body = {
        "Healthy": report.healthy,
        "FailureTolerance": report.failure_tolerance,
        "Servers": [_server_health(server) for server in report.servers],
    }
    return json_response(body, status=200 if report.healthy else 429)


def _server_health(server: ServerHealth) -> dict[str, Any]:
    since = datetime.fromtimestamp(server.stable_since_ms // 1000, UTC)
    # The API's word for "never": less than nothing.
    contact_ns = server.last_contact_ms * MILLISECOND if server.last_contact_ms >= 0 else -1
    return {
        "ID": server.id,
        "Name": server.name,
        "Address": server.address,
        "SerfStatus": server.serf_status,
        "Version": server.version,
        "Leader": server.leader,
        "LastContact": format_duration(contact_ns),
        "LastTerm": server.last_term,
        "LastIndex": server.last_index,
        "Healthy": server.healthy,
        "Voter": server.voter,
        "StableSince": since.isoformat(timespec="seconds").replace("+00:00", "Z"),
    }


# Gossip keys


#: Method -> what it does with the key of its body.
_KEY_OPERATIONS = {
    "POST": KeyOperation.INSTALL,
    "PUT": KeyOperation.USE,
    "DELETE": KeyOperation.REMOVE,
}
_KEY_FIELDS = fields(key=text)


@routes.get(
    "/v1/operator/keyring",
    Operation(
        summary="List the keys of gossip",
        parameters=_KEYRING,
        answers=shows(list[PoolKeysObject]),
        refusals=_NO_KEYRING,
    ),
)
async def list_keys(request: ApiRequest) -> ApiResponse:
    relay_factor = _relay_factor(request)
    _local_only(request)  # no other datacenter is asked in any case
    pools = await _in_pools(request, KeyOperation.LIST, b"", relay_factor)
    return json_response([_shown_keys(request.agent, pool) for pool in pools])


def _key_operation(summary: str) -> Operation:
    return Operation(
        summary=summary,
        parameters=_KEYRING,
        body=json_body({"type": "object", "properties": {"Key": TEXT}, "required": ["Key"]}),
        refusals=_NO_KEYRING,
    )


@routes.post("/v1/operator/keyring", _key_operation("Have all nodes know a key of gossip"))
@routes.put("/v1/operator/keyring", _key_operation("Have all nodes encrypt with a known key"))
@routes.delete("/v1/operator/keyring", _key_operation("Have all nodes forget a key"))
async def change_keys(request: ApiRequest) -> ApiResponse:
    """500 with a line for each pool in which not all did it; asking again does no harm."""
    try:
        given = await read_body(request, _KEY_FIELDS, "keyringArgs")
    except HttpError as problem:
        raise HttpError(problem.status, f"Bad request: {problem.text}") from problem
    relay_factor = _relay_factor(request)
    if _local_only(request):
        raise _bad("Invalid use of local-only: local-only can only be set for list requests")
    operation = _KEY_OPERATIONS[request.method]
    await _in_pools(request, operation, _key(given.get("key", "")), relay_factor)
    return empty_response()


def _key(text: str) -> bytes:
    """The key; text that is none goes on as no key, which every node refuses in its words."""
    try:
        return b64decode(text, validate=True)
    except ValueError:
        return b""


async def _in_pools(
    request: ApiRequest, operation: KeyOperation, key: bytes, relay_factor: int
) -> list[PoolKeys]:
    """What all pools answered; HttpError 500 unless all nodes of all of them did it."""
    agent = request.agent
    pools = await agent.membership.keys(operation, key, relay_factor=relay_factor)
    if not pools:
        raise HttpError(500, NO_GOSSIP_KEYS)
    if flaws := [flaw for pool in pools for flaw in _flaws(pool, agent.datacenter)]:
        head = "1 error" if len(flaws) == 1 else f"{len(flaws)} errors"
        listed = "".join(f"\t* {flaw}\n" for flaw in flaws)
        raise HttpError(500, f"{head} occurred:\n{listed}\n")
    return pools


def _flaws(pool: PoolKeys, datacenter: str) -> list[str]:
    """Why it was not done everywhere: the pool, then each node that said something."""
    if pool.errors:
        counted = f"{pool.errors}/{pool.nodes} nodes reported failure"
    elif pool.answers < pool.nodes:
        counted = f"{pool.answers}/{pool.nodes} nodes reported success"
    else:
        return []
    name = "WAN" if pool.wan else f"{datacenter} (LAN)"
    told = [f"{node}: {text}" for node, text in sorted(pool.messages.items())]
    return [f"{name} error: {counted}", *told]


def _shown_keys(agent: AgentFacade, pool: PoolKeys) -> dict[str, Any]:
    return {
        "WAN": pool.wan,
        "Datacenter": agent.datacenter,
        "Segment": "",
        "Messages": dict(pool.messages),
        "Keys": dict(sorted(pool.keys.items())),
        "PrimaryKeys": dict(sorted(pool.primary_keys.items())),
        "NumNodes": pool.nodes,
    }


def _relay_factor(request: ApiRequest) -> int:
    text = request.query.get("relay-factor")
    if not text:
        return 0
    try:
        factor = int(text)
    except ValueError:
        reason = f"strconv.Atoi: parsing {quote(text)}: invalid syntax"
        raise _bad(f"Error parsing relay factor: {reason}") from None
    if not 0 <= factor <= RELAY_FACTOR_MAX:
        raise _bad(f"Invalid relay-factor: Relay factor must be in range: [0, {RELAY_FACTOR_MAX}]")
    return factor


def _local_only(request: ApiRequest) -> bool:
    given = request.query.get("local-only")
    try:
        return bool(given) and parse_bool(given)
    except ValueError as problem:
        raise _bad(f"Error parsing local-only: {problem}") from None
