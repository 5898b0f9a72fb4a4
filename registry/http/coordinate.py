"""`/v1/coordinate`: where nodes are in the space of round-trip times."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

import msgspec

from registry.http.api import (
    ApiRequest,
    ApiResponse,
    HttpError,
    Routes,
    empty_response,
    index_headers,
    json_response,
)
from registry.http.body_readers import fields, many, number, object_schema, read_body, struct, text
from registry.http.errors import check
from registry.http.operations import Operation, Parameter, Refusal
from registry.http.options import DATACENTER, READ, argument, json_body, reads, shows
from registry.http.params import read_response
from registry.http.reads import ask, plain, require_home
from registry.http.views import View
from registry.state.base import ReadOptions
from registry.state.coordinates import (
    DIMENSIONS,
    Coordinate,
    GetCoordinates,
    ListCoordinates,
    NodeCoordinate,
    UpdateCoordinates,
)

routes = Routes()

_SEGMENT = Parameter("segment", "Keep the coordinates of this network segment.")


class CoordinateView(View, frozen=True):
    vec: list[float | int]
    error: float | int
    adjustment: float | int
    height: float | int


class NodeCoordinateView(View, frozen=True):
    node: str
    segment: str
    coord: CoordinateView


class AreaObject(TypedDict):
    Datacenter: str
    AreaID: str
    Coordinates: list[NodeCoordinateView]


def _short(value: float) -> float | int:
    """Whole numbers without a fraction, as the API has them."""
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


def point_view(coord: Coordinate) -> CoordinateView:
    return CoordinateView(
        [_short(each) for each in coord.vec],
        _short(coord.error),
        _short(coord.adjustment),
        _short(coord.height),
    )


def coordinate_view(found: NodeCoordinate) -> NodeCoordinateView:
    return NodeCoordinateView(found.node, found.segment, point_view(found.coord))


_COORDINATE_FIELDS = fields(vec=many(number), error=number, adjustment=number, height=number)


def _coordinate(
    vec: list[float] | None = None,
    error: float = 0.0,
    adjustment: float = 0.0,
    height: float = 0.0,
) -> Coordinate:
    return Coordinate(vec=tuple(vec or ()), error=error, adjustment=adjustment, height=height)


_FIELDS = fields(
    datacenter=text,
    node=text,
    segment=text,
    coord=struct(_coordinate, _COORDINATE_FIELDS),
    token=text,
)


@routes.put(
    "/v1/coordinate/update",
    Operation(
        summary="Set the coordinate of a node",
        parameters=(DATACENTER,),
        body=json_body(object_schema(_FIELDS)),
        refusals=(Refusal(500, "incompatible coordinate"),),
    ),
)
async def update(request: ApiRequest) -> ApiResponse:
    given = await read_body(request, _FIELDS, "CoordinateUpdateRequest")
    require_home(request, request.query.get("dc") or given.get("datacenter", ""))
    coord = given.get("coord", Coordinate(vec=()))
    if len(coord.vec) != DIMENSIONS:
        raise HttpError(500, "incompatible coordinate")
    known = NodeCoordinate(
        node=given.get("node", ""), segment=given.get("segment", ""), coord=coord
    )
    check(await request.agent.write(UpdateCoordinates(updates=(known,))))
    return empty_response()


@routes.get(
    "/v1/coordinate/nodes",
    Operation(
        summary="List the coordinates of all nodes",
        parameters=(*READ, _SEGMENT),
        answers=reads(list[NodeCoordinateView]),
    ),
)
async def nodes(request: ApiRequest) -> ApiResponse:
    query = ListCoordinates()
    meta = await ask(request, query)
    return read_response(request, query, meta, _shown(request, meta.value))


@routes.get(
    "/v1/coordinate/node/",
    Operation(
        summary="Show the coordinates of a node",
        path=(argument("node", "The name of the node."),),
        parameters=(*READ, _SEGMENT),
        answers=reads(list[NodeCoordinateView]),
        refusals=(Refusal(404),),
    ),
)
async def node(request: ApiRequest) -> ApiResponse:
    query = GetCoordinates(node=plain(request.argument))
    meta = await ask(request, query)
    # The node is called what it was asked for by, in whatever letter case.
    found = [msgspec.structs.replace(each, node=query.node) for each in meta.value]
    shown = _shown(request, found)
    if not shown:
        raise HttpError(404, "", tuple(index_headers(meta)))
    return read_response(request, query, meta, shown)


def _shown(request: ApiRequest, found: list[NodeCoordinate]) -> list[NodeCoordinateView]:
    if "segment" in request.query:
        found = [each for each in found if each.segment == request.query.get("segment")]
    return [coordinate_view(each) for each in found]


@routes.get(
    "/v1/coordinate/datacenters",
    Operation(
        summary="List the coordinates of the servers of each datacenter",
        answers=shows(list[AreaObject]),
    ),
)
async def datacenters(request: ApiRequest) -> ApiResponse:
    """The servers of each datacenter and where they are; one not yet placed is at the origin.

    Nothing is asked of the query: `?dc=` is passed over.
    """
    agent = request.agent
    if there := await agent.datacenters.known():
        return json_response([_area(each.name, each.servers) for each in there])
    known = await agent.read(ListCoordinates(), ReadOptions())
    placed = {each.node: each for each in known.value if not each.segment}
    servers = [
        placed.get(member.name, NodeCoordinate(node=member.name, coord=Coordinate()))
        for member in agent.membership.members()
        if member.tags.get("role") == "consul"
    ]
    return json_response([_area(agent.datacenter, servers)])


def _area(name: str, servers: Iterable[NodeCoordinate]) -> AreaObject:
    coordinates = [coordinate_view(each) for each in servers]
    return {"Datacenter": name, "AreaID": "wan", "Coordinates": coordinates}
