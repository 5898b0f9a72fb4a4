"""What a name asks for: the forms of names below our domain, and addresses under `arpa`.

    NODE.node[.DC].DOMAIN                        [TAG.]SERVICE.service[.DC].DOMAIN
    QUERY.query[.DC].DOMAIN                      _SERVICE._TAG[.service][.DC].DOMAIN
    HEXADECIMAL.addr[.DC].DOMAIN                 SERVICE.connect[.DC].DOMAIN, .ingress

A name is read from its end, so that a tag or a query may be called like one of these words. Letter
case does not count.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

import dns.exception
import dns.name
import dns.reversename
from dns.name import Name
from dns.rdatatype import RdataType

#: What a node or a service may be called to be found here (surface 5.3). Names of hosts with their
#: domain are common names of nodes; their dots part labels.
_FINDABLE = re.compile(r"[A-Za-z0-9-]+")

_ARPA = dns.name.from_text("arpa.")


class Kind(Enum):
    ZONE = "zone"  # the domain itself
    NODE = "node"
    SERVICE = "service"
    CONNECT = "connect"
    INGRESS = "ingress"
    QUERY = "query"
    ADDRESS = "addr"


_KINDS = {kind.value: kind for kind in Kind if kind is not Kind.ZONE}


@dataclass(frozen=True, slots=True)
class Lookup:
    """What is looked up, in which datacenter ("" for our own)."""

    kind: Kind
    name: str = ""
    tag: str = ""
    datacenter: str = ""


def domain_name(text: str) -> Name:
    """A configured domain as a name. Raises `ValueError` when it is none."""
    try:
        return dns.name.from_text(text or ".")
    except dns.exception.DNSException as problem:
        raise ValueError(f'"{text}" is no domain name') from problem


def labels_of(text: str) -> tuple[bytes, ...] | None:
    """A name of a node or service as labels; None when it has no form that DNS can tell."""
    labels = tuple(label.encode("utf-8", "replace") for label in text.split("."))
    return labels if all(0 < len(label) <= 63 for label in labels) else None


def zone_of(name: Name, domains: tuple[Name, ...]) -> Name | None:
    """The domain of ours that a name is in, the longest one; None for names of others."""
    found = [domain for domain in domains if name.is_subdomain(domain)]
    return max(found, key=len, default=None)


def parse(name: Name, zone: Name, rdtype: int) -> Lookup | None:
    """What a name in one of our domains asks for; None when it has none of the forms."""
    count = len(name.labels) - len(zone.labels)
    if not count:
        return Lookup(Kind.ZONE)
    labels = [label.decode("utf-8", "replace") for label in name.labels[:count]]
    for at in range(count - 1, -1, -1):
        kind = _KINDS.get(labels[at].lower())
        if kind is not None:
            return _lookup(kind, labels[:at], labels[at + 1 :])
        if rdtype == RdataType.SRV and labels[at].startswith("_"):
            return _lookup(Kind.SERVICE, labels[: at + 1], labels[at + 1 :])
    return None


def _lookup(kind: Kind, before: list[str], after: list[str]) -> Lookup | None:
    """`before` and `after` are the labels on both sides of the word."""
    if not before or len(after) > 1:
        return None
    datacenter = after[0].lower() if after else ""
    if kind is Kind.SERVICE:
        return _service(before, datacenter)
    if kind in (Kind.NODE, Kind.QUERY):
        findable = kind is Kind.QUERY or all(map(_FINDABLE.fullmatch, before))
        return Lookup(kind, ".".join(before), "", datacenter) if findable else None
    return Lookup(kind, before[0], "", datacenter) if len(before) == 1 else None


def _service(before: list[str], datacenter: str) -> Lookup | None:
    """`[TAG.]SERVICE`, where the tag may have dots, or `_SERVICE._TAG` (RFC 2782)."""
    if len(before) == 2 and all(label.startswith("_") for label in before):
        name, tag = before[0][1:], before[1][1:]
        tag = "" if tag.lower() == "tcp" else tag
    else:
        name, tag = before[-1], ".".join(before[:-1])
    if _FINDABLE.fullmatch(name) is None:
        return None
    return Lookup(Kind.SERVICE, name, tag, datacenter)


def reversed_address(name: Name) -> str | None:
    """The IP address that a name under `in-addr.arpa` or `ip6.arpa` stands for; None for others."""
    if not name.is_subdomain(_ARPA):
        return None
    try:
        return dns.reversename.to_address(name)
    except (dns.exception.DNSException, ValueError):
        return None
