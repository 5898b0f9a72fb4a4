"""`/v1/event`: firing user events and listing those that this agent has seen."""

from __future__ import annotations

import time
from typing import Any, TypedDict

from registry.agent.events import UserEvent
from registry.errors import TooLarge
from registry.http.api import ApiRequest, ApiResponse, HttpError, Routes, json_response
from registry.http.operations import BYTES, BYTES_MEDIA, Answer, Body, Operation, Parameter, Refusal
from registry.http.options import BLOCKING, DATACENTER, argument, shows
from registry.http.params import datacenter, wait_of
from registry.http.reads import plain
from registry.watch_views import event_index

routes = Routes()


class EventObject(TypedDict):
    ID: str
    Name: str
    Payload: str | None
    NodeFilter: str
    ServiceFilter: str
    TagFilter: str
    Version: int
    LTime: int


_FILTERS = (
    Parameter("node", "For nodes whose name matches this regular expression."),
    Parameter("service", "For nodes with a service whose name matches."),
    Parameter("tag", "For nodes with a service that has a matching tag; needs `service`."),
)
_UNSENDABLE = tuple(
    Refusal(500, text)
    for text in (
        "… user event exceeds configured limit of … bytes before encoding…",
        "… encoded user event exceeds configured limit of … bytes after encoding…",
        "Cannot provide tag filter without service filter",
        "Invalid node filter: …",
        "Invalid service filter: …",
        "Invalid tag filter: …",
    )
)

#: What clients are told of an event that the pool does not take: a list of what went wrong, as if
#: there were several pools.
_UNSENT = '1 error occurred:\n\t* error broadcasting event to segment "": {}\n\n'

#: An event with a larger payload is refused anyhow.
_BODY_BYTES_MAX = 1 << 20


@routes.put(
    "/v1/event/fire/",
    Operation(
        summary="Fire an event",
        path=(argument("name", "The name of the event.", "Missing name"),),
        parameters=(DATACENTER, *_FILTERS),
        body=Body(
            BYTES,
            "The payload.",
            BYTES_MEDIA,
            required=False,
            refusals=(Refusal(413, "Request body(… bytes) too large…"),),
        ),
        answers=shows(EventObject),
        refusals=_UNSENDABLE,
    ),
)
async def fire(request: ApiRequest) -> ApiResponse:
    if not request.argument:
        raise HttpError(400, "Missing name")
    datacenter(request)
    event = UserEvent(
        id="",
        name=plain(request.argument),
        node_filter=request.query.get("node"),
        service_filter=request.query.get("service"),
        tag_filter=request.query.get("tag"),
        payload=await request.body(_BODY_BYTES_MAX),
    )
    try:
        fired = await request.agent.events.fire(event)
    except TooLarge as problem:
        raise HttpError(500, _UNSENT.format(problem)) from problem
    return json_response(fired.to_api())


@routes.get(
    "/v1/event/list",
    Operation(
        summary="List the latest events that this agent has seen",
        parameters=(*BLOCKING, Parameter("name", "Keep events of this name.")),
        answers=(Answer(list[EventObject], headers=("X-Consul-Index",)),),
    ),
)
async def list_events(request: ApiRequest) -> ApiResponse:
    """Blocks while the list's index *equals* the one given: it only ever says "changed"."""
    min_index, wait_ms = wait_of(request)
    name, events = request.query.get("name"), request.agent.events
    deadline = time.monotonic() + wait_ms / 1000
    while True:
        found = events.list(name)
        index = event_index(found[-1].id) if found else 0
        left = deadline - time.monotonic()
        if not min_index or (index or 1) != min_index or left <= 0:
            return _listing(found, index)
        await events.wait(left)


def _listing(found: list[UserEvent], index: int) -> ApiResponse:
    body: list[dict[str, Any]] = [event.to_api() for event in found]
    response = json_response(body)
    response.headers.append(("X-Consul-Index", str(index or 1)))
    return response
