"""`/v1/status`: who leads and who takes part in consensus."""

from __future__ import annotations

from registry.http.api import ApiRequest, ApiResponse, Routes, json_response
from registry.http.params import datacenter

routes = Routes()


@routes.get("/v1/status/leader")
async def leader(request: ApiRequest) -> ApiResponse:
    datacenter(request)
    return json_response(await request.agent.backend.leader_address())


@routes.get("/v1/status/peers")
async def peers(request: ApiRequest) -> ApiResponse:
    datacenter(request)
    return json_response(await request.agent.backend.peer_addresses())
