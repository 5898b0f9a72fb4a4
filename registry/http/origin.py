"""Who asks for a write, and why: told to those who follow changes."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from registry.http.api import ApiRequest, HttpError
from registry.http.operations import Parameter, Refusal
from registry.state.base import Command, Origin

#: A reason is a sentence, and is kept with every entry of the log that it came with.
REASON_CHARACTERS_MAX = 1024


#: What `?reason=` is, for the document of the API.
REASON: Final = Parameter(
    "reason",
    "Why it is written; told to plugins that follow changes.",
    {"type": "string", "maxLength": REASON_CHARACTERS_MAX},
    refusals=(Refusal(400, f"reason is longer than {REASON_CHARACTERS_MAX} characters"),),
)


def with_origin(request: ApiRequest, command: Command) -> Command:
    """The command with the client's address and `?reason=`, where there is a reason or a plugin
    wants to know.

    Raises `HttpError` 400 for a reason that is too long.
    """
    reason = request.query.get("reason")
    if not reason and not request.agent.wants_origin:
        return command
    if len(reason) > REASON_CHARACTERS_MAX:
        raise HttpError(400, f"reason is longer than {REASON_CHARACTERS_MAX} characters")
    return replace(command, origin=Origin(request.client[0], reason))
