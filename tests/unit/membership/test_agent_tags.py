"""What agents tell of themselves in tags, and what is read back from them."""

from __future__ import annotations

import msgspec
import pytest

from registry.membership.agent_tags import AgentTags, ServerTags, is_client, read_server

CLIENT = AgentTags(node_id="id-1", datacenter="dc1", build="1.8.4")
SERVER = msgspec.structs.replace(
    CLIENT, node_id="id-2", is_server=True, rpc_port=8300, wan_join_port=8302
)


def test_a_server_is_read_back_from_its_tags() -> None:
    told = msgspec.structs.replace(SERVER, expect=3, use_tls=True, non_voter=True).to_tags()
    assert read_server(told | {"sl_alpha": "10.0.0.1:8310"}) == ServerTags(
        id="id-2",
        port=8300,
        datacenter="dc1",
        segment="",
        build="1.8.4",
        expect=3,
        bootstrap=False,
        raft_version=3,
        wan_join_port=8302,
        non_voter=True,
    )


def test_bootstrap_is_told_by_the_tag_alone() -> None:
    found = read_server(msgspec.structs.replace(SERVER, expect=1).to_tags())
    assert found is not None
    assert (found.bootstrap, found.expect) == (True, 0)


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
        pytest.param({"build": "1.\u0668.0"}, id="build-in-other-digits"),
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
    assert read_server(SERVER.to_tags() | tags) is None


def test_clients_are_told_by_their_role() -> None:
    assert is_client(CLIENT.to_tags())
    assert not is_client(SERVER.to_tags())
    assert not is_client({})
