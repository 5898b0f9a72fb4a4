"""`/v1/status`: who leads and who takes part in consensus."""

from __future__ import annotations

from registry.http.api import ApiRequest, ApiResponse, Routes, json_response
from registry.http.operations import Operation
from registry.http.options import READ, shows
from registry.http.params import read_options

routes = Routes()


@routes.get(
    "/v1/status/leader",
    Operation(
        summary="Tell the address of the leader; nothing when there is none",
        parameters=READ,
        answers=shows(str),
    ),
)
async def leader(request: ApiRequest) -> ApiResponse:
    read_options(request)  # all are looked at, though only the datacenter changes anything
    return json_response(await request.agent.backend.leader_address())


@routes.get(
    "/v1/status/peers",
    Operation(
        summary="List the addresses of the servers that take part in consensus",
        parameters=READ,
        answers=shows(list[str]),
    ),
)
async def peers(request: ApiRequest) -> ApiResponse:
    read_options(request)
    return json_response(await request.agent.backend.peer_addresses())
