"""The `dns` check: looks a name up and compares the addresses with those expected."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from registry.hooks import CheckResult

FAMILIES = {"": socket.AF_UNSPEC, "ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
KEYS = ("name", "expect", "family")

#: A name and an address family to the addresses; OSError when there are none.
Resolve = Callable[[str, int], Awaitable[set[str]]]


async def resolve(name: str, family: int) -> set[str]:
    """Ask the system's resolver, in a thread of the loop's own."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(name, None, family=family, type=socket.SOCK_STREAM)
    return {str(address[0]) for *_, address in found}


class DnsRunner:
    """Looks `name` up once per run.

    All of `expect` must be among the answers, or the check is critical; addresses beside them make
    it a warning. Without `expect` any answer is passing.
    """

    def __init__(
        self, name: str, expect: frozenset[str], family: int, resolve: Resolve = resolve
    ) -> None:
        self.name, self.expect, self.family = name, expect, family
        self._resolve = resolve

    async def run(self) -> CheckResult:
        try:
            found = await self._resolve(self.name, self.family)
        except OSError as error:
            reason = error.strerror or str(error)
            return CheckResult("critical", f"{self.name} does not resolve: {reason}")
        answer = f"{self.name} resolves to {', '.join(sorted(found))}"
        if not self.expect:
            return CheckResult("passing", answer)
        if missing := self.expect - found:
            return CheckResult("critical", f"{answer}; missing {', '.join(sorted(missing))}")
        if more := found - self.expect:
            return CheckResult("warning", f"{answer}; not expected {', '.join(sorted(more))}")
        return CheckResult("passing", answer)


def create(definition: Any) -> DnsRunner:
    """The runner for a check definition; ValueError says what is wrong with its settings."""
    settings: dict[str, Any] = dict(definition.plugin_settings)
    if isinstance(settings.get("dns"), str):  # the short form, "dns": "db.example.net"
        settings["name"] = settings.pop("dns")
    if unknown := [key for key in settings if key not in KEYS]:
        raise ValueError(f"dns: unknown key {unknown[0]!r}; known are {', '.join(KEYS)}")
    name, expect = settings.get("name", ""), settings.get("expect", [])
    family = settings.get("family", "")
    if not isinstance(name, str) or not name:
        raise ValueError("dns: a name is needed")
    if family not in FAMILIES:
        raise ValueError(f"dns: family must be ipv4 or ipv6, not {family!r}")
    if not isinstance(expect, list):
        raise ValueError("dns: expect must be a list of addresses")
    try:
        addresses = frozenset(str(ipaddress.ip_address(address)) for address in expect)
    except ValueError as error:
        raise ValueError(f"dns: expect: {error}") from error
    return DnsRunner(name, addresses, FAMILIES[family])
