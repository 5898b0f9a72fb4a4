"""Who may join: the rules of the LAN and of the WAN pool, and the tags they go by."""

from __future__ import annotations

import msgspec
import pytest

from registry.membership.agent_tags import AgentTags
from registry.membership.merge_rules import LanRules, OpenRules, WanRules
from registry.membership.serf_values import Member, MemberStatus

CLIENT = AgentTags(node_id="id-1", datacenter="dc1", build="1.8.4")
SERVER = AgentTags(
    node_id="id-2",
    datacenter="dc1",
    build="1.8.4",
    is_server=True,
    rpc_port=8300,
    wan_join_port=8302,
)
RULES = LanRules(name="alpha", node_id="id-0", datacenter="dc1")


def member(
    name: str, tags: dict[str, str], status: MemberStatus = MemberStatus.ALIVE, **more: str
) -> Member:
    return Member(name, "10.0.0.1", 8301, tags | more, status)


def test_client_tags_are_those_recorded() -> None:
    assert CLIENT.to_tags() == {
        "acls": "0",
        "build": "1.8.4:",
        "dc": "dc1",
        "id": "id-1",
        "role": "node",
        "segment": "",
        "vsn": "2",
        "vsn_max": "3",
        "vsn_min": "2",
    }


@pytest.mark.parametrize(
    ("changes", "wan", "expected"),
    [
        pytest.param({}, False, {"wan_join_port": "8302"}, id="LAN"),
        pytest.param({}, True, {}, id="WAN: no WAN port"),
        pytest.param(
            {"expect": 1}, False, {"bootstrap": "1", "wan_join_port": "8302"}, id="expects itself"
        ),
        pytest.param({"expect": 3}, True, {"expect": "3"}, id="expects three"),
        pytest.param({"bootstrap": True}, True, {"bootstrap": "1"}, id="bootstrap"),
        pytest.param({"use_tls": True}, True, {"use_tls": "1"}, id="TLS"),
        pytest.param({"non_voter": True}, True, {"nonvoter": "1"}, id="non-voter"),
        pytest.param({"acls": 1}, True, {"acls": "1"}, id="ACLs"),
    ],
)
def test_server_tags(changes: dict[str, int], wan: bool, expected: dict[str, str]) -> None:
    tags = msgspec.structs.replace(SERVER, **changes).to_tags(wan=wan)
    always = {"role": "consul", "port": "8300", "raft_vsn": "3", "ft_fs": "1"}
    assert tags == CLIENT.to_tags() | {"id": "id-2"} | always | expected
    assert list(tags) == sorted(tags)


@pytest.mark.parametrize(
    ("members", "objection"),
    [
        pytest.param(
            [member("c", CLIENT.to_tags()), member("s", SERVER.to_tags())], None, id="fitting"
        ),
        pytest.param([member("alpha", CLIENT.to_tags(), id="id-0")], None, id="ourselves"),
        pytest.param(
            [member("other", CLIENT.to_tags(), id="id-0")],
            "Member 'other' has conflicting node ID 'id-0' with this agent's ID",
            id="our id",
        ),
        pytest.param(
            [member("other", CLIENT.to_tags(), MemberStatus.LEFT, id="id-0")],
            None,
            id="our id, of one who left",
        ),
        pytest.param(
            [member("c", CLIENT.to_tags()), member("d", CLIENT.to_tags())],
            "Member 'd' has conflicting node ID 'id-1' with member 'c'",
            id="two with one id",
        ),
        pytest.param(
            [member("c", CLIENT.to_tags()), member("d", CLIENT.to_tags(), build="0.8.4:")],
            None,
            id="two with one id, of old",
        ),
        pytest.param(
            [member("c", CLIENT.to_tags()), member("d", {"id": "id-1", "segment": ""})],
            None,
            id="two with one id, one of no build",
        ),
        pytest.param(
            [member("c", CLIENT.to_tags(), dc="dc2")],
            "Member 'c' part of wrong datacenter 'dc2'",
            id="client elsewhere",
        ),
        pytest.param(
            [member("s", SERVER.to_tags(), dc="dc2")],
            "Member 's' part of wrong datacenter 'dc2'",
            id="server elsewhere",
        ),
        pytest.param([member("x", {"dc": "dc2"})], None, id="neither, elsewhere"),
        pytest.param(
            [member("c", CLIENT.to_tags(), segment="edge")],
            "Member 'c' part of wrong segment 'edge' (expected '')",
            id="other segment",
        ),
    ],
)
def test_lan_rules(members: list[Member], objection: str | None) -> None:
    assert RULES.objection(members) == objection


def test_wan_rules() -> None:
    server = member("s1.dc2", SERVER.to_tags(wan=True), dc="dc2")
    assert WanRules().objection([server]) is None
    client = member("c", CLIENT.to_tags())
    assert WanRules().objection([server, client]) == "Member 'c' is not a server"


def test_open_rules() -> None:
    assert OpenRules().objection([member("x", {})]) is None
