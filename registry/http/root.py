"""`/` and `/robots.txt`: what somebody sees who points a browser at the agent."""

from __future__ import annotations

from registry.http.api import ApiRequest, ApiResponse, Routes, text_response
from registry.http.operations import TEXT, TEXT_MEDIA, Answer, Operation

routes = Routes()

_TEXT_ANSWER = (Answer(TEXT, media=(TEXT_MEDIA,)),)

#: No crawler has any business here.
ROBOTS = "User-agent: *\nDisallow: /\n"


@routes.get(
    "/",
    Operation(summary="Tell what listens here", answers=_TEXT_ANSWER),
)
async def index(request: ApiRequest) -> ApiResponse:
    """To HEAD as well, unlike the rest: that is how a port is watched."""
    return text_response("Consul Agent")


for _method in ("HEAD", "OPTIONS"):
    routes.add(_method, "/")(index)


@routes.get(
    "/robots.txt",
    Operation(summary="Send crawlers away", answers=_TEXT_ANSWER),
)
async def robots(request: ApiRequest) -> ApiResponse:
    return text_response(ROBOTS)
