"""`/v1/agent/maintenance`: taking the whole node out of service and back."""

from __future__ import annotations

from registry.http.api import ApiRequest, ApiResponse, HttpError, Routes, empty_response
from registry.http.operations import Operation
from registry.http.options import ENABLE, REASON
from registry.http.params import refuse_namespace
from registry.state.quote import quote

routes = Routes()

#: What a boolean parameter may say.
BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}


def wants_enabled(request: ApiRequest) -> bool:
    """`?enable=`, which must be there. HttpError 400 otherwise."""
    if "enable" not in request.query:
        raise HttpError(400, "Missing value for enable")
    given = request.query.get("enable")
    if given not in BOOLEANS:
        raise HttpError(400, f"Invalid value for enable: {quote(given)}")
    return BOOLEANS[given]


@routes.put(
    "/v1/agent/maintenance",
    Operation(
        summary="Take this node out of service, or back",
        parameters=(ENABLE, REASON),
    ),
)
async def node_maintenance(request: ApiRequest) -> ApiResponse:
    refuse_namespace(request)
    local = request.agent.local
    if wants_enabled(request):
        await local.maintenance.enable_node(request.query.get("reason"))
    else:
        await local.maintenance.disable_node()
    await local.flush()
    return empty_response()
