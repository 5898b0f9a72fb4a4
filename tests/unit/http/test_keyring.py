"""`/v1/operator/keyring` over pools that a test lays out."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from registry.http.server import HttpServer
from registry.server.gossip_keys import KeyOperation, PoolKeys
from registry.testing.serving import OneMember

KEY = bytes(range(16))
TEXT = base64.b64encode(KEY).decode()


def pool(*, wan: bool = False, answers: int = 2, errors: int = 0, **messages: str) -> PoolKeys:
    return PoolKeys(
        wan=wan,
        nodes=2,
        answers=answers,
        errors=errors,
        messages=messages,
        keys={"b": 1, "a": 2},
        primary_keys={"a": 2},
    )


class Encrypted(OneMember):
    """Pools that answer as told, and remember what they were asked."""

    def __init__(self, *answers: PoolKeys) -> None:
        super().__init__()
        self.answers = list(answers)
        self.asked: list[tuple[KeyOperation, bytes, int]] = []

    async def keys(
        self, operation: KeyOperation, key: bytes = b"", *, relay_factor: int = 0
    ) -> list[PoolKeys]:
        self.asked.append((operation, key, relay_factor))
        return self.answers


Serve = Callable[..., Awaitable[HttpServer]]


async def ask(server: HttpServer, method: str, **request: Any) -> httpx.Response:
    url = f"http://127.0.0.1:{server.port}/v1/operator/keyring"
    async with httpx.AsyncClient() as session:
        return await session.request(method, url, **request)


async def test_keys_of_all_pools(serve: Serve) -> None:
    membership = Encrypted(pool(wan=True), pool(n2="slow"))
    answer = await ask(await serve(membership=membership), "GET", params={"relay-factor": 3})
    assert membership.asked == [(KeyOperation.LIST, b"", 3)]
    wan = {
        "WAN": True,
        "Datacenter": "dc1",
        "Segment": "",
        "Messages": {},
        "Keys": {"a": 2, "b": 1},
        "PrimaryKeys": {"a": 2},
        "NumNodes": 2,
    }
    assert answer.json() == [wan, {**wan, "WAN": False, "Messages": {"n2": "slow"}}]


@pytest.mark.parametrize(
    ("method", "operation"),
    [
        pytest.param("POST", KeyOperation.INSTALL, id="install"),
        pytest.param("PUT", KeyOperation.USE, id="use"),
        pytest.param("DELETE", KeyOperation.REMOVE, id="remove"),
    ],
)
async def test_changes(serve: Serve, method: str, operation: KeyOperation) -> None:
    membership = Encrypted(pool())
    answer = await ask(await serve(membership=membership), method, json={"Key": TEXT})
    assert (answer.status_code, answer.content) == (200, b"")
    assert membership.asked == [(operation, KEY, 0)]


@pytest.mark.parametrize(
    ("pools", "text"),
    [
        pytest.param(
            [pool(errors=2, n2="no such key", n1="none")],
            "3 errors occurred:\n"
            "\t* dc1 (LAN) error: 2/2 nodes reported failure\n"
            "\t* n1: none\n"
            "\t* n2: no such key\n\n",
            id="refused",
        ),
        pytest.param(
            [pool(wan=True, answers=1), pool(answers=0)],
            "2 errors occurred:\n"
            "\t* WAN error: 1/2 nodes reported success\n"
            "\t* dc1 (LAN) error: 0/2 nodes reported success\n\n",
            id="silent",
        ),
    ],
)
async def test_what_not_all_did(serve: Serve, pools: list[PoolKeys], text: str) -> None:
    server = await serve(membership=Encrypted(*pools))
    for answer in (await ask(server, "PUT", json={"Key": TEXT}), await ask(server, "GET")):
        assert (answer.status_code, answer.text) == (500, text)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param("", "EOF", id="empty"),
        pytest.param("[]", "json: cannot unmarshal array into Go value of type", id="list"),
        pytest.param('{"Key":1}', "json: cannot unmarshal number into Go struct field", id="type"),
        pytest.param('{"key":"x","x":1}', 'json: unknown field "x"', id="field"),
    ],
)
async def test_bodies_that_tell_no_key(serve: Serve, body: str, reason: str) -> None:
    membership = Encrypted(pool())
    answer = await ask(await serve(membership=membership), "POST", content=body)
    assert answer.status_code == 400
    assert answer.text.startswith(f"Bad request: Request decode failed: {reason}")
    assert not membership.asked


@pytest.mark.parametrize("body", [{"Key": "?"}, {"Key": ""}, {}], ids=str)
async def test_what_is_no_key_is_left_to_the_pools(serve: Serve, body: dict[str, str]) -> None:
    membership = Encrypted(pool())
    await ask(await serve(membership=membership), "POST", json=body)
    assert membership.asked == [(KeyOperation.INSTALL, b"", 0)]
