"""TCP checks: passing when a connection can be opened."""

from __future__ import annotations

import asyncio
import socket

from registry.agent.checks.base import CRITICAL, PASSING
from registry.agent.definitions import CheckDefinition
from registry.agent.http_clients import os_error_text
from registry.hooks import CheckResult, CheckType


class TcpRunner:
    """Connects and hangs up."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def run(self) -> CheckResult:
        try:
            host, port = split_address(self._address)
            _, writer = await asyncio.open_connection(host, port)
        except (OSError, ValueError) as problem:
            return CheckResult(CRITICAL, dial_text(self._address, problem))
        writer.close()
        return CheckResult(PASSING, f"TCP connect {self._address}: Success")

    def timed_out(self, timeout_ns: int) -> CheckResult:
        return CheckResult(CRITICAL, f"dial tcp {self._address}: i/o timeout")


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`; ValueError says what is missing."""
    host, colon, port = address.rpartition(":")
    if not colon or (":" in host and not (host.startswith("[") and host.endswith("]"))):
        raise ValueError(f"address {address}: missing port in address")
    try:
        number = int(port)
    except ValueError:
        number = -1
    if not 0 <= number <= 65535:
        raise ValueError(f"address {port}: invalid port")
    return host.removeprefix("[").removesuffix("]"), number


def dial_text(address: str, problem: Exception) -> str:
    """What kept a connection from being opened, in the words that operators search for."""
    if isinstance(problem, socket.gaierror):
        return f"dial tcp: lookup {address.rpartition(':')[0]}: no such host"
    if isinstance(problem, OSError):
        return f"dial tcp {address}: connect: {os_error_text(problem)}"
    return f"dial tcp: {problem}"


def create(definition: CheckDefinition) -> TcpRunner:
    return TcpRunner(definition.tcp)


CHECK_TYPE = CheckType(key="tcp", type_name="tcp", create=create)
