"""What mesh proxies and gateways must satisfy."""

from __future__ import annotations

from typing import Any

import pytest

from registry.state.mesh_rules import mesh_problem

PROXY: dict[str, Any] = {"DestinationServiceName": "web"}
DB: dict[str, Any] = {"DestinationName": "db", "LocalBindPort": 1}
PATH: dict[str, Any] = {"Path": "/a", "ListenerPort": 1}


def listed(*flaws: str) -> str:
    """As the API tells them."""
    count = f"{len(flaws)} error{'s' * (len(flaws) > 1)} occurred:\n"
    return count + "".join(f"\t* {flaw}\n" for flaw in flaws) + "\n"


@pytest.mark.parametrize(
    ("settings", "flaws"),
    [
        pytest.param({}, [], id="complete"),
        pytest.param(
            {"port": 0, "proxy": None},
            [
                "Proxy.DestinationServiceName must be non-empty for Connect proxy services",
                "Port must be set for a Connect proxy",
            ],
            id="nothing",
        ),
        pytest.param(
            {"proxy": {"DestinationServiceName": "*"}},
            ["Proxy.DestinationServiceName must not be a wildcard for Connect proxy services"],
            id="wildcard",
        ),
        pytest.param(
            {"connect": {"Native": True}},
            ["A Proxy cannot also be Connect Native, only typical services"],
            id="native",
        ),
        pytest.param({"kind": "", "port": 0, "proxy": {}}, [], id="ordinary service"),
        pytest.param({"kind": "odd", "port": 0}, [], id="unknown kind"),
        pytest.param(
            {"kind": "mesh-gateway", "port": 0, "proxy": {}},
            ["Port must be non-zero for a mesh-gateway"],
            id="gateway without a port",
        ),
        pytest.param(
            {"kind": "ingress-gateway", "port": 0, "proxy": {}}, [], id="ingress needs no port"
        ),
        pytest.param(
            {
                "kind": "terminating-gateway",
                "proxy": {**PROXY, "LocalServicePort": 1, "Upstreams": [DB]},
                "connect": {"SidecarService": {}},
            },
            [
                "A terminating-gateway cannot have a sidecar service defined",
                "The Proxy.DestinationServiceName configuration is invalid"
                " for a terminating-gateway",
                "The Proxy.LocalServicePort configuration is invalid for a terminating-gateway",
                "The Proxy.Upstreams configuration is invalid for a terminating-gateway",
            ],
            id="gateway with a proxy's settings",
        ),
    ],
)
def test_proxies_and_gateways(settings: dict[str, Any], flaws: list[str]) -> None:
    given: dict[str, Any] = {"kind": "connect-proxy", "port": 1, "proxy": PROXY, "connect": None}
    given |= settings
    assert mesh_problem(**given) == (listed(*flaws) if flaws else "")


@pytest.mark.parametrize(
    ("upstreams", "flaws"),
    [
        pytest.param([DB, {**DB, "Datacenter": "dc2", "LocalBindPort": 2}], [], id="good"),
        pytest.param(
            [{**DB, "DestinationType": "odd"}, {"LocalBindPort": 1}, {"DestinationName": "db"}],
            [
                'unknown upstream destination type: "odd"',
                "upstream destination name cannot be empty",
                "upstream local bind port cannot be zero",
            ],
            id="each on its own",
        ),
        pytest.param(
            [DB, {**DB, "LocalBindPort": 2}],
            [
                'upstreams cannot contain duplicates of [type="", name="db", namespace="", '
                'datacenter=""]'
            ],
            id="twice the same",
        ),
        pytest.param(
            [DB, {"DestinationName": "mq", "LocalBindPort": 1, "LocalBindAddress": "127.0.0.1"}],
            [
                "upstreams cannot contain duplicates by local bind address and port; "
                '"127.0.0.1:1" is specified twice'
            ],
            id="one address",
        ),
    ],
)
def test_upstreams(upstreams: list[dict[str, Any]], flaws: list[str]) -> None:
    proxy = {**PROXY, "Upstreams": upstreams}
    assert mesh_problem("connect-proxy", 1, proxy, None) == (listed(*flaws) if flaws else "")


@pytest.mark.parametrize(
    ("paths", "flaws"),
    [
        pytest.param([PATH, {"Path": "/b", "ListenerPort": 2, "Protocol": "HTTP2"}], [], id="good"),
        pytest.param(
            [PATH, PATH],
            [
                "expose.paths: duplicate paths exposed",
                "expose.paths: duplicate listener ports exposed",
            ],
            id="twice the same",
        ),
        pytest.param(
            [{"ListenerPort": 65536, "Protocol": "odd"}],
            [
                "expose.paths: empty path exposed",
                "expose.paths: invalid listener port: 65536",
                "protocol 'odd' not supported for path: , must be in: [http http2]",
            ],
            id="all wrong",
        ),
    ],
)
def test_exposed_paths(paths: list[dict[str, Any]], flaws: list[str]) -> None:
    proxy = {**PROXY, "Expose": {"Paths": paths}}
    assert mesh_problem("connect-proxy", 1, proxy, None) == (listed(*flaws) if flaws else "")
