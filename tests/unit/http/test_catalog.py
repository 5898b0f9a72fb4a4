"""The catalog's and health's endpoints: bodies in, JSON out, as clients know them."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from registry.http import catalog, config_entries, coordinate, health, internal_ui
from registry.testing.handlers import Handlers, header
from registry.testing.serving import make_facade

REGISTER, DEREGISTER = "/v1/catalog/register", "/v1/catalog/deregister"


@pytest.fixture
def api() -> Handlers:
    families = (catalog, health, coordinate, config_entries, internal_ui)
    return Handlers(make_facade(), *(family.routes for family in families))


async def register(api: Handlers, **body: Any) -> None:
    given = {"Node": "n1", "Address": "10.0.0.1", **body}
    assert await api.json("PUT", REGISTER, json=given) is True


WEB = {"ID": "s1", "Service": "web", "Port": 80, "Tags": ["v1"], "Meta": {"k": "v"}}


async def test_fields_come_in_their_order(api: Handlers) -> None:
    await register(api, Service=WEB, Check={"Name": "alive", "ServiceID": "s1"})
    response = await api.request("GET", "/v1/health/service/web")
    assert response.body.decode() == (
        '[{"Node":{"ID":"","Node":"n1","Address":"10.0.0.1","Datacenter":"dc1",'
        '"TaggedAddresses":null,"Meta":null,"CreateIndex":1,"ModifyIndex":1},'
        '"Service":{"ID":"s1","Service":"web","Tags":["v1"],"Address":"","Meta":{"k":"v"},'
        '"Port":80,"Weights":{"Passing":1,"Warning":1},"EnableTagOverride":false,'
        '"Proxy":{"MeshGateway":{},"Expose":{}},"Connect":{},"CreateIndex":1,"ModifyIndex":1},'
        '"Checks":[{"Node":"n1","CheckID":"alive","Name":"alive","Status":"critical",'
        '"Notes":"","Output":"","ServiceID":"s1","ServiceName":"web","ServiceTags":["v1"],'
        '"Type":"","Definition":{},"CreateIndex":1,"ModifyIndex":1}]}]'
    )
    assert header(response, "X-Consul-Index") == "1"
    assert header(response, "X-Consul-Effective-Consistency") == "leader"


async def test_field_names_come_in_any_letter_case(api: Handlers) -> None:
    body = {
        "node": "n1",
        "ADDRESS": "10.0.0.1",
        "nodemeta": {"Rack": "r1"},
        "service": {"id": "s1", "SERVICE": "web", "enabletagoverride": True, "weights": None},
        "Checks": [
            {"checkid": "c", "definition": {"http": "http://x", "INTERVAL": "90s", "Odd": 1}}
        ],
        "skipnodeupdate": None,
    }
    assert await api.json("PUT", REGISTER, json=body) is True
    [found] = await api.json("GET", "/v1/catalog/service/web")
    assert found["NodeMeta"] == {"Rack": "r1"}
    assert found["ServiceEnableTagOverride"] is True
    [check] = await api.json("GET", "/v1/health/node/n1")
    assert check["Type"] == "http"
    assert check["Definition"] == {"Interval": "1m30s", "HTTP": "http://x"}


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        pytest.param(b"", 400, "Request decode failed: EOF", id="empty"),
        pytest.param(b"null", 500, "Must provide node", id="null"),
        pytest.param(
            b"[]",
            400,
            "Request decode failed: json: cannot unmarshal array into Go value of type "
            "RegisterRequest",
            id="list",
        ),
        pytest.param(
            b'{"Node":1}',
            400,
            "Request decode failed: json: cannot unmarshal number into Go struct field "
            "RegisterRequest.Node of type string",
            id="number-for-text",
        ),
        pytest.param(
            b'{"Service":{"Port":"80"}}',
            400,
            "Request decode failed: json: cannot unmarshal string into Go struct field "
            "RegisterRequest.Service.Port of type int",
            id="text-for-number",
        ),
        pytest.param(
            b'{"Odd":1}', 400, 'Request decode failed: json: unknown field "Odd"', id="unknown"
        ),
        pytest.param(
            b'{"Service":{"Namespace":"x"}}',
            400,
            'Request decode failed: json: unknown field "Namespace" - '
            "Namespaces are a Consul Enterprise feature",
            id="namespace",
        ),
        pytest.param(
            b'{"Check":{"Definition":{"Interval":"10 s"}}}',
            400,
            'Request decode failed: time: unknown unit " s" in duration "10 s"',
            id="duration",
        ),
        pytest.param(b'{"Datacenter":"x"}', 500, "No path to datacenter", id="datacenter"),
    ],
)
async def test_bad_registrations(api: Handlers, body: bytes, status: int, text: str) -> None:
    response = await api.request("PUT", REGISTER, body)
    assert (response.status, response.body.decode()) == (status, text)
    assert await api.json("GET", "/v1/catalog/nodes") == []


async def test_nulls_in_lists_and_maps_are_empty_texts(api: Handlers) -> None:
    body = b"""{"Node": "n1", "Address": "10.0.0.1", "NodeMeta": {"a": null},
                "Service": {"Service": "web", "Tags": ["x", null]}}"""
    assert (await api.request("PUT", REGISTER, body)).body == b"true"
    [found] = await api.json("GET", "/v1/catalog/service/web")
    assert (found["NodeMeta"], found["ServiceTags"]) == ({"a": ""}, ["x", ""])


async def test_deregistering(api: Handlers) -> None:
    await register(api, Service=WEB)
    assert await api.json("PUT", DEREGISTER, json={"Node": "n1", "ServiceID": "s1"}) is True
    assert await api.json("GET", "/v1/catalog/services") == {}
    assert await api.json("PUT", DEREGISTER, json={"Node": "n1"}) is True
    assert await api.json("GET", "/v1/catalog/node/n1") is None
    assert await api.json("GET", "/v1/catalog/node-services/n1") == {
        "Node": None,
        "Services": None,
    }


@pytest.mark.parametrize(
    ("query", "names"),
    [
        pytest.param("", ["n1", "n2"], id="all"),
        pytest.param("node-meta=rack:r1", ["n1"], id="meta"),
        pytest.param("node-meta=rack:r1&node-meta=env:b", [], id="both-metas"),
        pytest.param("node-meta=rack", [], id="meta-without-value"),
        pytest.param("filter=Meta.rack%20!=%20r1", ["n2"], id="filter"),
        pytest.param("filter=", ["n1", "n2"], id="empty-filter"),
        pytest.param("near=n2", ["n1", "n2"], id="near-without-coordinates"),
    ],
)
async def test_listing_nodes(api: Handlers, query: str, names: list[str]) -> None:
    await register(api, NodeMeta={"rack": "r1", "env": "a"})
    await register(api, Node="n2")
    assert [each["Node"] for each in await api.json("GET", f"/v1/catalog/nodes?{query}")] == names


@pytest.mark.parametrize(
    "path",
    [
        "/v1/catalog/node/%ff",
        "/v1/catalog/service/%ff%00?tag=%ff&near=%ff&node-meta=%ff:%ff",
        "/v1/health/service/%C3%A4%ff",
        "/v1/health/state/%ff",
        "/v1/coordinate/node/%ff",
        "/v1/config/service-defaults/%ff",
        "/v1/catalog/nodes?filter=%ff",
    ],
)
async def test_bytes_that_are_no_text_find_nothing(api: Handlers, path: str) -> None:
    response = await api.request("GET", path)
    assert response.status in (200, 400, 404, 500)
    assert b"internal error" not in response.body


@pytest.mark.parametrize(
    "path",
    ["health/service", "health/connect", "health/ingress", "catalog/service", "catalog/connect"],
)
async def test_cached_reads_say_so(api: Handlers, path: str) -> None:
    for expected in ("MISS", "HIT"):
        response = await api.request("GET", f"/v1/{path}/web?cached")
        assert header(response, "X-Cache") == expected


@pytest.mark.parametrize(("index", "said"), [("0", "HIT"), ("1", "HIT"), ("99", "MISS")])
async def test_what_is_waited_for_comes_out_of_no_cache(
    api: Handlers, index: str, said: str
) -> None:
    for name in ("n1", "n2"):
        await register(api, Node=name, Service=WEB)
    path = "/v1/health/service/web?cached"
    await api.request("GET", path)
    response = await api.request("GET", f"{path}&index={index}&wait=1ms")
    assert header(response, "X-Cache") == said


async def test_a_bad_filter_still_tells_the_index(api: Handlers) -> None:
    await register(api)
    response = await api.request("GET", "/v1/catalog/nodes?filter=Nope==x")
    assert response.status == 500
    assert header(response, "X-Consul-Index") == "1"
    assert header(response, "X-Consul-KnownLeader") == "false"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/catalog/nodes?index=100000&wait=10m&filter=Nope==x",
        "/v1/catalog/node/unknown?filter=Nope==x",
        "/v1/catalog/node-services/unknown?filter=Nope==x",
        "/v1/internal/ui/services?index=100000&wait=10m&filter=Nope==x",
    ],
)
async def test_a_bad_filter_is_told_before_anything_is_read(api: Handlers, path: str) -> None:
    response = await asyncio.wait_for(api.request("GET", path), 5)
    assert response.status == 500
    assert b'Selector "Nope" is not valid' in response.body


async def test_mesh_settings_are_kept_and_shown_in_order(api: Handlers) -> None:
    proxy = {
        "destination_service_name": "web",
        "Upstreams": [{"destinationname": "db", "LocalBindPort": 1, "Config": {}}],
        "Expose": {"Paths": [{"listener_port": 2, "Path": "/", "ParsedFromCheck": False}]},
    }
    service = {"Service": "proxy", "Kind": "connect-proxy", "Port": 1, "Proxy": proxy}
    await register(api, Service=service)
    [found] = await api.json("GET", "/v1/catalog/connect/web")
    assert found["ServiceProxy"] == {
        "DestinationServiceName": "web",
        "Upstreams": [
            {
                "DestinationType": "",
                "DestinationName": "db",
                "Datacenter": "",
                "LocalBindPort": 1,
                "MeshGateway": {},
            }
        ],
        "MeshGateway": {},
        "Expose": {"Paths": [{"ListenerPort": 2, "Path": "/"}]},
    }
    [healthy] = await api.json("GET", "/v1/health/connect/web")
    assert healthy["Service"]["Kind"] == "connect-proxy"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/v1/catalog/service/", "Missing service name"),
        ("/v1/catalog/connect/", "Missing service name"),
        ("/v1/catalog/node/", "Missing node name"),
        ("/v1/catalog/node-services/", "Missing node name"),
        ("/v1/health/node/", "Missing node name"),
        ("/v1/health/checks/", "Missing service name"),
        ("/v1/health/state/", "Missing check state"),
        ("/v1/health/service/", "Missing service name"),
        ("/v1/health/service/x?passing=maybe", "Invalid value for ?passing"),
    ],
)
async def test_incomplete_requests(api: Handlers, path: str, text: str) -> None:
    response = await api.request("GET", path)
    assert (response.status, response.body.decode()) == (400, text)


async def test_an_unknown_datacenter_still_tells_an_index(api: Handlers) -> None:
    response = await api.request("GET", "/v1/health/service/x?dc=nowhere")
    assert (response.status, response.body) == (500, b"No path to datacenter")
    assert header(response, "X-Consul-Index") == "1"


async def test_datacenters(api: Handlers) -> None:
    response = await api.request("GET", "/v1/catalog/datacenters")
    assert msgspec.json.decode(response.body) == ["dc1"]
    assert header(response, "X-Consul-Index") is None
    for expected in ("MISS", "HIT"):
        response = await api.request("GET", "/v1/catalog/datacenters?cached")
        assert header(response, "X-Cache") == expected


# Coordinates.


async def test_coordinates(api: Handlers) -> None:
    await register(api)
    point = {"Vec": [0.5, 0, 0, 0, 0, 0, 0, 0], "Error": 1, "Adjustment": 0, "Height": 1e-05}
    response = await api.request(
        "PUT", "/v1/coordinate/update", json={"Node": "n1", "Coord": point}
    )
    assert (response.status, response.body) == (200, b"")
    shown = [{"Node": "n1", "Segment": "", "Coord": point}]
    assert await api.json("GET", "/v1/coordinate/nodes") == shown
    response = await api.request("GET", "/v1/coordinate/node/n1")
    assert b'"Vec":[0.5,0,0,0,0,0,0,0]' in response.body
    assert await api.json("GET", "/v1/coordinate/node/N1") == [{**shown[0], "Node": "N1"}]
    assert await api.json("GET", "/v1/coordinate/nodes?segment=x") == []
    assert (await api.request("GET", "/v1/coordinate/node/n1?segment=x")).status == 404
    [area] = await api.json("GET", "/v1/coordinate/datacenters")
    assert (area["Datacenter"], area["AreaID"]) == ("dc1", "wan")
    assert area["Coordinates"][0]["Node"] == "node1"


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        pytest.param({"Node": "n"}, 500, "incompatible coordinate", id="none"),
        pytest.param({"Coord": {"Vec": [0]}}, 500, "incompatible coordinate", id="too-short"),
        pytest.param(
            {"Odd": 1}, 400, 'Request decode failed: json: unknown field "Odd"', id="unknown"
        ),
    ],
)
async def test_bad_coordinates(api: Handlers, body: Any, status: int, text: str) -> None:
    response = await api.request("PUT", "/v1/coordinate/update", json=body)
    assert (response.status, response.body.decode()) == (status, text)


async def test_a_coordinate_beyond_all_bounds(api: Handlers) -> None:
    for number in (b"1e400", b"1" + b"0" * 400):
        body = b'{"Node":"n","Coord":{"Height":%b}}' % number
        response = await api.request("PUT", "/v1/coordinate/update", body)
        assert response.status == 400
        assert response.body.startswith(b"Request decode failed: json: cannot unmarshal number")


async def test_a_coordinate_is_set_where_its_body_or_the_query_says(api: Handlers) -> None:
    body = {"Node": "n", "Datacenter": "nowhere", "Coord": {"Vec": [0] * 8}}
    response = await api.request("PUT", "/v1/coordinate/update", json=body)
    assert (response.status, response.body) == (500, b"No path to datacenter")
    response = await api.request("PUT", "/v1/coordinate/update?dc=dc1", json=body)
    assert response.status == 200


# Mesh gateways.


async def test_services_behind_a_gateway(api: Handlers) -> None:
    entry = {"Kind": "terminating-gateway", "Name": "out", "Services": [{"Name": "web"}]}
    await api.json("PUT", "/v1/config", json=entry)
    [found] = await api.json("GET", "/v1/catalog/gateway-services/out")
    assert (found["Service"]["Name"], found["GatewayKind"]) == ("web", "terminating-gateway")
    await register(api, Service=WEB)
    [summary] = await api.json("GET", "/v1/internal/ui/gateway-services-nodes/out")
    assert (summary["Name"], summary["InstanceCount"]) == ("web", 1)


# What the web UI reads.


async def test_ui_listings(api: Handlers) -> None:
    await register(api, Service=WEB, Check={"Name": "node", "Status": "passing"})
    await register(api, Service={"ID": "s2", "Service": "web", "Meta": {"external-source": "k8s"}})
    await register(api, Check={"Name": "own", "Status": "warning", "ServiceID": "s2"})
    [node] = await api.json("GET", "/v1/internal/ui/nodes")
    assert [(each["ID"], each["Tags"]) for each in node["Services"]] == [
        ("s1", ["v1"]),
        ("s2", None),
    ]
    assert await api.json("GET", "/v1/internal/ui/node/n1") == node
    assert (await api.request("GET", "/v1/internal/ui/node/none")).status == 404
    assert await api.json("GET", "/v1/internal/ui/services") == [
        {
            "Name": "web",
            "Tags": ["v1"],
            "Nodes": ["n1"],
            "InstanceCount": 2,
            "ChecksPassing": 2,
            "ChecksWarning": 1,
            "ChecksCritical": 0,
            "ExternalSources": ["k8s"],
            "GatewayConfig": {},
        }
    ]
    assert await api.json("GET", "/v1/internal/ui/services?filter=Service.ID==none") == []
    [untagged] = await api.json("GET", "/v1/internal/ui/services?filter=Service.ID==s2")
    assert (untagged["Tags"], untagged["ChecksPassing"]) == (None, 1)
