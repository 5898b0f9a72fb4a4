"""`/debug/pprof/`: refused unless `enable_debug` is set, and then of little use.

The names and the refusal are what monitoring programs know. The profiles themselves are of another
runtime's making, so beside the command line there are none; py-spy looks into a running agent.
"""

from __future__ import annotations

import sys

from registry.http.acl import DISABLED
from registry.http.api import ApiRequest, ApiResponse, HttpError, Routes, text_response
from registry.http.operations import TEXT, TEXT_MEDIA, Answer, Operation, Refusal
from registry.http.options import argument

routes = Routes()

UNKNOWN_PROFILE = "Unknown profile"
COMMAND_LINE = "cmdline"

_OPERATION = Operation(
    summary="Look into the agent's process; only the profile `cmdline` is there",
    path=(argument("profile", "The name of the profile."),),
    answers=(Answer(TEXT, media=(TEXT_MEDIA,)),),
    refusals=(Refusal(401, DISABLED), Refusal(404, UNKNOWN_PROFILE)),
)


@routes.get("/debug/pprof/", _OPERATION)
@routes.post("/debug/pprof/", _OPERATION)
async def profile(request: ApiRequest) -> ApiResponse:
    if not request.agent.config.enable_debug:
        raise HttpError(401, DISABLED)
    if request.argument != COMMAND_LINE:
        raise HttpError(404, UNKNOWN_PROFILE)
    return text_response("\0".join(sys.argv))
