"""The dns check by itself: settings, and answers from a resolver of our own."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

# The package stands beside its tests and need not be installed to be tested.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from registry_dns_check import registry_check_types
from registry_dns_check.check import DnsRunner, create


def definition(settings: dict[str, Any]) -> Any:
    return SimpleNamespace(plugin_settings=settings)


def runner(answer: set[str] | OSError, *expect: str) -> DnsRunner:
    async def resolve(name: str, family: int) -> set[str]:
        if isinstance(answer, OSError):
            raise answer
        return answer

    return DnsRunner("db.test", frozenset(expect), socket.AF_UNSPEC, resolve)


@pytest.mark.parametrize(
    ("answer", "expect", "status", "output"),
    [
        ({"10.0.0.1"}, (), "passing", "db.test resolves to 10.0.0.1"),
        ({"10.0.0.2", "10.0.0.1"}, (), "passing", "db.test resolves to 10.0.0.1, 10.0.0.2"),
        ({"10.0.0.1"}, ("10.0.0.1",), "passing", "db.test resolves to 10.0.0.1"),
        (
            {"10.0.0.1"},
            ("10.0.0.1", "10.0.0.9"),
            "critical",
            "db.test resolves to 10.0.0.1; missing 10.0.0.9",
        ),
        (
            {"10.0.0.1", "10.0.0.7"},
            ("10.0.0.1",),
            "warning",
            "db.test resolves to 10.0.0.1, 10.0.0.7; not expected 10.0.0.7",
        ),
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            (),
            "critical",
            "db.test does not resolve: Name or service not known",
        ),
    ],
)
async def test_answers(
    answer: set[str] | OSError, expect: tuple[str, ...], status: str, output: str
) -> None:
    result = await runner(answer, *expect).run()
    assert (result.status, result.output) == (status, output)


async def test_the_systems_resolver() -> None:
    (kind,) = registry_check_types()
    found = kind.create(definition({"name": "localhost", "family": "ipv4"}))
    result = await found.run()
    assert (result.status, result.output) == ("passing", "localhost resolves to 127.0.0.1")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "dns: a name is needed"),
        ({"name": 5}, "dns: a name is needed"),
        ({"name": "a", "server": "b"}, "dns: unknown key 'server'; known are name, expect, family"),
        ({"name": "a", "family": "ipx"}, "dns: family must be ipv4 or ipv6, not 'ipx'"),
        ({"name": "a", "expect": "10.0.0.1"}, "dns: expect must be a list of addresses"),
        ({"name": "a", "expect": ["10.0.0"]}, "dns: expect: '10.0.0' does not appear to be"),
    ],
)
def test_refused_settings(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}"):
        create(definition(settings))


def test_short_form() -> None:
    assert create(definition({"dns": "db.test"})).name == "db.test"


def test_addresses_are_compared_and_not_their_spelling() -> None:
    found = create(definition({"name": "a", "expect": ["2001:DB8:0::1"]}))
    assert found.expect == {"2001:db8::1"}
