"""Addresses found by templates, on a made-up machine."""

import pytest

from registry.agent.address_templates import (
    Interface,
    expand,
    host_interfaces,
    private_ipv4,
    public_ipv6,
)

MACHINE = [
    Interface(name="lo", address="127.0.0.1", prefix_length=8),
    Interface(name="lo", address="::1", prefix_length=128),
    Interface(name="eth0", address="10.0.0.5", prefix_length=24, is_default=True),
    Interface(name="eth0", address="fe80::5", prefix_length=64, is_default=True),
    Interface(name="eth1", address="192.168.7.9", prefix_length=16),
    Interface(name="eth1", address="2001:4860::9", prefix_length=64),
    Interface(name="eth2", address="8.8.4.4", prefix_length=32),
    Interface(name="eth3", address="172.16.0.3", prefix_length=12, is_up=False),
]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        pytest.param("10.1.2.3", "10.1.2.3", id="no template"),
        pytest.param("{{ GetPrivateIP }}", "10.0.0.5", id="private"),
        pytest.param("{{GetPrivateIPs}}", "10.0.0.5 192.168.7.9", id="all private"),
        pytest.param("{{ GetPublicIP }}", "8.8.4.4", id="public"),
        pytest.param('{{ GetInterfaceIP "eth1" }}', "192.168.7.9", id="of an interface"),
        pytest.param('{{ GetInterfaceIP "lo" }}', "127.0.0.1", id="of the loopback"),
        pytest.param('{{ GetInterfaceIP "eth9" }}', "", id="of no interface"),
        pytest.param("{{ GetDefaultInterfaces }}", "10.0.0.5", id="of the default route"),
        pytest.param(
            '{{ GetAllInterfaces | include "network" "192.168.0.0/16" | attr "address" }}',
            "192.168.7.9",
            id="in a network",
        ),
        pytest.param(
            '{{ GetAllInterfaces | exclude "name" "^(lo|eth1)$" | include "type" "ipv4" }}',
            "10.0.0.5 8.8.4.4 172.16.0.3",
            id="by name and type",
        ),
        pytest.param(
            '{{ GetAllInterfaces | include "rfc" "1918|4291" | include "flags" "up" }}',
            "10.0.0.5 fe80::5 192.168.7.9",
            id="by rfc and flags",
        ),
        pytest.param(
            '{{ GetAllInterfaces | include "type" "ipv4" | sort "-address" | limit 2 }}',
            "192.168.7.9 172.16.0.3",
            id="sorted and cut",
        ),
        pytest.param(
            '{{ GetAllInterfaces | unique "name" | offset 1 | join "name" "," }}',
            "eth0,eth1,eth2,eth3",
            id="joined",
        ),
        pytest.param(
            '{{ GetInterfaceIP "lo" }} {{ GetPrivateIP }}', "127.0.0.1 10.0.0.5", id="two templates"
        ),
    ],
)
def test_expand(template: str, expected: str) -> None:
    assert expand(template, MACHINE) == expected


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        pytest.param("{{ GetIP }}", 'no function "GetIP"', id="unknown source"),
        pytest.param("{{ }}", "a step is empty", id="empty"),
        pytest.param("{{ GetPrivateIP | }}", "a step is empty", id="empty step"),
        pytest.param('{{ GetInterfaceIP "x }}', "a quote is not closed", id="quote"),
        pytest.param("{{ GetInterfaceIP }}", "needs 1 argument", id="argument"),
        pytest.param('{{ GetPrivateIP | attr "name" }}', "can not follow", id="text filtered"),
        pytest.param('{{ GetAllInterfaces | attr "x" }}', 'has no "x"', id="attribute"),
        pytest.param('{{ GetAllInterfaces | sort "x" }}', 'nothing to sort by "x"', id="sort"),
        pytest.param('{{ GetAllInterfaces | limit "x" }}', "needs a number", id="limit"),
        pytest.param('{{ GetAllInterfaces | include "x" "y" }}', 'exclude by "x"', id="selector"),
        pytest.param('{{ GetAllInterfaces | include "flags" "x" }}', 'unknown flag "x"', id="flag"),
        pytest.param('{{ GetAllInterfaces | include "network" "x" }}', 'network "x"', id="network"),
        pytest.param('{{ GetAllInterfaces | include "name" "(" }}', 'name "("', id="pattern"),
    ],
)
def test_errors(template: str, reason: str) -> None:
    with pytest.raises(ValueError, match="template") as caught:
        expand(template, MACHINE)
    assert reason in str(caught.value)


def test_candidates_for_the_address_of_a_wildcard() -> None:
    assert private_ipv4(MACHINE) == ["10.0.0.5", "192.168.7.9"]
    assert public_ipv6(MACHINE) == ["2001:4860::9"]


def test_this_machine_has_a_loopback_address() -> None:
    found = {item.address: item for item in host_interfaces()}
    assert found["127.0.0.1"].is_up
    assert found["127.0.0.1"].prefix_length == 8
