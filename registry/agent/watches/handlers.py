"""Whom a watch tells: a program that reads JSON from standard input, or an HTTP endpoint."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Protocol, runtime_checkable

from registry.agent.definitions import SECOND, WatchDefinition
from registry.agent.durations import format_duration
from registry.agent.http_clients import HttpClients, reason_of
from registry.agent.output import OutputTail
from registry.agent.processes import CannotStart, run_process
from registry.hooks import WatchHandler

logger = logging.getLogger("registry.agent")

OUTPUT_BYTES_MAX = 4096
SHELL = "/bin/sh"


@runtime_checkable
class UsesHttpClients(Protocol):
    """A handler that wants the agent's shared HTTP clients; asked before the first call."""

    def use_clients(self, clients: HttpClients) -> None: ...


class ExecHandler:
    """Runs a program with the data and a newline on its standard input."""

    def __init__(self, args: tuple[str, ...]) -> None:
        self._args = args

    async def __call__(self, index: int, data: bytes) -> None:
        output = OutputTail(OUTPUT_BYTES_MAX)
        number = str(index)
        environment = {**os.environ, "CONSUL_INDEX": number, "REGISTRY_INDEX": number}
        try:
            status = await run_process(
                self._args, output, stdin=data + b"\n", environment=environment
            )
        except CannotStart as problem:
            logger.error("Failed to run watch handler: handler=%s error=%s", self._args, problem)
            return
        if status != 0:
            logger.error("Failed to run watch handler: handler=%s status=%d", self._args, status)
        logger.debug("watch handler output: handler=%s output=%s", self._args, output.marked_text())


class HttpHandler:
    """Sends the data as the body of a request."""

    def __init__(self, definition: WatchDefinition) -> None:
        self._definition = definition
        self._clients = HttpClients()

    def use_clients(self, clients: HttpClients) -> None:
        self._clients = clients

    async def __call__(self, index: int, data: bytes) -> None:
        import httpx

        path, timeout_ns = self._definition.http_path, self._definition.http_timeout_ns
        try:
            async with asyncio.timeout(timeout_ns / SECOND):
                await self._send(index, data)
        except TimeoutError:
            logger.error(
                "watch handler did not answer in time: path=%s timeout=%s",
                path,
                format_duration(timeout_ns),
            )
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as problem:
            logger.error(
                "Failed to invoke watch HTTP handler: path=%s error=%s", path, reason_of(problem)
            )

    async def _send(self, index: int, data: bytes) -> None:
        import httpx

        definition = self._definition
        client = await self._clients.get(verify=not definition.http_tls_skip_verify)
        headers = [
            (name, value) for name, values in definition.http_header.items() for value in values
        ]
        if all(name.lower() != "content-type" for name, _ in headers):
            headers.append(("Content-Type", "application/json"))
        headers.append(("X-Consul-Index", str(index)))
        request = httpx.Request(
            definition.http_method, definition.http_path, headers=headers, content=data
        )
        response = await client.send(request, stream=True)
        output = OutputTail(OUTPUT_BYTES_MAX)
        try:
            async for chunk in response.aiter_bytes():
                output.write(chunk)
        finally:
            await response.aclose()
        path, status = definition.http_path, response.status_code
        if not response.is_success:
            logger.error("watch HTTP handler failed: path=%s status=%d", path, status)
        logger.debug("watch handler output: path=%s output=%s", path, output.marked_text())


def _create_exec(definition: WatchDefinition) -> ExecHandler:
    return ExecHandler(definition.args)


def _create_shell(definition: WatchDefinition) -> ExecHandler:
    return ExecHandler((SHELL, "-c", definition.handler))


def handler_key(definition: WatchDefinition) -> str:
    """Which handler the definition names (`hooks.WatchHandler.key`), "" for none."""
    for key, chosen in (
        (definition.plugin_handler, definition.plugin_handler),
        ("args", definition.args),
        ("handler", definition.handler),
        ("http_handler_config", definition.http_path),
    ):
        if chosen:
            return key
    return ""


def builtin_watch_handlers() -> list[WatchHandler]:
    """The handlers that are always there."""
    return [
        WatchHandler(key="args", create=_create_exec),
        WatchHandler(key="handler", create=_create_shell),
        WatchHandler(key="http_handler_config", create=HttpHandler),
    ]
