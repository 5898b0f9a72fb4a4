"""What the operator endpoints make of parameters and bodies that are odd."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from registry.http import operator
from registry.testing.consensus import InstantBackend
from registry.testing.handlers import Handlers
from registry.testing.serving import make_facade

AUTOPILOT = "/v1/operator/autopilot/configuration"


class OneServer(InstantBackend):
    """Raft as a single server shows it."""

    async def raft_configuration(self) -> tuple[int, list[dict[str, Any]]]:
        return 3, [{"ID": "id1", "Node": "node1", "Address": "127.0.0.1:8300", "Leader": True}]


@pytest.fixture
def api() -> Handlers:
    return Handlers(make_facade(backend=OneServer()), operator.routes)


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("index=x", 400, "Invalid index"),
        ("wait=x", 400, "Invalid wait time"),
        (
            "stale&consistent",
            400,
            "Cannot specify ?stale with ?consistent, conflicting semantics.",
        ),
        ("dc=nowhere", 500, "No path to datacenter"),
    ],
)
@pytest.mark.parametrize(
    "path", ["raft/configuration", "autopilot/configuration", "autopilot/health"]
)
async def test_parameters_are_those_of_all_reads(
    api: Handlers, path: str, query: str, status: int, text: str
) -> None:
    response = await api.request("GET", f"/v1/operator/{path}?{query}")
    assert (response.status, response.body.decode()) == (status, text)


async def test_nobody_waits_for_autopilot_to_be_set(api: Handlers) -> None:
    await asyncio.wait_for(api.json("GET", f"{AUTOPILOT}?index=1000&wait=10m"), 5)


@pytest.mark.parametrize(
    ("given", "shown"), [("1.5e9", "1.5s"), ("1500.9", "1.5µs"), ('"1.5s"', "1.5s")]
)
async def test_durations_are_texts_or_numbers(api: Handlers, given: str, shown: str) -> None:
    body = b'{"LastContactThreshold": %b}' % given.encode()
    assert await api.json("PUT", AUTOPILOT, body) is True
    assert (await api.json("GET", AUTOPILOT))["LastContactThreshold"] == shown


@pytest.mark.parametrize(
    ("query", "body", "status", "text"),
    [
        ("dc=nowhere", b"{", 400, "Bad request: Error parsing autopilot config: "),
        ("dc=nowhere&cas=x", b"{}", 400, "Bad request: Error parsing cas value: "),
        ("dc=nowhere", b"{}", 500, "No path to datacenter"),
        ("", b'{"LastContactThreshold": 1e300}', 400, "Bad request: Error parsing autopilot"),
    ],
)
async def test_what_is_wrong_here_is_told_before_the_datacenter_is_looked_for(
    api: Handlers, query: str, body: bytes, status: int, text: str
) -> None:
    response = await api.request("PUT", f"{AUTOPILOT}?{query}", body)
    assert response.status == status
    assert response.body.decode().startswith(text)


async def test_what_is_no_peer_is_quoted(api: Handlers) -> None:
    response = await api.request("DELETE", "/v1/operator/raft/peer?address=%22%0a")
    assert response.body == rb'address "\"\n" was not found in the Raft configuration'
