"""`/v1/agent/check…`: the checks of this agent, and the reports of TTL checks."""

from __future__ import annotations

import msgspec

from registry.agent.checks.base import CRITICAL, PASSING, STATUSES, WARNING
from registry.agent.definition_reader import read_check
from registry.agent.definition_rules import validate_check
from registry.agent.local.records import LocalCheck
from registry.http.agent_services import NO_SCRIPTS, definition_body, read_definition
from registry.http.api import (
    ApiRequest,
    ApiResponse,
    Handler,
    HttpError,
    Routes,
    empty_response,
    json_response,
)
from registry.http.catalog_views import CheckView
from registry.http.definition_schemas import check_schema
from registry.http.filter import AGENT_CHECK, compile_filter
from registry.http.operations import TEXT, Operation, Parameter, Refusal
from registry.http.options import FILTER, argument, json_body, shows
from registry.http.params import refuse_namespace

routes = Routes()

_CHECK = argument("check", "The id of the check.")
_NO_TTL = Refusal(500, 'CheckID "…" does not have associated TTL')

#: Last part of the path -> the state that it reports.
_REPORTS = {"pass": PASSING, "warn": WARNING, "fail": CRITICAL}


_REPORT_SCHEMA = {
    "type": "object",
    "properties": {"Status": {"type": "string", "enum": list(STATUSES)}, "Output": TEXT},
    "required": ["Status"],
    "additionalProperties": False,
}


def agent_check_view(check: LocalCheck, node: str) -> CheckView:
    return CheckView(
        node=node,
        check_id=check.check_id,
        name=check.name,
        status=check.status,
        notes=check.definition.notes,
        output=check.output,
        service_id=check.service_id,
        service_name=check.service_name,
        service_tags=check.service_tags,
        type=check.type_name,
        definition={},
        create_index=0,
        modify_index=0,
    )


@routes.get(
    "/v1/agent/checks",
    Operation(
        summary="Show the checks of this agent by their ids",
        parameters=(FILTER,),
        answers=shows(dict[str, CheckView]),
    ),
)
async def checks(request: ApiRequest) -> ApiResponse:
    refuse_namespace(request)
    local = request.agent.local
    views = {
        check_id: agent_check_view(local.checks[check_id], local.node_name)
        for check_id in sorted(local.checks)
    }
    if expression := request.query.get("filter"):
        fits = compile_filter(expression, AGENT_CHECK)
        views = {key: view for key, view in views.items() if fits(msgspec.to_builtins(view))}
    return json_response(views)


@routes.put(
    "/v1/agent/check/register",
    Operation(
        summary="Register a check with this agent",
        body=json_body(check_schema()),
        refusals=(
            Refusal(500, 'ServiceID "…" does not exist'),
            NO_SCRIPTS,
        ),
    ),
)
async def register(request: ApiRequest) -> ApiResponse:
    refuse_namespace(request)
    definition = await read_definition(request, read_check, validate_check)
    local = request.agent.local
    await local.add_check(definition)
    await local.flush()
    return empty_response()


@routes.put(
    "/v1/agent/check/deregister/",
    Operation(
        summary="Take out a check; it need not be there",
        path=(_CHECK,),
        refusals=(Refusal(500, "CheckID missing"),),
    ),
)
async def deregister(request: ApiRequest) -> ApiResponse:
    refuse_namespace(request)
    local = request.agent.local
    await local.remove_check(request.argument)
    await local.flush()
    return empty_response()


def _reporter(status: str) -> Handler:
    async def report(request: ApiRequest) -> ApiResponse:
        refuse_namespace(request)
        return await _report(request, status, request.query.get("note"))

    return report


for _path, _status in _REPORTS.items():
    routes.put(
        f"/v1/agent/check/{_path}/",
        Operation(
            summary=f"Report that a check is {_status}",
            path=(_CHECK,),
            parameters=(Parameter("note", "What is to be seen as the check's output."),),
            refusals=(_NO_TTL,),
        ),
    )(_reporter(_status))


@routes.put(
    "/v1/agent/check/update/",
    Operation(
        summary="Report the state of a check",
        path=(_CHECK,),
        body=json_body(_REPORT_SCHEMA),
        refusals=(_NO_TTL, Refusal(400, "Invalid check status: '…'")),
    ),
)
async def update(request: ApiRequest) -> ApiResponse:
    """The body says state and output; its field names are taken in any letter case."""
    refuse_namespace(request)
    status, output = _read_update(await definition_body(request))
    if status not in STATUSES:
        raise HttpError(400, f"Invalid check status: '{status}'")
    return await _report(request, status, output)


def _read_update(body: object) -> tuple[str, str]:
    if not isinstance(body, dict):
        raise HttpError(400, "Request decode failed: json: cannot unmarshal into checkUpdate")
    found = {"status": "", "output": ""}
    for key, value in body.items():
        name = key.lower()
        if name not in found:
            raise HttpError(400, f'Request decode failed: json: unknown field "{key}"')
        if value is not None and not isinstance(value, str):
            raise HttpError(
                400, f"Request decode failed: json: {key} of a check update must be a string"
            )
        found[name] = value or ""
    return found["status"], found["output"]


async def _report(request: ApiRequest, status: str, output: str) -> ApiResponse:
    local = request.agent.local
    local.update_ttl(request.argument, status, output)
    await local.flush()
    return empty_response()
