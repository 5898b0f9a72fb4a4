"""What a name asks for."""

from __future__ import annotations

import dns.name
import pytest
from dns.rdatatype import RdataType

from registry.dns.names import (
    Kind,
    Lookup,
    domain_name,
    labels_of,
    parse,
    reversed_address,
    zone_of,
)

CONSUL = dns.name.from_text("consul.")
LONG = "a" * 63


@pytest.mark.parametrize(
    ("name", "lookup"),
    [
        ("consul", Lookup(Kind.ZONE)),
        ("n1.node.consul", Lookup(Kind.NODE, "n1")),
        ("N1.Node.DC2.Consul", Lookup(Kind.NODE, "N1", "", "dc2")),
        ("n1.example.com.node.consul", Lookup(Kind.NODE, "n1.example.com")),
        ("web.service.consul", Lookup(Kind.SERVICE, "web")),
        ("v1.web.service.consul", Lookup(Kind.SERVICE, "web", "v1")),
        ("v1.2.3.web.service.consul", Lookup(Kind.SERVICE, "web", "v1.2.3")),
        ("node.web.service.dc2.consul", Lookup(Kind.SERVICE, "web", "node", "dc2")),
        ("_web._tcp.service.consul", Lookup(Kind.SERVICE, "web")),
        ("_web._TCP.service.consul", Lookup(Kind.SERVICE, "web")),
        ("_web._v1.service.dc2.consul", Lookup(Kind.SERVICE, "web", "v1", "dc2")),
        ("web.connect.consul", Lookup(Kind.CONNECT, "web")),
        ("web.ingress.dc2.consul", Lookup(Kind.INGRESS, "web", "", "dc2")),
        ("near.est.query.consul", Lookup(Kind.QUERY, "near.est")),
        ("a_b.query.consul", Lookup(Kind.QUERY, "a_b")),
        ("7f000001.addr.consul", Lookup(Kind.ADDRESS, "7f000001")),
        (f"{LONG}.service.consul", Lookup(Kind.SERVICE, LONG)),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 60 else "",
)
def test_forms_of_names(name: str, lookup: Lookup) -> None:
    assert parse(dns.name.from_text(name), CONSUL, RdataType.A) == lookup


@pytest.mark.parametrize(
    "name",
    [
        "web.consul",
        "service.consul",
        "node.dc1.consul",
        "web.service.dc1.more.consul",
        "a.b.addr.consul",
        "v1.web.connect.consul",
        "web._tcp.consul",
        "_web._tcp.consul",
        "a_b.service.consul",
        "a_b.node.consul",
    ],
)
def test_names_without_a_form(name: str) -> None:
    assert parse(dns.name.from_text(name), CONSUL, RdataType.A) is None


def test_a_question_for_srv_needs_no_word() -> None:
    name = dns.name.from_text("_web._v1.dc2.consul")
    assert parse(name, CONSUL, RdataType.SRV) == Lookup(Kind.SERVICE, "web", "v1", "dc2")


def test_the_longest_domain_counts() -> None:
    domains = (CONSUL, domain_name("sub.consul"))
    assert zone_of(dns.name.from_text("web.SUB.Consul"), domains) == domains[1]
    assert zone_of(dns.name.from_text("web.consul"), domains) == domains[0]
    assert zone_of(dns.name.from_text("consul.example"), domains) is None


def test_a_domain_that_is_none() -> None:
    with pytest.raises(ValueError, match=r'"a\.\.b" is no domain name'):
        domain_name("a..b")


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("n1", (b"n1",)),
        ("n1.example", (b"n1", b"example")),
        ("ä", (b"\xc3\xa4",)),
        ("", None),
        ("a..b", None),
        ("a" * 64, None),
    ],
)
def test_labels(text: str, labels: tuple[bytes, ...] | None) -> None:
    assert labels_of(text) == labels


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("4.3.2.1.in-addr.arpa", "1.2.3.4"),
        (
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.B.D.0.1.0.0.2.ip6.arpa",
            "2001:db8::1",
        ),
        ("3.2.1.in-addr.arpa", None),
        ("x.3.2.1.in-addr.arpa", None),
        ("arpa", None),
        ("1.2.3.4.example", None),
    ],
)
def test_reversed_addresses(name: str, address: str | None) -> None:
    assert reversed_address(dns.name.from_text(name)) == address
