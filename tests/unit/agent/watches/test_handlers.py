"""Watch handlers: real programs and a real endpoint."""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from registry.agent.definitions import WatchDefinition
from registry.agent.http_clients import HttpClients
from registry.agent.watches.handlers import (
    ExecHandler,
    HttpHandler,
    builtin_watch_handlers,
    handler_key,
)

LOGGER = "registry.agent"
KINDS = {kind.key: kind for kind in builtin_watch_handlers()}


def shell(text: str) -> WatchDefinition:
    return WatchDefinition(type="nodes", handler=text)


async def call(definition: WatchDefinition, index: int, data: bytes) -> None:
    await KINDS[handler_key(definition)].create(definition)(index, data)


async def test_a_program_reads_the_data_and_a_newline(tmp_path: Path) -> None:
    target = tmp_path / "got"
    script = tmp_path / "handler"
    script.write_text(
        f'#!/bin/sh\necho "$CONSUL_INDEX $REGISTRY_INDEX $1" > {target}\ncat >> {target}\n'
    )
    script.chmod(0o755)
    definition = WatchDefinition(type="nodes", args=(str(script), "$HOME"))
    await call(definition, 42, b'[{"Node":"n1"}]')
    assert target.read_bytes() == b'42 42 $HOME\n[{"Node":"n1"}]\n'


async def test_the_old_form_is_run_by_a_shell(tmp_path: Path) -> None:
    target = tmp_path / "got"
    await call(shell(f"cat | tr a-z A-Z > {shlex.quote(str(target))}"), 1, b"null")
    assert target.read_text() == "NULL\n"


async def test_output_is_logged_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, LOGGER):
        await call(shell("head -c 5000 /dev/zero | tr '\\0' x; echo last >&2"), 1, b"1")
    assert "Captured 4096 of 5005 bytes" in caplog.text
    assert "xlast\n" in caplog.text


@pytest.mark.parametrize(
    ("definition", "text"),
    [
        (WatchDefinition(type="nodes", args=("/no/such",)), "no such file or directory"),
        (shell("exit 3"), "status=3"),
    ],
)
async def test_a_program_that_fails_is_logged(
    caplog: pytest.LogCaptureFixture, definition: WatchDefinition, text: str
) -> None:
    await call(definition, 1, b"1")
    assert text in caplog.text


async def test_a_program_need_not_read_its_input() -> None:
    await ExecHandler(("true",))(1, b"x" * 1_000_000)


async def test_a_program_may_have_ended_before_its_input_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = asyncio.create_subprocess_exec

    async def start_and_see_it_end(*args: Any, **options: Any) -> asyncio.subprocess.Process:
        process = await start(*args, **options)
        assert process.stdin is not None
        async with asyncio.timeout(10):
            await process.wait()
            while not process.stdin.is_closing():  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.001)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_and_see_it_end)
    await ExecHandler(("true",))(1, b"x" * 1_000_000)


class Endpoint:
    """Answers every request with a status and keeps what it was sent."""

    def __init__(self) -> None:
        self.status = "200 OK"
        self.hang = False
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append((head[0], headers, body))
        if self.hang:
            await reader.read()
        writer.write(f"HTTP/1.1 {self.status}\r\nContent-Length: 5\r\n\r\nhello".encode())
        await writer.drain()
        writer.close()


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    made = Endpoint()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    yield made
    server.close()


@pytest.fixture
async def clients() -> AsyncIterator[HttpClients]:
    made = HttpClients()
    yield made
    await made.aclose()


def http_handler(clients: HttpClients, url: str, **fields: object) -> HttpHandler:
    definition = WatchDefinition(type="nodes", http_path=url, **fields)  # type: ignore[arg-type]
    assert handler_key(definition) == "http_handler_config"
    handler = KINDS["http_handler_config"].create(definition)
    assert isinstance(handler, HttpHandler)
    handler.use_clients(clients)
    return handler


async def test_an_endpoint_gets_the_data(
    endpoint: Endpoint, clients: HttpClients, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, LOGGER):
        await http_handler(clients, endpoint.url, http_header={"X-Who": ["me"]})(7, b'{"a":1}')
    line, headers, body = endpoint.requests[0]
    assert line == "POST /hook HTTP/1.1"
    assert (headers["x-consul-index"], headers["x-who"]) == ("7", "me")
    assert json.loads(body) == {"a": 1}
    assert "output=hello" in caplog.text


async def test_method_and_failures_of_an_endpoint(
    endpoint: Endpoint, clients: HttpClients, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.status = "500 Broken"
    await http_handler(clients, endpoint.url, http_method="PUT")(7, b"1")
    assert endpoint.requests[0][0].startswith("PUT ")
    assert "status=500" in caplog.text


async def test_an_endpoint_that_does_not_answer(
    endpoint: Endpoint, clients: HttpClients, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.hang = True
    await http_handler(clients, endpoint.url, http_timeout_ns=50_000_000)(7, b"1")
    assert "did not answer in time" in caplog.text
    assert "50ms" in caplog.text


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "nonsense", "http://"])
async def test_an_endpoint_that_is_not_there(
    clients: HttpClients, caplog: pytest.LogCaptureFixture, url: str
) -> None:
    await http_handler(clients, url)(7, b"1")
    assert "Failed to invoke watch HTTP handler" in caplog.text
