"""From paths to endpoints."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.hooks import HttpRoute
from registry.http.api import ApiRequest, ApiResponse, Routes, text_response
from registry.http.app import FAMILIES
from registry.http.plugin_routes import add_plugin_routes
from registry.http.routing import Router, clean_path, is_printable, location


async def handler(request: ApiRequest) -> ApiResponse:
    return text_response(request.argument)


def router_of(*patterns: str) -> Router:
    routes = Routes()
    for pattern in patterns:
        routes.add("GET", pattern)(handler)
    return Router([routes])


@pytest.mark.parametrize(
    ("path", "pattern", "argument"),
    [
        ("/v1/kv/a/b/c/d/e/f/g/h", "/v1/kv/", "a/b/c/d/e/f/g/h"),
        ("/v1/kv/", "/v1/kv/", ""),
        ("/v1/acl/token", "/v1/acl/token", ""),
        ("/v1/acl/token/x", "/v1/acl/token/", "x"),
        ("/v1/acl/token/self", "/v1/acl/token/self", ""),
        ("/v1/acl/token/self/x", "/v1/acl/token/", "self/x"),
        ("/v1/kv2", None, ""),
        ("/", None, ""),
    ],
)
def test_the_longest_pattern_wins(path: str, pattern: str | None, argument: str) -> None:
    router = router_of("/v1/kv/", "/v1/acl/token", "/v1/acl/token/", "/v1/acl/token/self")
    match = router.find(path)
    assert (match.endpoint.pattern if match else None) == pattern
    assert (match.argument if match else "") == argument


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/v1/kv", "/v1/kv/"),
        ("/v1/query", None),
        ("/v1/query/", None),
        ("/v1/kv/a/../b", "/v1/kv/b"),
        ("/v1//kv", "/v1/kv/"),
        ("//", "/"),
        ("/..", "/"),
        ("/v1/kv/a/", None),
    ],
)
def test_redirects(path: str, target: str | None) -> None:
    assert router_of("/v1/kv/", "/v1/query", "/v1/query/").redirect(path) == target


@given(st.text(alphabet="/.ab", max_size=30))
def test_a_clean_path_stays_as_it_is(path: str) -> None:
    clean = clean_path(path)
    assert clean_path(clean) == clean
    assert "//" not in clean
    assert not {".", ".."} & set(clean.split("/"))


def test_locations_are_escaped() -> None:
    assert location("/v1/kv/a b<é", b"raw&x=%20") == "/v1/kv/a%20b%3C%C3%A9?raw&x=%20"


def test_bytes_that_are_no_utf8_can_be_printed_but_controls_cannot() -> None:
    assert is_printable(b"a\xffb".decode("utf-8", "surrogateescape"))
    assert not is_printable(b"a\xff\x01b".decode("utf-8", "surrogateescape"))
    assert is_printable("é 漢")
    assert not is_printable("\u200e")


def test_one_operation_has_one_handler() -> None:
    with pytest.raises(ValueError, match="GET /v1/kv/ is served twice"):
        Router([router_table(), router_table()])


def router_table() -> Routes:
    routes = Routes()
    routes.get("/v1/kv/")(handler)
    return routes


def test_no_two_families_claim_one_operation() -> None:
    router = Router(family.routes for family in FAMILIES)
    assert len(router.endpoints()) > 90


def test_a_plugin_adds_routes_but_replaces_none(caplog: pytest.LogCaptureFixture) -> None:
    router = router_of("/v1/kv/")

    async def other(request: ApiRequest) -> ApiResponse:
        return text_response("other")

    routes = [
        HttpRoute(method=method, pattern=pattern, handler=other)
        for method, pattern in (("GET", "/v1/kv/"), ("GET", "/v1/extra/"), ("PUT", "/v1/kv/"))
    ]
    add_plugin_routes(router, routes)
    kv = router.endpoint("/v1/kv/")
    assert kv is not None
    assert kv.handlers["GET"] is handler
    assert kv.allow == "OPTIONS,GET,PUT"
    assert router.endpoint("/v1/extra/") is not None
    assert "GET /v1/kv/ is served twice" in caplog.text
