"""Tags of members: who counts as a server, and what is read from them."""

from __future__ import annotations

import pytest

from registry.server.members import MemberStatus, is_client, server_of, servers_of
from registry.testing.pool import client_member, server_id, server_member


def test_a_server_is_read_from_its_tags() -> None:
    member = server_member(
        "a", address="::1", port=22200, expect="3", wan_join_port="8302", nonvoter="1", ft_fs="1"
    )
    server = server_of(member)
    assert server is not None
    assert (server.id, server.name, server.datacenter) == (server_id("a"), "a", "dc1")
    assert server.rpc_address == "[::1]:22200"
    assert (server.build, server.raft_version) == ("1.8.4", 3)
    assert (server.expect, server.bootstrap, server.non_voter) == (3, False, True)
    assert server.wan_join_port == 8302


@pytest.mark.parametrize(
    "tags",
    [
        pytest.param({"role": "node"}, id="client"),
        pytest.param({"role": "proxy"}, id="unknown-role"),
        pytest.param({"port": ""}, id="no-port"),
        pytest.param({"port": "http"}, id="port-no-number"),
        pytest.param({"port": "0"}, id="port-zero"),
        pytest.param({"port": "65536"}, id="port-too-large"),
        pytest.param({"port": "8_300"}, id="port-with-underscore"),
        pytest.param({"port": "+8300"}, id="port-with-sign"),
        pytest.param({"port": "\u0668\u0663"}, id="port-in-other-digits"),
        pytest.param({"vsn": "two"}, id="protocol"),
        pytest.param({"build": "head"}, id="build"),
        pytest.param({"expect": "three"}, id="expect"),
        pytest.param({"expect": "-3"}, id="expect-negative"),
        pytest.param({"raft_vsn": "x"}, id="raft"),
        pytest.param({"wan_join_port": "x"}, id="wan-port"),
        pytest.param({"ft_fs": "yes"}, id="feature"),
        pytest.param({"sl_alpha": "10.0.0.1"}, id="segment-without-port"),
        pytest.param({"sl_alpha": "10.0.0.1:x"}, id="segment-port"),
    ],
)
def test_what_cannot_be_read_is_no_server(tags: dict[str, str]) -> None:
    assert server_of(server_member("a", tags=tags)) is None


def test_bootstrap_is_told_by_the_tag_alone() -> None:
    server = server_of(server_member("a", bootstrap="1"))
    assert server is not None
    assert server.bootstrap


def test_servers_of_a_datacenter() -> None:
    members = [
        server_member("a"),
        server_member("b", MemberStatus.FAILED),
        server_member("c", dc="dc2"),
        server_member("d", segment="alpha"),
        client_member("e"),
    ]
    assert [server.name for server in servers_of(members, "dc1")] == ["a", "b"]


def test_clients_are_told_by_their_role() -> None:
    assert is_client(client_member("c"))
    assert not is_client(server_member("s"))
    assert not is_client(client_member("x", role="other"))
