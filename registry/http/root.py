"""`/` and `/robots.txt`: what somebody sees who points a browser at the agent."""

from __future__ import annotations

from registry.http.api import ApiRequest, ApiResponse, Routes, text_response

routes = Routes()

#: No crawler has any business here.
ROBOTS = "User-agent: *\nDisallow: /\n"


@routes.get("/")
async def index(request: ApiRequest) -> ApiResponse:
    return text_response("Consul Agent")


@routes.get("/robots.txt")
async def robots(request: ApiRequest) -> ApiResponse:
    return text_response(ROBOTS)
