"""Configuration entries: what bodies become, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from registry.http import config_entries
from registry.state.config_entries import SetConfigEntry
from registry.testing.handlers import Handlers
from registry.testing.serving import make_facade


@pytest.fixture
def api() -> Handlers:
    return Handlers(make_facade(), config_entries.routes)


async def put(api: Handlers, kind: str, name: str = "web", /, **settings: Any) -> tuple[int, str]:
    body = {"Kind": kind, "Name": name, **settings}
    response = await api.request("PUT", "/v1/config", json=body)
    return response.status, response.body.decode()


async def kept(api: Handlers, kind: str, name: str = "web", /, **settings: Any) -> dict[str, Any]:
    """What is shown of an entry after it was put, but for its head and indexes."""
    assert await put(api, kind, name, **settings) == (200, "true")
    shown: dict[str, Any] = await api.json("GET", f"/v1/config/{kind}/{name}")
    head = (shown.pop("Kind"), shown.pop("Name"))
    assert head == (kind, name)
    assert shown.pop("CreateIndex") <= shown.pop("ModifyIndex")
    return shown


EMPTY: dict[str, Any] = {"MeshGateway": {}, "Expose": {}}


@pytest.mark.parametrize(
    ("kind", "given", "shown"),
    [
        pytest.param("service-defaults", {}, {"Protocol": "", **EMPTY}, id="nothing"),
        pytest.param(
            "service-defaults",
            {"Protocol": "HTTP", "mesh_gateway": {"MODE": "local"}, "EXTERNALSNI": "x"},
            {**EMPTY, "Protocol": "http", "MeshGateway": {"Mode": "local"}, "ExternalSNI": "x"},
            id="names-in-any-case",
        ),
        pytest.param(
            "service-defaults",
            {
                "protocol": ["tcp"],
                "expose": [{"checks": "true", "paths": {"path": 5, "listener_port": "80"}}],
                "CreateIndex": 7,
                "ModifyIndex": 9,
            },
            {
                **EMPTY,
                "Protocol": "tcp",
                "Expose": {"Checks": True, "Paths": [{"Path": "5", "ListenerPort": 80}]},
            },
            id="one-for-many",
        ),
        pytest.param(
            "service-defaults",
            {"Protocol": 1.5, "ExternalSNI": True, "MeshGateway": None, "Expose": {"Checks": 0}},
            {**EMPTY, "Protocol": "1.5", "ExternalSNI": "1"},
            id="numbers-for-texts",
        ),
        pytest.param(
            "service-resolver",
            {"Subsets": {"v1": None}, "Failover": {"*": {"Datacenters": "dc2"}}},
            {"Subsets": {"v1": {}}, "Failover": {"*": {"Datacenters": ["dc2"]}}},
            id="null-for-an-object",
        ),
        pytest.param(
            "service-defaults",
            {"Expose": {"Paths": [None, {"Path": [None], "ListenerPort": [None]}]}},
            {"Protocol": "", **EMPTY, "Expose": {"Paths": [{}, {}]}},
            id="null-in-lists",
        ),
        pytest.param(
            "service-router",
            {
                "Routes": [
                    {
                        "match": {"http": {"path_prefix": "/a", "methods": ["get", "PUT"]}},
                        "Destination": {
                            "Service": "other",
                            "request_timeout": "90s",
                            "NumRetries": 0,
                            "RetryOnStatusCodes": [503.0],
                        },
                    },
                    {"Match": {"HTTP": {"Header": [{"name": "x", "present": True}]}}},
                    {"Match": {}, "Destination": {}},
                    {},
                ]
            },
            {
                "Routes": [
                    {
                        "Match": {"HTTP": {"PathPrefix": "/a", "Methods": ["GET", "PUT"]}},
                        "Destination": {
                            "RequestTimeout": "1m30s",
                            "Service": "other",
                            "RetryOnStatusCodes": [503],
                        },
                    },
                    {"Match": {"HTTP": {"Header": [{"Name": "x", "Present": True}]}}},
                    {"Match": {}, "Destination": {}},
                    {},
                ]
            },
            id="routes",
        ),
        pytest.param("service-router", {}, {"Routes": None}, id="no-routes"),
        pytest.param("service-router", {"Routes": []}, {"Routes": []}, id="empty-routes"),
        pytest.param(
            "service-splitter",
            {"Splits": [{"Weight": 33.333, "ServiceSubset": "a"}, {"Weight": "66.67"}]},
            {"Splits": [{"Weight": 33.33, "ServiceSubset": "a"}, {"Weight": 66.67}]},
            id="splits",
        ),
        pytest.param(
            "service-resolver",
            {
                "connect_timeout": 15_000_000_000,
                "DefaultSubset": "v1",
                "Subsets": {"v1": {"Filter": "x", "only_passing": False}, "v2": {}},
                "Failover": {"*": {"Datacenters": ["dc2"]}},
            },
            {
                "ConnectTimeout": "15s",
                "DefaultSubset": "v1",
                "Subsets": {"v1": {"Filter": "x"}, "v2": {}},
                "Failover": {"*": {"Datacenters": ["dc2"]}},
            },
            id="resolver",
        ),
        pytest.param("service-resolver", {"Subsets": {}, "ConnectTimeout": "0s"}, {}, id="empty"),
        pytest.param(
            "ingress-gateway",
            {"Listeners": {"Port": 80, "Services": [{"Name": "a"}]}},
            {
                "TLS": {"Enabled": False},
                "Listeners": [
                    {"Port": 80, "Protocol": "tcp", "Services": [{"Name": "a", "Hosts": None}]}
                ],
            },
            id="ingress",
        ),
        pytest.param(
            "terminating-gateway",
            {"Services": [{"Name": "a", "ca_file": "ca.pem", "SNI": ""}]},
            {"Services": [{"Name": "a", "CAFile": "ca.pem"}]},
            id="terminating",
        ),
    ],
)
async def test_what_a_body_becomes(
    api: Handlers, kind: str, given: dict[str, Any], shown: dict[str, Any]
) -> None:
    if kind in ("service-router", "service-splitter"):
        for name in ("web", "other"):
            await put(api, "service-defaults", name, Protocol="http")
        await put(api, "service-resolver", Subsets={"a": {}})
    assert await kept(api, kind, **given) == shown


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        (None, None),
        ({}, {}),
        ({"a": 1, "b": {"c": ["d"]}}, {"a": 1, "b": {"c": ["d"]}}),
        ({"a": [{"b": ["c"]}], "d": [1, 2]}, {"a": {"b": "c"}, "d": [1, 2]}),
    ],
)
async def test_defaults_of_proxies(api: Handlers, config: Any, shown: Any) -> None:
    assert await kept(api, "proxy-defaults", "global", Config=config) == {**EMPTY, "Config": shown}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b"", "EOF", id="empty"),
        pytest.param(b"[]", "json: cannot unmarshal body into an entry", id="list"),
        pytest.param(
            b"null", "Payload does not contain a kind/Kind key at the top level", id="null"
        ),
        pytest.param(
            b'{"KIND":"service-defaults"}',
            "Payload does not contain a kind/Kind key at the top level",
            id="no-kind",
        ),
        pytest.param(b'{"Kind":1}', "Kind value in payload is not a string", id="kind-is-no-text"),
        pytest.param(b'{"kind":"odd"}', "invalid config entry kind: odd", id="odd-kind"),
        pytest.param(b'{"Kind":""}', "invalid config entry kind: ", id="empty-kind"),
        pytest.param(
            b'{"Kind":"service-defaults","Name":"x","Odd":1}',
            'invalid config key "Odd"',
            id="unknown-field",
        ),
        pytest.param(
            b'{"Kind":"service-defaults","Name":"x","Namespace":"default"}',
            'invalid config key "Namespace"',
            id="namespace",
        ),
        pytest.param(
            b'{"Kind":"service-defaults","Name":"x","Expose":{"Paths":[{"Odd":1}]}}',
            'invalid config key "Expose.Paths[0].Odd"',
            id="unknown-field-below",
        ),
        pytest.param(
            b'{"Kind":"service-defaults","Name":["x","y"]}',
            "'Name' expected type 'string', got list",
            id="name-is-no-text",
        ),
        pytest.param(
            b'{"Kind":"service-defaults","Name":"x","Expose":{"Checks":"maybe"}}',
            "cannot parse 'Expose.Checks' as bool: invalid syntax",
            id="no-flag",
        ),
        pytest.param(
            b'{"Kind":"ingress-gateway","Name":"x","Listeners":[{"Port":"http"}]}',
            "cannot parse 'Listeners[0].Port' as a number: invalid syntax",
            id="no-number",
        ),
        pytest.param(
            b'{"Kind":"service-resolver","Name":"x","ConnectTimeout":"soon"}',
            'time: invalid duration "soon"',
            id="no-duration",
        ),
        pytest.param(
            b'{"Kind":"proxy-defaults","Config":{"a":[{"b":18446744073709551616}]}}',
            "Config[a].b: the number 18446744073709551616 has more than 64 bits",
            id="number-over-64-bits",
        ),
        pytest.param(
            b'{"Kind":"service-resolver","Name":"x","ConnectTimeout":1e30}',
            "'ConnectTimeout': the number 1000000000000000019884624838656 is out of range",
            id="duration-over-64-bits",
        ),
        pytest.param(
            b'{"Kind":"service-defaults","Name":1%b}' % (b"0" * 400),
            "'Name' expected type 'string', got number",
            id="name-beyond-all-bounds",
        ),
        pytest.param(
            b'{"Kind":"ingress-gateway","Name":"x","Listeners":{"Port":1%b}}' % (b"0" * 400),
            "'Listeners[0].Port' expected type 'number', got number",
            id="port-beyond-all-bounds",
        ),
        pytest.param(
            b'{"Kind":"proxy-defaults","Config":{"a":1e999}}',
            "Config[a]: the number is too large",
            id="number-beyond-all-bounds",
        ),
    ],
)
async def test_bodies_that_are_no_entry(api: Handlers, body: bytes, reason: str) -> None:
    response = await api.request("PUT", "/v1/config", body)
    assert response.status == 400
    assert response.body.decode() == f"Bad request: Request decoding failed: {reason}"


async def test_entries_are_checked(api: Handlers) -> None:
    assert await put(api, "service-splitter") == (500, "no splits configured")
    assert await put(api, "service-defaults", "") == (500, "serviceName is required")
    assert await put(api, "service-router", "") == (500, "Name is required")


async def test_entries_have_to_fit_together(api: Handlers) -> None:
    refused = (
        'discovery chain "web" uses a protocol "tcp" '
        "that does not permit advanced routing or splitting behavior"
    )
    assert await put(api, "service-router") == (500, refused)
    await put(api, "service-defaults", Protocol="http")
    assert await put(api, "service-router") == (200, "true")
    response = await api.request("DELETE", "/v1/config/service-defaults/web")
    assert (response.status, response.body.decode()) == (500, refused)
    assert await api.json("DELETE", "/v1/config/service-router/web") == {}
    assert await api.json("DELETE", "/v1/config/service-defaults/web") == {}


async def test_the_defaults_of_proxies_have_one_name(api: Handlers) -> None:
    assert await put(api, "proxy-defaults", "x") == (200, "true")
    assert (await api.request("GET", "/v1/config/proxy-defaults/x")).status == 404
    assert await api.json("DELETE", "/v1/config/proxy-defaults/y") == {}
    assert await api.json("GET", "/v1/config/proxy-defaults") == []


async def test_writes_go_to_the_datacenter_that_keeps_all_entries(api: Handlers) -> None:
    body = {"Kind": "service-defaults", "Name": "web"}
    assert await api.json("PUT", "/v1/config?dc=nowhere", json=body) is True
    assert await api.json("DELETE", "/v1/config/service-defaults/web?dc=nowhere") == {}
    response = await api.request("GET", "/v1/config/service-defaults?dc=nowhere")
    assert (response.status, response.body) == (500, b"No path to datacenter")


async def test_entries_of_earlier_versions_are_shown(api: Handlers) -> None:
    old = {"ConnectTimeout": 15_000_000_000, "Redirect": {"Service": "x"}}
    for kind, settings in (("service-resolver", old), ("service-defaults", {})):
        await api.facade.write(SetConfigEntry(kind=kind, name="old", settings=settings))
    assert (await api.json("GET", "/v1/config/service-resolver/old"))["ConnectTimeout"] == "15s"
    [shown] = await api.json("GET", "/v1/config/service-defaults")
    assert shown["Protocol"] == ""
