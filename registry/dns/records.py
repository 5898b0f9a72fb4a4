"""Nodes and instances as DNS records (surface 5.2)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from dns.name import Name
from dns.rdata import Rdata
from dns.rdataclass import RdataClass
from dns.rdatatype import RdataType
from dns.rdtypes.ANY.CNAME import CNAME
from dns.rdtypes.ANY.NS import NS
from dns.rdtypes.ANY.PTR import PTR
from dns.rdtypes.ANY.SOA import SOA
from dns.rdtypes.ANY.TXT import TXT
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA
from dns.rdtypes.IN.SRV import SRV

from registry.agent.config import Soa
from registry.dns.names import labels_of
from registry.state.catalog_records import CRITICAL, PASSING, Node
from registry.state.health import InstanceHealth

_IN = RdataClass.IN

#: A character string in a TXT record (RFC 1035, 3.3.14).
_TXT_BYTES_MAX = 255

#: The longest time that a record can say, in seconds (RFC 2181, section 8).
TTL_MAX = 2**31 - 1

#: Metadata under keys that begin so is given without the key.
_BARE = "rfc1035-"

#: The tag of addresses for other datacenters.
_WAN = "wan"


@dataclass(frozen=True, slots=True)
class Record:
    owner: Name
    ttl: int  # seconds
    data: Rdata


@dataclass(frozen=True, slots=True)
class Answer:
    """A record of the answer and what is to be said besides; they are left out together."""

    record: Record
    additional: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where an instance is reached: an address, or a name, and a port."""

    address: str
    port: int
    own: bool  # the instance's own address, not its node's


def place_of(instance: InstanceHealth, *, wan: bool) -> Place:
    """`wan`: for one of another datacenter, by the addresses that are for those outside."""
    service = instance.service
    outside = (service.tagged_addresses or {}).get(_WAN) if wan else None
    address, port = service.address, service.port
    if outside is not None and outside.address:
        address, port = outside.address, outside.port or port
    if address:
        return Place(address, port, own=True)
    return Place(address_of(instance.node, wan=wan), port, own=False)


def address_of(node: Node, *, wan: bool) -> str:
    outside = (node.tagged_addresses or {}).get(_WAN, "") if wan else ""
    return outside or node.address


def ip_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None for anything else, such as the name of a host."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def address_record(owner: Name, ttl: int, text: str) -> Record | None:
    """A or AAAA; None when `text` is no IP address."""
    ip = ip_of(text)
    if ip is None:
        return None
    if ip.version == 4:
        return Record(owner, ttl, A(_IN, RdataType.A, str(ip)))
    # Without a scope, which means something on one host only.
    return Record(owner, ttl, AAAA(_IN, RdataType.AAAA, str(ip).partition("%")[0]))


def fits(record: Record, rdtype: int) -> bool:
    """Whether an address answers a question of this type: any does, but for the other family."""
    return rdtype not in (RdataType.A, RdataType.AAAA) or record.data.rdtype == rdtype


def srv_record(owner: Name, ttl: int, weight: int, port: int, target: Name) -> Record:
    # The catalog takes any number.
    weight, port = (min(max(0, each), 0xFFFF) for each in (weight, port))
    return Record(owner, ttl, SRV(_IN, RdataType.SRV, 1, weight, port, target))


def alias_record(owner: Name, ttl: int, target: Name) -> Record:
    return Record(owner, ttl, CNAME(_IN, RdataType.CNAME, target))


def pointer_record(owner: Name, target: Name) -> Record:
    return Record(owner, 0, PTR(_IN, RdataType.PTR, target))


def server_record(zone: Name, ttl: int, target: Name) -> Record:
    return Record(zone, ttl, NS(_IN, RdataType.NS, target))


def soa_record(zone: Name, soa: Soa, now_s: int) -> Record:
    """The serial number is the time: every answer may be another."""
    primary, mailbox = below(zone, b"ns"), below(zone, b"hostmaster")
    assert primary is not None
    assert mailbox is not None
    serial = now_s & 0xFFFFFFFF
    times = [min(each, TTL_MAX) for each in (soa.refresh, soa.retry, soa.expire, soa.min_ttl)]
    return Record(zone, times[3], SOA(_IN, RdataType.SOA, primary, mailbox, serial, *times))


def below(zone: Name, *labels: bytes) -> Name | None:
    """A name in a domain; None when it would be too long."""
    if sum(len(label) + 1 for label in (*labels, *zone.labels)) > 255:
        return None
    return Name((*labels, *zone.labels))


def name_below(zone: Name, name: str, kind: str, datacenter: str) -> Name | None:
    """`NAME.KIND.DC.DOMAIN`; None when DNS has no form for it."""
    labels, home = labels_of(name), labels_of(datacenter)
    if labels is None or home is None:
        return None
    return below(zone, *labels, kind.encode(), *home)


def address_name(zone: Name, text: str, datacenter: str) -> Name | None:
    """`HEXADECIMAL.addr.DC.DOMAIN`, which stands for an address."""
    ip = ip_of(text)
    return None if ip is None else name_below(zone, ip.packed.hex(), "addr", datacenter)


def meta_records(owner: Name, ttl: int, meta: dict[str, str] | None) -> list[Record]:
    """A TXT record for each pair of a node's metadata."""
    return [
        Record(owner, ttl, TXT(_IN, RdataType.TXT, _strings(_spelt(key, value))))
        for key, value in sorted((meta or {}).items())
    ]


def _spelt(key: str, value: str) -> str:
    """`key=value`, where the key is quoted so that its end can be told (RFC 1464)."""
    if key.lower().startswith(_BARE):
        return value
    inner = key.strip(" \t")
    before, after = key[: len(key) - len(key.lstrip(" \t"))], ""
    if inner:
        after = key[len(before) + len(inner) :]
    quoted = inner.replace("`", "``").replace("=", "`=")
    blanks = ["".join(f"`{blank}" for blank in each) for each in (before, after)]
    return f"{blanks[0]}{quoted}{blanks[1]}={value.replace('`', '``')}"


def _strings(text: str) -> list[bytes]:
    raw = text.encode("utf-8", "replace")
    cuts = range(0, len(raw) or 1, _TXT_BYTES_MAX)
    return [raw[at : at + _TXT_BYTES_MAX] for at in cuts]


def is_critical(instance: InstanceHealth) -> bool:
    return any(check.status == CRITICAL for check in instance.checks)


def weight_of(instance: InstanceHealth) -> int:
    """By the worst of its checks and its node's."""
    weights = instance.service.weights
    if is_critical(instance):
        return 0
    if weights is None:
        return 1
    is_passing = all(check.status == PASSING for check in instance.checks)
    return weights.passing if is_passing else weights.warning


def distinct(records: Iterable[Record]) -> list[Record]:
    """Each once, in order: two instances on a node have one address."""
    return list(dict.fromkeys(records))
