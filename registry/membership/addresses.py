"""IP addresses as they travel: 4 bytes or 16, compared by peers byte for byte."""

from __future__ import annotations

import ipaddress
from typing import TypeAlias

from registry.errors import RemoteProtocolError

#: IP address as text, and port.
Address: TypeAlias = tuple[str, int]


def pack_ip(text: str) -> bytes:
    """4 bytes for IPv4 however it is written. Raises `ValueError`."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped.packed
    return address.packed


def unpack_ip(raw: bytes) -> str:
    """Text of 4 or 16 bytes; an IPv4 address in 16 is folded. Raises `RemoteProtocolError`."""
    try:
        address = ipaddress.ip_address(raw)
    except ValueError as problem:
        raise RemoteProtocolError(f"no IP address: {raw.hex() or 'empty'}") from problem
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(address)


def format_address(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(text: str) -> Address:
    """The inverse of `format_address`. Raises `ValueError`."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is no IP address with a port")
    return str(ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))), int(port)
