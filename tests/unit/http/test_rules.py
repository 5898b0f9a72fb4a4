"""Rules that hold for every endpoint (surface 1.1)."""

import gzip
import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from registry.agent.config import Acl, AgentConfig, HttpConfig, Tokens
from registry.agent.definition_rules import DefinitionRefused
from registry.agent.facade import Backend, NoDatacenters
from registry.errors import NoLeader, NoPath, Overloaded
from registry.http.api import ApiRequest, ApiResponse, Routes, json_response
from registry.http.app import FAMILIES
from registry.http.options import DATACENTER
from registry.http.rim import Rim
from registry.http.routing import Router
from registry.server.autopilot import AutopilotReport
from registry.state.base import Query, ReadOptions, ReadResult
from registry.state.dump import StateDump
from registry.testing.consensus import InstantBackend
from registry.testing.handlers import Handlers
from registry.testing.serving import make_facade
from registry.testing.wire import connect

NAMESPACES = "Namespaces are a Consul Enterprise feature"


@pytest.mark.parametrize(
    ("method", "path", "status", "allow", "text"),
    [
        ("DELETE", "/v1/agent/self", 405, "OPTIONS,GET", "method DELETE not allowed"),
        ("PATCH", "/v1/agent/self", 405, "OPTIONS,GET", "method PATCH not allowed"),
        ("HEAD", "/v1/agent/self", 405, "OPTIONS,GET", ""),
        ("HEAD", "/v1/kv/x", 405, "OPTIONS,GET,PUT,DELETE", ""),
        ("OPTIONS", "/v1/kv/x", 200, "OPTIONS,GET,PUT,DELETE", ""),
        ("OPTIONS", "/v1/txn", 200, "OPTIONS,PUT", ""),
        ("OPTIONS", "/v1/operator/keyring", 200, "OPTIONS,GET,POST,PUT,DELETE", ""),
        ("OPTIONS", "/v1/snapshot", 200, "OPTIONS,GET,PUT", ""),
        ("POST", "/v1/acl/bootstrap", 405, "OPTIONS,PUT", "method POST not allowed"),
        ("GET", "/v1/acl/bootstrap", 405, "OPTIONS,PUT", "method GET not allowed"),
    ],
)
async def test_methods(
    client: httpx.AsyncClient, method: str, path: str, status: int, allow: str, text: str
) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, answer.headers["Allow"], answer.text) == (status, allow, text)
    assert answer.headers["Vary"] == "Accept-Encoding"


@pytest.mark.parametrize("path", ["/v1/nothing", "/v2/kv/x", "/v1/", "/v1/agent/nothing"])
async def test_an_unknown_path_is_404_without_a_body(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.content) == (404, b"")
    assert "Content-Type" not in answer.headers
    assert "Vary" not in answer.headers


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/v1/kv", "/v1/kv/"),
        ("/v1//kv/x", "/v1/kv/x"),
        ("/v1/agent//self", "/v1/agent/self"),
        ("/v1/kv/a//b?raw", "/v1/kv/a/b?raw"),
        ("/v1/kv/a%2F%2Fb", "/v1/kv/a/b"),
        ("/v1/kv/a/", None),
        ("/v1/kv//a%20b", "/v1/kv/a%20b"),
    ],
)
async def test_unclean_paths_are_redirected(
    client: httpx.AsyncClient, path: str, location: str | None
) -> None:
    answer = await client.get(path)
    assert answer.headers.get("Location") == location
    if location:
        assert answer.status_code == 301
        assert answer.text == f'<a href="{location}">Moved Permanently</a>.\n\n'


async def test_dots_in_a_path_are_resolved(server: Any) -> None:
    async with connect(server.port) as wire:
        answer = await wire.request(b"GET /v1/kv/a/../b/./c HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (answer.status, answer.header("Location")) == (301, "/v1/kv/b/c")


@pytest.mark.parametrize("code", ["%00", "%0A", "%7F", "%09", "%C2%85"])
async def test_unprintable_characters_are_refused(client: httpx.AsyncClient, code: str) -> None:
    answer = await client.get(f"/v1/kv/x{code}y")
    assert (answer.status_code, answer.content) == (400, b"")


async def test_unprintable_characters_pass_where_the_filter_is_off(serve: Any) -> None:
    server = await serve(config=AgentConfig(disable_http_unprintable_char_filter=True))
    url = f"http://127.0.0.1:{server.port}/v1/kv/x%01y"
    async with httpx.AsyncClient() as session:
        assert (await session.put(url, content=b"1")).text == "true"
        assert (await session.get(url + "?raw")).text == "1"


async def test_bytes_that_are_no_utf8_are_a_key_like_others(client: httpx.AsyncClient) -> None:
    assert (await client.put("/v1/kv/a%FFb", content=b"1")).text == "true"
    assert (await client.get("/v1/kv/a%FFb?raw")).text == "1"
    assert (await client.get("/v1/kv/a%FEb?raw")).status_code == 404


@pytest.mark.parametrize(
    ("path", "headers", "text"),
    [
        ("/v1/kv/a?ns=x", {}, f'Bad request: Invalid query parameter: "ns" - {NAMESPACES}'),
        (
            "/v1/kv/a",
            {"X-Consul-Namespace": "x"},
            f'Bad request: Invalid header: "X-Consul-Namespace" - {NAMESPACES}',
        ),
    ],
)
async def test_namespaces_are_refused(
    client: httpx.AsyncClient, path: str, headers: dict[str, str], text: str
) -> None:
    answer = await client.get(path, headers=headers)
    assert (answer.status_code, answer.text) == (400, text)


@pytest.mark.parametrize("query", ["a=%zz", "%gg=1", "a=%"])
async def test_a_bad_query_string_is_500_without_a_body(server: Any, query: str) -> None:
    async with connect(server.port) as wire:
        raw = f"GET /v1/kv/a?{query} HTTP/1.1\r\nHost: x\r\n\r\n"
        answer = await wire.request(raw.encode())
        assert (answer.status, answer.body) == (500, b"")


async def test_a_bad_escape_in_the_path_is_400(server: Any) -> None:
    async with connect(server.port) as wire:
        answer = await wire.request(b"GET /v1/kv/a%zz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (answer.status, answer.body) == (400, b"400 Bad Request")


@pytest.mark.parametrize(
    ("accepted", "zipped"),
    [
        ("gzip", True),
        ("gzip, deflate", True),
        ("deflate, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("identity", False),
        ("*", False),
        ("x-gzip", False),
        ("", False),
    ],
)
async def test_gzip(client: httpx.AsyncClient, accepted: str, zipped: bool) -> None:
    answer = await client.get("/v1/status/leader", headers={"Accept-Encoding": accepted})
    assert answer.headers.get("Content-Encoding") == ("gzip" if zipped else None)
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert answer.json() == "127.0.0.1:8300"


async def test_a_zipped_body_is_one_gzip_member_of_its_declared_length(server: Any) -> None:
    async with connect(server.port) as wire:
        answer = await wire.request(
            b"GET /v1/status/leader HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n"
        )
        assert gzip.decompress(answer.body) == b'"127.0.0.1:8300"'


async def test_header_names_are_spelt_as_clients_see_them(server: Any) -> None:
    async with connect(server.port) as wire:
        answer = await wire.request(b"GET /v1/kv/a HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.status == 404
        for name in ("X-Consul-Index", "X-Consul-Knownleader", "X-Consul-Lastcontact", "Vary"):
            assert name in answer.names
        assert not {"Server", "server"} & set(answer.names)
        assert answer.names.count("Content-Length") == 1


async def test_pretty_indents_by_four_and_ends_the_line(client: httpx.AsyncClient) -> None:
    await client.put("/v1/kv/a", content=b"1")
    plain = await client.get("/v1/kv/a")
    pretty = await client.get("/v1/kv/a?pretty=false")
    assert "\n" not in plain.text
    assert pretty.text == json.dumps(plain.json(), indent=4) + "\n"


async def test_a_dev_agent_is_always_pretty(serve: Any) -> None:
    server = await serve(config=AgentConfig(dev_mode=True))
    async with httpx.AsyncClient() as session:
        answer = await session.get(f"http://127.0.0.1:{server.port}/v1/status/peers")
    assert answer.text == '[\n    "127.0.0.1:8300"\n]\n'


async def test_json_escapes_what_html_would_take_for_markup(client: httpx.AsyncClient) -> None:
    await client.put("/v1/kv/%3Ca%3E%26", content=b"1")
    answer = await client.get("/v1/kv/?keys")
    assert answer.text == '["\\u003ca\\u003e\\u0026"]'


async def test_configured_headers_are_on_every_answer(serve: Any) -> None:
    headers = {"Access-Control-Allow-Origin": "*", "X-Team": "a b"}
    config = AgentConfig(http_config=HttpConfig(response_headers=headers), translate_wan_addrs=True)
    server = await serve(config=config)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as session:
        for path in ("/v1/status/leader", "/v1/nothing", "/v1/kv", "/v1/kv/none"):
            answer = await session.get(path)
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            assert answer.headers["X-Team"] == "a b"
            assert answer.headers["X-Consul-Translate-Addresses"] == "true"


async def test_blocked_endpoints(serve: Any) -> None:
    server = await serve(config=AgentConfig(http_config=HttpConfig(block_endpoints=("/v1/kv/a",))))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as session:
        answer = await session.get("/v1/kv/ab")
        assert (answer.status_code, answer.text) == (
            403,
            "Endpoint is blocked by agent configuration",
        )
        assert (await session.get("/v1/kv/b")).status_code == 404


@pytest.mark.parametrize(("network", "status"), [("10.0.0.0/8", 403), ("127.0.0.0/8", 200)])
async def test_writers_may_be_restricted_to_networks(serve: Any, network: str, status: int) -> None:
    http_config = HttpConfig(allow_write_http_from=(network,))
    server = await serve(config=AgentConfig(http_config=http_config))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as session:
        answer = await session.put("/v1/kv/a", content=b"1")
        assert answer.status_code == status
        if status == 403:
            assert answer.text == "Access is restricted"
        assert (await session.get("/v1/status/leader")).status_code == 200


async def test_a_body_over_its_limit_is_413_with_both_sizes(client: httpx.AsyncClient) -> None:
    answer = await client.put("/v1/kv/a", content=b"x" * (512 * 1024 + 1))
    assert answer.status_code == 413
    assert answer.text.startswith("Request body(524289 bytes) too large, max size: 524288 bytes. ")
    assert (await client.put("/v1/kv/a", content=b"x" * (512 * 1024))).text == "true"


async def test_an_unknown_datacenter(client: httpx.AsyncClient) -> None:
    for path in ("/v1/status/leader", "/v1/kv/a", "/v1/operator/raft/configuration"):
        answer = await client.get(path, params={"dc": "nowhere"})
        assert (answer.status_code, answer.text) == (500, "No path to datacenter")
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


def _table(problem: Exception) -> Routes:
    routes = Routes()

    @routes.get("/v1/fails")
    async def fails(request: ApiRequest) -> ApiResponse:
        raise problem

    @routes.get("/v1/works")
    async def works(request: ApiRequest) -> ApiResponse:
        return json_response("yes")

    return routes


@pytest.mark.parametrize(
    ("problem", "status", "text"),
    [
        (NoLeader(), 500, "No cluster leader"),
        (Overloaded("too many proposals wait"), 429, "too many proposals wait"),
        (DefinitionRefused("Check is not valid: no"), 400, "Check is not valid: no"),
        (DefinitionRefused("Scripts are disabled", status=500), 500, "Scripts are disabled"),
        (KeyError("x"), 500, "internal error: KeyError; the agent's log has more"),
    ],
)
async def test_what_a_handler_raises_is_answered_and_the_server_goes_on(
    serve: Any,
    caplog: pytest.LogCaptureFixture,
    problem: Exception,
    status: int,
    text: str,
) -> None:
    rim = Rim(make_facade(), Router([_table(problem)]))
    server = await serve(server={"rim": rim})
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as session:
        answer = await session.get("/v1/fails")
        assert (answer.status_code, answer.text) == (status, text)
        assert (await session.get("/v1/works")).json() == "yes"
    tracebacks = [record for record in caplog.records if record.exc_info]
    assert bool(tracebacks) == isinstance(problem, KeyError)


async def test_request_lines_hide_tokens(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG", "registry.http"):
        await client.get("/v1/kv/a?token=s3cret&raw")
        await client.get("/v1/acl/token/11111111-2222-3333-4444-555555555555")
    text = caplog.text
    assert "s3cret" not in text
    assert "11111111" not in text
    assert "Request finished: method=GET url=/v1/kv/a?token=<hidden>&raw from=127.0.0.1:" in text
    assert "Request error: method=GET url=/v1/acl/token/<hidden> from=127.0.0.1:" in text


async def test_of_a_long_url_the_log_shows_the_beginning(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG", "registry.http"):
        await client.get("/v1/kv/" + "k" * 9_000)
    (line,) = (text for text in caplog.messages if "url=" in text)
    assert "kkk…(9007 characters) from=" in line
    assert len(line) < 2_500


async def test_the_front_page_and_the_robots_file(client: httpx.AsyncClient) -> None:
    assert (await client.get("/")).text == "Consul Agent"
    assert "Disallow: /" in (await client.get("/robots.txt")).text


def test_the_token_is_taken_from_the_first_place_that_has_one() -> None:
    from registry.http import params

    def token(query: bytes, **headers: str) -> str:
        facade = make_facade(config=AgentConfig(acl=Acl(tokens=Tokens(default="own"))))

        async def no_body(limit: int | None) -> bytes:
            return b""

        given = {name.replace("_", "-"): value for name, value in headers.items()}
        request = ApiRequest(facade, "GET", "/", "", params.parse_query(query), given, no_body)
        return params.token(request)

    assert token(b"token=q", x_consul_token="h", authorization="Bearer b") == "q"
    assert token(b"", x_consul_token="h", authorization="Bearer b") == "h"
    assert token(b"", authorization="bEARER b c") == "b"
    assert token(b"", authorization="Basic b") == "own"
    assert token(b"") == "own"


class Nowhere(InstantBackend):
    """A datacenter of which only its own servers could tell that it is not there."""

    async def read(self, query: Query, options: ReadOptions) -> ReadResult:
        raise NoPath

    async def raft_configuration(self) -> tuple[int, list[dict[str, Any]]]:
        raise NoPath

    async def autopilot_health(self) -> AutopilotReport:
        raise NoPath

    async def open_dump(self) -> StateDump:
        raise NoPath

    async def leader_address(self) -> str:
        raise NoPath

    async def peer_addresses(self) -> list[str]:
        raise NoPath


class AllNowhere(NoDatacenters):
    def path(self, name: str) -> Backend | None:
        return Nowhere()


def reads_of_datacenters() -> Iterator[str]:
    """The paths of all routes that only read, and take `?dc=`, with a fit argument."""
    fit = defaultdict(lambda: "x", kind="service-defaults", key="x")
    for family in FAMILIES:
        for pattern, methods in family.routes.table.items():
            for operation in methods["GET"].operations if "GET" in methods else ():
                if DATACENTER in operation.all_parameters():
                    path = pattern + operation.path_template().format_map(fit)
                    yield f"{path}?keys" if path == "/v1/kv/" else f"{path}?"


@pytest.mark.parametrize("path", sorted(set(reads_of_datacenters())))
async def test_every_read_goes_to_the_datacenter_asked_for(path: str) -> None:
    facade = make_facade(datacenters=AllNowhere())
    api = Handlers(facade, *(family.routes for family in FAMILIES))
    response = await api.request("GET", f"{path}&dc=nowhere")
    assert (response.status, response.body) == (500, b"No path to datacenter")


@pytest.mark.parametrize("family", ["catalog", "coordinate"])
async def test_datacenters_are_listed_whichever_is_asked(family: str) -> None:
    facade = make_facade(datacenters=AllNowhere())
    api = Handlers(facade, *(each.routes for each in FAMILIES))
    [shown] = await api.json("GET", f"/v1/{family}/datacenters?dc=nowhere")
    assert (shown["Datacenter"] if family == "coordinate" else shown) == "dc1"
