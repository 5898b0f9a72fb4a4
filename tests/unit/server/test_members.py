"""Tags of members: who counts as a server, and what is read from them."""

from __future__ import annotations

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


def test_what_cannot_be_read_is_no_server() -> None:
    assert server_of(server_member("a", port=0)) is None
    assert server_of(client_member("c")) is None


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
