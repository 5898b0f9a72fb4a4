"""`/v1/txn`: reading operations and showing their outcome."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from registry.agent.config import AgentConfig, Limits
from registry.http import kv, txn
from registry.testing.handlers import Handlers, header
from registry.testing.serving import make_facade

READ_FIELDS = {"Index": 0, "LastContact": 0, "KnownLeader": True, "ConsistencyLevel": ""}


@pytest.fixture
def api() -> Handlers:
    return Handlers(make_facade(), txn.routes, kv.routes)


def entry(key: str, value: str | None, index: int, **more: Any) -> dict[str, Any]:
    shown = {
        "LockIndex": 0,
        "Key": key,
        "Flags": 0,
        "Value": value,
        "CreateIndex": index,
        "ModifyIndex": index,
    }
    return {"KV": {**shown, **more}}


async def test_a_write_shows_no_values_and_a_read_does(api: Handlers) -> None:
    operations = [
        {"KV": {"Verb": "set", "Key": "a", "Value": "aGVsbG8=", "Flags": 77}},
        {"KV": {"Verb": "get", "Key": "a"}},
    ]
    response = await api.request("PUT", "/v1/txn", json=operations)
    assert response.status == 200
    assert msgspec.json.decode(response.body) == {
        "Results": [entry("a", None, 1, Flags=77), entry("a", "aGVsbG8=", 1, Flags=77)],
        "Errors": None,
    }
    assert header(response, "X-Consul-KnownLeader") is None


async def test_a_read_tells_how_it_was_read(api: Handlers) -> None:
    await api.json("PUT", "/v1/kv/a", b"v")
    for url in ("/v1/txn", "/v1/txn?stale", "/v1/txn?consistent"):
        response = await api.request("PUT", url, json=[{"KV": {"Verb": "get", "Key": "a"}}])
        assert msgspec.json.decode(response.body) == {
            "Results": [entry("a", "dg==", 1)],
            "Errors": None,
            **READ_FIELDS,
        }
        assert header(response, "X-Consul-KnownLeader") == "true"
        assert header(response, "X-Consul-LastContact") == "0"
        assert header(response, "X-Consul-Index") is None


async def test_a_failure_is_409_with_the_places(api: Handlers) -> None:
    operations = [{"KV": {"Verb": "set", "Key": "a"}}, {"KV": {"Verb": "get", "Key": "no"}}]
    errors = [{"OpIndex": 1, "What": 'key "no" doesn\'t exist'}]
    response = await api.request("PUT", "/v1/txn", json=operations)
    assert response.status == 409
    assert header(response, "Content-Type") == "application/json"
    assert msgspec.json.decode(response.body) == {"Results": None, "Errors": errors}
    assert await api.json("GET", "/v1/kv/?keys") == []


@pytest.mark.parametrize("operations", [[], [{}], [None], [{"KV": None}]])
async def test_nothing_to_do(api: Handlers, operations: list[Any]) -> None:
    answer = await api.json("PUT", "/v1/txn", json=operations)
    assert answer == {"Results": [], "Errors": None, **READ_FIELDS}


@pytest.mark.parametrize("value", [{}, {"Value": None}, {"Value": ""}])
async def test_values_of_nothing(api: Handlers, value: dict[str, Any]) -> None:
    await api.json("PUT", "/v1/txn", json=[{"KV": {"Verb": "set", "Key": "a", **value}}])
    (shown,) = await api.json("GET", "/v1/kv/a")
    assert shown["Value"] is None


async def test_names_of_fields_in_any_letter_case(api: Handlers) -> None:
    await api.json("PUT", "/v1/txn", json=[{"kv": {"verb": "set", "KEY": "a", "value": "dg=="}}])
    assert (await api.request("GET", "/v1/kv/a?raw")).body == b"v"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"{",
        b"hello",
        b'{"KV": {}}',
        b"5",
        b"[5]",
        b"[[]]",
        b'[""]',
        b'[{"KV": 5}]',
        b'[{"What": {}}]',
        b'[{"KV": {"Verb": "set", "Key": "a", "Extra": 1}}]',
        b'[{"KV": {"Verb": "set", "Key": "a", "Value": "***"}}]',
        b'[{"KV": {"Verb": "set", "Key": "a", "Value": 5}}]',
        b'[{"KV": {"Verb": "set", "Key": "a", "Flags": -1}}]',
        b'[{"KV": {"Verb": "set", "Key": 5}}]',
        b'[{"Node": {"Verb": "set", "Node": {"Nope": 1}}}]',
    ],
)
async def test_what_can_not_be_read(api: Handlers, body: bytes) -> None:
    response = await api.request("PUT", "/v1/txn", body)
    assert response.status == 400
    assert response.body.startswith(b"Failed to parse body: ")
    assert await api.json("GET", "/v1/kv/?keys") == []


async def test_64_operations_are_the_most(api: Handlers) -> None:
    operations = [{"KV": {"Verb": "set", "Key": f"n{number}"}} for number in range(65)]
    response = await api.request("PUT", "/v1/txn", json=operations)
    assert response.status == 413
    assert response.body == b"Transaction contains too many operations (65 > 64)"
    answer = await api.json("PUT", "/v1/txn", json=operations[:64])
    assert len(answer["Results"]) == 64


async def test_what_is_too_large(api: Handlers) -> None:
    response = await api.request("PUT", "/v1/txn", b"[" + b" " * 524_288)
    assert response.status == 413
    assert response.body.startswith(
        b"Request body(524289 bytes) too large, max size: 524288 bytes. See "
    )
    limits = Limits(kv_max_value_size=4, txn_max_req_len=1000)
    config = AgentConfig(node_name="node1", limits=limits)
    api = Handlers(make_facade(config=config), txn.routes)
    operations = [{"KV": {"Verb": "set", "Key": "a", "Value": "MTIzNDU="}}]
    response = await api.request("PUT", "/v1/txn", json=operations)
    assert response.status == 413
    assert response.body == b'Value for key "a" is too large (5 > 4 bytes)'


@pytest.mark.parametrize("verb", ["set", "get"])
async def test_an_unknown_datacenter(api: Handlers, verb: str) -> None:
    operations = [{"KV": {"Verb": verb, "Key": "a"}}]
    response = await api.request("PUT", "/v1/txn?dc=nowhere", json=operations)
    assert (response.status, response.body) == (500, b"No path to datacenter")


async def test_catalog_operations(api: Handlers) -> None:
    operations = [
        {"Node": {"Verb": "set", "Node": {"Node": "n", "Address": "1.2.3.4"}}},
        {
            "Service": {
                "Verb": "set",
                "Node": "n",
                "Service": {"ID": "s1", "Service": "s", "Port": 80, "Kind": "connect-proxy"},
            }
        },
        {
            "Check": {
                "Verb": "set",
                "Check": {"Node": "n", "CheckID": "c", "ServiceID": "s1", "Status": "warning"},
            }
        },
    ]
    answer = await api.json("PUT", "/v1/txn", json=operations)
    assert answer["Errors"] is None
    node, service, check = answer["Results"]
    indexes = {"CreateIndex": 1, "ModifyIndex": 1}
    assert node["Node"] == {
        "ID": "",
        "Node": "n",
        "Address": "1.2.3.4",
        "Datacenter": "dc1",
        "TaggedAddresses": None,
        "Meta": None,
        **indexes,
    }
    assert service["Service"] == {
        "ID": "s1",
        "Service": "s",
        "Tags": None,
        "Address": "",
        "Meta": None,
        "Port": 80,
        "Weights": {"Passing": 1, "Warning": 1},
        "EnableTagOverride": False,
        "Proxy": {"MeshGateway": {}, "Expose": {}},
        "Connect": {},
        **indexes,
    }
    assert check["Check"] == {
        "Node": "n",
        "CheckID": "c",
        "Name": "",
        "Status": "warning",
        "Notes": "",
        "Output": "",
        "ServiceID": "s1",
        "ServiceName": "s",
        "ServiceTags": None,
        "Type": "",
        "Definition": {},
        **indexes,
    }


async def test_an_unknown_verb_of_the_catalog_counts_as_a_write(api: Handlers) -> None:
    response = await api.request("PUT", "/v1/txn", json=[{"Node": {"Verb": "x", "Node": {}}}])
    assert response.status == 409
    assert msgspec.json.decode(response.body) == {
        "Results": None,
        "Errors": [{"OpIndex": 0, "What": "Must provide node"}],
    }


async def test_a_check_has_no_more_than_a_transaction_knows(api: Handlers) -> None:
    definition = {"HTTP": "http://x", "Interval": "10s", "Timeout": 1e9, "ScriptArgs": ["true"]}
    operations = [
        {"Node": {"Verb": "set", "Node": {"Node": "n", "Address": "1.2.3.4"}}},
        {
            "Check": {
                "Verb": "set",
                "Check": {"Node": "n", "Name": "c", "Type": "ttl", "Definition": definition},
            }
        },
    ]
    answer = await api.json("PUT", "/v1/txn", json=operations)
    check = answer["Results"][1]["Check"]
    assert (check["CheckID"], check["Type"]) == ("c", "")
    assert check["Definition"] == {"Interval": "10s", "Timeout": "1s", "HTTP": "http://x"}


async def test_namespaces_are_let_pass(api: Handlers) -> None:
    service = {"Service": "s", "Namespace": "x", "ContentHash": "h"}
    operations = [
        {"KV": {"Verb": "set", "Key": "a", "Namespace": "x"}},
        {"Node": {"Verb": "set", "Node": {"Node": "n", "Address": "1.2.3.4"}}},
        {"Service": {"Verb": "set", "Node": "n", "Service": service}},
        {"Check": {"Verb": "set", "Check": {"Node": "n", "CheckID": "c", "Namespace": "x"}}},
    ]
    answer = await api.json("PUT", "/v1/txn", json=operations)
    kinds = [kind for result in answer["Results"] for kind in result]
    assert kinds == ["KV", "Node", "Service", "Check"]
    assert "Namespace" not in answer["Results"][2]["Service"]
    refused = [{"Node": {"Verb": "set", "Node": {"Node": "n", "Namespace": "x"}}}]
    assert (await api.request("PUT", "/v1/txn", json=refused)).status == 400


async def test_a_node_is_read_by_its_id(api: Handlers) -> None:
    node_id = "aaaaaaaa-0000-4000-8000-000000000001"
    node = {"ID": node_id, "Node": "n", "Address": "1.2.3.4"}
    await api.json("PUT", "/v1/txn", json=[{"Node": {"Verb": "set", "Node": node}}])
    read = [{"Node": {"Verb": "get", "Node": {"ID": node_id.upper()}}}]
    answer = await api.json("PUT", "/v1/txn", json=read)
    assert answer["Results"][0]["Node"]["Node"] == "n"
    read = [{"Node": {"Verb": "get", "Node": {"ID": "abc", "Node": "n"}}}]
    response = await api.request("PUT", "/v1/txn", json=read)
    (error,) = msgspec.json.decode(response.body)["Errors"]
    assert error["What"] == (
        "node lookup by ID failed, wrong UUID: uuid string is wrong length for 'abc'"
    )
