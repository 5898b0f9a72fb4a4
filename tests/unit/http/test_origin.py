"""Who asked for a write, and why, goes along with the command."""

from __future__ import annotations

import httpx
import pytest

from registry.state.base import Command, Origin
from registry.testing.consensus import InstantBackend
from registry.testing.serving import make_facade, serving


class Noting(InstantBackend):
    def __init__(self) -> None:
        super().__init__()
        self.origins: list[Origin | None] = []

    async def write(self, command: Command) -> object:
        self.origins.append(command.origin)
        return await super().write(command)


TXN = [{"KV": {"Verb": "set", "Key": "a", "Value": "MQ=="}}]


async def writes(wants_origin: bool, query: str) -> list[Origin | None]:
    backend = Noting()
    facade = make_facade(backend=backend, wants_origin=wants_origin)
    async with (
        serving(facade) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        answers = [
            await client.put(f"/v1/kv/a{query}", content=b"1"),
            await client.put(f"/v1/txn{query}", json=TXN),
            await client.delete(f"/v1/kv/a{query}"),
        ]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    return backend.origins


@pytest.mark.parametrize(
    ("wants_origin", "query", "expected"),
    [
        (False, "", None),
        (False, "?reason=", None),
        (False, "?reason=new%20port", Origin("127.0.0.1", "new port")),
        (True, "", Origin("127.0.0.1", "")),
    ],
    ids=["nobody asks", "empty", "reason", "a plugin asks"],
)
async def test_origin(wants_origin: bool, query: str, expected: Origin | None) -> None:
    assert await writes(wants_origin, query) == [expected] * 3


async def test_a_reason_has_a_bound() -> None:
    async with (
        serving(make_facade()) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        answer = await client.put("/v1/kv/a?reason=" + "x" * 1025, content=b"1")
        assert (answer.status_code, answer.text) == (400, "reason is longer than 1024 characters")
