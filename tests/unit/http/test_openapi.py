"""The API's document: it is made of the route table, it is whole, and it says what handlers do."""

from __future__ import annotations

import ast
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from openapi_spec_validator import validate

import registry.http
from registry.hooks import HttpRoute
from registry.http import openapi, params
from registry.http.api import ApiRequest, ApiResponse, Parameters, Routes, text_response
from registry.http.app import FAMILIES
from registry.http.operations import Operation, Parameter, Refusal, matches
from registry.http.plugin_routes import add_plugin_routes
from registry.http.routing import Endpoint, Router
from registry.http.server import HttpServer
from registry.plugins import Plugins
from registry.testing.consensus import InstantBackend
from registry.testing.handlers import Handlers
from registry.testing.local_agent import make_local, make_sync
from registry.testing.manual_clock import ManualClock
from registry.testing.serving import make_facade

#: What the rim reads of every request.
RIM = {"pretty", "cached", "token"}

#: Routes whose answers have no end, or after which there is no agent.
NOT_CALLED = {"/v1/agent/monitor", "/v1/agent/leave"}


def core() -> Router:
    router = Router(family.routes for family in FAMILIES)
    router.include(openapi.routes_of(router))
    return router


ENDPOINTS = core().endpoints()
DOCUMENT = openapi.document(ENDPOINTS)


def forms(endpoint: Endpoint) -> Iterator[tuple[str, Operation]]:
    for method, operations in endpoint.operations.items():
        for operation in operations:
            yield method, operation


def parameters_of(operation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = {}
    for reference in operation["parameters"]:
        name = reference["$ref"].removeprefix("#/components/parameters/")
        parameter = DOCUMENT["components"]["parameters"][name]
        found[parameter["name"]] = parameter
    return found


def test_the_document_is_valid() -> None:
    validate(DOCUMENT)


def test_every_route_of_the_core_is_described() -> None:
    for endpoint in ENDPOINTS:
        for method in endpoint.handlers:
            if method in ("GET", "PUT", "POST", "DELETE") and (method, endpoint.pattern) != (
                "POST",
                "/v1/query/",  # answered with 405
            ):
                assert endpoint.operations[method], f"{method} {endpoint.pattern} says nothing"


def test_an_argument_is_described_where_a_pattern_takes_one() -> None:
    for endpoint in ENDPOINTS:
        for method, operation in forms(endpoint):
            if not endpoint.pattern.endswith("/"):
                assert operation.path == (), f"{method} {endpoint.pattern}"
        takes = [bool(operation.path) for _, operation in forms(endpoint)]
        assert any(takes) == (endpoint.pattern.endswith("/") and endpoint.pattern != "/")


def test_operations_have_names_of_their_own() -> None:
    names = [each["operationId"] for path in DOCUMENT["paths"].values() for each in path.values()]
    assert len(names) == len(set(names)) > 130


def test_a_service_may_hide_what_is_unset() -> None:
    schema = DOCUMENT["components"]["schemas"]["NodeServiceView"]
    assert "Kind" in schema["properties"]
    assert "Kind" not in schema["required"]
    assert "Port" in schema["required"]


def test_schemas_of_bodies_come_from_the_tables_that_read_them() -> None:
    paths = DOCUMENT["paths"]

    def members(path: str, *below: str) -> set[str]:
        schema = paths[path]["put"]["requestBody"]["content"]["application/json"]["schema"]
        for name in below:
            schema = schema["properties"][name]
        return set(schema.get("items", schema)["properties"])

    assert {"Node", "Address", "SkipNodeUpdate", "Checks"} <= members("/v1/catalog/register")
    assert {"Interval", "TLSSkipVerify", "DeregisterCriticalServiceAfter"} <= members(
        "/v1/catalog/register", "Check", "Definition"
    )
    assert {"Name", "EnableTagOverride", "Check", "Proxy"} <= members("/v1/agent/service/register")
    assert {"CheckID", "DockerContainerID", "GRPCUseTLS", "TTL"} <= members(
        "/v1/agent/service/register", "Check"
    )
    assert members("/v1/txn") == {"KV", "Node", "Service", "Check"}
    assert "IgnoreCheckIDs" in members("/v1/query/{id}", "Service")


def test_refusals_from_500_up_are_told_by_their_texts() -> None:
    refusals = [Refusal(500, "Bad limit: …"), Refusal(404)]
    assert matches(refusals, 500, "Bad limit: x\ny")
    assert matches(refusals, 404, "")
    assert not matches(refusals, 500, "Bad limit")
    assert not matches(refusals, 500, "")
    assert not matches(refusals, 404, "x")


# Served


async def test_it_is_served_as_json_and_made_once(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def document(endpoints: Any) -> dict[str, Any]:
        made.append(1)
        return {"openapi": "3.1.0"}

    monkeypatch.setattr(openapi, "document", document)
    for _ in range(2):
        answer = await client.get("/v1/openapi.json")
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.json() == {"openapi": "3.1.0"}
    assert made == [1]


async def test_what_is_served_is_the_whole_document(server: HttpServer) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as session:
        assert (await session.get("/v1/openapi.json")).json() == DOCUMENT


def test_routes_of_plugins_are_in_it() -> None:
    async def list_history(request: ApiRequest) -> ApiResponse:
        """List the changes of a key.

        Newest first."""
        return text_response("")

    routes = Routes()
    router = Router([routes])
    described = Operation(summary="Undo a change", parameters=(Parameter("at", "Which one."),))
    add_plugin_routes(
        router,
        [
            HttpRoute(method="GET", pattern="/v1/history/", handler=list_history),
            HttpRoute(
                method="PUT", pattern="/v1/undo", handler=list_history, operations=(described,)
            ),
        ],
    )
    document = openapi.document(router.endpoints())
    validate(document)
    assert document["paths"]["/v1/history/{rest}"]["get"]["summary"] == "List the changes of a key."
    assert document["paths"]["/v1/undo"]["put"]["summary"] == "Undo a change"
    assert "at" in document["components"]["parameters"]


# What handlers read is what is declared


class Recording(Parameters):
    """Query parameters that remember which names were asked for."""

    __slots__ = ("asked",)

    def __init__(self, pairs: list[tuple[str, bytes]]) -> None:
        super().__init__(pairs)
        self.asked: set[str] = set()

    def __contains__(self, name: str) -> bool:
        self.asked.add(name)
        return super().__contains__(name)

    def get(self, name: str, default: str = "") -> str:
        self.asked.add(name)
        return super().get(name, default)

    def get_bytes(self, name: str) -> bytes:
        self.asked.add(name)
        return super().get_bytes(name)

    def get_all(self, name: str) -> list[str]:
        self.asked.add(name)
        return super().get_all(name)


@pytest.fixture
async def handlers() -> Handlers:
    clock, backend = ManualClock(), InstantBackend()
    local = make_local(clock, backend=backend)
    make_sync(local, backend, clock)
    plugins = Plugins.load()
    facade = make_facade(local=local, plugins=plugins, backend=backend)
    router = core()
    return Handlers(facade, *(family.routes for family in FAMILIES), openapi.routes_of(router))


async def nothing() -> AsyncIterator[bytes]:
    for chunk in list[bytes]():
        yield chunk


def value_for(parameter: dict[str, Any]) -> str:
    """Something that the parameter may say."""
    schema = parameter["schema"].get("items", parameter["schema"])
    if parameter["name"] in ("index", "wait", "max_stale", "near"):
        return {"index": "1", "wait": "1ms", "max_stale": "1s"}.get(parameter["name"], "n1")
    if "enum" in schema:
        return str(schema["enum"][-1])
    return "1" if schema["type"] == "integer" else "x"


def queries(operation: dict[str, Any]) -> Iterator[str]:
    """Without parameters, with each of them alone, and with all of them."""
    known = [one for one in parameters_of(operation).values() if one["in"] == "query"]
    needed = [one for one in known if one["required"]]
    for chosen in ([], *([one] for one in known), known):
        pairs = [f"{one['name']}={quote(value_for(one))}" for one in [*needed, *chosen]]
        yield "&".join(dict.fromkeys([*pairs, *(["wait=1ms"] if chosen else [])]))


@pytest.mark.parametrize("path", sorted(DOCUMENT["paths"].keys() - NOT_CALLED))
async def test_every_parameter_that_a_handler_reads_is_declared(
    path: str, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Recording] = []

    def parse(raw: bytes) -> Parameters:
        pairs = [part.partition("=") for part in raw.decode().split("&") if part]
        made.append(Recording([(name, value.encode()) for name, _, value in pairs]))
        return made[-1]

    monkeypatch.setattr(params, "parse_query", parse)
    await handlers.request("PUT", "/v1/kv/x", b"y")
    for method, operation in DOCUMENT["paths"][path].items():
        declared = set(parameters_of(operation))
        for query in queries(operation):
            url = re.sub(r"\{\w+\}", "x", path)
            made.clear()
            body = b"{}" if method in ("put", "post") else b""
            answer = await handlers.request(method.upper(), f"{url}?{query}", body)
            async for _ in answer.stream or nothing():
                """A stream that nobody reads would stay open."""
            (recorded,) = made
            assert recorded.asked - declared <= RIM, f"{method} {url}?{query}"


def names_in(source: str) -> Iterator[str]:
    """Literal names that code asks query parameters for."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of_query = ast.unparse(node.func.value).endswith("query")
            arguments = node.args[:1] if of_query and node.func.attr.startswith("get") else []
        elif isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]).endswith("query"):
            arguments = [node.left]
        else:
            continue
        for argument in arguments:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield argument.value


def test_every_name_in_the_sources_is_declared_somewhere() -> None:
    declared = {one["name"] for one in DOCUMENT["components"]["parameters"].values()}
    sources = Path(registry.http.__file__).parent.glob("*.py")
    asked = {name for path in sources for name in names_in(path.read_text())}
    assert len(asked) > 25
    assert asked - declared == {"token"}
