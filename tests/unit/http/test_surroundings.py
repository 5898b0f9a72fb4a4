"""Plugins around the API: who a client is, and what is done before and after a handler."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest

from registry.hooks import (
    AccessDenied,
    AuthMethod,
    HttpAnswer,
    HttpCall,
    HttpMiddleware,
    Identity,
    hookimpl,
)
from registry.plugins import Plugins
from registry.testing.serving import make_facade, serving

Client = httpx.AsyncClient


class Around:
    """A plugin with middleware and auth methods made of functions."""

    def __init__(
        self,
        *,
        before: Callable[..., Any] | None = None,
        after: Callable[..., Any] | None = None,
        authenticate: Callable[..., Any] | None = None,
        required: bool = False,
        prefix: str = "/v1/",
        name: str = "mine",
    ) -> None:
        self.middleware = HttpMiddleware(name=name, prefix=prefix, before=before, after=after)
        self.methods = (
            [AuthMethod(name=name, authenticate=authenticate, required=required)]
            if authenticate
            else []
        )

    @hookimpl
    def registry_http_middleware(self) -> list[HttpMiddleware]:
        return [self.middleware]

    @hookimpl
    def registry_auth_methods(self) -> list[AuthMethod]:
        return self.methods


@asynccontextmanager
async def agent(*around: Around) -> AsyncIterator[tuple[Client, Plugins]]:
    plugins = Plugins()
    for number, plugin in enumerate(around):
        plugins.add(f"plugin{number}", plugin)
    async with (
        serving(make_facade(plugins=plugins)) as server,
        Client(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        yield client, plugins
    plugins.close()


def errors(plugins: Plugins) -> list[str]:
    return [error for entry in plugins.report() for error in entry["Errors"]]


async def test_registry_http_middleware() -> None:
    seen: list[HttpCall] = []

    def before(call: HttpCall) -> None:
        seen.append(call)

    async def after(call: HttpCall, answer: HttpAnswer) -> HttpAnswer:
        return msgspec.structs.replace(answer, headers=(*answer.headers, ("X-Seen", call.method)))

    async with agent(Around(before=before, after=after)) as (client, _):
        answer = await client.put("/v1/kv/a%20b?flags=3", content=b"1", headers={"X-Mine": "yes"})
        assert (answer.text.strip(), answer.headers["X-Seen"]) == ("true", "PUT")
    (call,) = seen
    assert (call.method, call.path, call.query) == ("PUT", "/v1/kv/a b", "flags=3")
    assert (call.headers["x-mine"], call.client, call.identity) == ("yes", "127.0.0.1", None)


async def test_an_answer_in_place_of_the_apis() -> None:
    def before(call: HttpCall) -> HttpAnswer | None:
        return HttpAnswer(status=418, body=b"no coffee") if call.path.endswith("coffee") else None

    async with agent(Around(before=before)) as (client, _):
        answer = await client.get("/v1/kv/coffee")
        assert (answer.status_code, answer.text) == (418, "no coffee")
        assert (await client.get("/v1/kv/tea")).status_code == 404


async def test_errors_are_shown_too_and_streams_are_not() -> None:
    shown: list[tuple[str, int, bytes]] = []

    def after(call: HttpCall, answer: HttpAnswer) -> None:
        shown.append((call.path, answer.status, answer.body))

    async with agent(Around(after=after)) as (client, _):
        assert (await client.get("/v1/kv/")).status_code == 400
        assert (await client.get("/v1/kv/none?index=x")).status_code == 400
        async with client.stream("GET", "/v1/agent/monitor"):
            pass
    assert shown == [
        ("/v1/kv/", 400, b"Missing key name"),
        ("/v1/kv/none", 400, b"Invalid index"),
    ]


async def test_the_first_plugin_is_outermost_and_prefixes_count() -> None:
    notes: list[str] = []

    def note(name: str) -> dict[str, Any]:
        return {
            "name": name,
            "before": lambda call: notes.append(f"{name} before"),
            "after": lambda call, answer: notes.append(f"{name} after"),
        }

    first, second = Around(**note("first")), Around(**note("second"))
    elsewhere = Around(**note("elsewhere"), prefix="/v1/catalog/")
    async with agent(first, second, elsewhere) as (client, _):
        await client.get("/v1/kv/a")
    assert notes == ["first before", "second before", "second after", "first after"]


def by_token(call: HttpCall) -> Identity | None:
    token = call.headers.get("x-consul-token")
    if token is None:
        return None
    if token != "secret":
        raise AccessDenied("unknown token", 401)
    return Identity("alice", ("admin",))


async def test_registry_auth_methods() -> None:
    def after(call: HttpCall, answer: HttpAnswer) -> HttpAnswer:
        who = call.identity.name if call.identity else "nobody"
        return msgspec.structs.replace(answer, headers=(("X-Who", who),))

    async with agent(Around(authenticate=by_token, after=after)) as (client, _):
        anonymous = await client.get("/v1/kv/a")
        known = await client.get("/v1/kv/a", headers={"X-Consul-Token": "secret"})
        wrong = await client.get("/v1/kv/a", headers={"X-Consul-Token": "guess"})
    assert (anonymous.headers["X-Who"], known.headers["X-Who"]) == ("nobody", "alice")
    assert (wrong.status_code, wrong.text) == (401, "unknown token")


async def test_a_middleware_denies_by_identity() -> None:
    def before(call: HttpCall) -> None:
        if call.method != "GET" and call.identity is None:
            raise AccessDenied("say who you are", 403)

    async with agent(Around(authenticate=by_token, before=before)) as (client, _):
        assert (await client.put("/v1/kv/a", content=b"1")).text == "say who you are"
        answer = await client.put("/v1/kv/a", content=b"1", headers={"X-Consul-Token": "secret"})
        assert json.loads(answer.text) is True


async def test_what_fails_is_left_out() -> None:
    def fail(*arguments: Any) -> None:
        raise LookupError("nobody")

    def nonsense(*arguments: Any) -> str:
        return "text"

    around = [
        Around(before=fail, after=fail, authenticate=fail, name="fails"),
        Around(before=nonsense, after=nonsense, authenticate=nonsense, name="nonsense"),
    ]
    async with agent(*around) as (client, plugins):
        for _ in range(10):
            assert (await client.put("/v1/kv/a", content=b"1")).status_code == 200
        found = set(errors(plugins))
        left_alone = [entry["LeftAlone"].keys() for entry in plugins.report()]
    assert found == {
        "registry_http_middleware: LookupError: nobody",
        "registry_http_middleware: gave str, expected HttpAnswer",
        "registry_auth_methods: LookupError: nobody",
        "registry_auth_methods: gave str, expected Identity",
    }
    assert left_alone[0] == {"registry_http_middleware", "registry_auth_methods"}


@pytest.mark.parametrize("required", [False, True])
async def test_a_method_that_is_required_refuses_while_it_fails(required: bool) -> None:
    def fail(call: HttpCall) -> None:
        raise LookupError("no database")

    async with agent(Around(authenticate=fail, required=required)) as (client, _):
        answer = await client.put("/v1/kv/a", content=b"1")
    if required:
        assert answer.status_code == 403
        assert answer.text.startswith("nobody can be authenticated now: plugin plugin0 failed")
    else:
        assert answer.status_code == 200
