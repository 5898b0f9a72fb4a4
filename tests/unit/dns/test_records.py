"""Records: text of metadata, and what DNS has no room for."""

from __future__ import annotations

import dns.rdata
import pytest
from dns.rdataclass import RdataClass
from dns.rdatatype import RdataType
from dns.rdtypes.ANY.TXT import TXT

from registry.agent.config import Soa
from registry.dns.records import (
    Record,
    address_name,
    address_record,
    below,
    meta_records,
    name_below,
    soa_record,
    srv_record,
)
from registry.testing.dns_core import data_of

CONSUL = (b"consul", b"")


def texts(key: str, value: str) -> tuple[bytes, ...]:
    (record,) = meta_records(CONSUL, 0, {key: value})
    data = dns.rdata.from_wire(RdataClass.IN, RdataType.TXT, record.data, 0, len(record.data))
    assert isinstance(data, TXT)
    return tuple(data.strings)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("key", "value", "key=value"),
        ("key", "", "key="),
        ("key", "a=b", "key=a=b"),
        ("a=b", "c", "a`=b=c"),
        ("a`b", "c`d", "a``b=c``d"),
        (" a b\t", "c", "` a b`\t=c"),
        ("  ", "c", "` ` =c"),
        ("rfc1035-note", "as it is", "as it is"),
        ("RFC1035-note", "a=`b", "a=`b"),
        ("ä", "ö", "ä=ö"),
    ],
)
def test_metadata_as_text(key: str, value: str, text: str) -> None:
    assert texts(key, value) == (text.encode(),)


def test_long_metadata_is_parted() -> None:
    strings = texts("k", "v" * 512)
    assert [len(each) for each in strings] == [255, 255, 4]
    assert b"".join(strings) == b"k=" + b"v" * 512


def test_metadata_in_the_order_of_keys() -> None:
    assert len(meta_records(CONSUL, 0, None)) == 0
    found = meta_records(CONSUL, 5, {"b": "1", "a": "2"})
    assert [data_of(record) for record in found] == ['"a=2"', '"b=1"']


def data(record: Record | None) -> str:
    assert record is not None
    return data_of(record)


def test_addresses() -> None:
    assert data(address_record(CONSUL, 0, "10.0.0.1")) == "10.0.0.1"
    assert data(address_record(CONSUL, 0, "2001:DB8::1")) == "2001:db8::1"
    assert data(address_record(CONSUL, 0, "fe80::1%eth0")) == "fe80::1"
    assert address_record(CONSUL, 0, "host") is None
    assert address_name(CONSUL, "host", "dc1") is None
    for text, name in {"10.0.0.1": "0a000001", "::1": "0" * 31 + "1"}.items():
        found = address_name(CONSUL, text, "dc1")
        assert found == (name.encode(), b"addr", b"dc1", *CONSUL)


def test_numbers_that_are_too_large() -> None:
    assert data(srv_record(CONSUL, 0, 70000, -1, CONSUL)) == "1 65535 0 consul."
    soa = Soa(refresh=1 << 40, retry=1, expire=1, min_ttl=1 << 40)
    record = soa_record(CONSUL, soa, (1 << 32) + 7)
    assert record.ttl == 2**31 - 1
    assert data(record) == "ns.consul. hostmaster.consul. 7 2147483647 1 1 2147483647"


def test_names_that_are_too_long() -> None:
    assert below(CONSUL, *[b"a" * 62] * 4) is None
    assert name_below(CONSUL, ".".join(["a" * 62] * 4), "node", "dc1") is None
    assert name_below(CONSUL, "n1", "node", "dc1") == (b"n1", b"node", b"dc1", *CONSUL)
