"""Query parameters, consistency, waiting, bodies."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.agent.config import AgentConfig
from registry.http import params
from registry.http.api import ApiRequest, HttpError
from registry.http.cache_control import CacheControl
from registry.http.compression import accepts_gzip, compress
from registry.http.errors import check
from registry.state.base import ReadOptions, Refused
from registry.testing.serving import make_facade

SECOND = 1_000_000_000


def request(
    query: bytes = b"", path: str = "/v1/kv/a", config: AgentConfig | None = None, **headers: str
) -> ApiRequest:
    async def no_body(limit: int | None) -> bytes:
        return b""

    given_headers = {name.replace("_", "-"): value for name, value in headers.items()}
    facade = make_facade(config=config)
    return ApiRequest(facade, "GET", path, "", params.parse_query(query), given_headers, no_body)


@pytest.mark.parametrize(
    ("raw", "pairs"),
    [
        (b"", []),
        (b"a=1&b=2&a=3", [("a", "1"), ("a", "3"), ("b", "2")]),
        (b"recurse", [("recurse", "")]),
        (b"a=x+y%20z", [("a", "x y z")]),
        (b"a=%C3%A9", [("a", "é")]),
        (b"&&a=1&", [("a", "1")]),
        (b"a=1;b=2", [("a", "1"), ("b", "2")]),
        (b"a=b=c", [("a", "b=c")]),
        (b"a=%ff&%ff=\xfe", [("a", "\ufffd"), ("\ufffd", "\ufffd")]),
    ],
)
def test_query_strings(raw: bytes, pairs: list[tuple[str, str]]) -> None:
    assert params.parse_query(raw).pairs() == pairs


def test_a_parameter_is_there_as_it_came_too() -> None:
    query = params.parse_query(b"a=%ff+b&a=c")
    assert query.get_bytes("a") == b"\xff b"
    assert query.get_bytes("b") == b""


@pytest.mark.parametrize("raw", [b"a=%", b"a=%1", b"%zz=1", b"a=%g0"])
def test_query_strings_with_bad_escapes(raw: bytes) -> None:
    with pytest.raises(ValueError, match="invalid URL escape"):
        params.parse_query(raw)


@pytest.mark.parametrize(
    ("query", "path", "options"),
    [
        (b"", "/v1/kv/a", {}),
        (b"stale", "/v1/kv/a", {"mode": "stale"}),
        (b"consistent", "/v1/kv/a", {"mode": "consistent"}),
        (b"leader", "/v1/catalog/nodes", {}),
        (b"max_stale=5s", "/v1/kv/a", {"mode": "stale", "max_stale_ms": 5000}),
        (b"max_stale=0s", "/v1/kv/a", {}),
        (b"stale&max_stale=10s", "/v1/kv/a", {"mode": "stale", "max_stale_ms": 10_000}),
        (b"dc=dc1", "/v1/kv/a", {}),
    ],
)
def test_consistency(query: bytes, path: str, options: dict[str, Any]) -> None:
    expected = ReadOptions(datacenter="dc1", **options)
    assert params.read_options(request(query, path)) == expected


@pytest.mark.parametrize(
    ("query", "path", "mode"),
    [
        (b"", "/v1/catalog/nodes", "stale"),
        (b"pretty", "/v1/health/state/any", "stale"),
        (b"leader", "/v1/catalog/nodes", "default"),
        (b"consistent", "/v1/catalog/nodes", "consistent"),
        (b"", "/v1/kv/a", "default"),
    ],
)
def test_discovery_may_be_stale_by_configuration(query: bytes, path: str, mode: str) -> None:
    config = AgentConfig(discovery_max_stale_ns=3 * SECOND)
    options = params.read_options(request(query, path, config))
    assert options.mode == mode
    assert options.max_stale_ms == (3000 if mode == "stale" else None)


@pytest.mark.parametrize(
    ("query", "headers", "status", "text"),
    [
        (
            b"stale&consistent",
            {},
            400,
            "Cannot specify ?stale with ?consistent, conflicting semantics.",
        ),
        (
            b"cached&consistent",
            {},
            400,
            "Cannot specify ?cached with ?consistent, conflicting semantics.",
        ),
        (b"max_stale=abc", {}, 400, 'Invalid max_stale value "abc"'),
        (b"max_stale=5", {}, 400, 'Invalid max_stale value "5"'),
        (b"index=x", {}, 400, "Invalid index"),
        (b"index=-1", {}, 400, "Invalid index"),
        (b"index=1_0", {}, 400, "Invalid index"),
        (b"index=18446744073709551616", {}, 400, "Invalid index"),
        (b"wait=x", {}, 400, "Invalid wait time"),
        (b"wait=1", {}, 400, "Invalid wait time"),
        (b"max_stale=%22%5C", {}, 400, 'Invalid max_stale value "\\"\\\\"'),
        (b"dc=nowhere", {}, 500, "No path to datacenter"),
        (b"dc=DC1", {}, 500, "No path to datacenter"),
        (
            b"stale&consistent&index=x",
            {"cache_control": "max-age=abc"},
            400,
            "Cannot specify ?stale with ?consistent, conflicting semantics.",
        ),
        (b"index=x", {"cache_control": "max-age=abc"}, 400, "Invalid Cache-Control header."),
        (b"", {"cache_control": "max-age=abc"}, 400, "Invalid Cache-Control header."),
        (b"cached", {"cache_control": "stale-if-error=x"}, 400, "Invalid Cache-Control header."),
    ],
)
def test_options_that_are_refused(
    query: bytes, headers: dict[str, str], status: int, text: str
) -> None:
    with pytest.raises(HttpError) as caught:
        params.read_options(request(query, config=None, **headers))
    assert (caught.value.status, caught.value.text) == (status, text)


@pytest.mark.parametrize(
    ("query", "wait_s"),
    [
        pytest.param(b"index=1", 300, id="default"),
        pytest.param(b"index=1&wait=0s", 300, id="zero is the default"),
        pytest.param(b"index=1&wait=-5s", 300, id="so is less"),
        pytest.param(b"index=1&wait=600ms", 0.6, id="as asked"),
        pytest.param(b"index=1&wait=24h", 600, id="capped"),
    ],
)
def test_waits_are_defaulted_capped_and_stretched(query: bytes, wait_s: float) -> None:
    waits = {params.read_options(request(query)).wait_ms for _ in range(200)}
    assert min(waits) >= wait_s * 1000
    assert max(waits) <= wait_s * 1000 * 17 / 16 + 1
    assert len(waits) > 1


def test_a_read_without_an_index_never_waits() -> None:
    assert params.read_options(request(b"wait=10s")).wait_ms == 0
    assert params.read_options(request(b"index=0&wait=10s")).wait_ms == 0


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", CacheControl()),
        ("no-cache", CacheControl()),
        ("Max-Age=30, must-revalidate", CacheControl(30, True)),
        ("max-age=0", CacheControl(0, True)),
        ("stale-if-error=60", CacheControl(stale_if_error_s=60)),
    ],
)
def test_cache_control(header: str, expected: CacheControl) -> None:
    assert CacheControl.read(header) == expected


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"", None),
        (b" \n", None),
        (b"null", None),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b"{} trailing", {}),
        (b" [1] [2]", [1]),
        (b'"\\ud800"', "\ufffd"),
        (b'"\xff"', "\ufffd"),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
    ],
)
def test_bodies(body: bytes, value: Any) -> None:
    assert params.decode_json(request(), body) == value


@pytest.mark.parametrize(
    "body", [b"{", b"x", b"{'a': 1}", b"[1,]", b"NaN", b"Infinity", b"[" * 100_000]
)
def test_bodies_that_are_no_json(body: bytes) -> None:
    with pytest.raises(HttpError, match=r"^Request decode failed: .+") as caught:
        params.decode_json(request(), body)
    assert caught.value.status == 400


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_json_can_say_is_read_back(value: Any) -> None:
    assert params.decode_json(request(), json.dumps(value).encode() + b" x") == json.loads(
        json.dumps(value).encode("utf-8", "replace")
    )


@given(st.text(max_size=40))
def test_no_accept_encoding_breaks_the_parser(header: str) -> None:
    assert accepts_gzip(header) in (True, False)


def test_equal_answers_are_compressed_to_equal_bytes() -> None:
    assert compress(b"x" * 100) == compress(b"x" * 100)


@pytest.mark.parametrize(
    ("kind", "status"), [("invalid", 500), ("bad-request", 400), ("not-found", 404)]
)
def test_refusals_become_errors(kind: str, status: int) -> None:
    assert check(True) is True
    with pytest.raises(HttpError) as caught:
        check(Refused("why", kind))
    assert (caught.value.status, caught.value.text) == (status, "why")
