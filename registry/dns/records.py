"""Nodes and instances as DNS records (surface 5.2).

Data is made in the form in which it is sent: a busy service has hundreds of records, which are
made, compared, measured and written for each question.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from dns.rdatatype import RdataType

from registry.agent.config import Soa
from registry.dns.names import labels_of
from registry.state.catalog_records import CRITICAL, PASSING, Node
from registry.state.health import InstanceHealth

#: A name as its labels; the last one, the root's, is empty.
Labels = tuple[bytes, ...]

#: A character string in a TXT record (RFC 1035, 3.3.14).
_TXT_BYTES_MAX = 255

#: The longest name, with the lengths of its labels (RFC 1035, 2.3.4).
NAME_BYTES_MAX = 255

#: The longest time that a record can say, in seconds (RFC 2181, section 8).
TTL_MAX = 2**31 - 1

#: Metadata under keys that begin so is given without the key.
_BARE = "rfc1035-"

#: The tag of addresses for other datacenters.
_WAN = "wan"


_SRV = struct.Struct("!HHH")
_SOA = struct.Struct("!IIIII")


@dataclass(frozen=True, slots=True)
class Record:
    """`data` is uncompressed; names in it are never shortened."""

    owner: Labels
    ttl: int  # seconds
    rdtype: int
    data: bytes


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


def address_record(owner: Labels, ttl: int, text: str) -> Record | None:
    """A or AAAA; None when `text` is no IP address."""
    ip = ip_of(text)
    if ip is None:
        return None
    return Record(owner, ttl, RdataType.A if ip.version == 4 else RdataType.AAAA, ip.packed)


def fits(record: Record, rdtype: int) -> bool:
    """Whether an address answers a question of this type: any does, but for the other family."""
    return rdtype not in (RdataType.A, RdataType.AAAA) or record.rdtype == rdtype


def srv_record(owner: Labels, ttl: int, weight: int, port: int, target: Labels) -> Record:
    # The catalog takes any number.
    weight, port = (min(max(0, each), 0xFFFF) for each in (weight, port))
    data = _SRV.pack(1, weight, port) + name_bytes(target)
    return Record(owner, ttl, RdataType.SRV, data)


def alias_record(owner: Labels, ttl: int, target: Labels) -> Record:
    return Record(owner, ttl, RdataType.CNAME, name_bytes(target))


def pointer_record(owner: Labels, target: Labels) -> Record:
    return Record(owner, 0, RdataType.PTR, name_bytes(target))


def server_record(zone: Labels, ttl: int, target: Labels) -> Record:
    return Record(zone, ttl, RdataType.NS, name_bytes(target))


def soa_record(zone: Labels, soa: Soa, now_s: int) -> Record:
    """The serial number is the time: every answer may be another."""
    names = name_bytes((b"ns", *zone)) + name_bytes((b"hostmaster", *zone))
    times = [min(each, TTL_MAX) for each in (soa.refresh, soa.retry, soa.expire, soa.min_ttl)]
    data = names + _SOA.pack(now_s & 0xFFFFFFFF, *times)
    return Record(zone, times[3], RdataType.SOA, data)


def name_bytes(labels: Labels) -> bytes:
    return b"".join([bytes((len(label),)) + label for label in labels])


def below(zone: Labels, *labels: bytes) -> Labels | None:
    """A name in a domain; None when it would be too long."""
    name = (*labels, *zone)
    return name if sum(map(len, name)) + len(name) <= NAME_BYTES_MAX else None


def name_below(zone: Labels, name: str, kind: str, datacenter: str) -> Labels | None:
    """`NAME.KIND.DC.DOMAIN`; None when DNS has no form for it."""
    labels, home = labels_of(name), labels_of(datacenter)
    if labels is None or home is None:
        return None
    return below(zone, *labels, kind.encode(), *home)


def address_name(zone: Labels, text: str, datacenter: str) -> Labels | None:
    """`HEXADECIMAL.addr.DC.DOMAIN`, which stands for an address."""
    ip = ip_of(text)
    return None if ip is None else name_below(zone, ip.packed.hex(), "addr", datacenter)


def meta_records(owner: Labels, ttl: int, meta: dict[str, str] | None) -> list[Record]:
    """A TXT record for each pair of a node's metadata."""
    return [
        Record(owner, ttl, RdataType.TXT, _strings(_spelt(key, value)))
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


def _strings(text: str) -> bytes:
    """Text as strings that each begin with their length."""
    raw = text.encode("utf-8", "replace")
    cuts = range(0, len(raw) or 1, _TXT_BYTES_MAX)
    parts = [raw[at : at + _TXT_BYTES_MAX] for at in cuts]
    return b"".join([bytes((len(part),)) + part for part in parts])


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


def distinct(records: Iterable[Record], limit: int | None = None) -> list[Record]:
    """Each once, in order, `limit` at most: two instances on a node have one address."""
    found: dict[Record, None] = {}
    for record in records:
        if len(found) == limit:
            break
        found.setdefault(record)
    return list(found)
